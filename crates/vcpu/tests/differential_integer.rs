//! Integer instructions in the software engine against the host CPU.

mod host;

use host::case::Mode;
use host::drive::{Pair, compare_family};
use host::forms::{Family, forms};

/// Every form of the family, `share` of `of` shares, so that tests share the work between threads.
fn share(share: usize, of: usize) {
    if !host::host_is_an_oracle() {
        return;
    }
    let codes: Vec<_> = forms(Family::Integer).into_iter().skip(share).step_by(of).collect();
    let mut pair = Pair::new(share as u64, host::engine::software);
    pair.run_forms(Family::Integer, &codes, host::cases(100)).conclude(&format!("integer {share}"));
}

#[test]
fn integer_forms_first_half() {
    share(0, 2);
}

#[test]
fn integer_forms_second_half() {
    share(1, 2);
}

/// Instructions found by their bytes: prefixes in odd places, encodings that an assembler does not choose.
#[test]
fn integer_instructions_out_of_random_bytes() {
    if !host::host_is_an_oracle() {
        return;
    }
    let mut pair = Pair::new(2, host::engine::software);
    pair.run_bytes(&[Family::Integer], host::cases(20_000)).conclude("integer bytes");
}

/// What CPL 3 must not do raises #GP and changes nothing.
#[test]
fn privileged_instructions_are_refused() {
    compare_family(Mode::Long, 3, Family::Privileged, "privileged", 20);
}

#[test]
fn far_returns_and_iret() {
    compare_family(Mode::Long, 4, Family::Far, "far", 300);
}

/// Loads of segment registers; LAR, LSL, VERR, VERW.
#[test]
fn segments() {
    compare_family(Mode::Long, 5, Family::Segment, "segments", 300);
}
