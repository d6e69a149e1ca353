//! What the initramfs and the disk images have in common: Debian's static busybox with its applets, and the few files that make a
//! machine of it (`guest/`): an init table, the network of the launcher, an HTTP server, a shell on the console.

use std::path::Path;
use std::process::{Command, Stdio};

use super::tree::{Content, Node, Tree};

/// Adds it.
pub(crate) fn add(tree: &mut Tree, busybox: &Path) -> Result<(), String> {
    tree.merge_usr();
    tree.put("usr/bin/busybox", Node::File(0o755, Content::File(busybox.to_owned())));
    for applet in applets(busybox)? {
        tree.link(&format!("usr/bin/{applet}"), "busybox");
    }
    // Where the kernel, and switch_root, look for it.
    tree.link("usr/sbin/init", "../bin/busybox");
    for (path, mode) in [
        ("dev", 0o755),
        ("proc", 0o555),
        ("sys", 0o555),
        ("run", 0o755),
        ("mnt", 0o755),
        ("root", 0o700),
        ("tmp", 0o1777),
    ] {
        tree.folder(path, mode);
    }
    for (path, mode, text) in [
        ("etc/inittab", 0o644, include_str!("guest/inittab")),
        ("etc/rc", 0o755, include_str!("guest/rc")),
        ("etc/rc.off", 0o755, include_str!("guest/rc.off")),
        ("etc/profile", 0o644, include_str!("guest/profile")),
        ("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
        ("etc/group", 0o644, "root:x:0:\nnogroup:x:65534:\n"),
        ("etc/hosts", 0o644, "127.0.0.1 localhost\n10.0.2.15 ft-guest\n"),
        ("etc/hostname", 0o644, "ft-guest\n"),
        (
            "srv/www/index.html",
            0o644,
            "<!doctype html>\n<title>ft-vm</title>\n<p>Served by a fault-tolerant guest.\n",
        ),
    ] {
        tree.text(path, mode, text);
    }
    Ok(())
}

/// The names that this busybox answers to. It is a static program for the very kind of machine that this is.
fn applets(busybox: &Path) -> Result<Vec<String>, String> {
    let said = Command::new(busybox).arg("--list").stdin(Stdio::null()).output();
    let said = said.map_err(|error| format!("{}: {error}", busybox.display()))?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let names: Vec<String> = text.lines().filter(|name| *name != "busybox").map(str::to_owned).collect();
    for needed in ["sh", "init", "insmod", "switch_root", "httpd", "ip", "poweroff"] {
        if !names.iter().any(|name| name == needed) {
            return Err(format!("{} has no {needed}", busybox.display()));
        }
    }
    Ok(names)
}
