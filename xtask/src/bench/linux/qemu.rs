//! The machine that this is compared with: QEMU's `microvm` under TCG, alone, recorded (`-icount shift=0,rr=record`), and replayed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use ft_e2e::{Capture, linux};

use super::work::{LIMIT, Times, follow};

const QEMU: &str = "qemu-system-x86_64";
/// As much as the guest has in ft-vm.
const MEMORY: &str = "256M";
/// Without a PIT Linux hangs where it measures the TSC.
const MACHINE: &str = "microvm,acpi=on,isa-serial=on,pit=on,pic=on,rtc=on";
/// Under plain TCG on a busy host Linux cannot measure the TSC against the PIT, calls it unstable, and hangs; so it is told, and in
/// all three modes. With `-icount shift=0` a tick is an instruction and a nanosecond. Nor may a busy host's late timer ticks make it
/// doubt the TSC later: it hangs then too.
const CMDLINE: &str = "console=ttyS0 tsc_early_khz=1000000 tsc=reliable";
/// The machine's disk: blank, as in ft-vm.
const DISK_BYTES: u64 = 1 << 20;

/// How QEMU runs the guest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// As fast as TCG does.
    Plain,
    /// Deterministically, writing what replaying needs.
    Record,
    /// From what was written.
    Replay,
}

/// A run of it.
pub(super) struct Run {
    pub(super) times: Times,
    pub(super) md5: String,
    /// Bytes of the recording.
    pub(super) log: Option<u64>,
}

/// QEMU, as long as it runs: it is killed if this ends first.
struct Machine {
    child: Child,
    console: Capture,
    errors: Capture,
    started: Instant,
}

/// Runs the guest with this initramfs in this folder, where a recording is left and found.
pub(super) fn run(mode: Mode, initramfs: &Path, folder: &Path) -> Result<Run, String> {
    let recording = folder.join("recording");
    let mut machine = Machine::start(mode, initramfs, folder, &recording)?;
    let console = machine.console.clone();
    let course = follow(&console, &mut || {}).map_err(|error| machine.explain(&error))?;
    let ended = machine.wait()?;
    let log = match mode {
        Mode::Plain => None,
        Mode::Record | Mode::Replay => {
            let size =
                fs::metadata(&recording).map_err(|error| format!("{}: {error}", recording.display()))?;
            Some(size.len())
        }
    };
    let times = course.times(machine.started, ended);
    Ok(Run { times, md5: course.md5().to_owned(), log })
}

impl Machine {
    fn start(mode: Mode, initramfs: &Path, folder: &Path, recording: &Path) -> Result<Self, String> {
        let disk = blank(folder)?;
        let mut qemu = Command::new(QEMU);
        qemu.args(["-M", MACHINE, "-cpu", "qemu64", "-accel", "tcg", "-m", MEMORY]);
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"]);
        qemu.args(["-global", "virtio-mmio.force-legacy=false"]);
        qemu.arg("-kernel").arg(linux::asset(linux::KERNEL));
        qemu.arg("-initrd").arg(initramfs);
        qemu.args(["-append", CMDLINE]);
        let image = format!("file={},format=raw,if=none", disk.display());
        qemu.args(["-device", "virtio-blk-device,drive=disk", "-device", "virtio-net-device,netdev=net"]);
        qemu.args(["-netdev", "user,id=net"]);
        let way = match mode {
            Mode::Plain => None,
            Mode::Record => Some("record"),
            Mode::Replay => Some("replay"),
        };
        match way {
            None => qemu.args(["-drive", &format!("{image},id=disk")]),
            // A disk and a network that are part of a recording are so by name (QEMU: docs/system/replay.rst).
            Some(way) => qemu.args([
                "-drive",
                &format!("{image},id=image"),
                "-drive",
                "driver=blkreplay,if=none,image=image,id=disk",
                "-object",
                "filter-replay,id=replay,netdev=net",
                "-icount",
                &format!("shift=0,rr={way},rrfile={}", recording.display()),
            ]),
        };
        qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        ft_e2e::die_with_us(&mut qemu);
        let started = Instant::now();
        let mut child = qemu.spawn().map_err(|error| format!("{QEMU}: {error}"))?;
        let console = Capture::of(child.stdout.take().expect("piped"));
        let errors = Capture::of(child.stderr.take().expect("piped"));
        Ok(Self { child, console, errors, started })
    }

    /// Waits for its end, which must be a good one.
    fn wait(&mut self) -> Result<Instant, String> {
        // It closes its console when it ends, and not before.
        if !self.console.wait_end(LIMIT) {
            return Err(self.explain("the guest does not power off"));
        }
        let status = self.child.wait().map_err(|error| format!("{QEMU}: {error}"))?;
        let ended = Instant::now();
        if status.success() { Ok(ended) } else { Err(self.explain(&status.to_string())) }
    }

    fn explain(&self, what: &str) -> String {
        format!("{QEMU}: {what}\n{}", self.errors.text())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// A disk with nothing on it.
fn blank(folder: &Path) -> Result<PathBuf, String> {
    let path = folder.join("disk");
    let made = fs::File::create(&path).and_then(|file| file.set_len(DISK_BYTES));
    made.map(|()| path.clone()).map_err(|error| format!("{}: {error}", path.display()))
}
