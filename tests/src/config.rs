//! The config of a test: a template in which a test changes single values.

use std::fmt::Write as _;
use std::time::Duration;

use crate::Ports;

/// Which in-tree guest is booted.
#[derive(Clone, Debug)]
pub enum Guest {
    /// `guests/kv`, with a disk and a forwarded port.
    Kv,
    /// `guests/cpu`: this many rounds, this exit code; neither disk nor network.
    Cpu {
        /// Rounds of the checksum.
        rounds: u64,
        /// Exit code at power-off.
        exit: u8,
    },
}

/// What a test may choose.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The guest.
    pub guest: Guest,
    /// Silence after which the detector suspects the peer. Long by default: most tests lose a replica by a closed
    /// connection, and a loaded test machine is no reason to suspect one.
    pub timeout: Duration,
    /// Lines added at the end.
    pub extra: String,
}

impl Settings {
    /// The usual settings for a guest.
    pub fn new(guest: Guest) -> Self {
        Self { guest, timeout: Duration::from_secs(2), extra: String::new() }
    }

    /// The config's text. Ports: 0 is forwarded to the guest, 1 and 2 are the replicas'.
    pub(crate) fn text(&self, name: &str, ports: &Ports) -> String {
        let mut text = format!("[vm]\nname = \"{name}\"\nengine = \"software\"\nmemory = \"64 MiB\"\n");
        match &self.guest {
            Guest::Kv => {
                text += "kernel = \"builtin:kv\"\n\n";
                text += "[[disk]]\npath = \"disk.img\"\nsize = \"64 MiB\"\nsharing = \"shared\"\n\n";
                let _ = writeln!(text, "[[net]]\nmac = \"52:54:00:12:34:56\"\n");
                let _ = writeln!(text, "[net.user]\nforward = [\"127.0.0.1:{} -> 6379\"]\n", ports.get(0));
            }
            Guest::Cpu { rounds, exit } => {
                let _ =
                    writeln!(text, "kernel = \"builtin:cpu\"\ncmdline = \"rounds={rounds} exit={exit}\"\n");
            }
        }
        let (a, b) = (ports.get(1), ports.get(2));
        let _ = writeln!(
            text,
            "[replicas]\na = \"127.0.0.1:{a}\"\nb = \"127.0.0.1:{b}\"\nstart-alone = \"30 s\"\n"
        );
        let timeout = self.timeout.as_millis();
        let _ = writeln!(text, "[detector.fixed]\nheartbeat = \"20 ms\"\ntimeout = \"{timeout} ms\"\n");
        text += "[tie-breaker.shared-disk]\npath = \"generation\"\n\n[pacing.lag-feedback]\ntarget = \"100 ms\"\n";
        text += &self.extra;
        text
    }
}
