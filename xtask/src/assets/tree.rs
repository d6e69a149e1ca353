//! A tree of files that is to be: for an initramfs or a disk image. Sorted, owned by root, and of one moment, so that the same
//! files always make the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// The moment that every file is from (2024-01-01, UTC): the guest's own clock is later, so that nothing is from its future.
pub(crate) const MOMENT: u32 = 1_704_067_200;

/// Where a file's bytes are.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// Here.
    Bytes(Vec<u8>),
    /// In a file of this machine.
    File(PathBuf),
}

/// One entry.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    /// A folder with these permissions.
    Folder(u32),
    /// A file with these permissions.
    File(u32, Content),
    /// A symbolic link.
    Link(String),
    /// A character device: major, minor.
    Device(u32, u32),
}

/// Folders of which Debian's merged `/usr` has the content.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// The tree. Paths are relative to its root.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    nodes: BTreeMap<String, Node>,
}

impl Tree {
    /// Every entry; a folder comes before what is in it.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(path, node)| (path.as_str(), node))
    }

    /// Whether there is such an entry.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.nodes.contains_key(path)
    }

    /// Puts an entry there, with the folders that it is in.
    pub(crate) fn put(&mut self, path: &str, node: Node) {
        if let Some((folder, _)) = path.rsplit_once('/') {
            self.folders(folder);
        }
        self.nodes.insert(path.to_owned(), node);
    }

    /// Makes sure that there is such a folder, and those that it is in.
    pub(crate) fn folders(&mut self, path: &str) {
        let ends = path.match_indices('/').map(|(end, _)| end).chain([path.len()]);
        for end in ends {
            self.nodes.entry(path[..end].to_owned()).or_insert(Node::Folder(0o755));
        }
    }

    /// Puts a text there.
    pub(crate) fn text(&mut self, path: &str, mode: u32, text: &str) {
        self.put(path, Node::File(mode, Content::Bytes(text.as_bytes().to_vec())));
    }

    /// Puts a folder there.
    pub(crate) fn folder(&mut self, path: &str, mode: u32) {
        self.put(path, Node::Folder(mode));
    }

    /// Puts a symbolic link there.
    pub(crate) fn link(&mut self, path: &str, to: &str) {
        self.put(path, Node::Link(to.to_owned()));
    }

    /// `bin`, `sbin`, `lib` and `lib64` as links into `usr`, as Debian has them.
    pub(crate) fn merge_usr(&mut self) {
        for name in MERGED {
            self.folder(&format!("usr/{name}"), 0o755);
            self.link(name, &format!("usr/{name}"));
        }
    }

    /// Puts a folder of this machine there, with all that is in it and `wanted` accepts (by its path in the tree). What is there
    /// already is replaced, except that a folder stays one.
    pub(crate) fn copy(&mut self, from: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<(), String> {
        self.copy_into("", from, wanted)
    }

    fn copy_into(&mut self, into: &str, from: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("{}: {error}", from.display());
        for entry in fs::read_dir(from).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let failed = |error: std::io::Error| format!("{}: {error}", path.display());
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.ok_or_else(|| format!("{}: a name that is not UTF-8", path.display()))?;
            let place = match into {
                "" if MERGED.contains(&name) => format!("usr/{name}"),
                "" => name.to_owned(),
                into => format!("{into}/{name}"),
            };
            if !wanted(&place) {
                continue;
            }
            let kind = fs::symlink_metadata(&path).map_err(failed)?;
            if kind.is_dir() {
                if !self.has(&place) {
                    self.folder(&place, kind.permissions().mode() & 0o7777);
                }
                self.copy_into(&place, &path, wanted)?;
            } else if kind.is_symlink() {
                let to = fs::read_link(&path).map_err(failed)?;
                self.put(&place, Node::Link(to.to_string_lossy().into_owned()));
            } else if kind.is_file() {
                self.put(&place, Node::File(kind.permissions().mode() & 0o7777, Content::File(path)));
            } else {
                return Err(format!("{}: neither file, folder nor symbolic link", path.display()));
            }
        }
        Ok(())
    }
}

impl Content {
    /// The bytes.
    pub(crate) fn bytes(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.clone()),
            Self::File(path) => super::read(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_before_what_is_in_them() {
        let mut tree = Tree::default();
        tree.text("a/b/c", 0o644, "x");
        tree.text("a-b", 0o644, "x");
        tree.text("a/b-c", 0o644, "x");
        let paths: Vec<&str> = tree.nodes().map(|(path, _)| path).collect();
        assert_eq!(paths, ["a", "a-b", "a/b", "a/b-c", "a/b/c"]);
    }

    #[test]
    fn a_package_lands_in_the_merged_usr() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir_all(folder.path().join("lib64")).expect("new");
        fs::create_dir_all(folder.path().join("usr/share/doc")).expect("new");
        fs::write(folder.path().join("lib64/ld.so"), "x").expect("new");
        fs::write(folder.path().join("usr/share/doc/README"), "x").expect("new");
        let mut tree = Tree::default();
        tree.merge_usr();
        tree.copy(folder.path(), &|path| path != "usr/share/doc").expect("plain files");
        assert!(tree.has("usr/lib64/ld.so") && tree.has("usr/share") && !tree.has("usr/share/doc"));
        assert!(
            tree.nodes()
                .any(|(path, node)| path == "lib64" && matches!(node, Node::Link(to) if to == "usr/lib64"))
        );
    }
}
