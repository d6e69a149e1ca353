//! `kill -9` of the primary while Linux boots, while it writes its disk, while it serves.

use ft_e2e::http::HttpLoad;
use ft_e2e::linux::{INITRD, KERNEL, ROOT, assert_clean_ext4, asset, can_run, sha256_in};
use ft_e2e::{Bed, DiskPolicy, Guest, Settings, Shell};

use crate::{LIFE, LIMIT, boot, kill_primary, settings};

/// Long before there is a first process, when half of the kernel's own start is still to come.
#[test]
fn in_early_boot() {
    if !can_run(&[KERNEL, INITRD, ROOT]) {
        return;
    }
    let bed = Bed::new(&settings(Some(ROOT)));
    let pair = bed.start_with_keyboard(&[], LIFE);
    let early = pair.stdout.wait_for(0, LIMIT, |line| line.contains("Linux version "));
    assert!(early.is_some(), "{}", pair.said());
    kill_primary(&bed, &pair);
    let mut shell = Shell::wait(pair, LIMIT);
    assert!(shell.must("mount", LIMIT).contains("/dev/vda on / type ext4"), "{}", shell.pair.said());
    assert_eq!(shell.power_off(LIMIT), 0, "{}", shell.pair.said());
    drop(shell);
    assert_clean_ext4(&bed.image(0, "a"));
    bed.assert_clean();
}

/// Copies of a file, each written through to the disk, and all read back from it.
fn while_it_writes(settings: &Settings, survivor: &str) {
    const COPIES: u32 = 8;
    let bed = Bed::new(settings);
    let mut shell = boot(&bed, &[]);
    let copy = format!(
        "for n in $(seq {COPIES}); do dd if=/usr/bin/busybox of=/root/copy.$n bs=64k conv=fsync 2>/dev/null && sync; echo copied $n; done"
    );
    let copies = shell.start(&copy);
    shell.wait_line(copies, LIMIT, |line| line == "copied 2");
    kill_primary(&bed, &shell.pair);
    let done = shell.wait_end(copies, LIMIT);
    let copied: Vec<&String> = done.lines.iter().filter(|line| line.starts_with("copied ")).collect();
    assert_eq!(copied.len(), COPIES as usize, "{}", shell.pair.said());
    // From the disk, not from what it remembers of it.
    shell.must("echo 3 >/proc/sys/vm/drop_caches", LIMIT);
    let sums = shell.must("sha256sum /root/copy.*", LIMIT);
    let expected = sha256_in(&asset(ROOT), "/usr/bin/busybox");
    assert_eq!(sums.lines().filter(|line| line.starts_with(&expected)).count(), COPIES as usize, "{sums}");
    assert_eq!(shell.power_off(LIMIT), 0, "{}", shell.pair.said());
    drop(shell);
    let image = bed.image(0, survivor);
    assert_clean_ext4(&image);
    for copy in 1..=COPIES {
        assert_eq!(
            sha256_in(&image, &format!("/root/copy.{copy}")),
            expected,
            "copy {copy} as the host reads it"
        );
    }
    bed.assert_clean();
}

#[test]
fn in_the_middle_of_writes_to_a_shared_disk() {
    if can_run(&[KERNEL, INITRD, ROOT]) {
        while_it_writes(&settings(Some(ROOT)), "a");
    }
}

#[test]
fn in_the_middle_of_writes_to_disks_of_their_own() {
    if can_run(&[KERNEL, INITRD, ROOT]) {
        while_it_writes(&Settings::with_disk(Guest::Linux { image: Some(ROOT) }, DiskPolicy::SEPARATE), "b");
    }
}

/// No client sees anything but right answers: their connections go on with the backup.
#[test]
fn under_http_load() {
    if !can_run(&[KERNEL, INITRD, ROOT]) {
        return;
    }
    let bed = Bed::new(&settings(Some(ROOT)));
    let mut shell = boot(&bed, &[]);
    // 100 kB that are not all the same, known here.
    let page: String = (1..=20_000).map(|number| format!("{:04}\n", number % 10_000)).collect();
    shell.must("seq 1 20000 | awk '{ printf \"%04d\\n\", $1 % 10000 }' >/srv/www/numbers; sync", LIMIT);
    let load = HttpLoad::start(bed.port(), "/numbers", page.as_bytes(), 4);
    let answers = |more| {
        load.wait_answers(more, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", shell.pair.said()));
    };
    answers(40);
    kill_primary(&bed, &shell.pair);
    answers(40);
    let total = load.stop().unwrap_or_else(|error| panic!("{error}\n{}", shell.pair.said()));
    println!("{total} answers, all right");
    assert_eq!(shell.power_off(LIMIT), 0, "{}", shell.pair.said());
    drop(shell);
    assert_clean_ext4(&bed.image(0, "a"));
    bed.assert_clean();
}
