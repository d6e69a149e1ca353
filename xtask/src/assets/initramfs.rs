//! The initramfs: an archive in the format `newc` of cpio (kernel: Documentation/driver-api/early-userspace/buffer-format.rst), not
//! compressed, because unpacking it costs the guest more than reading it.

use cpio::newc::{Builder, trailer};

use super::modules::Modules;
use super::tree::{Content, MOMENT, Node, Tree};

/// File types of a mode (`inode(7)`).
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// The archive of a userland with `/init` and the modules that the guest needs.
pub(crate) fn build(userland: &Tree, modules: &Modules) -> Result<Vec<u8>, String> {
    let mut tree = userland.clone();
    tree.text("init", 0o755, include_str!("guest/init"));
    // The kernel opens it for /init before that can mount anything.
    tree.put("dev/console", Node::Device(5, 1));
    add_modules(&mut tree, modules, &super::MODULES)?;
    archive(&tree)
}

/// Adds modules, and their order as `/lib/modules/order`.
pub(crate) fn add_modules(tree: &mut Tree, modules: &Modules, wanted: &[&str]) -> Result<(), String> {
    let mut order = String::new();
    for module in modules.with_needed(wanted)? {
        order += &format!("{}.ko\n", module.name);
        tree.put(
            &format!("usr/lib/modules/{}.ko", module.name),
            Node::File(0o644, Content::Bytes(module.bytes)),
        );
    }
    tree.text("usr/lib/modules/order", 0o644, &order);
    Ok(())
}

/// The bytes of an archive with this tree.
pub(crate) fn archive(tree: &Tree) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    for (number, (path, node)) in (1..).zip(tree.nodes()) {
        let (mode, device, content) = match node {
            Node::Folder(mode) => (FOLDER | mode, (0, 0), Vec::new()),
            Node::File(mode, content) => (FILE | mode, (0, 0), content.bytes()?),
            Node::Link(to) => (LINK | 0o777, (0, 0), to.clone().into_bytes()),
            Node::Device(major, minor) => (CHARACTER_DEVICE | 0o600, (*major, *minor), Vec::new()),
        };
        let size = u32::try_from(content.len()).map_err(|_| format!("{path}: too large for an initramfs"))?;
        let entry = Builder::new(path).ino(number).mode(mode).nlink(1).mtime(MOMENT);
        let entry = entry.rdev_major(device.0).rdev_minor(device.1);
        let mut into = entry.write(&mut bytes, size);
        std::io::Write::write_all(&mut into, &content)
            .and_then(|()| into.finish().map(drop))
            .map_err(|error| format!("{path}: {error}"))?;
    }
    trailer(&mut bytes).map_err(|error| format!("the archive's end: {error}"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn the_same_tree_makes_the_same_bytes_and_they_can_be_read() {
        let mut tree = Tree::default();
        tree.text("etc/rc", 0o755, "echo\n");
        tree.link("bin", "usr/bin");
        tree.put("dev/console", Node::Device(5, 1));
        let bytes = archive(&tree).expect("a small tree");
        assert_eq!(bytes, archive(&tree.clone()).expect("the same"));
        let mut found = Vec::new();
        let mut rest = bytes.as_slice();
        loop {
            let mut reader = cpio::newc::Reader::new(rest).expect("an entry");
            if reader.entry().is_trailer() {
                break;
            }
            let (name, mode) = (reader.entry().name().to_owned(), reader.entry().mode());
            let mut content = String::new();
            reader.read_to_string(&mut content).expect("text");
            found.push((name, mode, content));
            rest = reader.finish().expect("the next entry");
        }
        let of = |name: &str, mode, content: &str| (name.to_owned(), mode, content.to_owned());
        assert_eq!(
            found,
            [
                of("bin", 0o120_777, "usr/bin"),
                of("dev", 0o040_755, ""),
                of("dev/console", 0o020_600, ""),
                of("etc", 0o040_755, ""),
                of("etc/rc", 0o100_755, "echo\n"),
            ]
        );
    }
}
