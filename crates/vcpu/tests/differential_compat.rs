//! 32-bit code in compatibility mode in the software engine against the host CPU.

mod host;

use host::case::Mode;
use host::drive::{Pair, compare_family};
use host::forms::Family;

#[test]
fn integer() {
    compare_family(Mode::Compat, 0, Family::Integer, "32-bit integer", 100);
}

#[test]
fn sse_and_sse2() {
    compare_family(Mode::Compat, 1, Family::Sse, "32-bit SSE, SSE2", 40);
}

#[test]
fn sse3_to_sse4() {
    compare_family(Mode::Compat, 2, Family::LaterSse, "32-bit SSE3 to SSE4.2", 40);
}

#[test]
fn mmx() {
    compare_family(Mode::Compat, 3, Family::Mmx, "32-bit MMX", 40);
}

#[test]
fn x87() {
    compare_family(Mode::Compat, 4, Family::X87, "32-bit x87", 60);
}

#[test]
fn state() {
    compare_family(Mode::Compat, 5, Family::State, "32-bit XSAVE, XRSTOR", 300);
}

/// Far branches and returns, in and out of 64-bit code.
#[test]
fn far() {
    compare_family(Mode::Compat, 6, Family::Far, "32-bit far", 300);
}

#[test]
fn segments() {
    compare_family(Mode::Compat, 7, Family::Segment, "32-bit segments", 200);
}

#[test]
fn privileged() {
    compare_family(Mode::Compat, 8, Family::Privileged, "32-bit privileged", 20);
}

#[test]
fn random_bytes() {
    if !host::host_is_an_oracle() {
        return;
    }
    let mut pair = Pair::new_in(Mode::Compat, 9, host::engine::software);
    let families = [Family::Integer, Family::Sse, Family::LaterSse, Family::X87];
    pair.run_bytes(&families, host::cases(20_000)).conclude("32-bit bytes");
}
