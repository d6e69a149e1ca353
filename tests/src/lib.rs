//! The end-to-end harness: starts the real `ft-vm` binary, talks to it with real clients, and kills what it should
//! survive. The tests are in `tests/tests`; `cargo xtask bench` measures with the same parts.
//!
//! * [`Bed`] is one pair's surroundings: a folder, a config, ports, and the promise that nothing outlives it.
//! * [`Launcher`] is a started `ft-vm`, with everything it printed and when.
//! * [`Load`] is the checking client: connections that know which replies are right.
//! * [`BlkRun`] is what the guest that exercises disks says; [`check_image`] looks at what it left behind.
//! * [`Bed::on_two_hosts`] is a bed for a pair of which each replica has a host, and a launcher, of its own;
//!   [`Bed::on_two_hosts_with_lan`] has a network for the guest, and room for a tie-breaker elsewhere.
//! * [`Hosts`] are those hosts; a [`Cut`] is what does not get through between them.
//! * [`Witness`] is a tie-breaker server, for pairs whose disks are separate.
//! * [`Store`] is a small file system for a tie-breaker, which can be made to fail.
//! * [`Etcd`] is an etcd cluster, which is a tie-breaker too.
//! * [`LanWatch`] sees from outside who speaks for the guest; [`Views`] is a folder as two hosts see it, until one cannot.
//! * [`Shell`] is a shell of Linux in a guest; [`linux`] has its kernel and images, [`http`] asks its server.
//! * [`RedisBenchmark`] is the real client that nobody here wrote.
//!
//! Environment: `FT_VM_BIN` names the binary (otherwise it is built once, in the profile of the test), `FT_FULL=1` asks
//! for the long campaigns, `FT_SEED` repeats the random moments of an earlier run.

mod bed;
mod binary;
mod blk;
mod busy;
mod campaign;
mod capture;
mod checker;
mod config;
mod cuts;
mod disk;
mod etcd;
mod hosts;
pub mod http;
mod lan_watch;
mod launcher;
pub mod linux;
mod ports;
mod random;
mod redis_benchmark;
mod replica;
mod resp;
mod shell;
mod status;
mod store;
mod survivors;
mod views;
mod witness;

pub use bed::{Bed, Finished};
pub use binary::{forget_package, ft_vm, workspace};
pub use blk::{BlkBench, BlkRun, check_crashed_image, check_image};
pub use busy::Busy;
pub use campaign::{Victim, kill_campaign};
pub use capture::{Capture, Line};
pub use checker::{Ledger, Load, Record, Shape};
pub use config::{BLK_SECTORS, Guest, KEY, Settings, TieBreaker};
pub use cuts::{Cut, Way, have_nftables};
pub use disk::{DiskPolicy, Reads, Sharing};
pub use etcd::{Etcd, ServerTls, Site, can_run_etcd, have_etcd};
pub use hosts::{Hosts, have_iproute2, have_ping};
pub use lan_watch::{LanWatch, Stretch};
pub use launcher::{Launcher, Takeover};
pub use ports::Ports;
pub use random::Random;
pub use redis_benchmark::{RedisBenchmark, Served, have_redis_tools};
pub use replica::BareReplica;
pub use resp::{Reply, Resp};
pub use shell::{Done, Shell};
pub use status::{Replica, Status};
pub use store::{STORE, Store, StoreFault};
pub use survivors::{alive, die_with_us, kill_marked, marked};
pub use views::{Views, have_bindfs};
pub use witness::Witness;

/// Whether the long campaigns were asked for (`FT_FULL=1`, `cargo xtask test --full`).
pub fn full() -> bool {
    std::env::var_os("FT_FULL").is_some_and(|value| value == "1")
}

/// The number of rounds of a campaign: few by default, all behind the one flag.
pub fn rounds(few: u32, all: u32) -> u32 {
    if full() { all } else { few }
}
