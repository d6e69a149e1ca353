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
    for path in shipped {
        let output =
            Command::new(env!("CARGO_BIN_EXE_ft-vm")).arg("check").arg(&path).output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", path.display());
    }
}
