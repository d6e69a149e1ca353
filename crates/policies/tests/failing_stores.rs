//! Registers whose file system fails: full, read-only, without hard links. Nothing is won, what is said names the cause and
//! what to do, and a store that was mended goes on.
//!
//! Each test mounts a file system that its own thread alone can see, so nothing stays behind, however it ends. That takes
//! root.

mod common;

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use ft_policies::tie_breaker::witness::{ServeError, Server};
use ft_policies::tie_breaker::{SharedDisk, Witness};
use ft_policies::{Answer, Pair, Register, RegisterState, Who};

use common::{a, b, state};

const PAIR: u128 = 7;

/// A small file system in memory.
struct Small {
    folder: tempfile::TempDir,
}

impl Small {
    /// Mounts one; `None`, which is said, where that cannot be.
    fn new(kind: &str, options: &str) -> Option<Self> {
        match Self::mounted(kind, options) {
            Ok(small) => Some(small),
            Err(error) => {
                println!("not run: a file system of one's own ({kind}) cannot be mounted here: {error}");
                None
            }
        }
    }

    fn mounted(kind: &str, options: &str) -> io::Result<Self> {
        let small = Self { folder: tempfile::tempdir()? };
        // SAFETY: unshare touches no memory; a mount namespace of its own changes nothing for other threads.
        if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // What is mounted from here on is nobody else's.
        mount("none", Path::new("/"), "", libc::MS_REC | libc::MS_PRIVATE, "")?;
        mount(kind, small.path(), kind, 0, options)?;
        Ok(small)
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Until nothing more fits.
    fn fill(&self) {
        let filler = self.path().join("filler");
        let error = fs::write(filler, vec![1; 1 << 20]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
    }

    fn make_room(&self) {
        fs::remove_file(self.path().join("filler")).unwrap();
    }

    fn set_read_only(&self, read_only: bool) {
        let flags = if read_only { libc::MS_RDONLY } else { 0 };
        mount("none", self.path(), "", libc::MS_REMOUNT | flags, "size=64k").unwrap();
    }
}

fn mount(source: &str, target: &Path, kind: &str, flags: libc::c_ulong, options: &str) -> io::Result<()> {
    let text = |bytes: &[u8]| CString::new(bytes).unwrap();
    let (source, kind) = (text(source.as_bytes()), text(kind.as_bytes()));
    let (target, options) = (text(target.as_os_str().as_bytes()), text(options.as_bytes()));
    // SAFETY: every pointer is to a string with its NUL that lives during the call.
    let done = unsafe {
        libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, options.as_ptr().cast())
    };
    // Read at once.
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// That an ask is not answered, and what is said.
fn unanswered(register: &dyn Register, from: u64, who: Who, words: &[&str]) {
    let Answer::Unavailable(error) = register.advance(from, &who) else {
        panic!("it was answered: {words:?}")
    };
    let said = error.to_string();
    for word in words {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert!(!said.contains('\n'), "{said}");
}

fn shared_disk(small: &Small) -> (PathBuf, SharedDisk) {
    let folder = small.path().join("generations");
    (folder.clone(), SharedDisk::new(folder, Pair { id: PAIR, name: "kv".to_owned() }))
}

const FULL: [&str; 3] = ["writing ", "No space left on device", "; make room on that file system"];
const READ_ONLY: [&str; 3] = [
    "Read-only file system",
    "the tie-breaker gives no answer: ",
    "; mount that file system for writing again",
];

#[test]
fn a_full_shared_disk() {
    let Some(small) = Small::new("tmpfs", "size=64k") else { return };
    let (folder, register) = shared_disk(&small);
    assert_eq!(register.advance(0, &a(1)), Answer::Won);
    small.fill();
    for _ in 0..3 {
        unanswered(&register, 1, b(2), &FULL);
        unanswered(&register, 1, a(1), &FULL);
    }
    assert_eq!(register.read(), Ok(state(1, a(1))), "reading goes on");
    assert_eq!(register.advance(0, &a(1)), Answer::Won, "and so does what needs no room");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "no half-written file stays");
    small.make_room();
    assert_eq!(register.advance(1, &b(2)), Answer::Won);
    assert_eq!(register.advance(1, &a(1)), Answer::Lost(state(2, b(2))));
}

/// There is room for no name any more.
#[test]
fn a_shared_disk_that_is_full_of_files() {
    let Some(small) = Small::new("tmpfs", "size=64k,nr_inodes=4") else { return };
    let (_, register) = shared_disk(&small);
    assert_eq!(register.advance(0, &a(1)), Answer::Won);
    unanswered(&register, 1, b(2), &["linking ", FULL[1], FULL[2]]);
    assert_eq!(register.read(), Ok(state(1, a(1))));
}

#[test]
fn a_read_only_shared_disk() {
    let Some(small) = Small::new("tmpfs", "size=64k") else { return };
    let (_, register) = shared_disk(&small);
    small.set_read_only(true);
    unanswered(&register, 0, a(1), &[&READ_ONLY[..], &["making the folder "]].concat());
    small.set_read_only(false);
    assert_eq!(register.advance(0, &a(1)), Answer::Won);
    small.set_read_only(true);
    unanswered(&register, 1, b(2), &[&READ_ONLY[..], &["writing "]].concat());
    assert_eq!(register.read(), Ok(state(1, a(1))));
    small.set_read_only(false);
    assert_eq!(register.advance(1, &a(3)), Answer::Won);
    assert_eq!(register.advance(1, &b(2)), Answer::Lost(state(2, a(3))));
}

/// A network mount that is gone leaves an empty folder behind: that is no beginning.
#[test]
fn a_shared_disk_that_is_not_mounted() {
    let Some(small) = Small::new("tmpfs", "size=64k") else { return };
    let (_, register) = shared_disk(&small);
    assert_eq!(register.advance(0, &a(1)), Answer::Won);
    mount("tmpfs", small.path(), "tmpfs", 0, "size=64k").unwrap();
    let nobody = RegisterState { generation: 0, holder: None };
    assert_eq!(register.advance(1, &a(1)), Answer::Behind(nobody));
    let target = CString::new(small.path().as_os_str().as_bytes()).unwrap();
    // SAFETY: the pointer is to a string with its NUL that lives during the call.
    assert_eq!(unsafe { libc::umount(target.as_ptr()) }, 0);
    assert_eq!(register.advance(1, &a(1)), Answer::Won);
}

#[test]
fn a_shared_disk_without_hard_links() {
    let Some(small) = WITHOUT_LINKS.iter().find_map(|kind| Small::new(kind, "")) else { return };
    let (folder, register) = shared_disk(&small);
    fs::create_dir(&folder).unwrap();
    if fs::write(folder.join("probe"), "")
        .and_then(|()| fs::hard_link(folder.join("probe"), folder.join("other")))
        .is_ok()
    {
        println!("not run: this file system has hard links");
        return;
    }
    unanswered(&register, 0, a(1), &["linking ", "no hard links", "such as ext4, XFS or NFS"]);
    assert_eq!(register.read(), Ok(RegisterState { generation: 0, holder: None }));
}

/// File systems in memory without them.
const WITHOUT_LINKS: [&str; 1] = ["vfat"];

/// A witness on the file system, and what it told.
fn witness(small: &Small) -> (Server, Witness, Arc<Mutex<Vec<String>>>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let server = Server::start("127.0.0.1:0".parse().unwrap(), &small.path().join("state"), None, {
        let told = Arc::clone(&told);
        move |line| told.lock().unwrap().push(line.to_owned())
    })
    .unwrap();
    let register = Witness::new(server.address(), PAIR, None);
    (server, register, told)
}

#[test]
fn a_full_disk_of_a_witness() {
    let Some(small) = Small::new("tmpfs", "size=64k") else { return };
    let (server, register, told) = witness(&small);
    assert_eq!(register.advance(0, &a(1)), Answer::Won);
    small.fill();
    for _ in 0..3 {
        unanswered(&register, 1, b(2), &[&FULL[..], &["the witness at 127.0.0.1:"]].concat());
    }
    assert_eq!(register.read(), Ok(state(1, a(1))));
    assert_eq!(register.advance(0, &a(1)), Answer::Won);
    {
        let told = told.lock().unwrap();
        assert!(told.len() == 1 && told[0].starts_with("no generation is given away: writing "), "{told:?}");
    }
    small.make_room();
    assert_eq!(register.advance(1, &b(2)), Answer::Won);
    drop(server);
    let (_server, register, _) = witness(&small);
    assert_eq!(register.advance(1, &a(1)), Answer::Lost(state(2, b(2))));
}

#[test]
fn a_read_only_disk_of_a_witness() {
    let Some(small) = Small::new("tmpfs", "size=64k") else { return };
    let (server, register, _) = witness(&small);
    assert_eq!(register.advance(0, &a(1)), Answer::Won);
    small.set_read_only(true);
    unanswered(&register, 1, b(2), &[READ_ONLY[0], READ_ONLY[2], "making ", "the witness at "]);
    assert_eq!(register.read(), Ok(state(1, a(1))));
    drop(server);
    // A witness that could never give anything away says so when it is started at a new place.
    let nowhere = small.path().join("another");
    let error = Server::start("127.0.0.1:0".parse().unwrap(), &nowhere, None, |_| {}).unwrap_err();
    assert!(matches!(error, ServeError::Store(_)) && error.to_string().contains(READ_ONLY[0]), "{error}");
    small.set_read_only(false);
    let (_server, register, _) = witness(&small);
    assert_eq!(register.advance(1, &a(3)), Answer::Won);
}
