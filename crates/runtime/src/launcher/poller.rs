//! What the launcher's one thread waits for: an epoll set whose events carry a [`Token`].

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

/// Who an event is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Token {
    /// SIGINT, SIGTERM and the like.
    Signal,
    /// The process of a replica has ended.
    Process(u32),
    /// Control socket of a replica.
    Control(u32),
    /// LAN socket of a replica.
    Lan(u32),
    /// A forwarded port of the host.
    Listener(u32),
    /// A forwarded connection; numbers are never used again.
    Connection(u32),
    /// The socket on which `status` asks.
    StatusListener,
    /// Somebody who asks; numbers are never used again.
    StatusClient(u32),
    /// The console's threads have news.
    Console,
    /// The host's interface that the guest's network is.
    Tap,
}

impl Token {
    fn to_u64(self) -> u64 {
        let (kind, number) = match self {
            Self::Signal => (0, 0),
            Self::Process(number) => (1, number),
            Self::Control(number) => (2, number),
            Self::Lan(number) => (3, number),
            Self::Listener(number) => (4, number),
            Self::Connection(number) => (5, number),
            Self::StatusListener => (6, 0),
            Self::StatusClient(number) => (7, number),
            Self::Console => (8, 0),
            Self::Tap => (9, 0),
        };
        kind << 32 | u64::from(number)
    }

    fn from_u64(data: u64) -> Option<Self> {
        let number = data as u32;
        Some(match data >> 32 {
            0 => Self::Signal,
            1 => Self::Process(number),
            2 => Self::Control(number),
            3 => Self::Lan(number),
            4 => Self::Listener(number),
            5 => Self::Connection(number),
            6 => Self::StatusListener,
            7 => Self::StatusClient(number),
            8 => Self::Console,
            9 => Self::Tap,
            _ => return None,
        })
    }
}

/// What is ready.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ready {
    /// There may be something to read, or the end of it.
    pub(crate) readable: bool,
    /// There may be room to write.
    pub(crate) writable: bool,
    /// The other side has reset the connection, or closed both directions.
    pub(crate) hung_up: bool,
}

/// An epoll set.
pub(crate) struct Poller {
    epoll: Epoll,
    events: Vec<EpollEvent>,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { epoll: Epoll::new()?, events: vec![EpollEvent::default(); 256] })
    }

    /// Tells whenever `fd` *becomes* readable or writable (edge-triggered): the owner remembers it and works until the
    /// descriptor would block.
    pub(crate) fn add_edge(&self, fd: &impl AsRawFd, token: Token) -> io::Result<()> {
        let events = EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
        self.add(fd.as_raw_fd(), events, token)
    }

    /// Tells as long as `fd` is readable.
    pub(crate) fn add_level(&self, fd: &impl AsRawFd, token: Token) -> io::Result<()> {
        self.add(fd.as_raw_fd(), EventSet::IN, token)
    }

    fn add(&self, fd: RawFd, events: EventSet, token: Token) -> io::Result<()> {
        self.epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(events, token.to_u64()))
    }

    /// Forgets a descriptor that stays open.
    pub(crate) fn remove(&self, fd: &impl AsRawFd) -> io::Result<()> {
        self.epoll.ctl(ControlOperation::Delete, fd.as_raw_fd(), EpollEvent::default())
    }

    /// Waits for events; `None` waits for ever. May come back early with none.
    pub(crate) fn wait(
        &mut self,
        timeout: Option<Duration>,
        out: &mut Vec<(Token, Ready)>,
    ) -> io::Result<()> {
        // Rounded up: a deadline must have passed when the wait ends, or the loop would spin up to it.
        let millis = timeout
            .map_or(-1, |timeout| i32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX));
        let count = match self.epoll.wait(millis, &mut self.events) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        out.clear();
        for event in &self.events[..count] {
            let set = event.event_set();
            let hung_up = set.intersects(EventSet::ERROR | EventSet::HANG_UP);
            if let Some(token) = Token::from_u64(event.data()) {
                out.push((
                    token,
                    Ready {
                        readable: hung_up || set.intersects(EventSet::IN | EventSet::READ_HANG_UP),
                        writable: hung_up || set.contains(EventSet::OUT),
                        hung_up,
                    },
                ));
            }
        }
        Ok(())
    }
}
