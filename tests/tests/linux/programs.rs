//! Real programs of Debian's, as packaged, which outlive the primary too.

use std::process::{Command, Stdio};
use std::time::Duration;

use ft_e2e::linux::{INITRD, KERNEL, PROGRAMS, assert_clean_ext4, asset, can_run, copy_out};
use ft_e2e::{Bed, Shell};

use crate::{boot, kill_primary, settings};

/// For the guest's longest work, on a machine that others use too.
const LONG: Duration = Duration::from_secs(1200);

fn start() -> Option<(Bed, Shell)> {
    if !can_run(&[KERNEL, INITRD, PROGRAMS]) {
        return None;
    }
    let bed = Bed::new(&settings(Some(PROGRAMS)));
    let shell = boot(&bed, &[]);
    Some((bed, shell))
}

fn end(bed: Bed, mut shell: Shell) {
    assert_eq!(shell.power_off(LONG), 0, "{}", shell.pair.said());
    drop(shell);
    assert_clean_ext4(&bed.image(0, "a"));
    bed.assert_clean();
}

/// redis-server under redis-benchmark, both in the guest: every request is answered, and what was written is there.
#[test]
fn redis() {
    let Some((bed, mut shell)) = start() else { return };
    shell.must("redis-server --daemonize yes --dir /root --appendonly yes --save '' >/dev/null", LONG);
    shell.must("until redis-cli ping | grep -q PONG; do usleep 100000; done", LONG);
    shell.must("redis-cli set before kill", LONG);
    let benchmark = shell.start("redis-benchmark -n 3000 -c 5 -t set,get,incr --csv; echo finished");
    shell.wait_line(benchmark, LONG, |line| line.contains("\"SET\""));
    kill_primary(&bed, &shell.pair);
    let done = shell.wait_end(benchmark, LONG);
    assert_eq!(done.code, 0, "{}", shell.pair.said());
    for test in ["\"SET\"", "\"GET\"", "\"INCR\""] {
        assert!(done.lines.iter().any(|line| line.contains(test)), "{test}: {}", done.text());
    }
    assert_eq!(shell.must("redis-cli --raw get before", LONG), "kill");
    assert_eq!(shell.must("redis-cli --raw get counter:__rand_int__", LONG), "3000");
    shell.must("redis-cli shutdown", LONG);
    end(bed, shell);
}

/// Transactions of sqlite3, each of which is on the disk when it is over.
#[test]
fn sqlite() {
    const TRANSACTIONS: u32 = 60;
    let Some((bed, mut shell)) = start() else { return };
    shell.must(
        "sqlite3 /root/db 'pragma journal_mode=delete; create table t(n integer primary key, square)'",
        LONG,
    );
    let work = shell.start(&format!(
        "for n in $(seq {TRANSACTIONS}); do sqlite3 /root/db \"begin; insert into t values($n, $n*$n); commit\" && echo done $n; done"
    ));
    shell.wait_line(work, LONG, |line| line == "done 10");
    kill_primary(&bed, &shell.pair);
    let done = shell.wait_end(work, LONG);
    assert_eq!(
        done.lines.iter().filter(|line| line.starts_with("done ")).count(),
        TRANSACTIONS as usize,
        "{}",
        done.text()
    );
    let squares: u32 = (1..=TRANSACTIONS).map(|n| n * n).sum();
    let found =
        shell.must("sqlite3 /root/db 'select count(*), sum(square) from t; pragma integrity_check'", LONG);
    assert_eq!(found, format!("{TRANSACTIONS}|{squares}\nok"));
    end(bed, shell);
}

/// Python's own tests of numbers and bytes: each of them ends as it does on the host, with the image's own Python.
#[test]
fn python() {
    let Some((bed, mut shell)) = start() else { return };
    let tests = shell.start(&format!("python3 {PYTHON_TESTS}"));
    shell.wait_line(tests, LONG, |line| line.contains("test_struct passed") || line.contains("] test_math"));
    kill_primary(&bed, &shell.pair);
    let done = shell.wait_end(tests, LONG);
    assert_eq!(done.code, 0, "{}", done.text());
    assert!(done.lines.iter().any(|line| line == "All 5 tests OK."), "{}", done.text());
    let on_the_host = python_on_the_host();
    assert!(verdicts(&on_the_host).count() > 300, "{on_the_host}");
    let said = done.text();
    let both = || verdicts(&said).zip(verdicts(&on_the_host));
    assert_eq!(both().find(|(guest, host)| guest != host), None, "(guest, host)");
    assert_eq!(verdicts(&said).count(), verdicts(&on_the_host).count(), "{said}");
    end(bed, shell);
}

/// What Python is given to do, verbosely: a line for each of some hundred tests.
const PYTHON_TESTS: &str = "-m test -v test_struct test_math test_float test_json test_zlib";

/// The lines that say how one test ended.
fn verdicts(said: &str) -> impl Iterator<Item = &str> {
    said.lines().map(str::trim_end).filter(|line| line.contains(" ... "))
}

/// Runs the image's Python on the host's processor, with its own libraries and loader: the same program, byte for byte.
fn python_on_the_host() -> String {
    let folder = tempfile::tempdir().expect("a folder for the image's files");
    copy_out(&asset(PROGRAMS), "/usr", folder.path());
    let usr = folder.path().join("usr");
    let libraries = [usr.join("lib/x86_64-linux-gnu"), usr.join("lib")];
    let mut python = Command::new(usr.join("lib64/ld-linux-x86-64.so.2"));
    python.arg("--library-path").arg(std::env::join_paths(libraries).expect("no colon in them"));
    python.arg(usr.join("bin/python3")).args(PYTHON_TESTS.split(' '));
    python.env_clear().env("PATH", "/usr/bin:/bin").env("PYTHONHOME", &usr);
    python.current_dir(folder.path()).stdin(Stdio::null());
    let done = python.output().expect("the image's loader runs here");
    let said = [done.stdout, done.stderr].concat();
    String::from_utf8_lossy(&said).into_owned()
}
