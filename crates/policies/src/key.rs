//! The secrets by which the two replicas of a pair know each other, and a witness the pair; and the files that hold them.
//!
//! A key is 64 hexadecimal digits on a line. A pair's file has one such line; the witness's file has as many as there are keys,
//! each alone (good for every pair) or with a `vm.name` after it (good for the pair of that name only). Empty lines, and
//! what follows a `#`, are for people. As a private key of ssh, a file that others may read is refused.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::digest;
use crate::hex::{self, Hex};
use crate::schema::values::{Name, Text as _};

/// Bytes of a key.
const LEN: usize = 32;
/// Bytes of a short code: 128 bits, as the shortest that RFC 2104 advises for this hash.
pub const SHORT: usize = 16;
/// More than any file of keys has.
const MAX_FILE: u64 = 1 << 20;
/// The rights that nobody but the owner may have.
const OTHERS: u32 = 0o077;

/// A secret. It is never shown, and wiped when it goes.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; LEN]>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(secret)")
    }
}

impl PartialEq for Key {
    /// In the same time, wherever they differ.
    fn eq(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0.iter()).fold(0, |differ, (mine, theirs)| differ | (mine ^ theirs)) == 0
    }
}

impl Eq for Key {}

/// Why a file of keys cannot be used, or not be made.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The operating system refused.
    #[error("{doing} {path}: {error}{remedy}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// The operating system's words.
        error: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// Others can read it, or write it.
    #[error(
        "{path} is open to others than its owner (mode {mode:04o}), and what they know is no secret: chmod 600 {path}; if they \
         may have read it, make a new one with `ft-vm key`"
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It holds something else.
    #[error("{path}, line {line}: {reason}")]
    Line {
        /// The file.
        path: PathBuf,
        /// Which line, counted from 1.
        line: usize,
        /// What is wrong with it; never what it says.
        reason: String,
    },
    /// It is none as a whole.
    #[error("{path} is no file of keys: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl Key {
    /// A new one.
    ///
    /// # Errors
    /// The kernel gives no random bytes.
    pub fn random() -> io::Result<Self> {
        let mut key = Zeroizing::new([0; LEN]);
        random(&mut *key)?;
        Ok(Self(key))
    }

    /// A known one, for tests and measurements.
    pub fn of(bytes: [u8; LEN]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Makes a file with a new key, which nobody but its owner may read.
    ///
    /// # Errors
    /// The file exists, or cannot be made.
    pub fn make(path: &Path) -> Result<(), KeyError> {
        let failed = |doing, remedy| io_failed(path, doing, remedy);
        let key = Self::random().map_err(failed("finding random bytes for", ""))?;
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let mut file = made.map_err(|error| {
            let remedy = match error.kind() {
                io::ErrorKind::AlreadyExists => {
                    "; a key is never overwritten: give another name, or move that file away first"
                }
                io::ErrorKind::NotFound => "; make the folder first",
                _ => "",
            };
            failed("making", remedy)(error)
        })?;
        let line = Zeroizing::new(format!("{}\n", Hex(*key.0)));
        file.write_all(line.as_bytes()).and_then(|()| file.sync_all()).map_err(|error| {
            // It was made just now, and is no key.
            let _ = std::fs::remove_file(path);
            failed("writing", "")(error)
        })
    }

    /// The key of a pair, alone in its file.
    ///
    /// # Errors
    /// There is no such file, others may read it, or it is not exactly one key.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let mut key = None;
        for (line, found) in lines(path)? {
            let bad = |reason: &str| KeyError::Line { path: path.to_owned(), line, reason: reason.into() };
            let (found, name) = found.map_err(|reason| bad(&reason))?;
            if name.is_some() {
                return Err(bad("a name after the key is for the witness's --keys file only: take it out"));
            }
            if key.replace(found).is_some() {
                return Err(bad("this is a second key, and a pair has one"));
            }
        }
        key.ok_or_else(|| KeyError::File { path: path.to_owned(), reason: EMPTY })
    }

    /// A code over `parts`, one after the other, that nobody makes without this key.
    pub(crate) fn sign(&self, parts: &[&[u8]]) -> Tag {
        let mut tag = [0; LEN];
        tag.copy_from_slice(&self.hmac(parts).finalize().into_bytes());
        Tag(tag)
    }

    /// Whether this is the code; in the same time, however much of it is right.
    pub(crate) fn verify(&self, parts: &[&[u8]], tag: &Tag) -> bool {
        self.hmac(parts).verify_slice(&tag.0).is_ok()
    }

    /// The same, shorter: for what is sent so often that the rest is not worth its bytes.
    pub fn sign_short(&self, parts: &[&[u8]]) -> [u8; SHORT] {
        let mut tag = [0; SHORT];
        tag.copy_from_slice(&self.hmac(parts).finalize().into_bytes()[..SHORT]);
        tag
    }

    /// Whether this is the short code; in the same time, however much of it is right.
    pub fn verify_short(&self, parts: &[&[u8]], tag: &[u8; SHORT]) -> bool {
        self.hmac(parts).verify_truncated_left(tag).is_ok()
    }

    fn hmac(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut hmac = Hmac::<Sha256>::new_from_slice(&*self.0).expect("HMAC takes keys of any length");
        parts.iter().for_each(|part| hmac.update(part));
        hmac
    }
}

/// What a line was signed with. It is no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag(pub(crate) [u8; LEN]);

/// The keys of a witness.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Good for every pair.
    every: Vec<Key>,
    /// Good for one.
    named: BTreeMap<u128, Vec<Key>>,
}

impl Keys {
    /// Reads a witness's file.
    ///
    /// # Errors
    /// There is no such file, others may read it, or a line of it is no key.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let mut keys = Self { every: Vec::new(), named: BTreeMap::new() };
        let mut seen: Vec<(usize, Key, Option<u128>)> = Vec::new();
        for (line, found) in lines(path)? {
            let bad = |reason: String| KeyError::Line { path: path.to_owned(), line, reason };
            let (key, name) = found.map_err(bad)?;
            let pair = name.as_deref().map(digest::pair_named);
            // One key for two names is a choice; for a name and for every pair it is a mistake.
            let again = |(_, other, whose): &&(usize, Key, Option<u128>)| {
                *other == key && (*whose == pair || whose.is_none() || pair.is_none())
            };
            if let Some((earlier, ..)) = seen.iter().find(again) {
                return Err(bad(format!("this is the key of line {earlier} again: leave one of the two")));
            }
            seen.push((line, key.clone(), pair));
            match pair {
                Some(pair) => keys.named.entry(pair).or_default().push(key),
                None => keys.every.push(key),
            }
        }
        if seen.is_empty() {
            return Err(KeyError::File { path: path.to_owned(), reason: EMPTY });
        }
        Ok(keys)
    }

    /// Those that are good for a pair.
    pub(crate) fn of(&self, pair: u128) -> impl Iterator<Item = &Key> {
        self.named.get(&pair).into_iter().flatten().chain(&self.every)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.every.len() + self.named.values().map(Vec::len).sum::<usize>()
    }
}

const EMPTY: &str = "it has no key; `ft-vm key` makes one";

fn io_failed(path: &Path, doing: &'static str, remedy: &'static str) -> impl FnOnce(io::Error) -> KeyError {
    let path = path.to_owned();
    move |error| KeyError::Io { doing, path, error, remedy }
}

/// A line's key and name, or what is wrong with it.
type Found = Result<(Key, Option<String>), String>;

/// The lines of a file that are not for people, with their numbers.
fn lines(path: &Path) -> Result<Vec<(usize, Found)>, KeyError> {
    let failed = |doing, remedy| io_failed(path, doing, remedy);
    // Non-blocking: a pipe of that name must not hang.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = opened.map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::NotFound => {
                "; `ft-vm key FILE` makes one, and its copies belong to both replicas, and to the witness where it is its key too"
            }
            io::ErrorKind::PermissionDenied => "; it must belong to the user that runs ft-vm",
            _ => "",
        };
        failed("opening", remedy)(error)
    })?;
    let about = file.metadata().map_err(failed("examining", ""))?;
    let none = |reason| KeyError::File { path: path.to_owned(), reason };
    if !about.is_file() {
        return Err(none("it is not a regular file"));
    }
    let mode = about.mode() & 0o7777;
    if mode & OTHERS != 0 {
        return Err(KeyError::Open { path: path.to_owned(), mode });
    }
    if about.len() > MAX_FILE {
        return Err(none("it is too long"));
    }
    // With room for all of it: a vector that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(about.len()).unwrap_or(0) + 1));
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed("reading", ""))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| none("it is not text"))?;
    let said = text.lines().enumerate().filter_map(|(index, line)| {
        let mut words = line.split('#').next().unwrap_or("").split_ascii_whitespace();
        let key = words.next()?;
        Some((index + 1, parse(key, words.next(), words.next().is_some())))
    });
    Ok(said.collect())
}

fn parse(key: &str, name: Option<&str>, more: bool) -> Found {
    let key = hex::read(key).ok_or_else(|| format!("a key is {} hexadecimal digits (0-9, a-f)", 2 * LEN))?;
    let key = Key(Zeroizing::new(key));
    if more {
        return Err("after a key there is one vm.name, or nothing".into());
    }
    match name.map(Name::parse_text) {
        None => Ok((key, None)),
        Some(Ok(name)) => Ok((key, Some(name.0))),
        // What is there may be a key.
        Some(Err(_)) => Err(format!("what follows the key is no vm.name ({})", Name::FORM)),
    }
}

/// Fills `bytes` with random ones of the kernel.
pub(crate) fn random(bytes: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while let rest @ [_, ..] = &mut bytes[done..] {
        // SAFETY: the pointer and length are those of `rest`, which is writable and alive during the call.
        let got = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(got) {
            Ok(got) => done += got,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn file(folder: &tempfile::TempDir, text: &str) -> PathBuf {
        let path = folder.path().join("keys");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn digits(byte: u8) -> String {
        Hex([byte; LEN]).to_string()
    }

    #[test]
    fn a_new_key_is_its_owners_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        Key::make(&one).unwrap();
        Key::make(&other).unwrap();
        assert_eq!(fs::metadata(&one).unwrap().mode() & 0o7777, 0o600);
        let text = fs::read_to_string(&one).unwrap();
        assert_eq!(text.len(), 65);
        assert_eq!(Key::load(&one).unwrap(), Key::load(&one).unwrap());
        assert_ne!(Key::load(&one).unwrap(), Key::load(&other).unwrap());
        assert_eq!(Keys::load(&one).unwrap().count(), 1, "the same file does for a witness");
        let error = Key::make(&one).unwrap_err().to_string();
        assert!(error.contains("never overwritten"), "{error}");
        assert_eq!(fs::read_to_string(&one).unwrap(), text);
        let shown = format!("{:?} {:?}", Key::load(&one).unwrap(), Keys::load(&one).unwrap());
        assert!(!shown.contains(text.trim()) && shown.contains("Key(secret)"), "{shown}");
        assert!(
            Key::make(Path::new("/nowhere/key")).unwrap_err().to_string().contains("make the folder first")
        );
    }

    #[test]
    fn a_file_that_others_may_read_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(&folder, &digits(1));
        for mode in [0o640, 0o604, 0o660, 0o610, 0o777] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            for error in [Key::load(&path).unwrap_err(), Keys::load(&path).unwrap_err()] {
                let said = error.to_string();
                assert!(said.contains("open to others") && said.contains("chmod 600 "), "{said}");
                assert!(said.contains(&format!("mode 0{mode:o}")), "{said}");
            }
        }
        fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
        Key::load(&path).unwrap();
    }

    #[test]
    fn whose_key_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "# of the witness\n\n{}\n  {} kv # the service\n{} kv\n{} db\n",
            digits(1),
            digits(2),
            digits(3),
            digits(2)
        );
        let keys = Keys::load(&file(&folder, &text)).unwrap();
        assert_eq!(keys.count(), 4);
        let of = |name| keys.of(digest::pair_named(name)).map(|key| key.0[0]).collect::<Vec<_>>();
        assert_eq!((of("kv"), of("db"), of("other")), (vec![2, 3, 1], vec![2, 1], vec![1]));
    }

    #[test]
    fn what_is_no_file_of_keys_is_told_with_its_line_and_without_its_text() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (digits(0xab), digits(0xcd));
        for (text, words) in [
            (String::new(), "has no key"),
            ("# nothing\n".into(), "has no key"),
            (format!("\n{}\n", &one[1..]), "line 2: a key is 64 hexadecimal digits"),
            (format!("{}\n", one.to_uppercase()), "line 1: a key is 64"),
            (format!("key {one}\n"), "line 1: a key is 64"),
            (format!("{one} {two}\n"), "line 1: what follows the key is no vm.name"),
            (format!("{one} Big\n"), "line 1: what follows"),
            (format!("{one} kv db\n"), "line 1: after a key there is one vm.name"),
            (format!("{one}\n#\n{one}\n"), "line 3: this is the key of line 1 again"),
            (format!("{one} kv\n{one}\n"), "line 2: this is the key of line 1 again"),
            (format!("{one} kv\n{one} kv\n"), "line 2: this is the key of line 1 again"),
        ] {
            let error = Keys::load(&file(&folder, &text)).unwrap_err().to_string();
            assert!(error.contains(words), "{words}: {error}");
            assert!(!error.contains(&one[..60]) && !error.contains(&two), "{error}");
        }
        for (text, words) in [
            (format!("{one}\n{two}\n"), "line 2: this is a second key"),
            (format!("{one} kv\n"), "line 1: a name after the key"),
            ("#\n".into(), "has no key"),
        ] {
            let error = Key::load(&file(&folder, &text)).unwrap_err().to_string();
            assert!(error.contains(words) && !error.contains(&one), "{words}: {error}");
        }
        let path = file(&folder, "");
        fs::write(&path, [0xff; 9]).unwrap();
        assert!(Key::load(&path).unwrap_err().to_string().contains("not text"));
        fs::write(&path, vec![b'#'; 2 << 20]).unwrap();
        assert!(Key::load(&path).unwrap_err().to_string().contains("too long"));
        assert!(Key::load(folder.path()).unwrap_err().to_string().contains("regular file"));
        let error = Key::load(&folder.path().join("none")).unwrap_err().to_string();
        assert!(error.contains("opening ") && error.contains("`ft-vm key FILE` makes one"), "{error}");
    }

    /// RFC 4231, test case 2 has a short key; this is its first one, of this length by zeros, which HMAC adds itself.
    #[test]
    fn it_is_the_hmac_that_everybody_knows() {
        let mut key = [0; LEN];
        key[..20].fill(0x0b);
        let tag = Key(Zeroizing::new(key)).sign(&[b"Hi ", b"There"]);
        assert_eq!(
            Hex(tag.0).to_string(),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
        );
        let key = Key::of(key);
        let short = key.sign_short(&[b"Hi ", b"There"]);
        assert_eq!(short, tag.0[..SHORT]);
        assert!(key.verify_short(&[b"Hi There"], &short));
        for byte in 0..SHORT {
            let mut other = short;
            other[byte] ^= 1;
            assert!(!key.verify_short(&[b"Hi There"], &other), "{byte}");
        }
    }
}
