//! TCP and UDP ports that nobody else uses.
//!
//! Asking the kernel for "any port" and closing it again is a race: the next outgoing connection may get that number. So
//! ports come from below the range of outgoing connections, and each is reserved among concurrent tests by a lock on a
//! file, held as long as the reservation.

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicU16, Ordering};

const FIRST: u16 = 18_000;
const END: u16 = 30_000;

/// Reserved ports. Dropping it frees them.
#[derive(Debug)]
pub struct Ports {
    numbers: Vec<u16>,
    _locks: Vec<File>,
}

impl Ports {
    /// Reserves `count` ports.
    pub fn reserve(count: usize) -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let folder = std::env::temp_dir().join("ft-e2e-ports");
        std::fs::create_dir_all(&folder).expect("the temporary folder is writable");
        let start = std::process::id() as u16 % 97 * 120;
        let mut ports = Self { numbers: Vec::new(), _locks: Vec::new() };
        for _ in FIRST..END {
            if ports.numbers.len() == count {
                return ports;
            }
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            let port = FIRST + start.wrapping_add(step) % (END - FIRST);
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(folder.join(port.to_string()));
            let Ok(file) = file else { continue };
            // SAFETY: flock takes an open descriptor and touches no memory.
            let locked = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0;
            let at = (Ipv4Addr::LOCALHOST, port);
            if locked && TcpListener::bind(at).is_ok() && UdpSocket::bind(at).is_ok() {
                ports.numbers.push(port);
                ports._locks.push(file);
            }
        }
        panic!("no {count} free ports between {FIRST} and {END}");
    }

    /// The reserved port number `index`.
    pub fn get(&self, index: usize) -> u16 {
        self.numbers[index]
    }
}
