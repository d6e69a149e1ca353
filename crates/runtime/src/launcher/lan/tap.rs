//! The other network: a TAP interface of the host, usually a port of a bridge.
//!
//! What comes from it is the guest's only while the guest is here: on two hosts the same frames may reach both launchers, and a
//! live replica takes them from its own. What goes out is what the live replica has released, and announcements of where the guest
//! is now ([`super::announce`]).

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::{Duration, Instant};

use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_val};

use super::announce::Announcement;
use super::switch::Switch;
use crate::launcher::poller::{Poller, Ready, Token};

const DEVICE: &str = "/dev/net/tun";
/// Frames taken from the host before others get their turn.
const FRAMES_PER_TURN: usize = 256;
/// The longest frame that the kernel hands over.
const LONGEST: usize = 65_536;
/// The largest frames of the guest's network, without their headers.
const GUEST_MTU: libc::c_int = 1500;
/// Bytes of an Ethernet address at the beginning of a frame.
const ADDRESS: usize = 6;

/// Why a TAP interface cannot be used. Displayed, it says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The kernel has no TAP, or keeps it from this process.
    #[error(
        "[net.tap]: cannot open {DEVICE}: {0}; it comes with the kernel's module `tun` (modprobe tun), must be open to this user, and a \
         container must be given it"
    )]
    Device(io::Error),
    /// No such interface.
    #[error(
        "[net.tap]: this host has no interface `{0}`; make it a port of the bridge that the guest's network is (here br0), as root: \
         `ip tuntap add dev {0} mode tap user $USER`, then `ip link set {0} master br0 up`"
    )]
    Missing(String),
    /// It is another's.
    #[error(
        "[net.tap]: this user may not use the interface `{interface}`: {source}; make it again for this user, as root: `ip link delete \
         {interface}`, `ip tuntap add dev {interface} mode tap user $USER`, then `ip link set {interface} master br0 up`"
    )]
    NotAllowed {
        /// Its name.
        interface: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// Somebody uses it.
    #[error("[net.tap]: another process uses the interface `{0}`; a virtual machine needs one of its own")]
    InUse(String),
    /// Another kind of interface.
    #[error(
        "[net.tap]: `{0}` is not a TAP interface, or one of several queues; make a plain one, as root: `ip tuntap add dev ft0 mode tap \
         user $USER`, then `ip link set ft0 master br0 up`"
    )]
    NotTap(String),
    /// Anything else.
    #[error("[net.tap]: cannot use the interface `{interface}`: {source}")]
    Io {
        /// Its name.
        interface: String,
        /// What the kernel says.
        source: io::Error,
    },
}

/// What happened on the interface, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct TapCounters {
    /// Frames of the host that were the guest's.
    pub(crate) from_host: u64,
    /// Frames given to the host, announcements among them.
    pub(crate) to_host: u64,
    /// Frames that are announcements of where the guest is.
    pub(crate) announced: u64,
    /// Frames of the host that came while the guest was not here.
    pub(crate) dropped_not_live: u64,
    /// Frames of the host that are addressed to others.
    pub(crate) dropped_not_for_guest: u64,
    /// Frames that the host did not take: its queue is full, or the interface is down.
    pub(crate) dropped_refused: u64,
}

/// A TAP interface and the guest behind it.
pub(crate) struct Tap {
    interface: String,
    device: File,
    mac: [u8; ADDRESS],
    readable: bool,
    announcement: Option<Announcement>,
    pub(crate) counters: TapCounters,
    notices: Vec<String>,
    buffer: Vec<u8>,
}

impl Tap {
    /// Takes an interface that exists.
    pub(crate) fn open(interface: &str, mac: [u8; ADDRESS], poller: &Poller) -> Result<Self, TapError> {
        let io = |source| TapError::Io { interface: interface.to_owned(), source };
        let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
        let device = OpenOptions::new().read(true).write(true).custom_flags(flags).open(DEVICE);
        let device = device.map_err(TapError::Device)?;
        // The kernel would make an interface of a name that there is none of, which leads nowhere.
        let name = CString::new(interface).map_err(|error| io(error.into()))?;
        // SAFETY: the name is a C string that outlives the call.
        if unsafe { libc::if_nametoindex(name.as_ptr()) } == 0 {
            return Err(TapError::Missing(interface.to_owned()));
        }
        let mut request = Self::request(interface);
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
        // SAFETY: TUNSETIFF reads and writes an ifreq, which this is.
        if unsafe { ioctl_with_mut_ref(&device, libc::TUNSETIFF, &mut request) } < 0 {
            let error = io::Error::last_os_error();
            return Err(match error.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => {
                    TapError::NotAllowed { interface: interface.to_owned(), source: error }
                }
                Some(libc::EBUSY) => TapError::InUse(interface.to_owned()),
                Some(libc::EINVAL) => TapError::NotTap(interface.to_owned()),
                _ => io(error),
            });
        }
        // Whoever had it before may have asked for frames that are too large, or whose checksums are not filled in.
        // SAFETY: TUNSETOFFLOAD takes a number.
        if unsafe { ioctl_with_val(&device, libc::TUNSETOFFLOAD, 0) } < 0 {
            return Err(io(io::Error::last_os_error()));
        }
        let notices = Self::look_at(interface).map_err(io)?;
        poller.add_edge(&device, Token::Tap).map_err(io)?;
        Ok(Self {
            interface: interface.to_owned(),
            device,
            mac,
            readable: true,
            announcement: None,
            counters: TapCounters::default(),
            notices,
            buffer: vec![0; LONGEST],
        })
    }

    fn request(interface: &str) -> libc::ifreq {
        // SAFETY: an ifreq is numbers and arrays of them; all zeros is one.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // The last byte stays 0; a configuration has no longer names.
        let most = request.ifr_name.len() - 1;
        for (to, &byte) in request.ifr_name[..most].iter_mut().zip(interface.as_bytes()) {
            *to = byte as libc::c_char;
        }
        request
    }

    /// What about the interface will surprise somebody.
    fn look_at(interface: &str) -> io::Result<Vec<String>> {
        let mut notices = Vec::new();
        // Any socket will do for questions about interfaces.
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        let mut request = Self::request(interface);
        // SAFETY: SIOCGIFFLAGS reads and writes an ifreq, which this is.
        if unsafe { ioctl_with_mut_ref(&socket, libc::SIOCGIFFLAGS, &mut request) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call above has filled in the flags; all members are numbers.
        let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags });
        if flags & libc::IFF_UP == 0 {
            notices.push(format!(
                "the interface {interface} is down, and the guest cut off until it is up: `ip link set {interface} up`"
            ));
        }
        // SAFETY: SIOCGIFMTU reads and writes an ifreq, which this is.
        if unsafe { ioctl_with_mut_ref(&socket, libc::SIOCGIFMTU, &mut request) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call above has filled in the MTU; all members are numbers.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        if mtu > GUEST_MTU {
            notices.push(format!(
                "the interface {interface} has an MTU of {mtu}: frames larger than those of {GUEST_MTU} do not reach the guest: `ip \
                 link set {interface} mtu {GUEST_MTU}`"
            ));
        }
        Ok(notices)
    }

    pub(crate) fn interface(&self) -> &str {
        &self.interface
    }

    pub(crate) fn ready(&mut self, ready: Ready) {
        self.readable |= ready.readable;
    }

    /// What an operator should know and was not told yet.
    pub(crate) fn notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }

    /// The guest is here from now on, and was elsewhere: everybody on the network is to know.
    pub(crate) fn announce(&mut self, addresses: &[Ipv4Addr]) {
        self.announcement = Some(Announcement::new(self.mac, addresses, Instant::now()));
        // Before the first frame of the guest from here.
        self.make_announcement();
    }

    fn make_announcement(&mut self) {
        let Some(announcement) = &mut self.announcement else { return };
        if !announcement.is_due(Instant::now()) {
            return;
        }
        let frames = announcement.frames();
        self.counters.announced += frames.len() as u64;
        self.send(&frames);
    }

    /// The guest is not here any more.
    pub(crate) fn silence(&mut self) {
        self.announcement = None;
    }

    /// Frames of the guest.
    pub(crate) fn send(&mut self, frames: &[Vec<u8>]) {
        for frame in frames {
            self.send_one(frame);
        }
    }

    fn send_one(&mut self, frame: &[u8]) {
        // A device takes a frame whole, or not at all.
        match (&self.device).write(frame) {
            Ok(length) if length == frame.len() => self.counters.to_host += 1,
            // Full, down or gone: as any network may.
            Ok(_) | Err(_) => self.counters.dropped_refused += 1,
        }
    }

    /// Does what can be done now: true if there is more to do at once.
    pub(crate) fn service(&mut self, switch: &mut Switch) -> bool {
        self.make_announcement();
        for _ in 0..FRAMES_PER_TURN {
            if !self.readable {
                break;
            }
            match (&self.device).read(&mut self.buffer) {
                Ok(length) => self.received(length, switch),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.readable = false;
                    if error.kind() != io::ErrorKind::WouldBlock {
                        let interface = &self.interface;
                        self.notices.push(format!(
                            "the interface {interface} is gone, and the guest cut off: {error}"
                        ));
                    }
                }
            }
        }
        self.readable
    }

    fn received(&mut self, length: usize, switch: &mut Switch) {
        let frame = &self.buffer[..length];
        // A bridge floods what it does not know the place of. The log is no place for what is another's.
        let for_guest = frame.get(..ADDRESS).is_some_and(|to| to == self.mac || to[0] & 1 == 1);
        if switch.live().is_none() {
            self.counters.dropped_not_live += 1;
        } else if for_guest {
            self.counters.from_host += 1;
            switch.to_guest(frame.to_vec());
        } else {
            self.counters.dropped_not_for_guest += 1;
        }
    }

    /// How long there is nothing to do unless something becomes ready.
    pub(crate) fn idle(&self) -> Option<Duration> {
        let next = self.announcement.as_ref()?.next()?;
        Some(next.saturating_duration_since(Instant::now()))
    }
}
