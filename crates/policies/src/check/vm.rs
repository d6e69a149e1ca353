//! What the `[vm]` table means.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::Check;
use crate::config::{BUILTIN_GUESTS, Clock, Engine, Kernel, MAX_MEMORY, MIN_MEMORY, Vm};
use crate::schema::At;
use crate::schema::tables::{self, DEFAULT_MEMORY};
use crate::schema::values::NonEmpty;
use crate::units::Size;

const PAGE: u64 = 4096;
/// Where a bzImage has its magic number.
const BZ_MAGIC: u64 = 0x202;

impl Check {
    pub(super) fn vm(&mut self, table: tables::Vm) -> Vm {
        let tables::Vm { name, engine, memory, kernel, initrd, cmdline, clock } = table;
        if let Some(at) = &engine
            && **at == tables::Engine::Kvm
        {
            self.unavailable_at(at.span(), "engine = \"kvm\"", "use engine = \"software\"");
        }
        if self.range(memory.as_ref(), "the memory", MIN_MEMORY, MAX_MEMORY)
            && let Some(at) = &memory
            && at.bytes() % PAGE != 0
        {
            let below = Size(at.bytes() / PAGE * PAGE);
            self.error(
                at.span(),
                "the memory is not whole pages",
                "not a multiple of 4 KiB",
                format!("for example \"{below}\""),
            );
        }
        Vm {
            name: name.map(|at| at.into_inner().0).unwrap_or_default(),
            engine: Engine::Software,
            memory: self.or_default(memory.as_ref(), DEFAULT_MEMORY, Size::parse),
            initrd: initrd.map(|at| self.initrd(&at)),
            kernel: kernel.map_or_else(|| Kernel::Builtin(String::new()), |at| self.kernel(&at)),
            cmdline: cmdline.map(|at| at.into_inner().0).unwrap_or_default(),
            clock: match clock.as_deref() {
                Some(tables::Clock::Virtual) => Clock::Virtual,
                Some(tables::Clock::Host) | None => Clock::Host,
            },
        }
    }

    fn kernel(&mut self, at: &At<NonEmpty>) -> Kernel {
        if let Some(name) = at.value().0.strip_prefix("builtin:") {
            if !BUILTIN_GUESTS.contains(&name) {
                let known = BUILTIN_GUESTS
                    .iter()
                    .map(|name| format!("\"builtin:{name}\""))
                    .collect::<Vec<_>>()
                    .join(", ");
                let title = format!("there is no built-in guest `{}`", name.escape_debug());
                self.error(
                    at.span(),
                    title,
                    "",
                    format!("one of {known}, or the path of a Linux kernel or an ELF file"),
                );
            }
            return Kernel::Builtin(name.to_owned());
        }
        let path = self.path(at);
        if let Err(reason) = kernel(&path) {
            let help = "the path of a Linux kernel (vmlinuz) or a 64-bit ELF file, relative to this file, or builtin:NAME";
            self.error(at.span(), format!("cannot boot {}", path.display()), reason, help);
        }
        Kernel::File(path)
    }

    fn initrd(&mut self, at: &At<NonEmpty>) -> PathBuf {
        let path = self.path(at);
        if let Err(reason) = open(&path) {
            let title = format!("cannot load the initial RAM disk {}", path.display());
            self.error(at.span(), title, reason, "the path of a file, relative to this file");
        }
        path
    }
}

fn open(path: &Path) -> Result<File, String> {
    // Non-blocking, so that a pipe of that name cannot hold the check up.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = file.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        _ => error.to_string(),
    })?;
    if !file.metadata().is_ok_and(|data| data.is_file()) {
        return Err("this is not a regular file".into());
    }
    Ok(file)
}

/// Whether a file begins as a bzImage or a 64-bit x86 ELF file does; the boot loader looks at the rest.
fn kernel(path: &Path) -> Result<(), String> {
    let file = open(path)?;
    let mut head = Vec::new();
    file.take(BZ_MAGIC + 4).read_to_end(&mut head).map_err(|error| error.to_string())?;
    if head.get(BZ_MAGIC as usize..).is_some_and(|magic| magic == b"HdrS") {
        return Ok(());
    }
    match head.get(..20) {
        None => Err("this is neither a Linux kernel nor an ELF file: it is too short".into()),
        Some(head) if head[..4] != *b"\x7fELF" => {
            Err("this is neither a Linux kernel (bzImage) nor an ELF file".into())
        }
        Some(head) if head[4] != 2 || head[5] != 1 || head[18..20] != [62, 0] => {
            Err("this ELF file is not for 64-bit x86".into())
        }
        Some(_) => Ok(()),
    }
}
