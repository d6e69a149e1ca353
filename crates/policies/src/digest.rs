//! What both replicas must have in common, as a number.

use std::fmt::Write as _;

use crate::config::{Clock, Config, Engine, Kernel, NetBackend, Reads, Sharing};
use crate::detector::DetectorKind;
use crate::output::OutputRule;
use crate::pacing::PacingKind;
use crate::tie_breaker::TieBreakerKind;

/// A text that is equal exactly where the shared part of two configurations is. Every struct is taken apart with all of its
/// fields named, so that a new field cannot be forgotten here.
fn canonical(config: &Config) -> String {
    let Config {
        path: _,
        vm,
        console: _,
        disks,
        nets,
        replicas,
        logging,
        output,
        detector,
        tie_breaker,
        pacing,
    } = config;
    let mut text = String::from("ft-vm config 1\n");
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        let value = value.to_string();
        // With its length, so that no value can look like the next line.
        let _ = writeln!(text, "{key} {} {value}", value.len());
    };
    let crate::config::Vm { name, engine, memory, kernel, initrd, cmdline, clock } = vm;
    line("vm.name", name);
    line(
        "vm.engine",
        match engine {
            Engine::Software => &"software",
            Engine::Kvm => &"kvm",
        },
    );
    line("vm.memory", &memory.bytes());
    match kernel {
        Kernel::Builtin(name) => line("vm.kernel.builtin", name),
        // Where the file is may differ between hosts; what is in it is compared apart.
        Kernel::File(_) => line("vm.kernel.file", &""),
    }
    // As with the kernel.
    line("vm.initrd", &initrd.is_some());
    line("vm.cmdline", cmdline);
    line(
        "vm.clock",
        match clock {
            Clock::Host => &"host",
            Clock::Virtual => &"virtual",
        },
    );
    for disk in disks {
        // Faults are injected on one side or the other: they are no part of the machine.
        let crate::config::Disk { path: _, size, sharing, reads, read_only, faults: _ } = disk;
        line("disk.size", &size.map_or_else(String::new, |size| size.bytes().to_string()));
        line(
            "disk.sharing",
            match sharing {
                Sharing::Shared => &"shared",
                Sharing::Separate => &"separate",
            },
        );
        line(
            "disk.reads",
            match reads {
                Reads::Primary => &"primary",
                Reads::Backup => &"backup",
            },
        );
        line("disk.read-only", read_only);
    }
    for net in nets {
        let crate::config::Net { mac, backend } = net;
        line("net.mac", &format!("{mac:02x?}"));
        match backend {
            NetBackend::User { forward } => {
                line("net.user", &"");
                for crate::config::Forward { listen, guest_port } in forward {
                    line("net.user.forward", &format!("{listen} -> {guest_port}"));
                }
            }
            NetBackend::Tap { interface: _ } => line("net.tap", &""),
        }
    }
    let crate::config::Replicas { a, b, start_alone, key } = replicas;
    line("replicas.a", a);
    line("replicas.b", b);
    line("replicas.start-alone", &start_alone.nanos());
    // Which key it is shows in every frame, and a digest is no place for a secret.
    line("replicas.key", &key.is_some());
    let crate::logging::Logging { buffer } = logging;
    line("logging.buffer", &buffer.bytes());
    let crate::output::Output { rule } = output;
    line(
        "output.rule",
        match rule {
            OutputRule::Commit => &"commit",
            OutputRule::None => &"none",
        },
    );
    match detector {
        DetectorKind::Fixed(crate::detector::fixed::Settings { heartbeat, timeout }) => {
            line("detector.fixed.heartbeat", &heartbeat.nanos());
            line("detector.fixed.timeout", &timeout.nanos());
        }
        DetectorKind::PhiAccrual(crate::detector::phi_accrual::Settings {
            heartbeat,
            threshold,
            acceptable_pause,
            min_deviation,
            max_silence,
            window,
        }) => {
            line("detector.phi-accrual.heartbeat", &heartbeat.nanos());
            line("detector.phi-accrual.threshold", threshold);
            line("detector.phi-accrual.acceptable-pause", &acceptable_pause.nanos());
            line("detector.phi-accrual.min-deviation", &min_deviation.nanos());
            line("detector.phi-accrual.max-silence", &max_silence.nanos());
            line("detector.phi-accrual.window", window);
        }
    }
    match tie_breaker {
        TieBreakerKind::SharedDisk { path: _ } => line("tie-breaker.shared-disk", &""),
        TieBreakerKind::Manual { path: _ } => line("tie-breaker.manual", &""),
        // Two witnesses would let both replicas go on.
        TieBreakerKind::Witness { address, key } => {
            line("tie-breaker.witness", address);
            // Which key it is may differ while keys are changed, and a digest is no place for a secret.
            line("tie-breaker.witness.key", &key.is_some());
        }
        // So would two clusters, and two keys in one. In which order the members are asked is each replica's own business.
        TieBreakerKind::Etcd { endpoints, prefix, tls: _ } => {
            let mut endpoints: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
            endpoints.sort_unstable();
            for endpoint in endpoints {
                line("tie-breaker.etcd.endpoint", &endpoint);
            }
            line("tie-breaker.etcd.prefix", prefix);
        }
    }
    match pacing {
        PacingKind::None => line("pacing.none", &""),
        PacingKind::LagFeedback(crate::pacing::lag_feedback::Settings { target }) => {
            line("pacing.lag-feedback.target", &target.nanos());
        }
    }
    text
}

pub(crate) fn config(config: &Config) -> u128 {
    xxhash_rust::xxh3::xxh3_128(canonical(config).as_bytes())
}

pub(crate) fn pair(config: &Config) -> u128 {
    pair_named(&config.vm.name)
}

/// The same by the pair's `vm.name`.
pub(crate) fn pair_named(name: &str) -> u128 {
    xxhash_rust::xxh3::xxh3_128(format!("ft-vm pair 1\n{name}").as_bytes())
}
