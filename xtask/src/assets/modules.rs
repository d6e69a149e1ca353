//! Kernel modules of a package: which others each needs, and in what order they load.
//!
//! A package has no `modules.dep`: `depmod` writes that where it is installed. Every module names those that it depends on in its own
//! `.modinfo` section (`depends=a,b`), which is where `depmod` and `modinfo` look too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use object::{Object as _, ObjectSection as _};

use super::{name, read};

/// All modules of a kernel.
pub(crate) struct Modules {
    /// By the name that the kernel knows, which has underscores for hyphens.
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
}

/// A module, ready to be loaded.
pub(crate) struct Module {
    /// Its name, with underscores.
    pub(crate) name: String,
    /// The ELF file, not compressed.
    pub(crate) bytes: Vec<u8>,
}

impl Modules {
    /// The modules of a kernel package that is unpacked in `folder`.
    pub(crate) fn of(folder: &Path, release: &str) -> Result<Self, String> {
        let folder = ["lib/modules", "usr/lib/modules"]
            .iter()
            .map(|place| folder.join(place).join(release))
            .find(|place| place.is_dir())
            .ok_or_else(|| format!("{}: no lib/modules/{release}", folder.display()))?;
        let mut files = BTreeMap::new();
        collect(&folder, &mut files)?;
        let builtin = read(&folder.join("modules.builtin"))?;
        let builtin =
            String::from_utf8_lossy(&builtin).lines().map(|line| known_as(Path::new(line))).collect();
        Ok(Self { files, builtin })
    }

    /// These modules and all that they need, each after those. What the kernel has built in is left out.
    pub(crate) fn with_needed(&self, wanted: &[&str]) -> Result<Vec<Module>, String> {
        let mut order = Vec::new();
        for name in wanted {
            self.add(name, &mut order, &mut Vec::new())?;
        }
        Ok(order)
    }

    fn add(&self, name: &str, order: &mut Vec<Module>, waiting: &mut Vec<String>) -> Result<(), String> {
        if self.builtin.contains(name) || order.iter().any(|module| module.name == name) {
            return Ok(());
        }
        if waiting.iter().any(|other| other == name) {
            return Err(format!("kernel modules that need each other: {}", waiting.join(", ")));
        }
        let path = self.files.get(name).ok_or_else(|| format!("this kernel has no module {name}"))?;
        let bytes = uncompressed(path)?;
        waiting.push(name.to_owned());
        for needed in needs(&bytes).map_err(|error| format!("{}: {error}", path.display()))? {
            self.add(&needed, order, waiting)?;
        }
        waiting.pop();
        order.push(Module { name: name.to_owned(), bytes });
        Ok(())
    }
}

fn collect(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<(), String> {
    for entry in fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?.flatten() {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() {
            collect(&path, files)?;
        } else if name(&path).contains(".ko") {
            files.insert(known_as(&path), path);
        }
    }
    Ok(())
}

/// The name that the kernel gives to the module of a file.
fn known_as(path: &Path) -> String {
    name(path).split(".ko").next().unwrap_or_default().replace('-', "_")
}

/// The kernel could unpack some of these itself, and a guest would take longer for it than this machine.
fn uncompressed(path: &Path) -> Result<Vec<u8>, String> {
    let bytes = read(path)?;
    if name(path).ends_with(".ko") {
        return Ok(bytes);
    }
    if !name(path).ends_with(".ko.xz") {
        return Err(format!("{}: a module neither plain nor packed by xz", path.display()));
    }
    let mut plain = Vec::new();
    lzma_rust2::XzReader::new(bytes.as_slice(), false)
        .read_to_end(&mut plain)
        .map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(plain)
}

/// The names of the modules that one needs.
fn needs(bytes: &[u8]) -> Result<Vec<String>, String> {
    let elf = object::File::parse(bytes).map_err(|error| error.to_string())?;
    let section = elf.section_by_name(".modinfo").ok_or("no .modinfo section: not a kernel module")?;
    let info = section.data().map_err(|error| error.to_string())?;
    let depends = info.split(|&byte| byte == 0).find_map(|text| text.strip_prefix(b"depends="));
    let depends =
        String::from_utf8_lossy(depends.ok_or("its .modinfo section has no depends=")?).into_owned();
    Ok(depends.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_files() {
        assert_eq!(known_as(Path::new("kernel/arch/x86/kvm/kvm-amd.ko.xz")), "kvm_amd");
        assert_eq!(known_as(Path::new("kernel/fs/ext4/ext4.ko")), "ext4");
    }

    #[test]
    fn what_is_no_module_is_refused() {
        assert!(needs(b"not ELF").is_err());
    }
}
