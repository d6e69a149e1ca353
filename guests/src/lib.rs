//! The in-tree guest programs, as images that the runtime loads (`kernel = "builtin:NAME"`).
//!
//! - `kv`: a key-value server that speaks the Redis protocol on port 6379 and acknowledges a write when it is durable
//!   on its disk; see `programs/kv`.
//! - `blk`: exercises disks and knows the answer to every request ([`blk`] has what it does and what the disk must hold
//!   then); see `programs/blk`.
//! - `cpu`: computes a checksum whose value is known ([`cpu_checksum`]), prints it and powers off; see `programs/cpu`.
//!
//! The programs are freestanding Rust; the build script compiles them. Each is a static ELF with a PVH entry note.

extern crate alloc;

#[path = "../programs/cpu/src/kernels.rs"]
#[expect(unreachable_pub, reason = "the guest program is a crate root of its own")]
mod kernels;

/// What the guest `blk` does to a disk, and what the disk must hold then.
pub use blk_core as blk;

/// The image of `blk`.
pub const BLK: &[u8] = include_bytes!(env!("FT_GUEST_BLK"));
/// The image of `kv`.
pub const KV: &[u8] = include_bytes!(env!("FT_GUEST_KV"));
/// The image of `cpu`.
pub const CPU: &[u8] = include_bytes!(env!("FT_GUEST_CPU"));

/// The names that [`builtin`] knows.
pub const NAMES: &[&str] = &["blk", "cpu", "kv"];

/// The image of the program `name`.
pub fn builtin(name: &str) -> Option<&'static [u8]> {
    match name {
        "blk" => Some(BLK),
        "cpu" => Some(CPU),
        "kv" => Some(KV),
        _ => None,
    }
}

/// The checksum that `cpu` prints for `rounds=N`, computed natively from the same source.
pub fn cpu_checksum(rounds: u64) -> u64 {
    kernels::checksum(rounds)
}
