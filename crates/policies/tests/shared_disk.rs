//! The shared-disk register: whatever lies in the folder. What it has in common with other registers is in `registers.rs`.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use ft_policies::tie_breaker::SharedDisk;
use ft_policies::{Answer, Pair, Register, RegisterState, Unavailable};

use common::{a, b, state};

fn pair(name: &str) -> Pair {
    Pair { id: name.len() as u128, name: name.to_owned() }
}

fn register() -> (tempfile::TempDir, PathBuf, SharedDisk) {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("generations");
    let register = SharedDisk::new(folder.clone(), pair("kv"));
    (root, folder, register)
}

fn entry(folder: &Path, generation: u64) -> PathBuf {
    folder.join(format!("generation.{generation:020}"))
}

#[test]
fn what_lies_in_the_folder() {
    let (_root, folder, register) = register();
    assert_eq!(register.read(), Ok(RegisterState { generation: 0, holder: None }));
    assert!(!folder.exists(), "reading makes nothing");
    assert_eq!(register.advance(0, &a(1)), Answer::Won);
    assert_eq!(register.advance(1, &b(7)), Answer::Won);
    assert_eq!(register.advance(1, &a(1)), Answer::Lost(state(2, b(7))));
    let mut left: Vec<_> = fs::read_dir(&folder).unwrap().map(|item| item.unwrap().path()).collect();
    left.sort();
    assert_eq!(left, [entry(&folder, 1), entry(&folder, 2)], "no temporary files stay");
}

#[test]
fn a_store_that_is_lower_than_what_is_known_is_behind() {
    let (_root, folder, register) = register();
    assert_eq!(register.advance(4, &a(1)), Answer::Behind(RegisterState { generation: 0, holder: None }));
    assert!(!folder.exists(), "an absent store is not made anew for one who knows better");
}

#[test]
fn what_a_crash_leaves_behind_does_not_matter() {
    let (_root, folder, register) = register();
    fs::create_dir(&folder).unwrap();
    // Before the fsync, before the link: half an entry under a temporary name, of every incarnation that could come.
    for ask in 0..50 {
        fs::write(folder.join(format!("tmp.{:016x}.{ask}", 5)), "ft-vm gen").unwrap();
    }
    assert_eq!(register.read(), Ok(RegisterState { generation: 0, holder: None }));
    assert_eq!(register.advance(0, &b(6)), Answer::Won);
    // After the link, before the answer: the same incarnation finds its win, the next one finds it lost.
    assert_eq!(register.advance(0, &b(6)), Answer::Won);
    assert_eq!(register.advance(0, &b(7)), Answer::Lost(state(1, b(6))));
}

#[test]
fn strangers_in_the_folder_are_passed_over() {
    let (_root, folder, register) = register();
    assert_eq!(register.advance(0, &a(1)), Answer::Won);
    for name in [
        "README",
        "generation.",
        "generation.2",
        "generation.00000000000000000002~",
        "generation.0000000000000000000x",
        "generation.99999999999999999999",
        "generation.00000000000000000000",
    ] {
        fs::write(folder.join(name), "rubbish").unwrap();
    }
    fs::create_dir(folder.join("tmp.0")).unwrap();
    assert_eq!(register.read(), Ok(state(1, a(1))));
    assert_eq!(register.advance(1, &b(1)), Answer::Won);
}

#[test]
fn damage_is_told_apart() {
    let (_root, folder, register) = register();
    assert_eq!(register.advance(0, &a(1)), Answer::Won);
    assert_eq!(register.advance(1, &b(1)), Answer::Won);
    let (first, second) = (entry(&folder, 1), entry(&folder, 2));
    let whole = fs::read(&second).unwrap();

    let said = |what: &str| {
        let error = register.read().unwrap_err();
        assert_eq!(register.advance(2, &a(1)), Answer::Unavailable(error.clone()));
        assert_eq!(register.advance(1, &b(1)), Answer::Unavailable(error.clone()), "not even one's own win");
        assert!(error.to_string().contains(what), "{error}");
        error
    };
    for (bytes, what) in [
        (Vec::new(), "empty"),
        (whole[..whole.len() / 2].to_vec(), "not an intact"),
        (vec![0xff; 100], "not text"),
        (vec![b'x'; 1 << 20], "does not begin"),
        (
            String::from_utf8(whole.clone()).unwrap().replace("replica = b", "replica = a").into_bytes(),
            "checksum",
        ),
        (fs::read(&first).unwrap(), "generation 1"),
        (b"ft-vm generation 3\n".to_vec(), "another version"),
    ] {
        fs::write(&second, bytes).unwrap();
        assert!(matches!(said(what), Unavailable::Corrupt { .. }));
    }
    fs::remove_file(&second).unwrap();
    std::os::unix::fs::symlink(&first, &second).unwrap();
    said("symbolic link");
    fs::remove_file(&second).unwrap();
    fs::create_dir(&second).unwrap();
    said("not a regular file");
    fs::remove_dir(&second).unwrap();

    // Restored to an earlier state as a whole: lower than what is known.
    assert_eq!(register.advance(2, &b(1)), Answer::Behind(state(1, a(1))));
    // Restored in part.
    fs::write(&second, &whole).unwrap();
    fs::remove_file(&first).unwrap();
    assert!(matches!(said("missing although generation 2 exists"), Unavailable::Gap { highest: 2, .. }));
}

#[test]
fn another_pairs_store_is_refused() {
    let (_root, folder, register) = register();
    assert_eq!(register.advance(0, &a(1)), Answer::Won);
    let other = SharedDisk::new(folder, pair("the-other"));
    let error = other.read().unwrap_err();
    assert!(
        matches!(error, Unavailable::ForeignPair { .. })
            && error.to_string().contains("belongs to the pair `kv`, and this one is `the-other`"),
        "{error}"
    );
    assert!(matches!(other.advance(1, &a(1)), Answer::Unavailable(Unavailable::ForeignPair { .. })));
    assert_eq!(register.read(), Ok(state(1, a(1))), "and left as it was");
}

#[test]
fn a_store_that_cannot_be_written_is_unavailable() {
    let root = tempfile::tempdir().unwrap();
    let nowhere = SharedDisk::new(root.path().join("no/such/folder"), pair("kv"));
    assert!(matches!(nowhere.advance(0, &a(1)), Answer::Unavailable(Unavailable::Io { .. })));
    let file = root.path().join("file");
    fs::write(&file, "").unwrap();
    let file = SharedDisk::new(file, pair("kv"));
    assert!(matches!(file.read(), Err(Unavailable::Io { .. })));
    assert!(matches!(file.advance(0, &a(1)), Answer::Unavailable(Unavailable::Io { .. })));
}
