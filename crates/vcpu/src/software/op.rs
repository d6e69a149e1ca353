//! Decoded operations: what the interpreter runs.

use super::cpu::Cpu;

/// Runs one op and gives the next one to run; null leaves to the driver.
pub(super) type Handler = unsafe extern "C" fn(*mut Cpu, *const Op) -> *const Op;

/// One decoded operation. A block's ops are contiguous; op 0 is the head.
///
/// `base`, `index` and `reg` are *byte offsets* from the start of [`Cpu`], where the general registers lie, so that AH is
/// just offset 1. What a field means beyond an address is the handler's business.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Op {
    /// The code for this op.
    pub run: Handler,
    /// Displacement of an address.
    pub disp: i32,
    /// Offset of the base register.
    pub base: u8,
    /// Offset of the index register.
    pub index: u8,
    /// Bits 0-1: shift of the index. Only slow forms have more: see [`SEGMENT_SHIFT`], [`ADDRESS32`], [`LINEAR32`].
    pub scale: u8,
    /// Offset of a register operand.
    pub reg: u8,
    /// Immediate, or link to an op, or pointer to a side structure of the block.
    pub imm: u64,
}

const _: () = assert!(size_of::<Op>() == 24);

/// Bits 2-4 of `scale`: 0 for no segment base, else the segment's number + 1.
pub(super) const SEGMENT_SHIFT: u8 = 2;
/// Bit of `scale`: the offset is cut to 32 bits.
pub(super) const ADDRESS32: u8 = 1 << 5;
/// Bit of `scale`: the linear address is cut to 32 bits (outside 64-bit mode).
pub(super) const LINEAR32: u8 = 1 << 6;

/// Offset of the register that is always zero.
pub(super) const ZERO: u8 = 16 * 8;
/// Offset of the virtual address of the page that is running.
pub(super) const PAGE_BASE: u8 = 17 * 8;
/// Offset of the same plus 4096, for RIP-relative displacements near the end of their range.
pub(super) const PAGE_END: u8 = 18 * 8;
