//! Random programs in the software engine: against the host CPU, and against themselves when run in pieces, with a small
//! cache, and with translations dropped at random.

mod host;

use ft_vcpu::{CpuState, Kick, Position, Stop, Vcpu};
use host::case::Case;
use host::compare::{self, Latitude};
use host::drive;
use host::guest::{Guest, Quiet};
use host::layout::{self, DATA};
use host::native::Native;
use host::programs;
use host::rng::Rng;
use iced_x86::{Decoder, DecoderOptions};

/// More positions than any program takes.
const LIMIT: Position = 50_000_000;

/// Runs to the end, which is INT3, and gives the state there.
fn run_whole(guest: &mut Guest, case: &Case) -> CpuState {
    guest.load(case);
    let stop = guest.vcpu.run(LIMIT, &Kick::new(), &mut Quiet);
    assert!(matches!(stop, Stop::Dead(_)), "{stop:?}\n{}", programs::listing(case));
    guest.vcpu.state()
}

/// Runs to the end in random steps; between two steps `between` may do what a program must not notice.
fn run_in_pieces(
    guest: &mut Guest,
    case: &Case,
    rng: &mut Rng,
    mut between: impl FnMut(&mut dyn Vcpu, &mut Rng),
) -> CpuState {
    let mut position = guest.load(case);
    let kick = Kick::new();
    let longest = rng.pick(&[1, 3, 10, 100, 1000]);
    loop {
        position += rng.below(longest + 1);
        match guest.vcpu.run(position, &kick, &mut Quiet) {
            Stop::Reached => assert_eq!(guest.vcpu.position(), position),
            Stop::Dead(_) => return guest.vcpu.state(),
            stop => panic!("{stop:?}"),
        }
        assert!(position < LIMIT);
        between(&mut *guest.vcpu, rng);
    }
}

fn each_program(window: u64, salt: u64, count: usize, mut body: impl FnMut(&mut Rng, &Case)) {
    let codes = programs::ordinary();
    for number in 0..count as u64 {
        let mut rng = programs::rng(salt, number);
        let size = 50 + rng.below(150) as usize;
        let case = programs::random_program(&mut rng, &codes, size, window);
        body(&mut rng, &case);
    }
}

#[test]
fn a_program_ends_as_on_the_host() {
    if !host::host_is_an_oracle() {
        return;
    }
    let window = layout::window(1);
    let mut native = Native::new(window);
    let mut guest = Guest::new(window, host::engine::software);
    let (mut programs, mut positions) = (0, 0);
    each_program(window, 1, host::cases(1500), |_, case| {
        let want = native.run(case);
        assert_eq!(want.trap, None, "the host: {}", programs::listing(case));
        let state = run_whole(&mut guest, case);
        let unimplemented = guest.vcpu.take_unimplemented();
        assert!(unimplemented.is_empty(), "{unimplemented:?}");
        let got = guest.outcome(&state).unwrap();
        let mut found = compare::differences(&want, &got, &Latitude::default());
        found.extend(compare::memory_difference(window + DATA, native.data(), &guest.data()));
        if !found.is_empty() {
            let guilty = bisect(&mut native, &mut guest, case);
            panic!("seed {}: {found:#?}\n{guilty}\n{}", host::seed(), programs::listing(case));
        }
        programs += 1;
        positions += state.position - 1000;
    });
    println!("{programs} programs, {positions} positions, seed {}", host::seed());
    assert!(positions > 100 * programs);
}

/// The first position after which the engine's state does not lead the host to the same end.
///
/// A state of the engine half-way, run to its end on the host, ends as the whole does, until the first wrong step.
fn bisect(native: &mut Native, guest: &mut Guest, case: &Case) -> String {
    let whole = native.run(case);
    let memory = native.data().to_vec();
    let mut good = guest.load(case);
    let mut bad = run_whole(guest, case).position;
    let same = |guest: &mut Guest, native: &mut Native, position| {
        guest.load(case);
        guest.vcpu.run(position, &Kick::new(), &mut Quiet);
        let Ok(half) = guest.outcome(&guest.vcpu.state()) else { return (false, 0) };
        let offset = (half.regs.rip - case.regs.rip) as usize;
        if offset >= case.code.len() {
            return (false, half.regs.rip);
        }
        // The program as it has changed itself by now.
        let code = guest.code(case.regs.rip, case.code.len());
        let mut rest = Case { code, regs: half.regs.clone(), data: guest.data() };
        rest.regs.rip = case.regs.rip;
        let end = native.run_from(&rest, half.regs.rip);
        (end == whole && native.data() == memory, half.regs.rip)
    };
    let mut at = case.regs.rip;
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        match same(guest, native, middle) {
            (true, rip) => (good, at) = (middle, rip),
            (false, _) => bad = middle,
        }
    }
    let code = guest.code(case.regs.rip, case.code.len());
    let offset = (at - case.regs.rip) as usize;
    let instruction = Decoder::with_ip(64, &code[offset..], at, DecoderOptions::NONE).decode();
    guest.load(case);
    guest.vcpu.run(good, &Kick::new(), &mut Quiet);
    let mut single = Case { code: code[offset..].to_vec(), regs: case.regs.clone(), data: guest.data() };
    if let Ok(half) = guest.outcome(&guest.vcpu.state()) {
        single.regs = half.regs;
    }
    single.code.truncate(instruction.len());
    format!("first wrong step at position {good}:\n{}", drive::describe(&single, &instruction, &whole))
}

#[test]
fn a_program_run_in_pieces_ends_the_same() {
    let window = layout::window(2);
    let mut guest = Guest::new(window, host::engine::software);
    let mut pieces = Guest::new(window, host::engine::software);
    each_program(window, 2, host::cases(400), |rng, case| {
        let want = run_whole(&mut guest, case);
        let got = run_in_pieces(&mut pieces, case, rng, |_, _| {});
        assert!(want == got, "seed {}\n{want:x?}\n{got:x?}\n{}", host::seed(), programs::listing(case));
        assert_eq!(guest.data(), pieces.data());
        // A state taken anywhere and restored goes on the same.
        let middle = 1000 + rng.below(want.position - 1000);
        guest.load(case);
        assert_eq!(guest.vcpu.run(middle, &Kick::new(), &mut Quiet), Stop::Reached);
        let state = guest.vcpu.state();
        assert_eq!(state.position, middle);
        guest.vcpu.restore(&state);
        assert_eq!(guest.vcpu.state(), state);
        guest.vcpu.run(LIMIT, &Kick::new(), &mut Quiet);
        assert!(
            guest.vcpu.state() == want,
            "seed {}, at {middle}\n{}",
            host::seed(),
            programs::listing(case)
        );
    });
}

#[test]
fn caches_and_flushes_are_not_seen() {
    let window = layout::window(3);
    let mut guest = Guest::new(window, host::engine::software);
    let mut small = Guest::new(window, host::engine::software_with_a_small_cache);
    each_program(window, 3, host::cases(400), |rng, case| {
        let want = run_whole(&mut guest, case);
        let got = run_in_pieces(&mut small, case, rng, |vcpu, rng| {
            if rng.one_in(5) {
                vcpu.flush_tlb();
            }
        });
        assert!(want == got, "seed {}\n{want:x?}\n{got:x?}\n{}", host::seed(), programs::listing(case));
        assert_eq!(guest.data(), small.data());
    });
}
