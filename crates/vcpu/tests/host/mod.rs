//! Differential testing of an engine against the processor that the tests run on.
//!
//! A [`case::Case`] is an instruction (or a program) with registers and memory. [`native::Native`] runs it on the host
//! CPU at a fixed virtual address, [`guest::Guest`] runs it in the engine at CPL 3 behind page tables that map the same
//! addresses, and [`compare`] says in what they differ. [`forms`] makes instructions out of the table of all forms,
//! [`place`] chooses registers so that their memory operands land where the test wants them, and [`drive`] runs a
//! group of forms and reports each class of difference once.
//!
//! 64-bit code and 32-bit code (compatibility mode) are compared in the same way ([`case::Mode`]).
//!
//! Everything is derived from one seed: `FT_SEED` replaces it, `FT_CASES` multiplies the number of cases.

// Each test file is a crate of its own and uses a part of this module.
#![allow(dead_code)]

pub(crate) mod case;
pub(crate) mod compare;
pub(crate) mod draw;
pub(crate) mod drive;
pub(crate) mod engine;
pub(crate) mod forms;
pub(crate) mod guest;
pub(crate) mod kvm;
pub(crate) mod layout;
pub(crate) mod native;
pub(crate) mod place;
pub(crate) mod programs;
pub(crate) mod rng;
pub(crate) mod safe;
pub(crate) mod warm;

/// True if this host can be the oracle; says why if it cannot.
pub(crate) fn host_is_an_oracle() -> bool {
    let missing: Vec<&str> = [
        ("sse3", std::is_x86_feature_detected!("sse3")),
        ("ssse3", std::is_x86_feature_detected!("ssse3")),
        ("sse4.1", std::is_x86_feature_detected!("sse4.1")),
        ("sse4.2", std::is_x86_feature_detected!("sse4.2")),
        ("popcnt", std::is_x86_feature_detected!("popcnt")),
        ("cmpxchg16b", std::is_x86_feature_detected!("cmpxchg16b")),
    ]
    .into_iter()
    .filter_map(|(name, present)| (!present).then_some(name))
    .collect();
    if !missing.is_empty() {
        println!("skipped: the host CPU is no x86-64-v2 (it lacks {})", missing.join(", "));
    }
    missing.is_empty()
}

/// The seed of all cases.
pub(crate) fn seed() -> u64 {
    match std::env::var("FT_SEED") {
        Ok(text) => text.parse().expect("FT_SEED is a decimal number"),
        Err(_) => 20_260_101,
    }
}

/// How many cases to run where `normal` is the default.
pub(crate) fn cases(normal: usize) -> usize {
    match std::env::var("FT_CASES") {
        Ok(text) => (normal as f64 * text.parse::<f64>().expect("FT_CASES is a factor")).ceil() as usize,
        Err(_) => normal,
    }
}
