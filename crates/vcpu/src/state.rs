//! The architectural state of an x86-64 CPU, the same for every engine: saved, restored, sent and digested.

use serde::{Deserialize, Serialize};

use crate::msr::MTRRS;

/// A segment register with its hidden part (Intel SDM volume 3, section 3.4.3).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// The visible selector.
    pub selector: u16,
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes (granularity already applied).
    pub limit: u32,
    /// Descriptor bits 40-55: type, S, DPL, P, (limit), AVL, L, D/B, G. 0 is a null segment.
    pub attributes: u16,
}

/// GDTR or IDTR.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescriptorTable {
    /// Linear base address.
    pub base: u64,
    /// Last valid byte.
    pub limit: u16,
}

/// x87 state (legacy FXSAVE view, without the instruction and data pointers).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct X87 {
    /// Control word.
    pub control: u16,
    /// Status word, TOP included.
    pub status: u16,
    /// Abridged tag byte: bit n is set if physical register n is not empty.
    pub tag: u8,
    /// Physical registers R0-R7, 80 bits each.
    pub registers: [[u8; 10]; 8],
}

impl X87 {
    /// The number of the physical register that is ST(`st`) (Intel SDM volume 1, section 8.1.2).
    pub fn physical(&self, st: usize) -> usize {
        (usize::from(self.status >> 11 & 7) + st) & 7
    }
}

/// An exception on its way to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exception {
    /// Its vector.
    pub vector: u8,
    /// The error code, if it has one. What CR2 or DR6 say of it is there already.
    pub code: Option<u32>,
}

/// Everything architectural. `Default` is all zeros, which is no valid CPU: see [`CpuState::reset_pvh`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuState {
    /// Instructions started since power-on.
    pub position: u64,
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8-R15 (the encoding's order).
    pub gpr: [u64; 16],
    /// Address of the next instruction.
    pub rip: u64,
    /// RFLAGS, bit 1 set.
    pub rflags: u64,
    /// ES, CS, SS, DS, FS, GS (the encoding's order).
    pub segments: [Segment; 6],
    /// Local descriptor table.
    pub ldtr: Segment,
    /// Task register.
    pub tr: Segment,
    /// Global descriptor table.
    pub gdtr: DescriptorTable,
    /// Interrupt descriptor table.
    pub idtr: DescriptorTable,
    /// Control registers; CR8 lives in the local APIC.
    pub cr0: u64,
    /// Page-fault linear address.
    pub cr2: u64,
    /// Page-table base.
    pub cr3: u64,
    /// Feature enables.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// IA32_STAR.
    pub star: u64,
    /// IA32_LSTAR.
    pub lstar: u64,
    /// IA32_CSTAR.
    pub cstar: u64,
    /// IA32_FMASK.
    pub sfmask: u64,
    /// IA32_KERNEL_GS_BASE.
    pub kernel_gs_base: u64,
    /// IA32_SYSENTER_CS, ESP, EIP.
    pub sysenter: [u64; 3],
    /// IA32_TSC_ADJUST.
    pub tsc_adjust: u64,
    /// IA32_TSC_AUX.
    pub tsc_aux: u64,
    /// IA32_SPEC_CTRL: stored, without effect.
    pub spec_ctrl: u64,
    /// IA32_PAT.
    pub pat: u64,
    /// MTRR default type, fixed and variable ranges in the order of their numbers: stored, without effect.
    pub mtrr: Vec<u64>,
    /// DR0-DR3, DR6, DR7.
    pub debug: [u64; 6],
    /// XMM0-XMM15, as (low, high).
    pub xmm: [(u64, u64); 16],
    /// SSE control and status.
    pub mxcsr: u32,
    /// x87 and MMX.
    pub x87: X87,
    /// XCR0.
    pub xcr0: u64,
    /// Interrupts are held off for one instruction (STI, MOV SS).
    pub interrupt_shadow: bool,
    /// A HLT is in progress.
    pub halted: bool,
    /// The guest takes this before its next instruction. Only the KVM engine leaves one between two positions: a #GP after an
    /// MSR that there is not, a single step over an access.
    pub exception: Option<Exception>,
}

/// The memory types that a firmware sets up: everything is write-back but video memory and the top GiB below 4 GiB, where
/// devices are.
fn firmware_mtrrs() -> Vec<u64> {
    const WRITE_BACK: u64 = 0x0606_0606_0606_0606;
    const DEVICES: u64 = 0xC000_0000;
    const VALID: u64 = 1 << 11;
    // Enabled, fixed ranges too, default write-back; 64 KiB and 16 KiB ranges; 4 KiB ranges; variable ranges.
    let mut mtrr = vec![0xC06, WRITE_BACK, WRITE_BACK, 0];
    mtrr.extend([WRITE_BACK; 8]);
    mtrr.extend([DEVICES, 0xFF_C000_0000 | VALID]);
    mtrr.resize(MTRRS, 0);
    mtrr
}

impl CpuState {
    /// The state in which a PVH entry point is called (Xen's PVH boot ABI): 32-bit protected mode, flat segments, paging
    /// off, interrupts off, EBX = address of `hvm_start_info`.
    pub fn reset_pvh(entry: u64, start_info: u64) -> Self {
        let flat = |selector, attributes| Segment { selector, base: 0, limit: u32::MAX, attributes };
        let data = flat(0x10, 0xC093);
        let mut state = Self {
            rip: entry,
            rflags: 2,
            segments: [data, flat(0x08, 0xC09B), data, data, data, data],
            tr: Segment { selector: 0x18, base: 0, limit: 0x67, attributes: 0x008B },
            cr0: 0x11,
            pat: 0x0007_0406_0007_0406,
            debug: [0, 0, 0, 0, 0xFFFF_0FF0, 0x400],
            mxcsr: 0x1F80,
            x87: X87 { control: 0x37F, ..X87::default() },
            xcr0: 1,
            mtrr: firmware_mtrrs(),
            ..Self::default()
        };
        state.gpr[3] = start_info;
        state
    }

    /// The state in which Linux's 64-bit entry point is called (Linux's `Documentation/arch/x86/boot.rst`): long mode, the
    /// first 4 GiB mapped by `page_tables`, selectors 0x10 and 0x18 of `descriptors` loaded, interrupts off, RSI = address of
    /// `boot_params`.
    pub fn reset_linux(entry: u64, boot_params: u64, page_tables: u64, descriptors: u64) -> Self {
        let mut state = Self::reset_pvh(entry, 0);
        let data = Segment { selector: 0x18, ..state.segments[0] };
        state.segments = [data; 6];
        state.segments[1] = Segment { selector: 0x10, base: 0, limit: u32::MAX, attributes: 0xA09B };
        state.tr = Segment { selector: 0, base: 0, limit: 0x67, attributes: 0x008B };
        state.gdtr = DescriptorTable { base: descriptors, limit: 4 * 8 - 1 };
        state.cr0 |= 1 << 31;
        state.cr3 = page_tables;
        state.cr4 = 1 << 5;
        state.efer = 0x500;
        state.gpr[6] = boot_params;
        state
    }
}
