//! The processor of the virtual machine: one trait, [`Vcpu`], and the engines behind it.
//!
//! A vCPU is the only thing that moves a guest. It counts *positions* (see [`Position`]), stops exactly where it is told to,
//! and sees everything else of the machine through [`Platform`]. Given the same state, the same platform answers and the
//! same positions of inputs, every run is the same: of the [`software`] engine for any guest, of [`kvm`] for a guest that
//! keeps to the rules of that module.

pub mod kvm;
pub mod memory;
mod msr;
pub mod software;
pub mod state;

use std::sync::atomic::{AtomicBool, Ordering};

pub use memory::GuestRam;
pub use state::CpuState;

/// A count, since power-on, of what the engine can stop at exactly: of *started* instructions in the software engine, of
/// *completed exits* in [`kvm`].
///
/// In the software engine an instruction that retires, traps or faults counts 1; delivering an exception or interrupt counts 0; a halted CPU
/// does not advance. A REP instruction runs in chunks that end at the first page boundary of either operand, and each
/// chunk counts 1 and is an interruptible boundary. (One element is a chunk of its own while something looks at each: a
/// single step, data breakpoints, alignment checks, 32-bit addresses in a segment with a base or a limit.) The machine *stands at* `p`
/// when `p` of them have been counted.
pub type Position = u64;

/// Asks a running vCPU to stop at the end of its current slice (at most [`SLICE`] instructions; at the next exit under KVM).
///
/// Where the vCPU then stands depends on the host's timing, which is allowed only because that position is logged with
/// whatever is applied there.
#[derive(Debug, Default)]
pub struct Kick(AtomicBool);

/// The longest run of instructions, in positions, between two looks at the [`Kick`].
pub const SLICE: u64 = 4096;

impl Kick {
    /// A kick that has not been asked for.
    pub const fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Asks the vCPU to stop soon.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// True if the vCPU is asked to stop; the request stays.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Withdraws the request and says whether there was one.
    pub fn take(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}

/// Why [`Vcpu::run`] came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The machine stands at the position asked for. Timers due there have fired; no interrupt has been delivered
    /// there yet.
    Reached,
    /// The [`Kick`] was set; the machine stands somewhere before the position asked for.
    Kicked,
    /// The platform asked to be looked at ([`Platform::wants_stop`]): it has an output, or the guest powered off.
    Platform,
    /// The CPU is halted with interrupts enabled and no interrupt is pending: only an input, or time, moves it on.
    Halted,
    /// The guest cannot go on.
    Dead(Dead),
    /// The guest is on its way from one position to the next, and has been for a while ([`Stand::Between`]). It must be run on;
    /// nothing else may be done with it.
    Busy,
    /// The guest is about to look at a clock or to set a timer ([`Stand::Clock`]): whoever knows what time it is should say so
    /// now, with an anchor at this position.
    Clock,
    /// The engine cannot go on ([`Vcpu::take_failure`] says why). This is no event of the guest's life: on another host it may
    /// not happen.
    Failed,
}

/// What may be done with a machine where it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stand {
    /// It stands at its position: inputs may be applied, its state may be taken.
    Whole,
    /// It stands at its position, in the middle of an instruction that is about to see the time. A clock anchor may be applied,
    /// and nothing else: no other input, and its state is not whole.
    Clock,
    /// It has left its position and not come to the next one: nothing may be done but to run it.
    Between,
}

/// An access that the guest is about to make, without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// A read at this guest-physical address.
    MmioRead(u64),
    /// A write there.
    MmioWrite(u64),
    /// A read of this MSR.
    MsrRead(u32),
    /// A write of it.
    MsrWrite(u32),
}

/// States out of which no input leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dead {
    /// A fault while delivering a double fault.
    TripleFault,
    /// HLT with interrupts disabled.
    HaltedForEver,
}

/// Everything of the machine that is not CPU or RAM, as the CPU sees it.
///
/// All methods are called on the thread that runs the vCPU. `at` is the position *after* the instruction that makes the
/// access (its own start is counted), so it is the position of an output that the access makes. Reads of addresses and
/// ports that nobody claims give all ones, writes to them do nothing. The engine ends the current block after each of
/// these accesses, then looks at [`Platform::wants_stop`], timers and interrupts again.
pub trait Platform {
    /// Port input of `size` 1, 2 or 4 bytes.
    fn pio_read(&mut self, at: Position, port: u16, size: u8) -> u32;
    /// Port output of `size` 1, 2 or 4 bytes.
    fn pio_write(&mut self, at: Position, port: u16, size: u8, value: u32);
    /// Read of `size` 1, 2, 4 or 8 bytes at a guest-physical address that is not RAM.
    fn mmio_read(&mut self, at: Position, address: u64, size: u8) -> u64;
    /// Write of `size` 1, 2, 4 or 8 bytes at a guest-physical address that is not RAM.
    fn mmio_write(&mut self, at: Position, address: u64, size: u8, value: u64);
    /// The time-stamp counter at `at`, without TSC_ADJUST.
    fn tsc(&mut self, at: Position) -> u64;
    /// An MSR that belongs to the platform (APIC base 0x1B, TSC deadline 0x6E0); `None` raises #GP.
    fn msr_read(&mut self, at: Position, msr: u32) -> Option<u64>;
    /// False raises #GP.
    fn msr_write(&mut self, at: Position, msr: u32, value: u64) -> bool;
    /// The task priority, 0-15.
    fn cr8(&self) -> u8;
    /// Sets the task priority, 0-15.
    fn set_cr8(&mut self, value: u8);

    /// The first position at which a timer expires under the current clock anchor; `u64::MAX` if none is armed. The
    /// engine stops there and calls [`Platform::fire_timers`]. May be at or before the current position.
    fn next_timer(&self) -> Position;
    /// Fires all timers that are due at `at`, in the fixed order of the clock.
    fn fire_timers(&mut self, at: Position);
    /// The vector that would be delivered now (above the task priority), if any.
    fn pending_interrupt(&self) -> Option<u8>;
    /// The CPU takes the pending interrupt; gives the vector.
    fn acknowledge_interrupt(&mut self) -> u8;
    /// True if the outcome of an access depends on what time it is. An engine whose positions are too far apart for time to be a
    /// function of them stops before such an access ([`Stop::Clock`]).
    fn sees_time(&self, access: Access) -> bool {
        let _ = access;
        false
    }
    /// True if the runtime has something to collect: [`Vcpu::run`] returns [`Stop::Platform`] at this boundary.
    fn wants_stop(&self) -> bool;
}

/// A processor, of whichever engine.
pub trait Vcpu: Send {
    /// Where the CPU stands.
    fn position(&self) -> Position;

    /// Runs until the CPU stands at `until`, or stops earlier for a reason of [`Stop`].
    ///
    /// At one position the order is: due timers, inputs (applied by the caller between two runs), interrupt delivery,
    /// then the next instruction. So a run *begins* with `fire_timers` if any is due, then interrupt delivery, and *ends*
    /// at `until` with due timers fired and no interrupt delivered. `run(a); run(b)` equals `run(b)` for any `a <= b`.
    /// With `until` equal to the current position only due timers are fired, and it is `Reached`.
    /// `Reached` goes before `Platform`, and `Platform` before `Kicked` and `Halted`, where several hold.
    fn run(&mut self, until: Position, kick: &Kick, platform: &mut dyn Platform) -> Stop;

    /// The architectural state, the same for every engine. To be called between two runs.
    fn state(&self) -> CpuState;

    /// Replaces the architectural state and position, and drops every cached translation.
    fn restore(&mut self, state: &CpuState);

    /// Drops all translations (TLBs). Guest-visible through Accessed bits, so both replicas do it at one logged position.
    fn flush_tlb(&mut self);

    /// What may be done with the machine now. Exact engines always stand.
    fn stand(&self) -> Stand {
        Stand::Whole
    }

    /// From now on, or no longer, what the guest writes is to be found in the pages' [`memory::DIRTY`] flags. An engine that
    /// marks them as it goes has nothing to do.
    ///
    /// # Errors
    /// The host refuses, as text.
    fn log_writes(&mut self, on: bool) -> Result<(), String> {
        let _ = on;
        Ok(())
    }

    /// Brings the [`memory::DIRTY`] flags up to date, while writes are logged. To be called before they are taken.
    ///
    /// # Errors
    /// The host refuses, as text.
    fn gather_writes(&mut self) -> Result<(), String> {
        Ok(())
    }

    /// Why the engine cannot go on, after [`Stop::Failed`].
    fn take_failure(&mut self) -> Option<String> {
        None
    }

    /// Instructions that the engine met and does not implement, for the operator: name, bytes, rip, mode. Drained by the
    /// call. The guest got #UD for each.
    fn take_unimplemented(&mut self) -> Vec<String>;
}
