//! The CPU's state between KVM's structures and [`CpuState`], in one form whatever the maker of the host's processor.
//!
//! What is left out: x87's FIP, FDP and FOP, which hosts keep differently, the time-stamp counter, and padding. An unusable
//! segment has a selector only (FS and GS their base too), because hosts differ in what else they leave in it.

use kvm_bindings::{
    KVM_VCPUEVENT_VALID_SHADOW, Msrs, kvm_debugregs, kvm_dtable, kvm_msr_entry, kvm_regs, kvm_segment,
    kvm_sregs, kvm_vcpu_events, kvm_xsave,
};
use kvm_ioctls::{Error, VcpuFd};

use super::msr::SAVED;
use crate::CpuState;
use crate::state::{DescriptorTable, Exception, Segment, X87};

/// SS of [`CpuState::segments`].
const SS: usize = 2;
/// The first of FS and GS.
const FS: usize = 4;
/// The APIC is on, at its usual address, on the boot CPU. KVM only reports it in CPUID: the APIC is ours.
const APIC_BASE: u64 = 0xFEE0_0900;
/// KVM_INTR_SHADOW_STI of `kvm_x86` and MOV SS: either holds interrupts off for one instruction.
const SHADOW: u8 = 3;
const SHADOW_STI: u8 = 2;

fn from_segment(segment: &kvm_segment, number: Option<usize>) -> Segment {
    let attributes = u16::from(segment.type_ & 15)
        | u16::from(segment.s & 1) << 4
        | u16::from(segment.dpl & 3) << 5
        | u16::from(segment.present & 1) << 7
        | u16::from(segment.avl & 1) << 12
        | u16::from(segment.l & 1) << 13
        | u16::from(segment.db & 1) << 14
        | u16::from(segment.g & 1) << 15;
    let selector = segment.selector;
    if segment.unusable != 0 || segment.present == 0 {
        let base = if number.is_some_and(|number| number >= FS) { segment.base } else { 0 };
        // A null SS still has the privilege level.
        let attributes = if number == Some(SS) { attributes & 0x60 } else { 0 };
        return Segment { selector, base, limit: 0, attributes };
    }
    Segment { selector, base: segment.base, limit: segment.limit, attributes }
}

fn to_segment(segment: &Segment) -> kvm_segment {
    let bits = segment.attributes;
    let flag = |bit: u32| (bits >> bit & 1) as u8;
    kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: (bits & 15) as u8,
        s: flag(4),
        dpl: (bits >> 5 & 3) as u8,
        present: flag(7),
        avl: flag(12),
        l: flag(13),
        db: flag(14),
        g: flag(15),
        unusable: 1 - flag(7),
        padding: 0,
    }
}

fn from_table(table: &kvm_dtable) -> DescriptorTable {
    DescriptorTable { base: table.base, limit: table.limit }
}

fn to_table(table: DescriptorTable) -> kvm_dtable {
    kvm_dtable { base: table.base, limit: table.limit, padding: [0; 3] }
}

fn fam<T, E>(result: Result<T, E>) -> Result<T, Error> {
    // Our own lists are short: only a host without memory refuses them.
    result.map_err(|_| Error::new(libc::ENOMEM))
}

/// Reads everything that KVM keeps. Position, halted and the MSRs of [`super::msr::Kept`] are the caller's to add.
pub(super) fn save(vcpu: &VcpuFd) -> Result<CpuState, Error> {
    // First: with it KVM writes into CR2 and DR6 what belongs to an exception that is on its way.
    let events = vcpu.get_vcpu_events()?;
    let regs = vcpu.get_regs()?;
    let sregs = vcpu.get_sregs()?;
    let debug = vcpu.get_debug_regs()?;
    let mut msrs =
        fam(Msrs::from_entries(&SAVED.map(|index| kvm_msr_entry { index, ..Default::default() })))?;
    if vcpu.get_msrs(&mut msrs)? != SAVED.len() {
        return Err(Error::new(libc::EIO));
    }
    let msr = |number: usize| msrs.as_slice()[number].data;
    let segments = [&sregs.es, &sregs.cs, &sregs.ss, &sregs.ds, &sregs.fs, &sregs.gs];
    let mut state = CpuState {
        gpr: [
            regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi, regs.r8, regs.r9,
            regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
        ],
        rip: regs.rip,
        rflags: regs.rflags,
        segments: std::array::from_fn(|number| from_segment(segments[number], Some(number))),
        ldtr: from_segment(&sregs.ldt, None),
        tr: from_segment(&sregs.tr, None),
        gdtr: from_table(&sregs.gdt),
        idtr: from_table(&sregs.idt),
        cr0: sregs.cr0,
        cr2: sregs.cr2,
        cr3: sregs.cr3,
        cr4: sregs.cr4,
        efer: sregs.efer,
        sysenter: [msr(0), msr(1), msr(2)],
        pat: msr(3),
        star: msr(4),
        lstar: msr(5),
        cstar: msr(6),
        sfmask: msr(7),
        kernel_gs_base: msr(8),
        debug: [debug.db[0], debug.db[1], debug.db[2], debug.db[3], debug.dr6, debug.dr7],
        xcr0: 1,
        interrupt_shadow: events.interrupt.shadow & SHADOW != 0,
        exception: from_exception(&events),
        ..CpuState::default()
    };
    save_vectors(&vcpu.get_xsave()?, &mut state);
    Ok(state)
}

fn save_vectors(area: &kvm_xsave, state: &mut CpuState) {
    let word = |at: usize| area.region[at / 4];
    let half = |at: usize| (word(at & !3) >> (8 * (at & 2))) as u16;
    let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
    let mut x87 = X87 { control: half(0), status: half(2), tag: word(4) as u8, ..X87::default() };
    for st in 0..8 {
        let register = &mut x87.registers[x87.physical(st)];
        register[..8].copy_from_slice(&long(32 + 16 * st).to_le_bytes());
        register[8..].copy_from_slice(&half(40 + 16 * st).to_le_bytes());
    }
    state.x87 = x87;
    state.mxcsr = word(24);
    for (number, register) in state.xmm.iter_mut().enumerate() {
        *register = (long(160 + 16 * number), long(168 + 16 * number));
    }
}

/// Whether it is pending or was injected before does not matter to the guest, and KVM does not say.
fn from_exception(events: &kvm_vcpu_events) -> Option<Exception> {
    let exception = &events.exception;
    let code = (exception.has_error_code != 0).then_some(exception.error_code);
    (exception.injected != 0).then_some(Exception { vector: exception.nr, code })
}

/// The opposite of [`save`].
pub(super) fn restore(vcpu: &VcpuFd, state: &CpuState) -> Result<(), Error> {
    let g = &state.gpr;
    let mut sregs = kvm_sregs {
        tr: to_segment(&state.tr),
        ldt: to_segment(&state.ldtr),
        gdt: to_table(state.gdtr),
        idt: to_table(state.idtr),
        cr0: state.cr0,
        cr2: state.cr2,
        cr3: state.cr3,
        cr4: state.cr4,
        efer: state.efer,
        apic_base: APIC_BASE,
        ..Default::default()
    };
    let [es, cs, ss, ds, fs, gs] = state.segments.each_ref().map(to_segment);
    (sregs.es, sregs.cs, sregs.ss) = (es, cs, ss);
    (sregs.ds, sregs.fs, sregs.gs) = (ds, fs, gs);
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(&kvm_regs {
        rax: g[0],
        rcx: g[1],
        rdx: g[2],
        rbx: g[3],
        rsp: g[4],
        rbp: g[5],
        rsi: g[6],
        rdi: g[7],
        r8: g[8],
        r9: g[9],
        r10: g[10],
        r11: g[11],
        r12: g[12],
        r13: g[13],
        r14: g[14],
        r15: g[15],
        rip: state.rip,
        rflags: state.rflags,
    })?;
    let values = [
        state.sysenter[0],
        state.sysenter[1],
        state.sysenter[2],
        state.pat,
        state.star,
        state.lstar,
        state.cstar,
        state.sfmask,
        state.kernel_gs_base,
    ];
    let entry =
        |number: usize| kvm_msr_entry { index: SAVED[number], data: values[number], ..Default::default() };
    let msrs = fam(Msrs::from_entries(&std::array::from_fn::<_, 9, _>(entry)))?;
    if vcpu.set_msrs(&msrs)? != SAVED.len() {
        return Err(Error::new(libc::EIO));
    }
    let [d0, d1, d2, d3, dr6, dr7] = state.debug;
    vcpu.set_debug_regs(&kvm_debugregs { db: [d0, d1, d2, d3], dr6, dr7, ..Default::default() })?;
    let area = vectors(state);
    // SAFETY: the guest has no XSTATE component that is enabled on request (XCR0 is 1), so the legacy size of the area, which is
    // what `kvm_xsave` has without its flexible part, holds everything that the call reads.
    unsafe { vcpu.set_xsave(&area)? };
    let mut events = kvm_vcpu_events { flags: KVM_VCPUEVENT_VALID_SHADOW, ..Default::default() };
    events.interrupt.shadow = if state.interrupt_shadow { SHADOW_STI } else { 0 };
    if let Some(Exception { vector, code }) = state.exception {
        (events.exception.injected, events.exception.nr) = (1, vector);
        (events.exception.has_error_code, events.exception.error_code) =
            (code.is_some().into(), code.unwrap_or(0));
    }
    vcpu.set_vcpu_events(&events)
}

fn vectors(state: &CpuState) -> kvm_xsave {
    let mut area = kvm_xsave::default();
    let mut put = |at: usize, bytes: &[u8]| {
        for (offset, byte) in bytes.iter().enumerate() {
            let at = at + offset;
            area.region[at / 4] |= u32::from(*byte) << (8 * (at % 4));
        }
    };
    put(0, &state.x87.control.to_le_bytes());
    put(2, &state.x87.status.to_le_bytes());
    put(4, &[state.x87.tag]);
    put(24, &state.mxcsr.to_le_bytes());
    for st in 0..8 {
        put(32 + 16 * st, &state.x87.registers[state.x87.physical(st)]);
    }
    for (number, (low, high)) in state.xmm.into_iter().enumerate() {
        put(160 + 16 * number, &low.to_le_bytes());
        put(168 + 16 * number, &high.to_le_bytes());
    }
    // Both the x87 and the SSE part hold something.
    put(512, &[3]);
    area
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_go_there_and_back() {
        let mut state = CpuState::reset_pvh(0, 0);
        state.x87.status = 5 << 11;
        state.x87.tag = 0b1010_0001;
        for (number, register) in state.x87.registers.iter_mut().enumerate() {
            *register = std::array::from_fn(|byte| (17 * number + byte) as u8);
        }
        state.xmm = std::array::from_fn(|number| (number as u64 * 0x0101_0101_0303, !(number as u64)));
        let mut back = CpuState::reset_pvh(0, 0);
        save_vectors(&vectors(&state), &mut back);
        assert_eq!(back, state);
    }

    #[test]
    fn segments_have_one_form() {
        for segment in CpuState::reset_pvh(0, 0).segments {
            assert_eq!(from_segment(&to_segment(&segment), Some(0)), segment);
        }
        // What an Intel host leaves in a null segment, and what an AMD host does.
        let left = kvm_segment {
            selector: 0,
            base: 7,
            limit: 0xFFFFF,
            type_: 3,
            s: 1,
            dpl: 2,
            unusable: 1,
            ..Default::default()
        };
        let ss = from_segment(&left, Some(SS));
        assert_eq!(ss, Segment { attributes: 0x40, ..Segment::default() });
        assert_eq!(from_segment(&left, Some(FS)), Segment { base: 7, ..Segment::default() });
        assert_eq!(from_segment(&left, None), Segment::default());
    }
}
