//! What a pair's key costs: frames encoded and decoded again, with and without. `cargo run --release -p ft-core --example tag`

use std::hint::black_box;
use std::time::Instant;

use ft_core::input::{DiskDone, DiskStatus, Input};
use ft_core::wire::{Ack, Frame, LogFrame, Stamp};
use ft_core::{Body, LogRecord};
use ft_policies::Key;

/// Rounds of one measurement, and measurements, of which the fastest counts: the others met something else on the host.
const ROUNDS: u32 = 500;
const TIMES: usize = 15;

fn main() {
    let stamp = Stamp { pair: 7, generation: 1, session: 2, incarnation: 3 };
    let data = vec![0x5A; 64 * 1024];
    let done = DiskDone { disk: 0, request: 1, status: DiskStatus::Ok, data };
    let record = LogRecord { lsn: 1, position: 1, body: Body::Input(Input::DiskDone(done)) };
    let log = Frame::Log(LogFrame { stamp, released: 1, sent: 1, records: vec![record] });
    let ack = Frame::Ack(Ack {
        stamp,
        received: 1 << 20,
        executed: 1 << 20,
        position: 1 << 40,
        echo: 1 << 40,
        heard: 1 << 40,
        released: 1 << 20,
        reads: 0,
        stop: false,
    });
    let key = Key::of([9; 32]);
    for (name, frame) in [("log frame of 64 KiB", &log), ("acknowledgement", &ack)] {
        for (how, key) in [("without a key", None), ("with a key", Some(&key))] {
            let bytes = frame.encode_with(key);
            let encode = fastest(|| drop(black_box(frame.encode_with(key))));
            let decode = fastest(|| drop(black_box(Frame::decode_with(black_box(&bytes), key))));
            println!("{name}, {how}: encode {encode:.2} us, decode {decode:.2} us");
        }
    }
}

/// Microseconds of one call.
#[expect(clippy::disallowed_methods, reason = "it measures time")]
fn fastest(mut work: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..TIMES {
        let start = Instant::now();
        (0..ROUNDS).for_each(|_| work());
        best = best.min(start.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS));
    }
    best
}
