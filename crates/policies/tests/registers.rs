//! What every generation register must do, whatever keeps it: one winner of each generation, the same answer to the same ask.

mod common;

use std::net::SocketAddr;
use std::sync::Barrier;

use ft_e2e::{Etcd, can_run_etcd};
use ft_policies::tie_breaker::witness::{ServeError, Server};
use ft_policies::{Answer, Pair, Register, RegisterState, ReplicaId, TieBreakerKind, Unavailable, Who};
use proptest::prelude::*;

use common::{NOBODY, a, b, state};

fn pair() -> Pair {
    Pair { id: 0x1234, name: "kv".to_owned() }
}

/// A register of one kind, and whatever stands behind it.
struct Bed {
    folder: tempfile::TempDir,
    kind: TieBreakerKind,
    server: Option<Server>,
    etcd: Option<Etcd>,
}

impl Bed {
    fn shared_disk() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kind = TieBreakerKind::SharedDisk { path: folder.path().join("generations") };
        Self { folder, kind, server: None, etcd: None }
    }

    /// `None` where there is no etcd, which is said.
    fn etcd() -> Option<Self> {
        let mut bed = can_run_etcd().then(Self::shared_disk)?;
        let etcd = Etcd::start(bed.folder.path(), 1);
        bed.kind =
            TieBreakerKind::Etcd { endpoints: etcd.endpoints(), prefix: "/ft-vm/".to_owned(), tls: None };
        bed.etcd = Some(etcd);
        Some(bed)
    }

    fn witness() -> Self {
        let mut bed = Self::shared_disk();
        let address = bed.serve("127.0.0.1:0".parse().unwrap());
        bed.kind = TieBreakerKind::Witness { address, key: None };
        bed
    }

    fn serve(&mut self, address: SocketAddr) -> SocketAddr {
        let server = loop {
            match Server::start(address, &self.folder.path().join("witness"), None, |_| {}) {
                Ok(server) => break server,
                // While it was down, the port may have become the other end of somebody's connection.
                Err(ServeError::Listen { .. }) => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        };
        let address = server.address();
        self.server = Some(server);
        address
    }

    fn register(&self) -> Box<dyn Register + Send + Sync> {
        self.kind.build(&pair(), ReplicaId::A)
    }

    /// Ends and starts again whatever runs.
    fn restart(&mut self) {
        if let Some(server) = self.server.take() {
            let address = server.address();
            drop(server);
            self.serve(address);
        }
        if let Some(etcd) = &mut self.etcd {
            etcd.restart(0);
            etcd.wait_ready(0);
        }
    }

    /// An empty register of the same kind.
    fn renew(&mut self) {
        match &mut self.kind {
            // It takes its time to start.
            TieBreakerKind::Etcd { prefix, .. } => *prefix += "x",
            TieBreakerKind::Witness { .. } => *self = Self::witness(),
            TieBreakerKind::SharedDisk { .. } => *self = Self::shared_disk(),
            TieBreakerKind::Manual { .. } => unreachable!("it is no register for two"),
        }
    }
}

/// Every test below, for every kind.
macro_rules! for_each_kind {
    ($($test:ident)*) => {
        mod shared_disk {
            $( #[test] fn $test() { super::$test(super::Bed::shared_disk()); } )*
        }
        mod witness {
            $( #[test] fn $test() { super::$test(super::Bed::witness()); } )*
        }
        mod etcd {
            $( #[test] fn $test() { if let Some(bed) = super::Bed::etcd() { super::$test(bed) } } )*
        }
    };
}

for_each_kind! {
    a_life
    lower_than_what_is_known_is_behind
    of_many_threads_exactly_one_wins_each_generation
    one_asker_in_two_threads
    of_many_processes_exactly_one_wins
    any_asks_have_the_answers_of_the_model
}

fn a_life(mut bed: Bed) {
    let register = bed.register();
    assert_eq!(register.read(), Ok(NOBODY));
    assert_eq!(register.advance(0, &a(1)), Answer::Won);
    assert_eq!(register.advance(0, &a(1)), Answer::Won, "asking again after one's own win");
    assert_eq!(register.advance(0, &a(2)), Answer::Lost(state(1, a(1))), "a predecessor's win is not mine");
    assert_eq!(
        register.advance(0, &b(1)),
        Answer::Lost(state(1, a(1))),
        "nor is the other replica's with my number"
    );
    assert_eq!(register.advance(1, &b(7)), Answer::Won);
    bed.restart();
    assert_eq!(register.advance(1, &b(7)), Answer::Won, "also of another server with the same state");
    assert_eq!(register.read(), Ok(state(2, b(7))));
    assert_eq!(register.advance(0, &a(1)), Answer::Lost(state(2, b(7))), "a win that is past is no win");
    assert_eq!(register.advance(1, &a(1)), Answer::Lost(state(2, b(7))));
    assert_eq!(register.advance(3, &a(1)), Answer::Behind(state(2, b(7))));
    assert_eq!(register.advance(u64::MAX, &a(1)), Answer::Unavailable(Unavailable::Exhausted));
}

fn lower_than_what_is_known_is_behind(bed: Bed) {
    let register = bed.register();
    assert_eq!(register.advance(4, &a(1)), Answer::Behind(NOBODY));
    assert_eq!(register.read(), Ok(NOBODY), "nothing is made up for one who knows better");
}

fn of_many_threads_exactly_one_wins_each_generation(bed: Bed) {
    let register = bed.register();
    for generation in 0..20 {
        let barrier = Barrier::new(8);
        let answers: Vec<(Who, Answer)> = std::thread::scope(|scope| {
            let asks: Vec<_> = (0..8)
                .map(|n| {
                    let (register, barrier) = (&register, &barrier);
                    scope.spawn(move || {
                        let me = if n % 2 == 0 { a(generation * 100 + n) } else { b(generation * 100 + n) };
                        barrier.wait();
                        (me, register.advance(generation, &me))
                    })
                })
                .collect();
            asks.into_iter().map(|ask| ask.join().unwrap()).collect()
        });
        let winners: Vec<_> = answers.iter().filter(|(_, answer)| *answer == Answer::Won).collect();
        assert_eq!(winners.len(), 1, "{answers:?}");
        let now = state(generation + 1, winners[0].0);
        assert_eq!(register.read(), Ok(now));
        for (me, answer) in &answers {
            assert!(*me == winners[0].0 || *answer == Answer::Lost(now), "{answers:?}");
        }
    }
}

/// The same ask twice at once, as after a deadline that passed while the first one hung: both win.
fn one_asker_in_two_threads(bed: Bed) {
    let register = bed.register();
    for generation in 0..50 {
        let me = a(9);
        std::thread::scope(|scope| {
            let asks: Vec<_> = (0..3).map(|_| scope.spawn(|| register.advance(generation, &me))).collect();
            for ask in asks {
                assert_eq!(ask.join().unwrap(), Answer::Won);
            }
        });
        assert_eq!(register.read(), Ok(state(generation + 1, me)));
    }
}

/// Asks from several processes: the test runs itself.
fn of_many_processes_exactly_one_wins(bed: Bed) {
    let test = std::thread::current().name().unwrap().to_owned();
    let children: Vec<_> = (0..4)
        .map(|_| {
            let place = match &bed.kind {
                TieBreakerKind::SharedDisk { path } => path.display().to_string(),
                TieBreakerKind::Witness { address, .. } => address.to_string(),
                TieBreakerKind::Manual { .. } => unreachable!("no two processes have one of these"),
                TieBreakerKind::Etcd { endpoints, .. } => endpoints[0].to_string(),
            };
            std::process::Command::new(std::env::current_exe().unwrap())
                .args(["one_of_many_processes", "--exact", "--nocapture"])
                .env("FT_TEST_REGISTER", format!("{}={place}", bed.kind.name()))
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let mut wins: Vec<u64> = Vec::new();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{test}");
        let text = String::from_utf8(output.stdout).unwrap();
        let list = text
            .split_once("wins=[")
            .and_then(|(_, tail)| tail.split_once(']'))
            .unwrap_or_else(|| panic!("{text}"))
            .0;
        wins.extend(list.split(", ").filter(|win| !win.is_empty()).map(|win| win.parse::<u64>().unwrap()));
    }
    // Nobody waits for the others here: a win may be past before its answer, and then it is lost. The last one cannot be.
    wins.sort_unstable();
    assert_eq!(wins.last(), Some(&30));
    assert!(wins.windows(2).all(|pair| pair[0] < pair[1]), "won twice: {wins:?}");
    assert_eq!(bed.register().read().unwrap().generation, 30);
}

/// One of the processes; by itself it does nothing.
#[test]
fn one_of_many_processes() {
    let Ok(place) = std::env::var("FT_TEST_REGISTER") else { return };
    let kind = match place.split_once('=').unwrap() {
        ("shared-disk", path) => TieBreakerKind::SharedDisk { path: path.into() },
        ("etcd", address) => TieBreakerKind::Etcd {
            endpoints: vec![address.parse().unwrap()],
            prefix: "/ft-vm/".to_owned(),
            tls: None,
        },
        (_, address) => TieBreakerKind::Witness { address: address.parse().unwrap(), key: None },
    };
    let (me, register) = (a(u64::from(std::process::id())), kind.build(&pair(), ReplicaId::A));
    let won = (0..30).filter(|generation| register.advance(*generation, &me) == Answer::Won);
    println!("wins={:?}", won.map(|generation| generation + 1).collect::<Vec<u64>>());
}

#[derive(Clone, Debug)]
enum Step {
    Read,
    Advance(u64, Who),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let asker =
        (any::<bool>(), 0u64..3).prop_map(|(first, number)| if first { a(number) } else { b(number) });
    let step = prop_oneof![
        1 => Just(Step::Read),
        8 => (0u64..8, asker).prop_map(|(from, who)| Step::Advance(from, who)),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 0..30)
}

/// The register, in a few lines.
fn model(now: &mut RegisterState, from: u64, me: Who) -> Answer {
    if now.generation < from {
        return Answer::Behind(*now);
    }
    if now.generation == from {
        *now = state(from + 1, me);
    }
    if *now == state(from + 1, me) { Answer::Won } else { Answer::Lost(*now) }
}

fn any_asks_have_the_answers_of_the_model(bed: Bed) {
    let cases = if bed.etcd.is_some() { 12 } else { 48 };
    let bed = std::cell::RefCell::new(bed);
    proptest!(ProptestConfig { cases, ..ProptestConfig::default() }, |(steps in steps())| {
        let mut bed = bed.borrow_mut();
        bed.renew();
        let (register, mut now) = (bed.register(), NOBODY);
        for step in steps {
            match step {
                Step::Read => prop_assert_eq!(read(&*register), Ok(now)),
                Step::Advance(from, me) => {
                    prop_assert_eq!(advance(&*register, from, &me), model(&mut now, from, me));
                }
                Step::Restart => bed.restart(),
            }
        }
        prop_assert_eq!(read(&*register), Ok(now));
    });
}

fn read(register: &dyn Register) -> Result<RegisterState, Unavailable> {
    answered(|| register.read(), Result::is_err)
}

fn advance(register: &dyn Register, from: u64, me: &Who) -> Answer {
    answered(|| register.advance(from, me), |answer| matches!(answer, Answer::Unavailable(_)))
}

/// How often a question is asked again that a busy host did not answer in time, as a replica does.
const PATIENCE: usize = 20;

fn answered<A>(ask: impl Fn() -> A, is_unavailable: impl Fn(&A) -> bool) -> A {
    let mut answer = ask();
    for _ in 0..PATIENCE {
        if !is_unavailable(&answer) {
            break;
        }
        answer = ask();
    }
    answer
}
