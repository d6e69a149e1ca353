//! What the guest is given to do, and when it said that each part was done. The words go to its shell, and the times are the host's:
//! a guest that is recorded or replayed has a clock of its own.

use std::time::{Duration, Instant};

use ft_e2e::{Capture, linux};

/// For a whole run, replays in the reference machine included, on a machine that others use too.
pub(super) const LIMIT: Duration = Duration::from_secs(1800);

/// A shell function prints each mark: the value of the expression is not in the echo of what is typed. The line ends where
/// nothing is left to do but to power off, and the shell waits for that word.
const WORK: &str = "m() { echo; echo \"[$((6*7)) $1]\"; }; m begin; \
    i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; m loop; \
    dd if=/dev/zero of=/tmp/file bs=1M count=32 2>/dev/null; m file; \
    md5sum /tmp/file; m md5; sha256sum /tmp/file; m sha\n";
/// At once: an orderly end is seconds of waiting for processes that are not there.
const OFF: &str = "poweroff -f\n";
/// The file of [`WORK`].
const FILE_BYTES: usize = 32 << 20;

/// What the console says, in this order: `/init` of the initramfs, its `rc`, and [`WORK`].
const MARKS: [&str; 7] =
    ["init: Linux ", "rc: ready", "[42 begin]", "[42 loop]", "[42 file]", "[42 md5]", "[42 sha]"];
/// After this mark the work is typed.
const READY: usize = 1;

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
    /// When the word to power off was typed, or the last mark where nobody types.
    off: Instant,
    sums: [String; 2],
}

/// Seconds of a run.
#[derive(Clone, Copy)]
pub(super) struct Times {
    /// Of [`PARTS`].
    pub(super) parts: [f64; PARTS.len()],
    /// From start to end, without the time in which the guest waited to be told to power off.
    pub(super) whole: f64,
}

/// Somebody at the console of a guest that runs for the first time.
pub(super) trait Typist {
    /// Types.
    fn type_in(&mut self, text: &str) -> Result<(), String>;
    /// The work is done, and the guest waits: whatever is to be asked is asked now.
    fn done(&mut self) -> Result<(), String>;
}

/// Watches a run up to the moment when it powers off. Without a typist, what was typed comes out of a recording.
pub(super) fn follow(console: &Capture, mut typist: Option<&mut dyn Typist>) -> Result<Course, String> {
    let mut marks = [Instant::now(); MARKS.len()];
    for (number, (mark, at)) in MARKS.iter().zip(&mut marks).enumerate() {
        let line = console.wait_for(0, LIMIT, |line| line.contains(mark));
        *at = line
            .ok_or_else(|| format!("the guest did not say `{mark}`; its console:\n{}", console.text()))?
            .at;
        if number == READY
            && let Some(typist) = typist.as_deref_mut()
        {
            typist.type_in(WORK)?;
        }
    }
    let mut off = marks[MARKS.len() - 1];
    if let Some(typist) = typist {
        typist.done()?;
        off = Instant::now();
        typist.type_in(OFF)?;
    }
    Ok(Course { marks, off, sums: sums(console)? })
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
        let [userspace, shell, begin, looped, filed, md5, sha] = self.marks;
        let seconds = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64();
        let parts = [
            seconds(started, userspace),
            seconds(userspace, shell),
            seconds(begin, looped),
            seconds(looped, filed),
            seconds(filed, md5),
            seconds(md5, sha),
            seconds(self.off, ended),
        ];
        Times { parts, whole: seconds(started, ended) - seconds(sha, self.off) }
    }

    /// The md5sum: it must be the same everywhere.
    pub(super) fn md5(&self) -> &str {
        &self.sums[0]
    }
}
