//! One pair on two hosts, with clients that count on a third one, and everything that can be done to it.

use std::time::{Duration, Instant};

use ft_e2e::{
    Bed, Cut, DiskPolicy, Guest, LanWatch, Launcher, Ledger, Load, Random, Settings, Shape, Status, Takeover,
    TieBreaker,
};

use crate::arbiter::Arbiter;
use crate::table::Row;

pub(crate) const LIMIT: Duration = Duration::from_secs(30);
/// Silence after which a peer is suspected.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(500);
/// A time in which what is on its way is seen.
const SETTLED: Duration = Duration::from_millis(100);
/// What `ft-vm status` has for a replica that waits for a person.
const WAITS: &str = "waits_for_promotion";

/// How a scenario ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    /// Who is live.
    pub(crate) live: &'static str,
    /// What became of the other one.
    pub(crate) other: Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Other {
    /// It is the backup, as before.
    Follows,
    /// It has ended with exit code 3: the tie-breaker is another's.
    Halted,
    /// The test has killed it.
    Killed,
}

pub(crate) struct Stage {
    load: Option<Load>,
    watch: LanWatch,
    a: Launcher,
    b: Launcher,
    /// The processes of the replicas.
    pids: [u32; 2],
    arbiter: Arbiter,
    pub(crate) bed: Bed,
    pub(crate) kind: TieBreaker,
    random: Random,
    replies: u64,
    frames: u64,
}

impl Stage {
    /// Starts the pair, a as its primary, and the clients. `None` where that cannot be; that was said.
    pub(crate) fn new(kind: TieBreaker, disk: DiskPolicy, extra: &str) -> Option<Self> {
        let settings =
            Settings { tie_breaker: kind, timeout: TIMEOUT, ..Settings::with_disk(Guest::Kv, disk) };
        let bed = Bed::on_two_hosts_with_lan(&settings)?;
        let arbiter = match Arbiter::new(&bed, &settings) {
            Ok(arbiter) => arbiter,
            Err(reason) => {
                println!("not run: {reason}");
                return None;
            }
        };
        let watch = match LanWatch::start(bed.hosts()) {
            Ok(watch) => watch,
            Err(reason) => {
                println!("not run: the LAN cannot be watched: {reason}");
                return None;
            }
        };
        let start = |replica: &str| {
            let mut sets = arbiter.sets(replica);
            if !extra.is_empty() {
                sets.extend(["--set".to_owned(), extra.to_owned()]);
            }
            bed.start_one(replica, &sets.iter().map(String::as_str).collect::<Vec<_>>())
        };
        let b = start("b");
        let status = bed.wait_status("b waits", LIMIT, |status| state(status, "b") == Some("waiting"));
        let second = status.replica("b").expect("it waits").pid;
        let mut a = start("a");
        let first = a.wait_primary(LIMIT);
        let mut random = Random::new("partitions");
        let shape = Shape { writers: 1, counters: 2, readers: 1, depth: 4 };
        drop(bed.in_client(|| a.wait_service_at(bed.on_lan())));
        let load = bed.in_client(|| Load::start_to(bed.on_lan(), "load", shape, &mut random));
        let load = load.unwrap_or_else(|error| panic!("{error}\n{}", a.said()));
        let stage = Self {
            load: Some(load),
            watch,
            a,
            b,
            pids: [first, second],
            arbiter,
            bed,
            kind,
            random,
            replies: 0,
            frames: 0,
        };
        stage.serves(200);
        Some(stage)
    }

    pub(crate) fn said(&self) -> String {
        let a = self.a.stderr.text();
        let b = self.b.stderr.text();
        format!("spoke: {}\n=== replica a\n{a}\n=== replica b\n{b}", self.watch.word())
    }

    fn launcher(&mut self, replica: &str) -> &mut Launcher {
        if replica == "a" { &mut self.a } else { &mut self.b }
    }

    // What is done to it.

    pub(crate) fn cut(&self, cut: Cut) {
        self.bed.hosts().cut(cut);
    }

    /// The wire between the replicas is whole again.
    pub(crate) fn mend(&self, cut: Cut) {
        self.bed.hosts().mend(cut);
    }

    pub(crate) fn arbiter_out(&self, host: &'static str) {
        self.arbiter.cut_off(&self.bed, host);
    }

    pub(crate) fn arbiter_back(&self, host: &'static str) {
        self.arbiter.bring_back(&self.bed, host);
    }

    pub(crate) fn freeze_arbiter(&mut self) {
        self.arbiter.freeze(&mut self.bed);
    }

    pub(crate) fn thaw_arbiter(&mut self) {
        self.arbiter.thaw(&mut self.bed);
    }

    pub(crate) fn signal(&self, replica: &str, signal: i32) {
        self.bed.signal(self.pids[usize::from(replica == "b")], signal);
    }

    /// One of several.
    pub(crate) fn either(&mut self, of: &[&'static str]) -> &'static str {
        of[self.random.below(of.len() as u64) as usize]
    }

    // What is seen of it.

    /// Clients get this many more replies.
    pub(crate) fn serves(&self, replies: u64) {
        let load = self.load.as_ref().expect("it runs to the end");
        load.wait_replies(replies, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", self.said()));
    }

    /// Clients are served all the time for several times as long as a silence may be, and nobody goes on alone.
    pub(crate) fn serves_as_before(&self) {
        let until = Instant::now() + 3 * TIMEOUT;
        while Instant::now() < until {
            self.serves(20);
        }
        let status = self.bed.status();
        let states = (state(&status, "a"), state(&status, "b"));
        assert_eq!(states, (Some("live"), Some("following")), "{}\n{}", status.json, self.said());
        assert!(self.gone_on().is_none(), "{}", self.said());
    }

    /// Waits until a replica asks for a generation, or waits for a person.
    pub(crate) fn wait_asking(&self, replica: &str) {
        self.bed.wait_status(&format!("{replica} asks"), LIMIT, |status| asks(status, replica));
    }

    /// From here on [`Stage::nobody_speaks`]: whoever of the two is there asks, and neither may let anything out.
    pub(crate) fn nobody_lives(&mut self, asking: &[&str]) {
        for replica in asking {
            self.wait_asking(replica);
        }
        // What was on its way when they began to ask may take a moment to be seen here.
        let until = Instant::now() + LIMIT;
        loop {
            let before = self.heard();
            std::thread::sleep(SETTLED);
            if self.heard() == before {
                (self.replies, self.frames) = before;
                break;
            }
            assert!(Instant::now() < until, "somebody speaks all the time\n{}", self.said());
        }
        self.nobody_has_spoken();
    }

    /// Nothing was let out since, not a frame.
    pub(crate) fn nobody_has_spoken(&self) {
        assert!(self.gone_on().is_none(), "{}", self.said());
        assert_eq!(self.heard(), (self.replies, self.frames), "replies and frames\n{}", self.said());
    }

    fn heard(&self) -> (u64, u64) {
        let frames = self.watch.stretches().iter().map(|stretch| stretch.frames).sum();
        (self.load.as_ref().expect("it runs to the end").replies(), frames)
    }

    /// Waits for this line of a replica's launcher.
    pub(crate) fn wait_said(&mut self, replica: &str, text: &str) {
        let line = self.launcher(replica).stderr.wait_for(0, LIMIT, |line| line.contains(text));
        assert!(line.is_some(), "{replica} does not say {text:?}\n{}", self.said());
    }

    /// Who said that it goes on alone, if anybody has.
    fn gone_on(&self) -> Option<Takeover> {
        let lines = [&self.a, &self.b].map(|launcher| launcher.stderr.text());
        lines.iter().flat_map(|text| text.lines()).find_map(|line| Takeover::parse(line, Instant::now()))
    }

    /// Waits until one of these goes on alone: by itself, or because a person says so.
    pub(crate) fn goes_on(&mut self, may: &[&'static str]) -> &'static str {
        let chosen = (self.kind == TieBreaker::Manual).then(|| {
            let chosen = self.either(may);
            self.promote(chosen);
            chosen
        });
        let until = Instant::now() + LIMIT;
        let takeover = loop {
            match self.gone_on() {
                Some(takeover) => break takeover,
                None => assert!(Instant::now() < until, "nobody goes on\n{}", self.said()),
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        assert_eq!(takeover.generation, 2, "{}\n{}", takeover.line, self.said());
        let live = may.iter().copied().find(|name| *name == takeover.replica);
        let live = live.unwrap_or_else(|| panic!("{} was not to go on\n{}", takeover.replica, self.said()));
        assert!(chosen.is_none_or(|chosen| chosen == live), "{}", self.said());
        live
    }

    /// As soon as it does not hear the other one any more; until then it must be refused.
    fn promote(&self, replica: &str) {
        let waits = |status: &Status| {
            status.replica(replica).is_some_and(|replica| replica.json[WAITS].as_u64().is_some())
        };
        self.bed.wait_status("it waits for a person", LIMIT, waits);
        let until = Instant::now() + LIMIT;
        loop {
            let run = self.bed.promote(replica);
            if run.code == Some(0) {
                return;
            }
            assert!(run.stderr.contains("was heard"), "{}\n{}", run.stderr, self.said());
            assert!(Instant::now() < until, "{}\n{}", run.stderr, self.said());
        }
    }

    /// A replica ends because the other one has the generation.
    pub(crate) fn halts(&mut self, replica: &str) {
        let code = self.launcher(replica).exit_code(LIMIT);
        assert_eq!(code, 3, "{}", self.said());
    }

    /// Everything on a host ends at once.
    pub(crate) fn kill_host(&mut self, host: &str) {
        self.bed.kill_host(host);
        assert!(self.launcher(host).wait(LIMIT).is_some(), "{}", self.said());
    }

    /// The survivor serves, nothing that was acknowledged is lost, nobody else has spoken since it began to, and the next start finds
    /// it all.
    pub(crate) fn finish(mut self, name: &'static str, end: End) -> Row {
        let End { live, other } = end;
        self.serves(200);
        let load = self.load.take().expect("it runs to the end");
        let record = load.stop().unwrap_or_else(|error| panic!("{name}: {error}\n{}", self.said()));
        let mut ledger = Ledger::default();
        ledger.add(&record);
        let verify = |stage: &Self, client: Result<ft_e2e::Resp, String>| {
            let verified = client.and_then(|mut client| ledger.verify(&mut client));
            verified.unwrap_or_else(|error| panic!("{name}: {error}\n{}", stage.said()));
        };
        verify(&self, self.bed.in_client(|| ft_e2e::Resp::connect_to(self.bed.on_lan(), LIMIT)));
        let spoke = self.watch.word();
        let expected = if live == "a" { "a" } else { "ab" };
        assert_eq!(spoke, expected, "{name}: {:?}\n{}", self.watch.stretches(), self.said());
        self.arbiter.restore(&mut self.bed);
        // SIGTERM of either stops the pair.
        self.launcher(live).signal(libc::SIGTERM);
        let both = if other == Other::Follows { &["a", "b"][..] } else { &[live][..] };
        for replica in both {
            let code = self.launcher(replica).exit_code(LIMIT);
            assert_eq!(code, 0, "{name}\n{}", self.said());
        }
        let alone = self.bed.start_solo_on(live);
        self.a = alone;
        let port = self.bed.port();
        let client = self.a.wait_service(port);
        verify(&self, Ok(client));
        self.a.signal(libc::SIGTERM);
        assert_eq!(self.a.exit_code(LIMIT), 0, "{name}\n{}", self.said());
        self.bed.assert_clean();
        Row {
            name,
            live: if other == Other::Follows { "a with b".to_owned() } else { live.to_owned() },
            other: match other {
                Other::Follows => "follows",
                Other::Halted => "halted (3)",
                Other::Killed => "was killed",
            },
            spoke,
            silence: record.silence,
            replies: record.replies,
        }
    }
}

fn state<'s>(status: &'s Status, replica: &str) -> Option<&'s str> {
    status.replica(replica).map(|replica| replica.state.as_str())
}

fn asks(status: &Status, replica: &str) -> bool {
    matches!(state(status, replica), Some("asking" | "taking-over"))
}
