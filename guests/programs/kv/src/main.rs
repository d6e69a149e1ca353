//! `kv`: a key-value server that speaks the Redis protocol on TCP port 6379.
//!
//! It needs a virtio disk, where it keeps a log of all writes, and a virtio network card; a virtio entropy device
//! seeds what should not be guessed. A write is acknowledged when it is durable on the disk; what arrives meanwhile
//! is executed and forms the next batch, so that many clients share one write and one flush.
//!
//! Command line: `ft.ip=10.0.2.15/24`, `ft.gw=10.0.2.2`.
#![no_std]
#![no_main]

extern crate alloc;

mod clients;
mod disk;
mod phy;
mod serve;

use alloc::format;
use core::str::FromStr;

use kv_core::{Log, OpenError, Server, Store};
use rt::virtio::{Blk, DeviceType, Net, discover, entropy};
use rt::{BootInfo, println};
use smoltcp::wire::{Ipv4Address, Ipv4Cidr};

rt::entry!(run);

/// Power-off code: the command line is wrong, or a device is missing.
const CODE_USAGE: u8 = 2;
/// Power-off code: the log on disk is damaged or not ours.
const CODE_DAMAGED: u8 = 3;
/// Power-off code: the disk failed.
const CODE_DISK: u8 = 4;

/// The port served.
const PORT: u16 = 6379;
/// Memory for sockets, frames and the batch being written.
const RESERVED: usize = 18 << 20;

/// The value of an option, or `default`.
fn option<T: FromStr>(boot: &BootInfo, name: &str, default: T) -> Option<T> {
    boot.option(name).map_or(Some(default), |text| text.parse().ok())
}

fn run(boot: &BootInfo) -> u8 {
    let address = option(boot, "ft.ip", Ipv4Cidr::new(Ipv4Address::new(10, 0, 2, 15), 24));
    let gateway = option(boot, "ft.gw", Ipv4Address::new(10, 0, 2, 2));
    let (Some(address), Some(gateway)) = (address, gateway) else {
        println!("kv: ft.ip=A.B.C.D/N and ft.gw=A.B.C.D are addresses");
        return CODE_USAGE;
    };
    let (mut blk, mut net, mut seed) = (None, None, None);
    for found in discover(boot) {
        match found.kind() {
            DeviceType::Block if blk.is_none() => blk = Some(Blk::new(found)),
            DeviceType::Network if net.is_none() => net = Some(Net::new(found)),
            DeviceType::EntropySource if seed.is_none() => seed = Some(entropy(found)),
            _ => {}
        }
    }
    let (Some(mut blk), Some(net)) = (blk, net) else {
        println!("kv: a virtio disk and a virtio network card are needed");
        return CODE_USAGE;
    };
    let seed = seed.unwrap_or_else(|| {
        println!("kv: no entropy device: sequence numbers can be guessed");
        [0; 16]
    });
    let [seed, salt] = [u128::from_le_bytes(seed) as u64, (u128::from_le_bytes(seed) >> 64) as u64];
    let memory = rt::heap_size().saturating_sub(RESERVED);
    if memory < RESERVED {
        println!("kv: at least 40 MiB of memory are needed");
        return CODE_USAGE;
    }

    let mut store = Store::default();
    let (log, torn) = match Log::open(&mut disk::Blocking(&mut blk), salt, &mut store) {
        Ok(opened) => opened,
        Err(error) => {
            let code = if matches!(error, OpenError::Disk(_)) { CODE_DISK } else { CODE_DAMAGED };
            match error {
                OpenError::Disk(error) => println!("kv: {error}"),
                OpenError::TooSmall => println!("kv: the disk is too small, or smaller than it was"),
                OpenError::NotOurs => println!("kv: the disk is not blank and holds no log"),
                OpenError::Version(version) => println!("kv: the log is of version {version}"),
                OpenError::Damaged { sector } => {
                    println!("kv: the log is damaged at sector {sector}, and goes on behind it");
                }
            }
            return code;
        }
    };
    if torn {
        println!("kv: dropped a batch at the log's end that was never acknowledged");
    }
    let endpoint = format!("{}:{PORT}", address.address());
    let (keys, used) = (store.len(), log.used());
    let server = Server::new(store, log, memory, endpoint);
    println!("kv: ready on {}, {keys} keys, log {used} bytes", server.address);
    serve::serve(server, blk, net, address, gateway, seed)
}
