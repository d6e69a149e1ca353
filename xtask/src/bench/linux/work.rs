//! What the guest is given to do, and when it said that each part was done. It comes with the initramfs, as `/etc/rc.local`: nobody
//! types, so that no machine waits for a person, or for characters that QEMU's recording is slow to take. The times are the host's: a
//! guest that is recorded or replayed has a clock of its own.

use std::path::Path;
use std::time::{Duration, Instant};

use ft_e2e::{Capture, linux};

use crate::assets;
use crate::assets::tree::Tree;

/// For a whole run, replays in the reference machine included, on a machine that others use too.
pub(super) const LIMIT: Duration = Duration::from_secs(1800);

/// Each mark is a line of its own. Before the last one there is time to ask for the status; an orderly end would be seconds of waiting
/// for processes that are not there.
const WORK: &str = r#"m() { echo; echo "[mark $1]"; }
m begin
i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; m loop
dd if=/dev/zero of=/tmp/file bs=1M count=32 2>/dev/null; m file
md5sum /tmp/file; m md5
sha256sum /tmp/file; m sha
sleep 2; m off
poweroff -f
"#;
/// The file of [`WORK`].
const FILE_BYTES: usize = 32 << 20;

/// What the console says, in this order: `/init` of the initramfs, its `rc`, and [`WORK`].
const MARKS: [&str; 8] = [
    "init: Linux ",
    "rc: ready",
    "[mark begin]",
    "[mark loop]",
    "[mark file]",
    "[mark md5]",
    "[mark sha]",
    "[mark off]",
];
/// After this mark the work is done, and the guest sleeps.
const DONE: usize = 6;

/// The parts of a run: key, what it is. The last one ends with the process.
pub(super) const PARTS: [(&str, &str); 7] = [
    ("boot_s", "boot, start to the first process"),
    ("rc_s", "modules, network, to the shell"),
    ("loop_s", "shell loop, 100,000 rounds"),
    ("file_s", "writing a file of 32 MiB"),
    ("md5_s", "md5sum of it"),
    ("sha_s", "sha256sum of it"),
    ("off_s", "power-off, to the end of the process"),
];

/// When each mark was seen, and what the guest computed.
pub(super) struct Course {
    marks: [Instant; MARKS.len()],
    sums: [String; 2],
}

/// Seconds of a run.
#[derive(Clone, Copy)]
pub(super) struct Times {
    /// Of [`PARTS`].
    pub(super) parts: [f64; PARTS.len()],
    /// From start to end, without the time in which the guest slept.
    pub(super) whole: f64,
}

/// Writes the initramfs of the assets with [`WORK`] in it: the kernel unpacks archives that follow each other, one over the other
/// (kernel: Documentation/driver-api/early-userspace/buffer-format.rst).
pub(super) fn initramfs(into: &Path) -> Result<(), String> {
    let from = linux::asset(linux::INITRD);
    let mut bytes = std::fs::read(&from).map_err(|error| format!("{}: {error}", from.display()))?;
    // Each one begins at a multiple of four bytes.
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let mut tree = Tree::default();
    tree.text("etc/rc.local", 0o644, WORK);
    bytes.extend(assets::archive(&tree)?);
    std::fs::write(into, bytes).map_err(|error| format!("{}: {error}", into.display()))
}

/// Watches a run up to the moment when it powers off; `done` is called while the guest sleeps, its work done.
pub(super) fn follow(console: &Capture, done: &mut dyn FnMut()) -> Result<Course, String> {
    let mut marks = [Instant::now(); MARKS.len()];
    for (number, (mark, at)) in MARKS.iter().zip(&mut marks).enumerate() {
        let line = console.wait_for(0, LIMIT, |line| line.contains(mark));
        *at = line
            .ok_or_else(|| format!("the guest did not say `{mark}`; its console:\n{}", console.text()))?
            .at;
        if number == DONE {
            done();
        }
    }
    Ok(Course { marks, sums: sums(console)? })
}

/// The two sums that the guest printed; the one that the host can compute too must be right.
fn sums(console: &Capture) -> Result<[String; 2], String> {
    let lines = console.lines();
    let sum = |digits: usize| {
        let sums = lines.iter().filter_map(|line| line.text.trim_end().strip_suffix("  /tmp/file"));
        let mut sums =
            sums.filter(|sum| sum.len() == digits && sum.bytes().all(|byte| byte.is_ascii_hexdigit()));
        sums.next().map(str::to_owned)
    };
    let found = sum(32).zip(sum(64));
    let (md5, sha) =
        found.ok_or_else(|| format!("the guest printed no sums; its console:\n{}", console.text()))?;
    let right = linux::sha256(&vec![0; FILE_BYTES]);
    if sha != right {
        return Err(format!("the guest's sha256sum of 32 MiB of zeros is {sha}, it must be {right}"));
    }
    Ok([md5, sha])
}

impl Course {
    /// The times of a run that began and ended then.
    pub(super) fn times(&self, started: Instant, ended: Instant) -> Times {
        let [userspace, shell, begin, looped, filed, md5, sha, off] = self.marks;
        let seconds = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64();
        let parts = [
            seconds(started, userspace),
            seconds(userspace, shell),
            seconds(begin, looped),
            seconds(looped, filed),
            seconds(filed, md5),
            seconds(md5, sha),
            seconds(off, ended),
        ];
        Times { parts, whole: seconds(started, ended) - seconds(sha, off) }
    }

    /// The md5sum: it must be the same everywhere.
    pub(super) fn md5(&self) -> &str {
        &self.sums[0]
    }
}
