//! Code that a guest runs before a case, so that the case finds its data in the engine's TLB: otherwise every access would
//! take the way of a first access, and the others would never be compared.
//!
//! It touches the data pages, then loads the registers of the case and jumps to it, in the case's own mode.

use super::case::{Mode, Regs, USER_FLAGS};
use super::layout::{DATA, DATA_LEN, READ_ONLY_LEN};

const PAGE: u64 = 4096;

/// The code, to stand at `address` in a page that is also the stack for a moment, and its number of instructions.
pub(crate) fn code(regs: &Regs, window: u64, address: u64) -> (Vec<u8>, u64) {
    let mut bytes = Vec::new();
    let mut count = 0;
    let mut emit = |part: &[u8]| {
        bytes.extend(part);
        count += 1;
    };
    let (data, writable) = (window + DATA, DATA_LEN / PAGE);
    for page in 0..writable + READ_ONLY_LEN / PAGE {
        // mov eax, page; or byte ptr [rax], 0, or where that must not be written: test byte ptr [rax], 0
        let mut load = vec![0xB8];
        load.extend(((data + page * PAGE) as u32).to_le_bytes());
        emit(&load);
        emit(if page < writable { &[0x80, 0x08, 0] } else { &[0xF6, 0x00, 0] });
    }
    // The flags, through the end of this page: mov esp, top; push flags; popf.
    let mut load = vec![0xBC];
    load.extend(((address & !(PAGE - 1)) as u32 + PAGE as u32).to_le_bytes());
    emit(&load);
    let mut push = vec![0x68];
    push.extend(((regs.rflags & USER_FLAGS) as u32 | 0x202).to_le_bytes());
    emit(&push);
    emit(&[0x9D]);
    for (number, value) in (0_u8..).zip(regs.gpr) {
        let mut load = Vec::new();
        if regs.mode == Mode::Long {
            load.extend([0x48 | number >> 3, 0xB8 | number & 7]);
            load.extend(value.to_le_bytes());
        } else if number < 8 {
            load.push(0xB8 | number);
            load.extend((value as u32).to_le_bytes());
        } else {
            break;
        }
        emit(&load);
    }
    let after = address + bytes.len() as u64 + 5;
    bytes.push(0xE9);
    bytes.extend((regs.rip.wrapping_sub(after) as u32).to_le_bytes());
    (bytes, count + 1)
}
