//! `cargo xtask assets`: Debian's own kernel, and what it boots into, from packages that are fetched and unpacked but never
//! installed. No right of root is needed, and nothing is mounted.
//!
//! What it makes is in `target/assets` ([`folder`]), beside the checkout whose scripts are in it:
//!
//! | file | what it is |
//! |---|---|
//! | `vmlinuz` | the kernel, the very file of the package |
//! | `initramfs.cpio` | static busybox, virtio's modules, and an `/init` that goes on to `/dev/vda` where that has an ext4 |
//! | `root.ext4` | such a disk: busybox as init, a shell on the console, HTTP on port 80; room for files |
//! | `programs.ext4` | the same and redis, sqlite3 and python3 with its tests, as packaged (`cargo xtask assets programs`) |
//!
//! Packages themselves are kept in `$XDG_CACHE_HOME/ft-vm/packages` (`~/.cache/ft-vm/packages`), for every checkout.

mod debian;
mod image;
mod initramfs;
mod modules;
mod programs;
pub(crate) mod tree;
mod userland;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::steps::root;
pub(crate) use initramfs::{add_modules, archive};
use tree::Tree;

/// The package that names the release's own kernel for virtual machines: it has nothing in it but a dependency.
const KERNEL: &str = "linux-image-cloud-amd64";
/// The modules without which the guest has no disk and no network. Those that a kernel has built in are not looked for.
const MODULES: [&str; 4] = ["virtio_mmio", "virtio_blk", "virtio_net", "ext4"];
/// Room in the plain root image: enough for a test that fills tens of megabytes.
const ROOT_SIZE: u64 = 128 << 20;
/// Room in the image with programs.
const PROGRAMS_SIZE: u64 = 768 << 20;

/// Where everything is that this makes.
pub(crate) fn folder() -> PathBuf {
    root().join("target/assets")
}

/// What is to be made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// The image with real programs too.
    pub(crate) programs: bool,
    /// Another kernel package than the release's own.
    pub(crate) kernel: Option<String>,
}

impl Wanted {
    /// Reads `[programs] [--kernel PACKAGE]`.
    pub(crate) fn parse(words: &[&str]) -> Option<Self> {
        match words {
            [] => Some(Self::default()),
            ["programs", rest @ ..] => Some(Self { programs: true, ..Self::parse(rest)? }),
            ["--kernel", package, rest @ ..] => {
                Some(Self { kernel: Some((*package).to_owned()), ..Self::parse(rest)? })
            }
            _ => None,
        }
    }
}

/// The kernel of a package, unpacked.
pub(crate) struct Kernel {
    /// What `uname -r` will say.
    pub(crate) release: String,
    /// The kernel as packaged.
    pub(crate) vmlinuz: PathBuf,
    /// Its modules.
    pub(crate) modules: modules::Modules,
}

/// Fetches and unpacks the kernel.
pub(crate) fn kernel(package: Option<&str>) -> Result<Kernel, String> {
    let package = debian::kernel_package(package.unwrap_or(KERNEL))?;
    let unpacked = debian::unpacked(&package)?;
    let boot = unpacked.join("boot");
    let vmlinuz = fs::read_dir(&boot)
        .map_err(|error| format!("{}: {error}", boot.display()))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| name(path).starts_with("vmlinuz-"))
        .ok_or_else(|| format!("{package} has no boot/vmlinuz-*: is it a kernel package?"))?;
    let release = name(&vmlinuz).trim_start_matches("vmlinuz-").to_owned();
    let modules = modules::Modules::of(&unpacked, &release)?;
    Ok(Kernel { release, vmlinuz, modules })
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// Adds busybox and what makes a machine of it.
pub(crate) fn add_userland(tree: &mut Tree) -> Result<(), String> {
    let busybox = debian::unpacked("busybox-static")?;
    let places = ["bin/busybox", "usr/bin/busybox"].map(|place| busybox.join(place));
    let busybox = places.iter().find(|place| place.is_file()).ok_or("busybox-static has no bin/busybox")?;
    userland::add(tree, busybox)
}

/// Makes what is wanted.
pub(crate) fn run(wanted: &Wanted) -> Result<(), String> {
    let started = Instant::now();
    let folder = folder();
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let kernel = kernel(wanted.kernel.as_deref())?;
    println!("kernel {}", kernel.release);
    let vmlinuz = folder.join("vmlinuz");
    replace(&vmlinuz, &read(&kernel.vmlinuz)?)?;
    let mut userland = Tree::default();
    add_userland(&mut userland)?;
    let initramfs = folder.join("initramfs.cpio");
    replace(&initramfs, &initramfs::build(&userland, &kernel.modules)?)?;
    let root = folder.join("root.ext4");
    image::build(&root, &userland, ROOT_SIZE)?;
    let mut made = vec![vmlinuz, initramfs, root];
    if wanted.programs {
        let image = folder.join("programs.ext4");
        let mut tree = userland;
        programs::add(&mut tree)?;
        image::build(&image, &tree, PROGRAMS_SIZE)?;
        made.push(image);
    }
    for path in made {
        let size = fs::metadata(&path).map_err(|error| format!("{}: {error}", path.display()))?.len();
        println!("{:>9.1} MB  {}", size as f64 / 1e6, path.display());
    }
    println!("xtask assets: made in {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Replaces a file in one step: whoever has the old one open keeps it whole.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let new = path.with_extension(format!("new-{}", std::process::id()));
    fs::write(&new, bytes)
        .and_then(|()| fs::rename(&new, path))
        .map_err(|error| format!("{}: {error}", path.display()))
}
