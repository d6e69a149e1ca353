//! Calls to the tie-breaker, each with a deadline: a call may hang for ever (a hard mount does), and then the answer is
//! "unavailable".

use std::io;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use ft_core::{Event, Phase};
use ft_devices::backend::stamp::CopyState;
use ft_policies::{Answer, Config, Register, RegisterState, Unavailable, Who};

use super::shared::Shared;

/// How long one call may take.
const DEADLINE: Duration = Duration::from_secs(1);
/// As many calls may hang, each with its thread, and there is another one a second...
const HANGING: usize = 8;
/// ... and then one in so long: a mount may hang for days. What hangs may do so for ever where later calls would not.
const RARELY: Duration = Duration::from_secs(60);

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
    let register = Arc::from(config.tie_breaker.build(&config.pair(), shared.me().replica));
    let mut calls = Calls::new(register, shared.me(), config.tie_breaker.place());
    let shared = Arc::clone(shared);
    std::thread::Builder::new().name("register".into()).spawn(move || {
        while let Ok(call) = receiver.recv() {
            let event = match calls.make(call, DEADLINE) {
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

/// The register, and the calls of it that have not come back.
struct Calls {
    register: Arc<dyn Register + Send + Sync>,
    me: Who,
    place: String,
    /// Each call that is under way has one more of it.
    under_way: Arc<()>,
    began: Option<Instant>,
}

impl Calls {
    fn new(register: Arc<dyn Register + Send + Sync>, me: Who, place: String) -> Self {
        Self { register, me, place, under_way: Arc::default(), began: None }
    }

    fn make(&mut self, call: Call, deadline: Duration) -> Done {
        let hanging = Arc::strong_count(&self.under_way) - 1;
        let reason = if hanging >= HANGING && self.began.is_some_and(|began| began.elapsed() < RARELY) {
            format!("{hanging} calls hang")
        } else {
            match self.within(call, deadline) {
                Ok(done) => return done,
                Err(reason) => reason,
            }
        };
        let unavailable = Unavailable::NoAnswer { place: self.place.clone(), reason };
        match call {
            Call::Read => Done::Read(Err(unavailable)),
            Call::Ask(from) => Done::Answer(from, Answer::Unavailable(unavailable)),
            Call::Learn(_) => Done::Learnt(Err(unavailable)),
        }
    }

    fn within(&mut self, call: Call, deadline: Duration) -> Result<Done, String> {
        self.began = Some(Instant::now());
        let (sender, receiver) = mpsc::channel();
        let (register, me) = (Arc::clone(&self.register), self.me);
        let under_way = Arc::clone(&self.under_way);
        let worker = std::thread::Builder::new().name("register call".into()).spawn(move || {
            let done = match call {
                Call::Read => Done::Read(register.read()),
                Call::Ask(from) => Done::Answer(from, register.advance(from, &me)),
                Call::Learn(state) => Done::Learnt(register.learn(state)),
            };
            drop(under_way);
            // Nobody listens any more once the deadline has passed; the ask stays outstanding and is repeated.
            let _ = sender.send(done);
        });
        match worker.map(|_| receiver.recv_timeout(deadline)) {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(_)) => Err(format!("no answer within {} s", deadline.as_secs())),
            Err(error) => Err(format!("no thread could be started: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex};

    use ft_policies::ReplicaId;

    use super::*;

    /// Hangs until it is told not to.
    #[derive(Default)]
    struct Hanging {
        calls: Mutex<(usize, bool)>,
        changed: Condvar,
    }

    impl Hanging {
        fn heal(&self) {
            self.calls.lock().unwrap().1 = true;
            self.changed.notify_all();
        }
    }

    impl Register for Hanging {
        fn read(&self) -> Result<RegisterState, Unavailable> {
            let mut calls = self.calls.lock().unwrap();
            calls.0 += 1;
            drop(self.changed.wait_while(calls, |(_, healed)| !*healed).unwrap());
            Ok(RegisterState { generation: 7, holder: None })
        }

        fn advance(&self, _: u64, _: &Who) -> Answer {
            self.read().map_or_else(Answer::Unavailable, |_| Answer::Won)
        }
    }

    #[test]
    fn a_register_that_hangs_takes_no_more_than_a_few_threads() {
        let register = Arc::new(Hanging::default());
        let me = Who { replica: ReplicaId::A, incarnation: 1, config: 0 };
        let mut calls = Calls::new(Arc::clone(&register) as _, me, "there".into());
        for turn in 0..100 {
            let call = if turn % 2 == 0 { Call::Read } else { Call::Ask(3) };
            let done = calls.make(call, Duration::from_millis(1));
            assert!(matches!(done, Done::Read(Err(_)) | Done::Answer(3, Answer::Unavailable(_))));
        }
        assert_eq!(Arc::strong_count(&calls.under_way) - 1, HANGING);
        register.heal();
        // As soon as they have come back, others are made.
        let end = Instant::now() + Duration::from_secs(60);
        while !matches!(calls.make(Call::Ask(3), Duration::from_secs(60)), Done::Answer(3, Answer::Won)) {
            assert!(Instant::now() < end, "the hanging calls do not come back");
            std::thread::yield_now();
        }
        assert!(register.calls.lock().unwrap().0 <= HANGING + 1);
    }
}
