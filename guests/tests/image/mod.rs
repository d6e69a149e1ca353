//! Reading the executable sections of a guest image.

#![allow(dead_code, reason = "not every user needs all of it")]

use iced_x86::{Decoder, DecoderOptions, Instruction};

const SHF_EXECINSTR: u64 = 4;

/// An executable section: its bits (32 or 64), address and bytes.
pub(crate) struct Code<'a> {
    pub(crate) bits: u32,
    pub(crate) address: u64,
    pub(crate) bytes: &'a [u8],
}

fn field<const N: usize>(elf: &[u8], at: usize) -> [u8; N] {
    elf[at..at + N].try_into().expect("N bytes")
}

/// The executable sections of a 64-bit ELF file.
pub(crate) fn sections(elf: &[u8]) -> Vec<Code<'_>> {
    assert_eq!(elf[..5], *b"\x7fELF\x02", "a 64-bit ELF");
    let u16_at = |at| usize::from(u16::from_le_bytes(field(elf, at)));
    let u64_at = |at| u64::from_le_bytes(field(elf, at));
    let (table, size, count, names) = (u64_at(0x28) as usize, u16_at(0x3a), u16_at(0x3c), u16_at(0x3e));
    let header = |index: usize| table + index * size;
    let names = u64_at(header(names) + 0x18) as usize;
    let mut found = Vec::new();
    for section in (0..count).map(header) {
        if u64_at(section + 8) & SHF_EXECINSTR == 0 {
            continue;
        }
        let name = names + u32::from_le_bytes(field(elf, section)) as usize;
        // The link script keeps the only 32-bit code in a section of its own.
        let bits = if elf[name..].starts_with(b".boot32\0") { 32 } else { 64 };
        let (offset, length) = (u64_at(section + 0x18) as usize, u64_at(section + 0x20) as usize);
        found.push(Code { bits, address: u64_at(section + 0x10), bytes: &elf[offset..offset + length] });
    }
    found
}

/// Every instruction of the executable sections, in order of address.
pub(crate) fn instructions(elf: &[u8]) -> impl Iterator<Item = Instruction> {
    sections(elf).into_iter().flat_map(|code| decode(code.bits, code.address, code.bytes))
}

/// Every instruction of `bytes`, from its first to its last.
pub(crate) fn decode(bits: u32, address: u64, bytes: &[u8]) -> Vec<Instruction> {
    Decoder::with_ip(bits, bytes, address, DecoderOptions::NONE).into_iter().collect()
}
