//! SSE instructions in the software engine against the host CPU.

mod host;

use host::case::Mode;
use host::drive::{Pair, compare_family};
use host::forms::Family;

#[test]
fn sse_and_sse2() {
    compare_family(Mode::Long, 0, Family::Sse, "SSE, SSE2", 150);
}

#[test]
fn sse3_to_sse4() {
    compare_family(Mode::Long, 1, Family::LaterSse, "SSE3 to SSE4.2", 150);
}

#[test]
fn sse_out_of_random_bytes() {
    if !host::host_is_an_oracle() {
        return;
    }
    let mut pair = Pair::new(2, host::engine::software);
    pair.run_bytes(&[Family::Sse, Family::LaterSse], host::cases(10_000)).conclude("SSE bytes");
}
