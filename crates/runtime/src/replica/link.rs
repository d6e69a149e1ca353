//! The log connection: replica b dials, replica a listens, whatever role each has. So there is one connection, and no
//! question of who dials whom when roles change.

use std::io::{self, Read as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ft_core::{Event, Phase};
use ft_policies::{Config, ReplicaId};

use super::exit::Startup;
use super::prompt::be_prompt;
use super::shared::Shared;

/// Between two attempts to reach the peer, while the guest has not started and afterwards.
const REDIAL: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(1)];
/// How long an attempt may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a connection may stay without a hello: a stranger must not keep the peer out.
const HELLO_PATIENCE: Duration = Duration::from_secs(2);
/// What is said of such a connection.
const NOBODY: &str = "nobody said on the connection who he is";
/// Seconds without a word after which the kernel asks whether the peer's host is there, once a second, and how often in vain. Far above
/// any detector's time-out: a session ends by those.
const KEEP_IDLE: libc::c_int = 5;
const KEEP_COUNT: libc::c_int = 5;
/// Milliseconds after which what was sent must be acknowledged: while it is not, the kernel does not ask.
const USER_TIMEOUT: libc::c_int = 10_000;
/// Bytes read at once.
const READ: usize = 256 * 1024;

/// A replica's own sockets.
#[derive(Debug)]
pub(super) struct Sockets {
    listener: TcpListener,
    pub(super) udp: UdpSocket,
    pub(super) peer: SocketAddr,
}

impl Sockets {
    /// Takes the replica's address, TCP and UDP.
    pub(super) fn bind(config: &Config, replica: ReplicaId) -> Result<Self, Startup> {
        let address = config.replicas.address(replica);
        let peer = config.replicas.address(replica.peer());
        let failed = |error| Startup::Listen { address, replica, error };
        let listener = TcpListener::bind(address).map_err(failed)?;
        let udp = UdpSocket::bind(address).map_err(failed)?;
        udp.set_nonblocking(true).map_err(failed)?;
        Ok(Self { listener, udp, peer })
    }
}

/// Starts the thread of the log connection.
pub(super) fn spawn(shared: &Arc<Shared>, sockets: Sockets, replica: ReplicaId) -> io::Result<()> {
    let shared = Arc::clone(shared);
    std::thread::Builder::new().name("link".into()).spawn(move || match replica {
        ReplicaId::A => accept(&shared, &sockets.listener),
        ReplicaId::B => dial(&shared, &sockets),
    })?;
    Ok(())
}

fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                let shared = Arc::clone(shared);
                let reader = std::thread::Builder::new().name("link reader".into());
                // Out of threads: the connection closes, and the peer dials again.
                let _ = reader.spawn(move || read(&shared, stream));
            }
            // Out of descriptors, or the peer was gone again: it dials again.
            Err(_) => std::thread::sleep(REDIAL[0]),
        }
    }
}

fn dial(shared: &Shared, sockets: &Sockets) -> ! {
    // Holds the address; nobody is expected there.
    let _listener = &sockets.listener;
    loop {
        if let Ok(stream) = TcpStream::connect_timeout(&sockets.peer, DIAL_TIMEOUT) {
            read(shared, stream);
        }
        let waiting = *shared.core().phase() == Phase::Waiting;
        std::thread::sleep(REDIAL[usize::from(!waiting)]);
    }
}

/// Reads a connection to its end.
fn read(shared: &Shared, mut stream: TcpStream) {
    be_prompt(shared);
    let id = match prepare(shared, &stream) {
        Ok(Some(id)) => id,
        // There is one already, or it is gone again.
        Ok(None) | Err(_) => return,
    };
    let mut buffer = vec![0; READ];
    let mut known = false;
    let patience = Instant::now() + HELLO_PATIENCE;
    let reason = loop {
        match stream.read(&mut buffer) {
            Ok(0) => break "the connection was closed".to_owned(),
            Ok(count) => {
                shared.handle(Event::Received(&buffer[..count]));
                shared.pump();
                if !known {
                    known = shared.core().has_hello();
                    // Somebody who says a little now and then is no better than one who is silent.
                    let left = patience.saturating_duration_since(Instant::now());
                    if !known && left.is_zero() {
                        break NOBODY.to_owned();
                    }
                    if let Err(error) = stream.set_read_timeout((!known).then_some(left)) {
                        break error.to_string();
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                if !shared.core().has_hello() {
                    break NOBODY.to_owned();
                }
            }
            Err(error) => break format!("the connection failed: {error}"),
        }
    };
    shared.disconnected(id, reason);
}

/// A peer's host that lost its power closes no connection. While nothing is sent (both wait for something) nobody would ever notice,
/// and the peer's next process would find the place taken: so the kernel asks, and gives up soon (tcp(7)).
fn notice_death(stream: &TcpStream) -> io::Result<()> {
    for (level, name, value) in [
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, KEEP_IDLE),
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 1),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, KEEP_COUNT),
        (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, USER_TIMEOUT),
    ] {
        let size = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: pointer and length are those of `value`, an int as each of these options takes.
        let set = unsafe {
            libc::setsockopt(stream.as_raw_fd(), level, name, std::ptr::from_ref(&value).cast(), size)
        };
        if set != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn prepare(shared: &Shared, stream: &TcpStream) -> io::Result<Option<u64>> {
    stream.set_nodelay(true)?;
    notice_death(stream)?;
    stream.set_read_timeout(Some(HELLO_PATIENCE))?;
    shared.connected(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_is_gone_is_noticed_without_a_word() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        notice_death(&stream).unwrap();
        let get = |level, name| {
            let (mut value, mut size) = (0 as libc::c_int, size_of::<libc::c_int>() as libc::socklen_t);
            // SAFETY: pointers to locals of the types that the call fills in.
            let got = unsafe {
                libc::getsockopt(stream.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut size)
            };
            assert_eq!(got, 0);
            value
        };
        assert_eq!(get(libc::SOL_SOCKET, libc::SO_KEEPALIVE), 1);
        assert_eq!(get(libc::IPPROTO_TCP, libc::TCP_KEEPIDLE), KEEP_IDLE);
        assert_eq!(get(libc::IPPROTO_TCP, libc::TCP_KEEPCNT), KEEP_COUNT);
        assert_eq!(get(libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT), USER_TIMEOUT);
    }
}
