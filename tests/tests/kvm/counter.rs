//! A guest that reads the time-stamp counter with the instruction: stock KVM lets it, and the digests find it.

use std::fs;

use ft_e2e::{Bed, Guest};

use super::{LIMIT, both, with_kvm, works};

/// Where the image is loaded and entered.
const LOAD: u32 = 0x10_0000;

/// Reads the counter, keeps it in registers, and writes to a port that nobody has, for ever.
#[rustfmt::skip]
const CODE: &[u8] = &[
    0x0F, 0x31,             // rdtsc
    0x89, 0xC3,             // mov ebx, eax
    0x31, 0xC0,             // xor eax, eax
    0xE6, 0x80,             // out 0x80, al
    0xEB, 0xF6,             // jmp to the first
];

/// An ELF image with a PVH note: one segment, and this code.
fn image(code: &[u8]) -> Vec<u8> {
    const HEADERS: usize = 64 + 2 * 56;
    const NOTE: usize = 20;
    let mut note = Vec::new();
    for word in [4_u32, 4, 18] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend(LOAD.to_le_bytes());
    assert_eq!(note.len(), NOTE);

    let mut image = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // EXEC, x86-64, version; entry, program headers, no section headers; flags, sizes and counts.
    image.extend(2_u16.to_le_bytes());
    image.extend(62_u16.to_le_bytes());
    image.extend(1_u32.to_le_bytes());
    for long in [u64::from(LOAD), 64, 0] {
        image.extend(long.to_le_bytes());
    }
    image.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 2, 64, 0, 0] {
        image.extend(half.to_le_bytes());
    }
    let mut header = |kind: u32, offset: usize, address: u64, size: usize, align: u64| {
        image.extend(kind.to_le_bytes());
        image.extend(5_u32.to_le_bytes());
        for long in [offset as u64, address, address, size as u64, size as u64, align] {
            image.extend(long.to_le_bytes());
        }
    };
    header(1, HEADERS + NOTE, u64::from(LOAD), code.len(), 1);
    header(4, HEADERS, 0, NOTE, 4);
    assert_eq!(image.len(), HEADERS);
    image.extend(note);
    image.extend(code);
    image
}

#[test]
fn a_guest_that_reads_a_counter_is_found() {
    if !works("a_guest_that_reads_a_counter_is_found") {
        return;
    }
    let bed = Bed::new(&with_kvm(Guest::Cpu { rounds: 1, exit: 0 }));
    fs::write(bed.path().join("counter.elf"), image(CODE)).expect("the folder is writable");
    bed.edit("builtin:cpu", "counter.elf");
    let pair = bed.start();
    let report = pair.stderr.wait_for(0, LIMIT, |line| line.contains("ended with code 5"));
    let report = report.unwrap_or_else(|| panic!("it is not found:\n{}", pair.said()));
    eprintln!("{}", report.text);
    for part in ["diverged", "register", "RDTSC", "RDRAND", "engine = \"software\" runs such a guest"] {
        assert!(report.text.contains(part), "no {part:?} in {}", report.text);
    }
    assert_eq!(pair.wait_takeover(0, LIMIT).silent_ms, None, "{}", pair.said());
    pair.stop();
    bed.assert_clean();
}

/// The same guest without the counter: nothing to be found.
#[test]
fn without_the_counter_it_is_not() {
    if !works("without_the_counter_it_is_not") {
        return;
    }
    let mut quiet = CODE.to_vec();
    // Two NOPs in place of the instruction.
    quiet[..2].fill(0x90);
    let bed = Bed::new(&with_kvm(Guest::Cpu { rounds: 1, exit: 0 }));
    fs::write(bed.path().join("counter.elf"), image(&quiet)).expect("the folder is writable");
    bed.edit("builtin:cpu", "counter.elf");
    let pair = bed.start();
    bed.wait_status("digests that are equal", LIMIT, |status| {
        both(status).is_some_and(|(_, backup)| backup.number("digests") > 3.0)
    });
    pair.assert_undisturbed();
    pair.stop();
    bed.assert_clean();
}
