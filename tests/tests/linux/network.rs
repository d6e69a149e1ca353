//! The guest's Ethernet on a network of the host's.

use std::process::{Command, Output, Stdio};

use ft_e2e::Bed;
use ft_e2e::linux::{INITRD, KERNEL, can_run};

use crate::{LIMIT, kill_primary, settings};

/// Where `rc` of the guest puts it.
const GUEST: &str = "10.0.2.15";

/// Pings the guest from the client's host.
fn ping(bed: &Bed, count: u32) -> Output {
    let [ip, words @ ..] = bed.hosts().client();
    let mut ping = Command::new(ip);
    ping.args(words).args(["ping", "-n", "-i", "0.2", "-W", "10", "-c", &count.to_string(), GUEST]);
    ping.stdin(Stdio::null()).env("LC_ALL", "C").output().expect("`ip` is there")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[test]
fn eth0_answers_ping() {
    if !can_run(&[KERNEL, INITRD]) {
        return;
    }
    if !ft_e2e::have_ping() {
        println!("not run: `ping` is missing (Debian: apt install iputils-ping)");
        return;
    }
    let Some(bed) = Bed::on_one_host_with_lan(&settings(None)) else { return };
    let pair = bed.start_for(&[], crate::LIFE);
    let ready = pair.stdout.wait_for(0, LIMIT, |line| line.contains("rc: ready"));
    assert!(ready.is_some(), "{}", pair.said());
    let before = ping(&bed, 5);
    assert!(said(&before).contains(" 5 received"), "{}\n{}", said(&before), pair.said());
    kill_primary(&bed, &pair);
    let after = ping(&bed, 5);
    assert!(said(&after).contains(" 5 received"), "{}\n{}", said(&after), pair.said());
    pair.stop();
    bed.assert_clean();
}
