//! Who speaks for the guest on its LAN, seen from outside: every frame with the guest's address is noted with the port of the switch
//! that it came in by, in the order in which the switch had them.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::hosts::Hosts;

/// The guest's address on the link, as the tests' configs have it.
const GUEST: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];
/// Room for what comes while this thread does not run.
const BUFFER: libc::c_int = 32 << 20;
/// How often the reader looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);

/// Consecutive frames of the guest's that came from one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// `a` or `b`.
    pub host: &'static str,
    /// How many there were.
    pub frames: u64,
    /// When the first one was seen.
    pub first: Instant,
    /// When the last one was.
    pub last: Instant,
}

/// The watch. It ends with this value.
#[derive(Debug)]
pub struct LanWatch {
    seen: Arc<Mutex<Vec<Stretch>>>,
    over: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl LanWatch {
    /// Begins.
    ///
    /// # Errors
    /// The kernel has no such sockets.
    pub fn start(hosts: &Hosts) -> io::Result<Self> {
        let (socket, ports) = hosts.within("client", || -> io::Result<_> {
            Ok((socket()?, [("a", index("port-a")?), ("b", index("port-b")?)]))
        })?;
        let (seen, over) = (Arc::<Mutex<Vec<Stretch>>>::default(), Arc::new(AtomicBool::new(false)));
        let reader = std::thread::spawn({
            let (seen, over) = (Arc::clone(&seen), Arc::clone(&over));
            move || {
                while !over.load(Ordering::Relaxed) {
                    let Some((interface, source)) = next(&socket) else { continue };
                    let from = ports.iter().find(|(_, port)| *port == interface);
                    if let (Some((host, _)), true) = (from, source == GUEST) {
                        note(&mut seen.lock().unwrap_or_else(PoisonError::into_inner), host);
                    }
                }
            }
        });
        Ok(Self { seen, over, reader: Some(reader) })
    }

    /// Who has spoken for the guest so far, one after the other.
    pub fn stretches(&self) -> Vec<Stretch> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The same in one word: `ab` is a, and then b.
    pub fn word(&self) -> String {
        self.stretches().iter().map(|stretch| stretch.host).collect()
    }
}

impl Drop for LanWatch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn note(seen: &mut Vec<Stretch>, host: &'static str) {
    let now = Instant::now();
    match seen.last_mut().filter(|stretch| stretch.host == host) {
        Some(stretch) => (stretch.frames, stretch.last) = (stretch.frames + 1, now),
        None => seen.push(Stretch { host, frames: 1, first: now, last: now }),
    }
}

/// A socket that sees every frame of every interface of this thread's network.
fn socket() -> io::Result<OwnedFd> {
    let all = i32::from((libc::ETH_P_ALL as u16).to_be());
    // SAFETY: a plain call.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, all) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let wait = libc::timeval { tv_sec: 0, tv_usec: LOOK.subsec_micros().into() };
    option(&socket, libc::SO_RCVTIMEO, &wait)?;
    // More than an ordinary socket may have: this takes root, as the hosts do.
    option(&socket, libc::SO_RCVBUFFORCE, &BUFFER)?;
    Ok(socket)
}

fn option<T>(socket: &OwnedFd, name: libc::c_int, value: &T) -> io::Result<()> {
    let size = size_of::<T>() as libc::socklen_t;
    // SAFETY: pointer and length are those of `value`, which is plain data of the type that the option takes.
    let set = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, std::ptr::from_ref(value).cast(), size)
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The number of an interface of this thread's network.
fn index(name: &str) -> io::Result<i32> {
    let name = std::ffi::CString::new(name)?;
    // SAFETY: a string that ends with a zero byte.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => i32::try_from(index).map_err(io::Error::other),
    }
}

/// The next frame that arrived: by which interface, and from which address. `None` if none came for a while.
fn next(socket: &OwnedFd) -> Option<(i32, [u8; 6])> {
    let mut frame = [0u8; 64];
    // SAFETY: all-zero bytes are such an address.
    let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: pointers and lengths are those of `frame` and `from`; what does not fit is cut off.
    let got = unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            frame.as_mut_ptr().cast(),
            frame.len(),
            0,
            std::ptr::from_mut(&mut from).cast(),
            &raw mut length,
        )
    };
    let whole = got >= 14 && u32::from(from.sll_pkttype) != u32::from(libc::PACKET_OUTGOING);
    whole.then(|| (from.sll_ifindex, [6, 7, 8, 9, 10, 11].map(|at: usize| frame[at])))
}
