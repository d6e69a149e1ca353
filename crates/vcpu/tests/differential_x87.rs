//! x87 and MMX instructions in the software engine against the host CPU.

mod host;

use host::drive::Pair;
use host::forms::{Family, forms};

fn family(window: u64, family: Family, name: &str, per_form: usize) {
    if !host::host_is_an_oracle() {
        return;
    }
    let mut pair = Pair::new(window, host::engine::software);
    pair.run_forms(family, &forms(family), host::cases(per_form)).conclude(name);
}

#[test]
fn x87() {
    family(0, Family::X87, "x87", 200);
}

#[test]
fn mmx() {
    family(1, Family::Mmx, "MMX", 100);
}

#[test]
fn state() {
    family(2, Family::State, "XSAVE, XRSTOR", 1000);
}
