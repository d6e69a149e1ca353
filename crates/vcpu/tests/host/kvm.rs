//! KVM as if it were an engine: it runs a case to its INT3 or exception. With it the harness can be tested where
//! `/dev/kvm` exists: what the guest side is given there must be what the host CPU itself does.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};

use ft_vcpu::state::{Segment, X87};
use ft_vcpu::{CpuState, Dead, GuestRam, Kick, Platform, Position, Stop, Vcpu};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

const CREATE_VM: u64 = 0xAE01;
const GET_VCPU_MMAP_SIZE: u64 = 0xAE04;
const GET_SUPPORTED_CPUID: u64 = 0xC008_AE05;
const CREATE_VCPU: u64 = 0xAE41;
const SET_USER_MEMORY_REGION: u64 = 0x4020_AE46;
const SET_TSS_ADDR: u64 = 0xAE47;
const RUN: u64 = 0xAE80;
const GET_REGS: u64 = 0x8090_AE81;
const SET_REGS: u64 = 0x4090_AE82;
const GET_SREGS: u64 = 0x8138_AE83;
const SET_SREGS: u64 = 0x4138_AE84;
const SET_CPUID2: u64 = 0x4008_AE90;
// Not GET_FPU and SET_FPU, which leave MXCSR out.
const GET_XSAVE: u64 = 0x9000_AEA4;
const SET_XSAVE: u64 = 0x5000_AEA5;
const EXIT_HLT: u32 = 5;

/// `struct kvm_regs`: our number of each of its first 16 words.
const ORDER: [usize; 16] = [0, 3, 1, 2, 6, 7, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15];

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct KvmSegment {
    base: u64,
    limit: u32,
    selector: u16,
    kind: u8,
    present: u8,
    dpl: u8,
    db: u8,
    s: u8,
    l: u8,
    g: u8,
    avl: u8,
    unusable: u8,
    padding: u8,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Sregs {
    /// CS, DS, ES, FS, GS, SS, TR, LDT.
    segments: [KvmSegment; 8],
    /// GDT, IDT: base, limit.
    tables: [[u64; 2]; 2],
    cr0: u64,
    cr2: u64,
    cr3: u64,
    cr4: u64,
    cr8: u64,
    efer: u64,
    apic_base: u64,
    interrupts: [u64; 4],
}

/// Places of our ES, CS, SS, DS, FS, GS in [`Sregs::segments`].
const SEGMENTS: [usize; 6] = [2, 0, 5, 1, 3, 4];

/// A virtual machine of one CPU, without an interrupt controller.
pub(crate) struct KvmVcpu {
    vcpu: File,
    run: *mut u8,
    state: CpuState,
    _vm: File,
    _ram: GuestRam,
}

// SAFETY: `run` is a mapping of `vcpu`, used only through `&mut self`.
unsafe impl Send for KvmVcpu {}

/// # Panics
/// On any error: the caller asked for KVM because it is there.
fn ioctl<T>(file: &File, request: u64, argument: *mut T) -> i32 {
    // SAFETY: each caller passes the structure that the request is defined with.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request, argument) };
    assert!(result >= 0, "KVM {request:#x}: {}", std::io::Error::last_os_error());
    result
}

fn number(value: u64) -> *mut u8 {
    std::ptr::without_provenance_mut(value as usize)
}

impl KvmVcpu {
    /// `None` where there is no KVM.
    pub(crate) fn new(ram: GuestRam) -> Option<Self> {
        let kvm = File::options().read(true).write(true).open("/dev/kvm").ok()?;
        // SAFETY: the calls give new descriptors.
        let vm = unsafe { File::from_raw_fd(ioctl(&kvm, CREATE_VM, number(0))) };
        ioctl(&vm, SET_TSS_ADDR, number(0xFFFB_D000));
        let host = ram.get_host_address(GuestAddress(0)).unwrap() as u64;
        let size = ram.iter().map(GuestMemoryRegion::len).sum::<u64>();
        ioctl(&vm, SET_USER_MEMORY_REGION, [0_u64, 0, size, host].as_mut_ptr());
        // SAFETY: as above.
        let vcpu = unsafe { File::from_raw_fd(ioctl(&vm, CREATE_VCPU, number(0))) };
        let mut cpuid = vec![0_u32; 2 + 10 * 256];
        cpuid[0] = 256;
        ioctl(&kvm, GET_SUPPORTED_CPUID, cpuid.as_mut_ptr());
        ioctl(&vcpu, SET_CPUID2, cpuid.as_mut_ptr());
        let len = ioctl(&kvm, GET_VCPU_MMAP_SIZE, number(0)) as usize;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: maps the structure that KVM shares with its user.
        let run = unsafe {
            libc::mmap(std::ptr::null_mut(), len, protection, libc::MAP_SHARED, vcpu.as_raw_fd(), 0)
        };
        assert!(run != libc::MAP_FAILED);
        Some(Self { vcpu, run: run.cast(), state: CpuState::default(), _vm: vm, _ram: ram })
    }

    fn store(&mut self) {
        let state = &self.state;
        let mut regs = [0; 18];
        for (slot, ours) in ORDER.into_iter().enumerate() {
            regs[slot] = state.gpr[ours];
        }
        (regs[16], regs[17]) = (state.rip, state.rflags);
        ioctl(&self.vcpu, SET_REGS, regs.as_mut_ptr());
        let mut sregs = Sregs::default();
        ioctl(&self.vcpu, GET_SREGS, &raw mut sregs);
        for (ours, theirs) in SEGMENTS.into_iter().enumerate() {
            sregs.segments[theirs] = to_kvm(&state.segments[ours]);
        }
        sregs.segments[6] = to_kvm(&state.tr);
        sregs.segments[7] = to_kvm(&state.ldtr);
        sregs.tables = [state.gdtr, state.idtr].map(|table| [table.base, u64::from(table.limit)]);
        (sregs.cr0, sregs.cr2, sregs.cr3) = (state.cr0, state.cr2, state.cr3);
        (sregs.cr4, sregs.efer) = (state.cr4, state.efer);
        sregs.interrupts = [0; 4];
        ioctl(&self.vcpu, SET_SREGS, &raw mut sregs);

        let mut area = [0_u8; 4096];
        let top = usize::from(state.x87.status >> 11 & 7);
        for st in 0..8 {
            area[32 + 16 * st..][..10].copy_from_slice(&state.x87.registers[(top + st) % 8]);
        }
        area[0..2].copy_from_slice(&state.x87.control.to_le_bytes());
        area[2..4].copy_from_slice(&state.x87.status.to_le_bytes());
        area[4] = state.x87.tag;
        for (number, (low, high)) in state.xmm.into_iter().enumerate() {
            area[160 + 16 * number..][..8].copy_from_slice(&low.to_le_bytes());
            area[168 + 16 * number..][..8].copy_from_slice(&high.to_le_bytes());
        }
        area[24..28].copy_from_slice(&state.mxcsr.to_le_bytes());
        // Both the x87 and SSE parts hold something.
        area[512] = 3;
        ioctl(&self.vcpu, SET_XSAVE, area.as_mut_ptr());
    }

    fn load(&mut self) {
        let state = &mut self.state;
        let mut regs = [0_u64; 18];
        ioctl(&self.vcpu, GET_REGS, regs.as_mut_ptr());
        for (slot, ours) in ORDER.into_iter().enumerate() {
            state.gpr[ours] = regs[slot];
        }
        (state.rip, state.rflags) = (regs[16], regs[17]);
        let mut sregs = Sregs::default();
        ioctl(&self.vcpu, GET_SREGS, &raw mut sregs);
        for (ours, theirs) in SEGMENTS.into_iter().enumerate() {
            state.segments[ours].selector = sregs.segments[theirs].selector;
            state.segments[ours].base = sregs.segments[theirs].base;
        }
        state.cr2 = sregs.cr2;

        let mut area = [0_u8; 4096];
        ioctl(&self.vcpu, GET_XSAVE, area.as_mut_ptr());
        let word = |at: usize| u16::from_le_bytes([area[at], area[at + 1]]);
        let long = |at: usize| u64::from_le_bytes(area[at..at + 8].try_into().unwrap());
        state.x87 = X87 { control: word(0), status: word(2), tag: area[4], ..X87::default() };
        let top = usize::from(state.x87.status >> 11 & 7);
        for st in 0..8 {
            state.x87.registers[(top + st) % 8].copy_from_slice(&area[32 + 16 * st..][..10]);
        }
        for (number, register) in state.xmm.iter_mut().enumerate() {
            *register = (long(160 + 16 * number), long(168 + 16 * number));
        }
        state.mxcsr = long(24) as u32;
    }
}

fn to_kvm(segment: &Segment) -> KvmSegment {
    let bits = segment.attributes;
    KvmSegment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        kind: (bits & 15) as u8,
        s: (bits >> 4 & 1) as u8,
        dpl: (bits >> 5 & 3) as u8,
        present: (bits >> 7 & 1) as u8,
        avl: (bits >> 12 & 1) as u8,
        l: (bits >> 13 & 1) as u8,
        db: (bits >> 14 & 1) as u8,
        g: (bits >> 15 & 1) as u8,
        unusable: u8::from(bits == 0),
        padding: 0,
    }
}

impl Vcpu for KvmVcpu {
    fn position(&self) -> Position {
        self.state.position
    }

    /// Cannot count: runs to the next HLT, and where one position was asked for says that it took one.
    fn run(&mut self, until: Position, _: &Kick, _: &mut dyn Platform) -> Stop {
        let one = until == self.state.position + 1;
        self.store();
        ioctl(&self.vcpu, RUN, number(0));
        // SAFETY: the exit reason is a word of the shared structure.
        let reason = unsafe { self.run.add(8).cast::<u32>().read() };
        assert_eq!(reason, EXIT_HLT, "KVM exit at {:#x}", self.state.rip);
        self.load();
        self.state.position = until;
        if one { Stop::Reached } else { Stop::Dead(Dead::HaltedForEver) }
    }

    fn state(&self) -> CpuState {
        self.state.clone()
    }

    fn restore(&mut self, state: &CpuState) {
        self.state = state.clone();
    }

    fn flush_tlb(&mut self) {}

    fn take_unimplemented(&mut self) -> Vec<String> {
        Vec::new()
    }
}
