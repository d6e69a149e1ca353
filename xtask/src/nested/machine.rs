//! The machine that QEMU makes: started, watched, and ended.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::payload::{END, UP};
use crate::steps::{processor_time_of_ended, root};
use crate::tools;

const QEMU: &str = "qemu-system-x86_64";
/// What an EPYC has and TCG has not: QEMU warns of each, or leaves it out in some versions and not in others.
const CPU: &str = "EPYC,+svm,rdseed=off,sha-ni=off,fxsr-opt=off,misalignsse=off,3dnowprefetch=off,osvw=off,topoext=off,\
                   nrip-save=off,xsavec=off";
/// Two replicas of a pair, their launcher, and all files: its file system is in memory.
const MEMORY: &str = "2G";

/// How the machine's two processors run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Processors {
    /// In one thread, one after the other: for tests.
    InTurn,
    /// With a thread each: for what is to be measured. They are wrong more often then (docs/kvm.md, "Test it").
    AtOnce,
}

impl Processors {
    fn accelerator(self) -> &'static str {
        match self {
            Self::InTurn => "tcg,thread=single",
            Self::AtOnce => "tcg,thread=multi",
        }
    }
}

/// What came of it.
pub(crate) struct Outcome {
    /// The exit code of each test that ended.
    pub(crate) codes: BTreeMap<String, i32>,
    /// How long the machine took until its first process had loaded KVM.
    pub(crate) up: Option<Duration>,
    /// How long there was a machine.
    pub(crate) took: Duration,
    /// The processor time that it took: on a busy host much less.
    pub(crate) worked: Duration,
    /// What went wrong with the machine itself.
    pub(crate) wrong: Option<String>,
}

pub(crate) fn have_qemu() -> bool {
    tools::runs(Path::new(QEMU))
}

/// Where the initramfs and the exit codes of the last machine are, for a look by hand.
pub(crate) fn folder() -> PathBuf {
    root().join("target/test-kvm")
}

/// Boots the kernel with the initramfs, shows what the console says, and waits for the machine's end.
pub(crate) fn run(
    kernel: &Path,
    initramfs: &[u8],
    processors: Processors,
    limit: Duration,
) -> Result<Outcome, String> {
    let folder = folder();
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let (initrd, results) = (folder.join("initramfs.cpio"), folder.join("results"));
    fs::write(&initrd, initramfs).map_err(|error| format!("{}: {error}", initrd.display()))?;
    // QEMU writes it anew; what an earlier machine said is not to be taken for it if it cannot.
    match fs::remove_file(&results) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(format!("{}: {error}", results.display()));
        }
        _ => {}
    }
    let mut qemu = Command::new(QEMU);
    qemu.args(["-accel", processors.accelerator(), "-cpu", CPU, "-smp", "2", "-m", MEMORY]);
    qemu.args(["-M", "pc", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    // The console, and a line for exit codes that nothing else writes to.
    qemu.args(["-serial", "stdio", "-serial"]).arg(format!("file:{}", results.display()));
    qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(&initrd);
    // The second processor is started by /init.
    qemu.args(["-append", "console=ttyS0 quiet panic=-1 maxcpus=1"]);
    qemu.stdin(Stdio::null()).stdout(Stdio::piped());
    ft_e2e::die_with_us(&mut qemu);
    let (started, worked) = (Instant::now(), processor_time_of_ended());
    let mut machine = qemu.spawn().map_err(|error| format!("{QEMU}: {error}"))?;
    let mut console = machine.stdout.take().expect("piped");
    let (send, receive) = channel();
    let reader = std::thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(count @ 1..) = console.read(&mut chunk) {
            if send.send(chunk[..count].to_vec()).is_err() {
                break;
            }
        }
    });
    let (mut up, mut late, mut line) = (None, false, Vec::new());
    loop {
        match receive.recv_timeout(limit.saturating_sub(started.elapsed())) {
            Ok(bytes) => {
                for byte in bytes {
                    line.push(byte);
                    if byte != b'\n' {
                        continue;
                    }
                    let text = String::from_utf8_lossy(&line);
                    if up.is_none() && text.starts_with(UP) {
                        up = Some(started.elapsed());
                    }
                    let mut out = std::io::stdout().lock();
                    let at = started.elapsed().as_secs_f64();
                    let _ = writeln!(out, "inside {at:5.1} | {}", text.trim_end()).and_then(|()| out.flush());
                    line.clear();
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                late = true;
                let _ = machine.kill();
                break;
            }
        }
    }
    let status = machine.wait().map_err(|error| format!("{QEMU}: {error}"))?;
    let (took, worked) = (started.elapsed(), processor_time_of_ended() - worked);
    drop(receive);
    let _ = reader.join();
    let said = fs::read_to_string(&results).unwrap_or_default();
    let wrong = if late {
        Some(format!("the machine did not end within {} s", limit.as_secs()))
    } else if !status.success() {
        Some(format!("{QEMU}: {status}"))
    } else if !said.lines().any(|line| line.trim_end() == END) {
        Some("the machine ended before its tests did: its last lines above say why".to_owned())
    } else {
        None
    };
    Ok(Outcome { codes: codes(&said), up, took, worked, wrong })
}

/// Reads the lines `NAME CODE`.
fn codes(said: &str) -> BTreeMap<String, i32> {
    let pair = |line: &str| {
        let (name, code) = line.trim_end().rsplit_once(' ')?;
        Some((name.to_owned(), code.parse().ok()?))
    };
    said.lines().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_that_come_out() {
        let said = format!("probe 0\r\nft-vcpu kvm 101\r\ncut off\r\n{END}\r\n");
        let read = codes(&said);
        assert_eq!(read.len(), 2);
        assert_eq!((read["probe"], read["ft-vcpu kvm"]), (0, 101));
    }
}
