//! A bit flipped in the backup's guest: the digests find it, the report names what differs, the primary goes on.

use std::time::Duration;

use ft_e2e::{Bed, Guest, Launcher, Settings};

const LIMIT: Duration = Duration::from_secs(30);

/// Starts a pair whose backup has this fault; waits for the report, which must have one of these words, and for the
/// primary going on alone.
fn diverges(bed: &Bed, fault: &str, any_of: &[&str]) -> Launcher {
    let pair = bed.start_with(&["--fault", fault]);
    let said = |line: &str| line.contains("diverge") && any_of.iter().any(|word| line.contains(word));
    let report = pair.stderr.wait_for(0, LIMIT, said);
    let report = report
        .unwrap_or_else(|| panic!("no report of the divergence with any of {any_of:?}:\n{}", pair.said()));
    eprintln!("{fault}: {}", report.text);
    pair.wait_takeover(0, LIMIT);
    pair
}

#[test]
fn register() {
    // Work for an hour: it does not end before the test does.
    let bed = Bed::new(&Settings::new(Guest::Cpu { rounds: 1_000_000, exit: 0 }));
    let names = [
        "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
        "r14", "r15", "rflags", "rip",
    ];
    let mut pair = diverges(&bed, "flip-bit:50000000:r3", &names);
    let status = bed.status();
    assert_eq!(status.live(), 1, "{}", status.json);
    assert_eq!(status.primary().replica, "a", "{}", status.json);
    pair.signal(libc::SIGTERM);
    pair.exit_code(Duration::from_secs(10));
    bed.assert_clean();
}

#[test]
fn memory() {
    let bed = Bed::new(&Settings::new(Guest::Kv));
    // 48 MiB: far from anything the guest has used at this point, so the flipped bit stays.
    let mut pair = diverges(&bed, "flip-bit:1000000:m0x3000000", &["0x3000000", "page"]);
    let mut client = pair.wait_service(bed.port());
    let reply = client.call(&["SET", "after", "divergence"]).expect("the primary goes on");
    assert_eq!(reply, ft_e2e::Reply::Simple("OK".into()));
    let status = bed.wait_status("one replica", LIMIT, |status| status.replicas.len() == 1);
    assert_eq!(status.live(), 1, "{}", status.json);
    assert_eq!(status.primary().replica, "a", "{}", status.json);
    pair.stop();
    bed.assert_clean();
}

#[test]
fn a_fault_that_is_no_fault_is_refused() {
    let bed = Bed::new(&Settings::new(Guest::Cpu { rounds: 1, exit: 0 }));
    for fault in
        ["flip-bit", "flip-bit:x:r1", "flip-bit:1:r99", "flip-bit:1:q1", "other:1:r1", "flip-bit:1:m"]
    {
        let run = bed.run(&["--config", "pair.toml", "--fault", fault]);
        assert_eq!(run.code, Some(2), "{fault}: {}", run.stderr);
        assert!(run.stderr.contains("--fault"), "{fault}: {}", run.stderr);
    }
    bed.assert_clean();
}
