//! A boot to a shell, and what Linux found on its way there.

use ft_e2e::linux::{INITRD, KERNEL, ROOT, assert_clean_ext4, can_run};
use ft_e2e::{Bed, http};

use crate::{LIMIT, boot, settings};

/// What Linux says of a machine whose clocks, timers, FPU or interrupts are not as it expects them. (As the kernel's source
/// has them: arch/x86/kernel/{tsc,apic,fpu}, kernel/time/clocksource.c, kernel/irq/spurious.c.)
const COMPLAINTS: [&str; 14] = [
    "Marking TSC unstable",
    "Unable to calibrate",
    "TSC_DEADLINE disabled",
    "clocksource: Marking",
    "lost interrupt",
    "nobody cared",
    "spurious APIC interrupt",
    "x86/fpu: Illegal",
    "no FPU",
    "WARNING:",
    "BUG:",
    "Call Trace:",
    "rcu_sched self-detected",
    "hrtimer: interrupt took",
];

#[test]
fn as_a_pair_with_a_disk_and_a_network() {
    if !can_run(&[KERNEL, INITRD, ROOT]) {
        return;
    }
    let bed = Bed::new(&settings(Some(ROOT)));
    let mut shell = boot(&bed, &[]);
    assert!(shell.must("mount", LIMIT).contains("/dev/vda on / type ext4"), "{}", shell.pair.said());
    assert_eq!(shell.run("false", LIMIT).code, 1);

    let found = |file: &str| format!("cat /sys/devices/system/{file}");
    let mut says = |file: &str| shell.must(&found(file), LIMIT);
    assert_eq!(says("clocksource/clocksource0/current_clocksource"), "tsc");
    assert_eq!(says("clockevents/clockevent0/current_device"), "lapic-deadline");
    assert_eq!(says("cpu/vulnerabilities/meltdown"), "Not affected");
    let messages = shell.must("dmesg", LIMIT);
    assert!(messages.contains("Linux version "), "{messages}");
    for complaint in COMPLAINTS {
        assert!(!messages.contains(complaint), "Linux says {complaint:?}:\n{messages}");
    }
    for cost in ["page tables isolation: enabled", "Mitigation: Retpolines"] {
        assert!(!messages.contains(cost), "{cost}:\n{messages}");
    }

    let page = shell.must("cat /srv/www/index.html", LIMIT) + "\n";
    let served = http::get(bed.port(), "/").unwrap_or_else(|error| panic!("{error}\n{}", shell.pair.said()));
    assert_eq!(String::from_utf8_lossy(&served), page);
    shell.must("ping -c 3 -W 10 10.0.2.2", LIMIT);

    shell.must("echo kept >/root/file; sync", LIMIT);
    assert_eq!(shell.power_off(LIMIT), 0, "{}", shell.pair.said());
    shell.pair.assert_undisturbed();
    drop(shell);
    assert_clean_ext4(&bed.image(0, "a"));

    // The same disk, without fault tolerance.
    let mut shell = boot(&bed, &["--solo"]);
    assert_eq!(shell.must("cat /root/file", LIMIT), "kept");
    assert_eq!(shell.power_off(LIMIT), 0, "{}", shell.pair.said());
    bed.assert_clean();
}

/// Without a disk the initramfs is the root.
#[test]
fn from_the_initramfs_alone() {
    if !can_run(&[KERNEL, INITRD]) {
        return;
    }
    let bed = Bed::new(&settings(None));
    let mut shell = boot(&bed, &[]);
    assert!(shell.must("mount", LIMIT).contains("rootfs on / type rootfs"), "{}", shell.pair.said());
    assert_eq!(shell.power_off(LIMIT), 0, "{}", shell.pair.said());
    shell.pair.assert_undisturbed();
    bed.assert_clean();
}
