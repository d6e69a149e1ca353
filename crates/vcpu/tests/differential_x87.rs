//! x87 and MMX instructions in the software engine against the host CPU.

mod host;

use host::case::Mode;
use host::drive::compare_family;
use host::forms::Family;

#[test]
fn x87() {
    compare_family(Mode::Long, 0, Family::X87, "x87", 200);
}

#[test]
fn mmx() {
    compare_family(Mode::Long, 1, Family::Mmx, "MMX", 100);
}

#[test]
fn state() {
    compare_family(Mode::Long, 2, Family::State, "XSAVE, XRSTOR", 1000);
}
