//! Tidiness that no compiler checks: files that a person can read in one go, and that say what they are for.

use std::fs;
use std::path::{Path, PathBuf};

use ft_e2e::workspace;

const MOST_LINES: usize = 700;

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the tree is readable").flatten() {
        let name = entry.file_name();
        let kind = entry.file_type().expect("a file has a type");
        if kind.is_dir() {
            if name != "target" && !name.to_string_lossy().starts_with('.') {
                rust_files(&entry.path(), found);
            }
        } else if name.to_string_lossy().ends_with(".rs") {
            found.push(entry.path());
        }
    }
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    let mut files = Vec::new();
    for folder in ["crates", "guests", "tests", "xtask"] {
        rust_files(&workspace().join(folder), &mut files);
    }
    assert!(files.len() > 20, "the tree is here");
    let mut wrong = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("sources are UTF-8");
        let name = file.strip_prefix(workspace()).unwrap_or(&file).display().to_string();
        let lines = text.lines().count();
        if lines > MOST_LINES {
            wrong.push(format!(
                "{name}: {lines} lines, more than {MOST_LINES}: cut it where the idea changes"
            ));
        }
        if !text.starts_with("//!") {
            wrong.push(format!("{name}: does not begin with `//!` and what it is for"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every crate of the workspace takes part in the common lints.
#[test]
fn every_crate_has_the_common_lints() {
    let mut manifests: Vec<PathBuf> =
        ["guests", "tests", "xtask"].iter().map(|name| workspace().join(name)).collect();
    manifests.extend(
        fs::read_dir(workspace().join("crates")).expect("readable").flatten().map(|entry| entry.path()),
    );
    for folder in manifests {
        let manifest = folder.join("Cargo.toml");
        let text = fs::read_to_string(&manifest).expect("every crate has a manifest");
        assert!(text.contains("[lints]\nworkspace = true"), "{}", manifest.display());
    }
}
