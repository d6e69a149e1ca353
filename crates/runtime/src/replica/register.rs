//! Calls to the tie-breaker, each with a deadline: a call may hang for ever (a hard mount does), and then the answer is
//! "unavailable".

use std::io;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use ft_core::{Event, Phase};
use ft_devices::backend::stamp::CopyState;
use ft_policies::{Answer, Config, Register, RegisterState, Unavailable, Who};

use super::shared::Shared;

/// How long one call may take.
const DEADLINE: Duration = Duration::from_secs(1);

/// What is wanted of the register.
#[derive(Debug, Clone, Copy)]
pub(super) enum Call {
    Read,
    Ask(u64),
    Learn(RegisterState),
}

enum Done {
    Read(Result<RegisterState, Unavailable>),
    Answer(u64, Answer),
    Learnt(Result<(), Unavailable>),
}

/// Starts the thread that makes the calls.
pub(super) fn spawn(shared: &Arc<Shared>, config: &Config) -> io::Result<()> {
    let (sender, receiver) = mpsc::channel::<Call>();
    shared.set_register(sender);
    let register: Arc<dyn Register + Send + Sync> =
        Arc::from(config.tie_breaker.build(&config.pair(), shared.me().replica));
    let (place, shared) = (config.tie_breaker.place(), Arc::clone(shared));
    std::thread::Builder::new().name("register".into()).spawn(move || {
        while let Ok(call) = receiver.recv() {
            let event = match within_deadline(&register, call, shared.me(), &place) {
                Done::Read(result) => Event::Register(result),
                Done::Answer(from, Answer::Won) => Event::Answer { from, answer: stamped(&shared, from + 1) },
                Done::Answer(from, answer) => Event::Answer { from, answer },
                Done::Learnt(Ok(())) => continue,
                Done::Learnt(Err(error)) => {
                    // Nothing depends on it but a later start without the other side.
                    shared
                        .control
                        .notice(format!("which generation this is could not be written down: {error}"));
                    continue;
                }
            };
            shared.handle(event);
            shared.pump();
        }
    })?;
    Ok(())
}

/// For a primary that lost its backup a win counts when its copies of separate disks say so, before the first output in the
/// generation. A backup that takes over stamps them when it has replayed everything ([`super::fence`]), and whoever starts the
/// guest when it is known that its copies are the ones to go on with ([`super::copies`]).
fn stamped(shared: &Shared, generation: u64) -> Answer {
    let runs = {
        let core = shared.core();
        *core.phase() == Phase::Live && core.is_started()
    };
    if !runs {
        return Answer::Won;
    }
    match shared.media.copies.stamp(CopyState::Live, generation) {
        Ok(()) => Answer::Won,
        // The ask stays outstanding, is repeated, and won again.
        Err(reason) => {
            Answer::Unavailable(Unavailable::NoAnswer { place: "this side's disks".to_owned(), reason })
        }
    }
}

fn within_deadline(register: &Arc<dyn Register + Send + Sync>, call: Call, me: Who, place: &str) -> Done {
    let (sender, receiver) = mpsc::channel();
    let register = Arc::clone(register);
    let worker = std::thread::Builder::new().name("register call".into()).spawn(move || {
        let done = match call {
            Call::Read => Done::Read(register.read()),
            Call::Ask(from) => Done::Answer(from, register.advance(from, &me)),
            Call::Learn(state) => Done::Learnt(register.learn(state)),
        };
        // Nobody listens any more once the deadline has passed; the ask stays outstanding and is repeated.
        let _ = sender.send(done);
    });
    let reason = match worker.map(|_| receiver.recv_timeout(DEADLINE)) {
        Ok(Ok(done)) => return done,
        Ok(Err(_)) => format!("no answer within {} s", DEADLINE.as_secs()),
        Err(error) => format!("no thread could be started: {error}"),
    };
    let unavailable = Unavailable::NoAnswer { place: place.to_owned(), reason };
    match call {
        Call::Read => Done::Read(Err(unavailable)),
        Call::Ask(from) => Done::Answer(from, Answer::Unavailable(unavailable)),
        Call::Learn(_) => Done::Learnt(Err(unavailable)),
    }
}
