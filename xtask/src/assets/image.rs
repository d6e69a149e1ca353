//! Disk images: an ext4 made by `mke2fs -d` from a folder, with no mount and no right of root.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use super::tree::{Content, MOMENT, Node, Tree};

/// The file system's own number and the seed of its directory hashes, always the same: they are random otherwise.
const UUID: &str = "66742d76-6d00-4000-8000-726f6f740000";

/// Makes the image, in place of an older one.
pub(crate) fn build(path: &Path, tree: &Tree, size: u64) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let parent = path.parent().expect("a file is in a folder");
    let staging = tempfile::tempdir_in(parent).map_err(failed)?;
    let files = staging.path().join("files");
    fs::create_dir(&files).map_err(failed)?;
    stage(tree, &files)?;
    let image = staging.path().join("image");
    fs::File::create(&image).and_then(|file| file.set_len(size)).map_err(failed)?;
    let mut make = e2fsprogs("mke2fs")?;
    // No journal of its own device, no lazily written tables: the guest is not to have background work that is left over from this.
    make.args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-L", "ft-root", "-U", UUID]);
    make.args(["-E", &format!("root_owner=0:0,hash_seed={UUID},lazy_itable_init=0,lazy_journal_init=0")]);
    make.arg("-d").arg(&files).arg(&image).env("E2FSPROGS_FAKE_TIME", MOMENT.to_string());
    super::debian::run(&mut make)?;
    own_by_root(tree, &image)?;
    fs::rename(&image, path).map_err(failed)
}

/// Writes the tree into a folder.
fn stage(tree: &Tree, folder: &Path) -> Result<(), String> {
    for (path, node) in tree.nodes() {
        let place = folder.join(path);
        let failed = |error: std::io::Error| format!("{}: {error}", place.display());
        match node {
            // Permissions that keep this very program out come last.
            Node::Folder(_) => fs::create_dir(&place).map_err(failed)?,
            Node::File(mode, content) => {
                match content {
                    Content::Bytes(bytes) => fs::write(&place, bytes).map_err(failed)?,
                    Content::File(from) => drop(fs::copy(from, &place).map_err(failed)?),
                }
                fs::set_permissions(&place, fs::Permissions::from_mode(*mode)).map_err(failed)?;
            }
            Node::Link(to) => std::os::unix::fs::symlink(to, &place).map_err(failed)?,
            Node::Device(..) => return Err(format!("{path}: a device can be in an initramfs only")),
        }
    }
    for (path, node) in tree.nodes() {
        if let Node::Folder(mode) = node {
            let place = folder.join(path);
            // This program, and mke2fs, must be able to read it, and to remove it.
            fs::set_permissions(&place, fs::Permissions::from_mode(mode | 0o700))
                .map_err(|error| format!("{}: {error}", place.display()))?;
        }
        if matches!(node, Node::Folder(_) | Node::File(..)) {
            let place = folder.join(path);
            let moment = UNIX_EPOCH + Duration::from_secs(MOMENT.into());
            fs::File::open(&place)
                .and_then(|file| file.set_modified(moment))
                .map_err(|error| format!("{}: {error}", place.display()))?;
        }
    }
    Ok(())
}

/// Gives every file to root: `mke2fs -d` keeps the owner, who is whoever runs this.
fn own_by_root(tree: &Tree, image: &Path) -> Result<(), String> {
    // SAFETY: geteuid and getegid have no arguments and cannot fail.
    if unsafe { (libc::geteuid(), libc::getegid()) } == (0, 0) {
        return Ok(());
    }
    let mut debugfs = e2fsprogs("debugfs")?;
    debugfs
        .args(["-w", "-f", "-"])
        .arg(image)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = debugfs.spawn().map_err(|error| format!("debugfs: {error}"))?;
    let mut commands = String::new();
    for (path, _) in tree.nodes() {
        commands += &format!("sif \"/{path}\" uid 0\nsif \"/{path}\" gid 0\n");
    }
    let mut pipe = child.stdin.take().expect("piped");
    pipe.write_all(commands.as_bytes()).map_err(|error| format!("debugfs: {error}"))?;
    drop(pipe);
    let done = child.wait_with_output().map_err(|error| format!("debugfs: {error}"))?;
    // Its first line says what it is; it has no other way to say that a command failed.
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    let wrong: Vec<&str> = said.lines().filter(|line| !line.starts_with("debugfs ")).collect();
    if done.status.success() && wrong.is_empty() {
        Ok(())
    } else {
        Err(format!("debugfs: {}", wrong.join("\n")))
    }
}

/// A program of e2fsprogs, which not every user's path leads to.
fn e2fsprogs(program: &str) -> Result<Command, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let found = places.map(|place| place.join(program)).find(|place| place.is_file());
    found.map(Command::new).ok_or_else(|| format!("{program} is missing (Debian: apt install e2fsprogs)"))
}
