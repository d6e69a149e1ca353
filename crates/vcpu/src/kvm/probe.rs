//! Whether /dev/kvm works well enough: a tiny guest in long mode that does a little of everything, within a time limit.
//!
//! There are hosts whose /dev/kvm is there and is not a whole one (a software one inside another virtual machine, say).

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};

use super::{KvmVcpu, Lack};
use crate::state::{DescriptorTable, Segment};
use crate::{CpuState, Dead, Kick, Platform, Position, Stop, Vcpu, memory};

/// The guest takes a fraction of a millisecond where KVM works.
const LIMIT: Duration = Duration::from_secs(3);
/// Longer than that is waited for nothing that the guest could still do.
const PATIENCE: Duration = Duration::from_secs(6);

const RAM: usize = 0x1_0000;
const TABLES: u64 = 0x1000;
const GDT: u64 = 0x4000;
const IDT: u64 = 0x5000;
const HANDLER: u64 = 0x6000;
const CODE: u64 = 0x7000;
const STACK: u64 = 0x9000;
const RESULT: u64 = 0xA000;
const VECTOR: u8 = 0x40;
const PORT: u16 = 0x80;
const DEVICE: u64 = 0xFEB0_0000;
const MSR: u32 = 0x1B;
const READ: u64 = 0x1122_3344_5566_7788;

/// What the guest does, at [`CODE`]: RBX is the device, RSI memory, XMM0 and MXCSR are set.
///
/// No STI opens a window: it holds interrupts off for one instruction more, which a KVM on a processor that QEMU emulates forgets
/// when it is interrupted itself just there. That happens rarely, and no guest of ours depends on it.
#[rustfmt::skip]
const PROGRAM: &[u8] = &[
    0x48, 0x8B, 0x03,                               // mov rax, [rbx]           a read of the device
    0x48, 0x89, 0x06,                               // mov [rsi], rax
    0x0F, 0x10, 0x0E,                               // movups xmm1, [rsi]
    0xF2, 0x0F, 0x58, 0xC0,                         // addsd xmm0, xmm0         scalar floating point
    0xB9, MSR as u8, 0, 0, 0,                       // mov ecx, MSR
    0x0F, 0x32,                                     // rdmsr
    0xE6, PORT as u8,                               // out PORT, al             makes an interrupt pending
    0x9C,                                           // pushfq
    0x81, 0x0C, 0x24, 0x00, 0x02, 0x00, 0x00,       // or dword ptr [rsp], 0x200
    0x9D,                                           // popfq                    its window opens at once
    0xE6, PORT as u8,                               // out PORT, al             one that needs no window
    0xFA,                                           // cli
    0xE6, PORT as u8,                               // out PORT, al
    0x9C,                                           // pushfq
    0x81, 0x0C, 0x24, 0x00, 0x02, 0x00, 0x00,       // or dword ptr [rsp], 0x200
    0x9D,                                           // popfq
    0xFA,                                           // cli
    0x48, 0x89, 0x7B, 0x08,                         // mov [rbx + 8], rdi       a write of the device
    0xF4,                                           // hlt
];

/// The interrupt: counts in RDI.
#[rustfmt::skip]
const INTERRUPT: &[u8] = &[
    0x48, 0xFF, 0xC7,                               // inc rdi
    0x48, 0xCF,                                     // iretq
];

/// What the probe found out on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probed {
    /// Positions that the tiny guest took.
    pub exits: u64,
}

#[derive(Debug, Default)]
struct Little {
    pending: bool,
    read: u32,
    port: Option<(u8, u32)>,
    written: Option<(u64, u64)>,
    msr: u32,
}

impl Platform for Little {
    fn pio_read(&mut self, _: Position, _: u16, _: u8) -> u32 {
        0
    }
    fn pio_write(&mut self, _: Position, port: u16, size: u8, value: u32) {
        if port == PORT {
            self.port = Some((size, value));
            self.pending = true;
        }
    }
    fn mmio_read(&mut self, _: Position, address: u64, size: u8) -> u64 {
        self.read += u32::from((address, size) == (DEVICE, 8));
        READ
    }
    fn mmio_write(&mut self, _: Position, address: u64, _: u8, value: u64) {
        self.written = Some((address, value));
    }
    fn tsc(&mut self, at: Position) -> u64 {
        at
    }
    fn msr_read(&mut self, _: Position, msr: u32) -> Option<u64> {
        self.msr += u32::from(msr == MSR);
        Some(READ)
    }
    fn msr_write(&mut self, _: Position, _: u32, _: u64) -> bool {
        false
    }
    fn cr8(&self) -> u8 {
        0
    }
    fn set_cr8(&mut self, _: u8) {}
    fn next_timer(&self) -> Position {
        Position::MAX
    }
    fn fire_timers(&mut self, _: Position) {}
    fn pending_interrupt(&self) -> Option<u8> {
        self.pending.then_some(VECTOR)
    }
    fn acknowledge_interrupt(&mut self) -> u8 {
        self.pending = false;
        VECTOR
    }
    fn wants_stop(&self) -> bool {
        false
    }
}

/// Runs the tiny guest.
///
/// # Errors
/// [`Lack`]: what the host lacks, or what the guest did wrong.
pub fn probe() -> Result<Probed, Lack> {
    let (sender, receiver) = channel();
    // A thread of its own: where KVM hangs the caller does not.
    let spawned = std::thread::Builder::new().name("kvm probe".into()).spawn(move || {
        // Nobody waits any more if this fails.
        let _ = sender.send(run());
    });
    if let Err(error) = spawned {
        return Err(Lack::Broken(format!("no thread: {error}")));
    }
    let silent = || Lack::Broken(format!("a tiny guest did not end within {} s", PATIENCE.as_secs()));
    receiver.recv_timeout(PATIENCE).map_err(|_| silent())?
}

fn run() -> Result<Probed, Lack> {
    let ram = memory::allocate(RAM).map_err(Lack::Broken)?;
    let broken = |what: String| Err(Lack::Broken(what));
    let put = |address: u64, bytes: &[u8]| {
        ram.write_slice(bytes, GuestAddress(address)).map_err(|error| Lack::Broken(error.to_string()))
    };
    // One table each; the first and the last GiB are what they say, in pages of 2 MiB. Accessed and Dirty are preset.
    let entries = [
        (TABLES, (TABLES + 0x1000) | 0x23),
        (TABLES + 0x1000, (TABLES + 0x2000) | 0x23),
        (TABLES + 0x1000 + 8 * 3, (TABLES + 0x2000) | 0x23),
        (TABLES + 0x2000, 0xE3),
        (TABLES + 0x2000 + 8 * (DEVICE >> 21 & 511), DEVICE & !0x1F_FFFF | 0xE3),
        (GDT + 8, 0x00AF_9B00_0000_FFFF),
        (GDT + 16, 0x00CF_9300_0000_FFFF),
        (IDT + 16 * u64::from(VECTOR), HANDLER | 8 << 16 | 0x8E00 << 32),
        (IDT + 16 * u64::from(VECTOR) + 8, 0),
    ];
    for (address, value) in entries {
        put(address, &value.to_le_bytes())?;
    }
    put(CODE, PROGRAM)?;
    put(HANDLER, INTERRUPT)?;
    let mut vcpu = KvmVcpu::new(ram.clone())?;
    let start = start();
    vcpu.restore(&start);
    let mut platform = Little::default();
    let kick = Kick::new();
    let began = Instant::now();
    let stop = loop {
        let stop = vcpu.run(64, &kick, &mut platform);
        match stop {
            Stop::Kicked | Stop::Busy if began.elapsed() < LIMIT => {}
            stop => break stop,
        }
    };
    if stop != Stop::Dead(Dead::HaltedForEver) {
        let why = vcpu.take_failure().unwrap_or_else(|| format!("{stop:?}"));
        return broken(format!("a tiny guest ended otherwise than in its last HLT: {why}"));
    }
    let state = vcpu.state();
    let stored: u64 = ram.read_obj(GuestAddress(RESULT)).map_err(|error| Lack::Broken(error.to_string()))?;
    let sum = f64::from_bits(start.xmm[0].0) * 2.0;
    let checks = [
        ("a read of a device", platform.read == 1 && stored == READ),
        ("a write of a device", platform.written == Some((DEVICE + 8, 3))),
        ("a port", platform.port == Some((1, READ as u32 & 0xFF))),
        ("an MSR in user space", platform.msr == 1 && state.gpr[0] == READ & 0xFFFF_FFFF),
        ("interrupts", state.gpr[7] == 3),
        ("SSE moves", state.xmm[1].0 == READ),
        ("SSE arithmetic", f64::from_bits(state.xmm[0].0).to_bits() == sum.to_bits()),
        ("the end", state.rip == CODE + PROGRAM.len() as u64 && state.halted),
    ];
    match checks.iter().find(|(_, right)| !right) {
        Some((what, _)) => broken(format!("a tiny guest found wrong: {what}")),
        None => Ok(Probed { exits: vcpu.position() }),
    }
}

/// Long mode, flat, interrupts off.
fn start() -> CpuState {
    let mut state = CpuState::reset_pvh(CODE, 0);
    let data = Segment { selector: 16, base: 0, limit: u32::MAX, attributes: 0xC093 };
    let code = Segment { selector: 8, base: 0, limit: u32::MAX, attributes: 0xA09B };
    state.segments = [data, code, data, data, data, data];
    state.gdtr = DescriptorTable { base: GDT, limit: 23 };
    state.idtr = DescriptorTable { base: IDT, limit: 0xFFF };
    state.cr0 = 0x8001_0033;
    state.cr3 = TABLES;
    state.cr4 = 0x620;
    state.efer = 0x500;
    state.gpr[4] = STACK;
    state.gpr[3] = DEVICE;
    state.gpr[6] = RESULT;
    state.xmm[0].0 = 1.25_f64.to_bits();
    state
}
