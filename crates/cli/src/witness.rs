//! `ft-vm witness`: runs the tie-breaker server until SIGTERM or SIGINT.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use ft_policies::key::Keys;
use ft_policies::tie_breaker::witness::{ServeError, Server};

use crate::exit::Exit;

/// Serves until a signal ends it.
pub(crate) fn witness(listen: SocketAddr, state: &Path, keys: Option<&Path>) -> Exit {
    let keys = match keys.map(Keys::load).transpose() {
        Ok(keys) => keys,
        Err(error) => {
            say(&format!("witness: --keys: {error}"));
            return Exit::BadConfig;
        }
    };
    let known = match keys.as_ref().map(Keys::count) {
        Some(1) => "1 key".to_owned(),
        Some(count) => format!("{count} keys"),
        None => "no keys: anyone on this machine may ask".to_owned(),
    };
    // Before there is any other thread: they all inherit it, and the signals wait for this one.
    let signals = Signals::block();
    let server = match Server::start(listen, state, keys, |line| say(&format!("witness: {line}"))) {
        Ok(server) => server,
        Err(error @ ServeError::NoKeys { .. }) => {
            say(&format!("witness: {error}"));
            return Exit::BadConfig;
        }
        Err(error) => {
            say(&format!("witness: {error}"));
            return Exit::Runtime(1);
        }
    };
    let pairs = server.pairs();
    say(&format!(
        "witness listens on {}, state in {}, {pairs} {}, {known}",
        server.address(),
        server.state().display(),
        if pairs == 1 { "pair" } else { "pairs" }
    ));
    signals.wait();
    drop(server);
    Exit::Done
}

/// A line on standard error. Should nobody read it any more, the witness goes on all the same.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "ft-vm: {line}");
}

/// SIGTERM and SIGINT, held back until somebody waits for them.
struct Signals(libc::sigset_t);

impl Signals {
    fn block() -> Self {
        // SAFETY: all-zero bytes are a `sigset_t`, and `sigemptyset` makes it a well-defined one.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: `set` is a valid `sigset_t`, and the signals exist; the mask of this thread has no other effect.
        unsafe {
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGTERM);
            libc::sigaddset(&raw mut set, libc::SIGINT);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        }
        Self(set)
    }

    /// Waits for one. From then on another one ends the process at once, should an orderly end take too long.
    fn wait(self) {
        let mut signal = 0;
        // SAFETY: both pointers are to locals of the right types.
        unsafe {
            libc::sigwait(&raw const self.0, &raw mut signal);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const self.0, std::ptr::null_mut());
        }
    }
}
