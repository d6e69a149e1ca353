//! PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM (SDM volume 2, section 4.1).

use iced_x86::{Instruction, Mnemonic, OpKind};

use crate::software::block::Flow;
use crate::software::cpu::Cpu;
use crate::software::fault::Fault;
use crate::software::flags::{CF, OF, SF, ZF};

/// A string operand: its elements, extended as the comparison wants them, and how many count.
struct Text {
    elements: [i32; 16],
    len: usize,
}

impl Text {
    fn new(value: u128, words: bool, signed: bool) -> Self {
        let mut elements = [0; 16];
        for (n, element) in elements.iter_mut().enumerate().take(if words { 8 } else { 16 }) {
            *element = match (words, signed) {
                (false, false) => i32::from((value >> (8 * n)) as u8),
                (false, true) => i32::from((value >> (8 * n)) as i8),
                (true, false) => i32::from((value >> (16 * n)) as u16),
                (true, true) => i32::from((value >> (16 * n)) as i16),
            };
        }
        let count = if words { 8 } else { 16 };
        let len = elements[..count].iter().position(|element| *element == 0).unwrap_or(count);
        Self { elements, len }
    }
}

/// Bit n: what the aggregation makes of element n of `b`.
fn aggregate(kind: u8, count: usize, a: &Text, b: &Text) -> u32 {
    let bit = |j: usize| match kind {
        0 => j < b.len && a.elements[..a.len].contains(&b.elements[j]),
        1 => {
            let value = b.elements[j];
            j < b.len && a.elements[..a.len].chunks_exact(2).any(|pair| pair[0] <= value && value <= pair[1])
        }
        2 => match (j < a.len, j < b.len) {
            (true, true) => a.elements[j] == b.elements[j],
            (left, right) => left == right,
        },
        _ => (0..count - j).all(|n| n >= a.len || (j + n < b.len && a.elements[n] == b.elements[j + n])),
    };
    (0..count).fold(0, |bits, j| bits | u32::from(bit(j)) << j)
}

pub(super) fn compare(c: &mut Cpu, i: &Instruction) -> Result<Flow, Fault> {
    use Mnemonic::{Pcmpestri, Pcmpestri64, Pcmpestrm, Pcmpestrm64, Pcmpistri};
    let control = i.immediate8();
    let (words, signed) = (control & 1 != 0, control & 2 != 0);
    let count = if words { 8 } else { 16 };
    let second = if i.op1_kind() == OpKind::Register {
        c.xmm[i.op1_register().number()]
    } else {
        let at = c.linear(i);
        c.read128(at, false)?
    };
    let mut a = Text::new(c.xmm[i.op0_register().number()], words, signed);
    let mut b = Text::new(second, words, signed);
    let explicit = |value: u64| match i.mnemonic() {
        Pcmpestri64 | Pcmpestrm64 => (value as i64).unsigned_abs().min(count as u64) as usize,
        _ => (value as i32).unsigned_abs().min(count as u32) as usize,
    };
    if matches!(i.mnemonic(), Pcmpestri | Pcmpestri64 | Pcmpestrm | Pcmpestrm64) {
        a.len = explicit(c.gpr[0]);
        b.len = explicit(c.gpr[2]);
    }
    let all = (1_u32 << count) - 1;
    let found = aggregate(control >> 2 & 3, count, &a, &b);
    let result = match control >> 4 & 3 {
        1 => found ^ all,
        3 => found ^ ((1_u32 << b.len) - 1),
        _ => found,
    };
    if matches!(i.mnemonic(), Pcmpestri | Pcmpestri64 | Pcmpistri) {
        let index = match result {
            0 => count as u32,
            _ if control & 0x40 != 0 => 31 - result.leading_zeros(),
            _ => result.trailing_zeros(),
        };
        c.set_at(8, 4, index.into());
    } else if control & 0x40 != 0 {
        let width = 128 / count;
        c.xmm[0] = (0..count)
            .filter(|n| result >> n & 1 == 1)
            .fold(0, |mask, n| mask | (u128::MAX >> (128 - width)) << (n * width));
    } else {
        c.xmm[0] = result.into();
    }
    let flag = |set: bool, bit: u64| if set { bit } else { 0 };
    c.flags.set_bits(
        flag(result != 0, CF) | flag(b.len < count, ZF) | flag(a.len < count, SF) | flag(result & 1 != 0, OF),
    );
    Ok(Flow::Next)
}
