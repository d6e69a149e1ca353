//! 32-bit code in compatibility mode in the software engine against the host CPU.

mod host;

use host::case::Mode;
use host::drive::Pair;
use host::forms::{Family, forms_in};

fn family(window: u64, family: Family, name: &str, per_form: usize) {
    if !host::host_is_an_oracle() {
        return;
    }
    let mut pair = Pair::new_in(Mode::Compat, window, host::engine::software);
    pair.run_forms(family, &forms_in(Mode::Compat, family), host::cases(per_form)).conclude(name);
}

#[test]
fn integer() {
    family(0, Family::Integer, "32-bit integer", 100);
}

#[test]
fn sse_and_sse2() {
    family(1, Family::Sse, "32-bit SSE, SSE2", 40);
}

#[test]
fn sse3_to_sse4() {
    family(2, Family::LaterSse, "32-bit SSE3 to SSE4.2", 40);
}

#[test]
fn mmx() {
    family(3, Family::Mmx, "32-bit MMX", 40);
}

#[test]
fn x87() {
    family(4, Family::X87, "32-bit x87", 60);
}

#[test]
fn state() {
    family(5, Family::State, "32-bit XSAVE, XRSTOR", 300);
}

/// Far branches and returns, in and out of 64-bit code.
#[test]
fn far() {
    family(6, Family::Far, "32-bit far", 300);
}

#[test]
fn segments() {
    family(7, Family::Segment, "32-bit segments", 200);
}

#[test]
fn privileged() {
    family(8, Family::Privileged, "32-bit privileged", 20);
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
