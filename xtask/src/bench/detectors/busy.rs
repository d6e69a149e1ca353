//! False suspicions: pairs of all kinds side by side while every core has more to do than it can. Nobody dies, so that every loss
//! of a peer is a mistake.

use std::time::{Duration, Instant};

use ft_e2e::{Bed, Busy, Launcher, Load, Random, Resp, Shape, Takeover};

use super::{Kind, Seen, text};

/// Busy processes on each core.
const PER_CORE: usize = 2;
/// Clients are there every other turn: under load it is frames that break the silence, otherwise heartbeats alone.
const TURN: Duration = Duration::from_secs(5);
/// The table so far is printed after this many turns: once a minute.
const TURNS: u32 = 12;
/// How long the guest may take to forget everything.
const REPLY: Duration = Duration::from_secs(30);
const SHAPE: Shape = Shape { writers: 2, counters: 1, readers: 1, depth: 4 };

/// A pair that is watched.
struct Watched {
    bed: Bed,
    pair: Launcher,
    load: Option<Load>,
}

impl Watched {
    fn start(kind: Kind, beside: Option<&Bed>, life: Duration) -> Self {
        let bed = match beside {
            Some(other) => Bed::beside(other, &Kind::settings()),
            None => Bed::new(&Kind::settings()),
        };
        kind.choose(&bed);
        let mut pair = bed.start_for(&[], life);
        pair.wait_service(bed.port());
        Self { bed, pair, load: None }
    }

    /// The line that tells of a lost peer, if there is one.
    fn loss(&self) -> Option<String> {
        let lines = self.pair.stderr.lines();
        lines.into_iter().find(|line| Takeover::parse(&line.text, line.at).is_some()).map(|line| line.text)
    }

    /// The longest silence of either replica's peer, in milliseconds; and, in words, what each replica says of its peer's silence
    /// and of its own timers: whether the sender or the receiver was late.
    fn silence(&self) -> Result<(f64, String), String> {
        let status = self.bed.try_status()?;
        let mut longest: f64 = 0.0;
        let mut words = Vec::new();
        for replica in &status.replicas {
            let [silence, late] = ["silence_max_ms", "late_max_ms"].map(|key| replica.number(key));
            longest = longest.max(silence);
            words.push(format!(
                "{} heard nothing for {silence:.1} ms, was itself late by {late:.1} ms",
                replica.role
            ));
        }
        Ok((longest, words.join("; ")))
    }
}

/// Watches a pair of each kind for so long.
pub(super) fn measure(time: Duration, all: &mut [Seen]) {
    if time.is_zero() {
        return;
    }
    let mut random = Random::new("detectors, busy");
    // Beds may be beside this one, and it outlives them all.
    let ground = Bed::new(&Kind::settings());
    let life = time + Duration::from_secs(600);
    let start = |kind| Watched::start(kind, Some(&ground), life);
    let mut pairs: Vec<Watched> = all.iter().map(|seen| start(seen.kind)).collect();
    let _busy = Busy::on_every_core(PER_CORE);
    let (begin, mut turn) = (Instant::now(), 0);
    while begin.elapsed() < time {
        turn += 1;
        for (number, watched) in pairs.iter_mut().enumerate() {
            watched.load = (turn % 2 == 1).then(|| {
                let prefix = format!("turn{turn}pair{number}");
                // Its memory must last for the whole time.
                let emptied = Resp::connect(watched.bed.port(), REPLY)
                    .and_then(|mut client| client.call(&["FLUSHALL"]));
                emptied.unwrap_or_else(|error| panic!("{error}\n{}", watched.pair.said()));
                Load::start(watched.bed.port(), &prefix, SHAPE, &mut random)
                    .unwrap_or_else(|error| panic!("{error}\n{}", watched.pair.said()))
            });
        }
        // Time is what is to pass here: a loss that comes meanwhile is found afterwards.
        std::thread::sleep(TURN);
        for (watched, seen) in pairs.iter_mut().zip(&mut *all) {
            let kind = seen.kind.name();
            let minutes = begin.elapsed().as_secs_f64() / 60.0;
            seen.watched = begin.elapsed().min(time);
            if let Some(load) = watched.load.take() {
                // The guest goes on whoever is suspected.
                load.stop().unwrap_or_else(|error| panic!("{error}\n{}", watched.pair.said()));
            }
            match watched.silence() {
                Ok((silence, words)) => {
                    if seen.silence.is_nan() || silence > seen.silence {
                        println!("{minutes:.1} min, {kind}: {words}");
                        seen.silence = silence;
                    }
                }
                Err(error) => println!("{minutes:.1} min, {kind}: {error}"),
            }
            if let Some(line) = watched.loss() {
                println!("{minutes:.1} min, {kind}: SUSPECTED: {line}");
                // How it came to that is of more interest than that it did.
                eprintln!("{}", watched.pair.said());
                seen.wrong += 1;
                *watched = start(seen.kind);
            }
        }
        if turn % TURNS == 0 {
            print!("{}", text(all));
        }
    }
    for Watched { pair, .. } in pairs {
        pair.stop();
    }
}
