//! Every config that the project ships is one that the command accepts.

use std::path::{Path, PathBuf};
use std::process::Command;

fn configs(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder);
    let entries = folder.read_dir().expect("the folder is there");
    let paths = entries.map(|entry| entry.expect("a readable folder").path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect()
}

#[test]
fn shipped_configs_are_accepted() {
    let shipped = [configs("config"), configs("examples")].concat();
    assert!(shipped.len() >= 6, "found only {shipped:?}");
    // A secret cannot be shipped: whoever follows an example makes it first.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ft_vm = || Command::new(env!("CARGO_BIN_EXE_ft-vm"));
    for path in shipped {
        let text = std::fs::read_to_string(&path).expect("it is readable");
        let key = text.lines().find_map(|line| line.strip_prefix("key = \"")?.strip_suffix('"'));
        let path = match key {
            None => path,
            Some(key) => {
                let made = ft_vm().arg("key").arg(folder.path().join(key)).output().expect("it starts");
                assert!(made.status.success(), "{key}: {}", String::from_utf8_lossy(&made.stderr));
                let copy = folder.path().join(path.file_name().expect("it has a name"));
                std::fs::copy(&path, &copy).expect("the folder is writable");
                copy
            }
        };
        let output = ft_vm().arg("check").arg(&path).output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", path.display());
    }
}
