//! Packages of this machine's Debian release: fetched by name through apt, kept, and unpacked beside each other. Nothing is
//! installed, and nothing needs root, except that apt must have its lists (`apt-get update`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ft_e2e::linux;

use super::name;
use crate::tools;

/// A package's file, as apt knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Archive {
    package: String,
    /// `NAME_VERSION_ARCHITECTURE.deb`.
    file: String,
    /// Hexadecimal.
    sha256: String,
}

/// Where packages are kept.
fn cache() -> Result<PathBuf, String> {
    let base = match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
        (Some(cache), _) if Path::new(&cache).is_absolute() => PathBuf::from(cache),
        (_, Some(home)) => Path::new(&home).join(".cache"),
        _ => return Err("neither XDG_CACHE_HOME nor HOME says where packages can be kept".to_owned()),
    };
    let folder = base.join("ft-vm/packages");
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}

/// The package that really has a kernel in it: a package whose name has no version depends on just that one.
pub(crate) fn kernel_package(package: &str) -> Result<String, String> {
    if !have_apt() {
        return Ok(package.to_owned());
    }
    let said = apt("apt-cache", &["depends", "--important", package])?;
    let depends = said.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let image = depends
        .map(str::trim)
        .find(|name| name.starts_with("linux-image-") && name.ends_with("-cloud-amd64"));
    Ok(image.unwrap_or(package).to_owned())
}

/// `package` and all that it cannot do without, as apt would install them on a machine that has nothing.
pub(crate) fn closure(packages: &[&str]) -> Result<Vec<String>, String> {
    need_apt(packages)?;
    let mut words = vec![
        "-qq",
        "-o",
        "Dir::State::status=/dev/null",
        "-o",
        "Debug::NoLocking=1",
        "--print-uris",
        "--no-install-recommends",
        "install",
    ];
    words.extend(packages);
    let said = apt("apt-get", &words)?;
    let names = said.lines().filter_map(|line| line.split(' ').nth(1)?.split('_').next());
    Ok(names.map(str::to_owned).collect())
}

/// The folder with what is in a package. Fetched and unpacked if it is not there yet.
pub(crate) fn unpacked(package: &str) -> Result<PathBuf, String> {
    let folders = all_unpacked(&[package.to_owned()])?;
    Ok(folders.into_iter().next().expect("one for each package"))
}

/// The same for many, in their order.
pub(crate) fn all_unpacked(packages: &[String]) -> Result<Vec<PathBuf>, String> {
    let cache = cache()?;
    let archives: Vec<PathBuf> = if have_apt() {
        fetch(&cache, packages)?
    } else {
        packages.iter().map(|package| put_there_by_hand(&cache, package)).collect::<Result<_, _>>()?
    };
    archives.iter().map(|archive| unpack(archive)).collect()
}

fn fetch(cache: &Path, packages: &[String]) -> Result<Vec<PathBuf>, String> {
    let mut words = vec!["download", "--print-uris", "-qq"];
    words.extend(packages.iter().map(String::as_str));
    let said = apt("apt-get", &words)?;
    let known: Vec<Archive> = said.lines().filter_map(archive).collect();
    let mut wanted = Vec::new();
    for package in packages {
        let archive = known.iter().find(|archive| archive.package == *package);
        wanted.push(archive.ok_or_else(|| format!("apt knows no file of the package {package}:\n{said}"))?);
    }
    let missing: Vec<&Archive> =
        wanted.iter().copied().filter(|archive| !is_whole(&cache.join(&archive.file), archive)).collect();
    if !missing.is_empty() {
        // Beside the cache, so that what is there is whole, and was checked.
        let new = tempfile::tempdir_in(cache).map_err(|error| format!("{}: {error}", cache.display()))?;
        println!("== fetching {} packages into {}", missing.len(), cache.display());
        // As root apt would download as a user who may not write here, and say so at length.
        let mut words = vec!["-qq", "-o", "APT::Sandbox::User=root", "download"];
        words.extend(missing.iter().map(|archive| archive.package.as_str()));
        run(Command::new("apt-get").args(&words).current_dir(new.path()))?;
        for archive in missing {
            let file = new.path().join(&archive.file);
            if !is_whole(&file, archive) {
                return Err(format!("{}: not the file that apt's lists describe", archive.file));
            }
            let to = cache.join(&archive.file);
            fs::rename(&file, &to).map_err(|error| format!("{}: {error}", to.display()))?;
        }
    }
    Ok(wanted.iter().map(|archive| cache.join(&archive.file)).collect())
}

/// Reads `'URI' FILE SIZE SHA256:HEX`.
fn archive(line: &str) -> Option<Archive> {
    let mut words = line.split(' ').skip(1);
    let file = words.next()?.to_owned();
    let sha256 = words.nth(1)?.strip_prefix("SHA256:")?.to_owned();
    let package = file.split('_').next()?.to_owned();
    (file.ends_with(".deb") && !file.contains('/')).then_some(Archive { package, file, sha256 })
}

fn is_whole(path: &Path, archive: &Archive) -> bool {
    fs::read(path).is_ok_and(|bytes| linux::sha256(&bytes) == archive.sha256)
}

/// The newest file of a package that somebody put into the cache.
fn put_there_by_hand(cache: &Path, package: &str) -> Result<PathBuf, String> {
    // A name without a version stands for the package that it depends on.
    let (before, after) = match package.split_once("linux-image-cloud-") {
        Some((_, rest)) => ("linux-image-".to_owned(), format!("-cloud-{rest}_")),
        None => (format!("{package}_"), String::new()),
    };
    let there = fs::read_dir(cache).map_err(|error| format!("{}: {error}", cache.display()))?;
    let mut found: Vec<PathBuf> = there
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            name(path).starts_with(&before) && name(path).contains(&after) && name(path).ends_with(".deb")
        })
        .collect();
    found.sort();
    found.pop().ok_or_else(|| need_apt(&[package]).expect_err("it is asked for where there is no apt"))
}

/// Unpacks beside the file. A folder is there whole or not at all.
fn unpack(archive: &Path) -> Result<PathBuf, String> {
    let folder = archive.with_extension("d");
    let made_of = fs::metadata(archive).and_then(|file| file.modified());
    let newer =
        |folder: &Path| Some(fs::metadata(folder).ok()?.modified().ok()? >= made_of.as_ref().ok().copied()?);
    let stamp = folder.join(".unpacked");
    if newer(&stamp) == Some(true) {
        return Ok(folder);
    }
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    let parent = archive.parent().expect("a file is in a folder");
    let new = tempfile::tempdir_in(parent).map_err(failed)?;
    run(Command::new("dpkg-deb").arg("-x").arg(archive).arg(new.path()))
        .map_err(|error| format!("{error}\ndpkg-deb unpacks Debian's packages: it is in the package dpkg"))?;
    fs::write(new.path().join(".unpacked"), "").map_err(failed)?;
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(failed)?;
    }
    fs::rename(new.keep(), &folder).map_err(failed)?;
    Ok(folder)
}

fn have_apt() -> bool {
    tools::runs(Path::new("apt-get"))
}

fn need_apt(packages: &[&str]) -> Result<(), String> {
    if have_apt() {
        return Ok(());
    }
    Err(format!(
        "apt-get is missing. Download {} for amd64 from https://packages.debian.org (of linux-image-cloud-amd64 the newest \
         package that it depends on), put the .deb files into {}, and run this again",
        packages.join(", "),
        cache()?.display()
    ))
}

/// What an apt command says. Where it does not know a package, and this is root, its lists are fetched first.
fn apt(program: &str, words: &[&str]) -> Result<String, String> {
    let ask = || {
        let mut command = Command::new(program);
        // Its messages are read here.
        command.args(words).env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        command.output().map_err(|error| format!("{program}: {error}"))
    };
    let mut said = ask()?;
    // SAFETY: geteuid has no arguments and cannot fail.
    if !said.status.success() && unsafe { libc::geteuid() } == 0 {
        run(Command::new("apt-get").args(["update", "-qq"]))?;
        said = ask()?;
    }
    if said.status.success() {
        return Ok(String::from_utf8_lossy(&said.stdout).into_owned());
    }
    Err(format!(
        "{program} {}: {}\nWhere apt knows no packages at all, `apt-get update` (as root) fetches its lists",
        words.join(" "),
        String::from_utf8_lossy(&said.stderr).trim()
    ))
}

/// Runs a command that must succeed; what it says is shown if it does not.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().display().to_string();
    let done = command.stdin(Stdio::null()).output().map_err(|error| format!("{program}: {error}"))?;
    if done.status.success() {
        return Ok(());
    }
    let said = [done.stdout, done.stderr].map(|text| String::from_utf8_lossy(&text).trim().to_owned());
    Err(format!("{program}: {}\n{}", done.status, said.join("\n").trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_apt() {
        let line = "'http://deb.debian.org/debian/pool/main/b/busybox/busybox-static_1.35.0-4%2bb1_amd64.deb' \
                    busybox-static_1%3a1.35.0-4+b1_amd64.deb 928188 SHA256:00ff";
        let known = archive(line).expect("it is one");
        assert_eq!(known.package, "busybox-static");
        assert_eq!(known.file, "busybox-static_1%3a1.35.0-4+b1_amd64.deb");
        assert_eq!(known.sha256, "00ff");
        for other in ["", "'x' y 1 SHA256:00", "'x' y.deb 1 MD5Sum:00", "'x' ../y.deb 1 SHA256:00"] {
            assert_eq!(archive(other), None, "{other}");
        }
    }

    #[test]
    fn a_file_is_whole_whose_sum_is_right() {
        // The example of FIPS 180-4.
        let sum = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let known = archive(&format!("'x' y.deb 3 SHA256:{sum}")).expect("it is one");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("y.deb");
        assert!(!is_whole(&path, &known), "there is no file");
        fs::write(&path, "ab").expect("new");
        assert!(!is_whole(&path, &known), "it is cut short");
        fs::write(&path, "abc").expect("there");
        assert!(is_whole(&path, &known));
    }

    #[test]
    fn the_newest_of_the_packages_that_somebody_put_there() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for file in [
            "linux-image-6.1.0-9-cloud-amd64_6.1.1_amd64.deb",
            "busybox-static_1_amd64.deb",
            "busybox_2_amd64.deb",
        ] {
            fs::write(folder.path().join(file), "").expect("new");
        }
        let found = |package| put_there_by_hand(folder.path(), package).map(|path| name(&path).to_owned());
        assert_eq!(found("busybox-static").as_deref(), Ok("busybox-static_1_amd64.deb"));
        assert_eq!(
            found("linux-image-cloud-amd64").as_deref(),
            Ok("linux-image-6.1.0-9-cloud-amd64_6.1.1_amd64.deb")
        );
    }
}
