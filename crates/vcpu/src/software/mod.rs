//! The software engine: an interpreter of decoded blocks, exact to the instruction.
//!
//! Code is decoded once into compact ops ([`op`]), in blocks that belong to a physical page and a mode ([`block`]), and
//! run by handlers that jump from one to the next ([`exec`]). What the guest can see never depends on how blocks are cut or
//! cached: the budget makes every stop exact, and the TLBs ([`tlb`]) change by architectural events only.

mod block;
mod cpu;
pub(crate) mod cpuid;
mod debug;
mod decode;
mod exec;
mod fault;
mod flags;
mod msr;
mod op;
mod paging;
mod segment;
mod single;
mod tlb;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use self::block::{Block, Cache, JumpEntry, jump_index};
use self::cpu::{Cpu, Exit};
use self::debug::DR6_STEP;
use self::fault::{Fault, TripleFault};
use self::flags::{IF, RF, TF};
use self::op::Op;
use self::single::Singles;
use self::tlb::{ENTRIES, Entry, FETCH_ENTRIES, FetchEntry, UNFILLED};
use crate::memory::{PAGE, PageFlags};
use crate::{CpuState, Dead, GuestRam, Kick, Platform, Position, SLICE, Stop, Vcpu};

/// How the engine works inside. Nothing here is visible to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Most blocks that are cached; when there are more, all are dropped.
    pub blocks: usize,
    /// If set, all blocks are dropped now and then, at moments drawn from this seed: for tests.
    pub flush_seed: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self { blocks: 128 * 1024, flush_seed: None }
    }
}

/// Why an engine could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// RAM is not one region of whole pages from address 0.
    #[error("guest RAM must be one region of whole pages from address 0")]
    Layout,
    /// The region's memory cannot be reached.
    #[error("guest RAM has no host address: {0}")]
    Host(#[source] vm_memory::guest_memory::Error),
}

/// The software processor.
#[derive(Debug)]
pub struct SoftwareVcpu {
    cpu: Box<Cpu>,
    singles: Singles,
}

// SAFETY: all pointers inside lead into memory that the engine owns or, like guest RAM, keeps alive; the platform's is set
// only while run() borrows it.
unsafe impl Send for SoftwareVcpu {}

impl SoftwareVcpu {
    /// A processor on this RAM, in the state of [`CpuState::reset_pvh`] at entry 0. [`Vcpu::restore`] gives it a real one.
    ///
    /// # Errors
    /// [`Error`]: RAM of another shape than one region from address 0.
    pub fn new(ram: GuestRam, options: Options) -> Result<Self, Error> {
        let mut regions = ram.iter();
        let (Some(region), None) = (regions.next(), regions.next()) else { return Err(Error::Layout) };
        let size = region.len();
        let table: PageFlags = region.bitmap();
        let flags = table.bytes();
        if region.start_addr() != GuestAddress(0)
            || size == 0
            || size % PAGE as u64 != 0
            || flags.len() as u64 * (PAGE as u64) < size
        {
            return Err(Error::Layout);
        }
        let page_flags = flags.as_ptr();
        let ram_base = ram.get_host_address(GuestAddress(0)).map_err(Error::Host)?;
        let mut tlbs = vec![Entry::EMPTY; 3 * ENTRIES].into_boxed_slice();
        let mut jumps = block::jump_cache();
        let (tlb, jump) = (tlbs.as_mut_ptr(), jumps.as_mut_ptr());
        let cpu = Box::new(Cpu {
            gpr: [0; 20],
            flags: flags::Lazy::default(),
            budget: 0,
            tlb,
            head: std::ptr::null(),
            jump,
            exit_request: false,
            op: std::ptr::null(),
            xmm: [0; 16],
            stamps: [UNFILLED; FETCH_ENTRIES],
            rip: 0,
            next_rip: 0,
            limit: 0,
            exit: Exit::Boundary,
            fault: Fault::ud(),
            address_vector: 13,
            system_flags: 0,
            s: CpuState::default(),
            mode: 0,
            view: 0,
            stamp: 16,
            tlbs,
            any_large: false,
            fetch: vec![FetchEntry::EMPTY; FETCH_ENTRIES].into_boxed_slice(),
            jumps,
            ram_base,
            ram_size: size,
            page_flags,
            ram: ram.clone(),
            flag_table: table,
            platform: None,
            cache: Cache::new((size / PAGE as u64) as usize, options.blocks, options.flush_seed),
            unimplemented: Vec::new(),
            noted: BTreeSet::new(),
            watch: 0,
            stepping: false,
            hits: 0,
            repeating: false,
            no_step: false,
            float_ready: false,
            blind: vec![Entry::EMPTY; ENTRIES].into_boxed_slice(),
            dirty_generation: 0,
        });
        let mut this = Self { cpu, singles: Singles::new() };
        this.restore(&CpuState::reset_pvh(0, 0));
        Ok(this)
    }

    /// Runs a chain of handlers from `op` until it leaves.
    fn enter(&mut self, op: *const Op) {
        let cpu: *mut Cpu = &raw mut *self.cpu;
        // SAFETY: the op belongs to a live block; the Cpu is pinned in its box, and nothing else touches it meanwhile.
        unsafe {
            (*cpu).float_ready = false;
            (*cpu).gpr[17] = (*cpu).rip & !0xFFF;
            (*cpu).gpr[18] = (*cpu).gpr[17].wrapping_add(4096);
            let mut op = op;
            while !op.is_null() {
                op = ((*op).run)(cpu, op);
            }
            // Between instructions there is none, and its block may go.
            (*cpu).op = std::ptr::null();
        }
    }

    /// Finds or decodes the block at `rip`; `Ok(None)` if its first instruction straddles two pages.
    fn block(&mut self) -> Result<Option<*const Op>, Fault> {
        let c = &mut *self.cpu;
        if c.cache.must_flush() {
            c.flush_blocks();
            self.singles.clear();
        }
        let rip = c.rip;
        let physical = c.fetch_page(rip)?;
        let key = c.stamps[Cpu::fetch_index(rip)] | u64::from(c.mode);
        let entry = c.jumps[jump_index(rip)];
        // SAFETY: the entry's block is not freed while the stamp is the same, and a head's immediate is its block.
        if entry.rip == rip && entry.key == key && !unsafe { (*((*entry.head).imm as *const Block)).dead } {
            return Ok(Some(entry.head));
        }
        if physical >= c.ram_size {
            c.note("code outside RAM");
            return Err(Fault::gp());
        }
        let (page, offset) = (physical >> 12, (rip & 0xFFF) as u16);
        let block = match c.cache.find(page, offset, c.mode) {
            Some(block) => block,
            None => {
                let mut bytes = [0; PAGE];
                // SAFETY: the page is in RAM.
                unsafe {
                    let from = c.ram_base.add((page << 12) as usize);
                    std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), PAGE);
                }
                if self.singles.straddles(rip, c.mode, &bytes[usize::from(offset)..]) {
                    return Ok(None);
                }
                match decode::block(c, page, offset, &bytes) {
                    Some(block) => c.insert_block(block),
                    None => return Ok(None),
                }
            }
        };
        // SAFETY: cached blocks are live.
        let head = unsafe { (*block).ops.as_ptr() };
        c.jumps[jump_index(rip)] = JumpEntry { rip, key, head };
        Ok(Some(head))
    }

    /// Runs one instruction alone. The budget is at least 1.
    fn step(&mut self) -> Result<(), Fault> {
        let c = &mut *self.cpu;
        let rip = c.rip;
        let physical = c.fetch_page(rip)?;
        if physical >= c.ram_size {
            c.note("code outside RAM");
            return Err(Fault::gp());
        }
        let offset = (rip & 0xFFF) as u16;
        let mut bytes = [0; 2 * decode::LONGEST];
        let first = (PAGE - usize::from(offset)).min(decode::LONGEST);
        let copy = |c: &Cpu, physical: u64, bytes: &mut [u8]| {
            // SAFETY: the bytes lie in one page of RAM.
            unsafe {
                let from = c.ram_base.add(physical as usize);
                std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len());
            }
        };
        copy(c, physical + u64::from(offset), &mut bytes[..first]);
        let head = match self.singles.find(rip, c.mode, &bytes[..first]) {
            Some(block) => block.ops.as_ptr(),
            None => {
                let straddles = self.singles.straddles(rip, c.mode, &bytes[..first]);
                let mut block =
                    if straddles { None } else { decode::single(c, physical >> 12, offset, &bytes[..first]) };
                let mut len = first;
                if block.is_none() {
                    let next = c.wrap_rip(rip.wrapping_add(first as u64));
                    let second = c.fetch_page(next)?;
                    if second >= c.ram_size {
                        c.note("code outside RAM");
                        return Err(Fault::gp());
                    }
                    len = decode::LONGEST;
                    copy(c, second, &mut bytes[first..len]);
                }
                match self.singles.find(rip, c.mode, &bytes[..len]) {
                    Some(block) => block.ops.as_ptr(),
                    None => {
                        if block.is_none() {
                            block = decode::single(c, physical >> 12, offset, &bytes[..len]);
                        }
                        // 15 bytes always decode to something; what is longer is invalid.
                        let Some(block) = block else { return Err(Fault::gp()) };
                        self.singles.keep(rip, c.mode, &bytes, block).ops.as_ptr()
                    }
                }
            }
        };
        self.enter(head);
        Ok(())
    }

    /// Runs one instruction, and stops behind it even if it jumps to a block that is known.
    fn step_once(&mut self) -> Result<(), Fault> {
        let rest = self.cpu.budget - 1;
        self.cpu.budget = 1;
        self.cpu.limit -= rest as u64;
        let done = self.step();
        self.cpu.budget += rest;
        self.cpu.limit += rest as u64;
        done
    }

    /// Delivers an event at the current boundary.
    fn raise(&mut self, fault: Fault) -> Result<(), TripleFault> {
        self.cpu.op = std::ptr::null();
        self.cpu.raise(fault)
    }

    /// Runs until the machine stands at `limit`, or the platform must be looked at. If the limit is not `exact`, it may also
    /// stop before a block that would pass it: true if it did.
    fn execute(&mut self, limit: Position, exact: bool) -> Result<bool, TripleFault> {
        self.cpu.budget = (limit - self.position()) as i64;
        self.cpu.limit = limit;
        self.cpu.exit_request = false;
        // The block that comes next is longer than what is left of the budget.
        let mut alone = false;
        while self.cpu.budget > 0 {
            let trapping = self.cpu.system_flags & TF != 0;
            let resumed = self.cpu.system_flags & RF != 0;
            if self.cpu.cache.must_bury() {
                self.cpu.bury();
            }
            self.cpu.hits = 0;
            let entered = if trapping || resumed || self.cpu.stepping {
                match self.cpu.code_breakpoint() {
                    Some(fault) => Err(fault),
                    None => {
                        // For one instruction; IRET sets it for the next one.
                        self.cpu.system_flags &= !RF;
                        self.cpu.repeating = false;
                        self.cpu.no_step = false;
                        self.step_once()
                    }
                }
            } else if alone {
                self.step()
            } else {
                match self.block() {
                    Ok(Some(head)) => {
                        self.enter(head);
                        if self.cpu.exit == Exit::Budget && self.cpu.budget > 0 {
                            if !exact {
                                return Ok(true);
                            }
                            alone = true;
                            self.step()
                        } else {
                            Ok(())
                        }
                    }
                    Ok(None) => self.step(),
                    Err(fault) => Err(fault),
                }
            };
            let c = &mut *self.cpu;
            if let Err(fault) = entered {
                // The instruction could not even be fetched, or has a breakpoint: it started, and faulted.
                c.budget -= 1;
                self.raise(fault)?;
            } else if c.exit == Exit::Fault {
                let fault = c.fault;
                self.raise(fault)?;
            } else {
                if resumed && c.repeating {
                    c.system_flags |= RF;
                }
                // SYSCALL that masks TF is not followed by a trap in the kernel.
                let stepped = trapping && !std::mem::take(&mut c.no_step);
                if stepped || c.hits != 0 {
                    let cause = c.hits | if stepped { DR6_STEP } else { 0 };
                    let fault = c.debug_fault(cause);
                    self.raise(fault)?;
                }
            }
            if self.cpu.exit_request || self.cpu.exit == Exit::Boundary || trapping || self.cpu.hits != 0 {
                break;
            }
        }
        Ok(false)
    }

    /// Everything that may happen between two instructions at the platform's hands.
    fn after_platform(&mut self) {
        let c = &mut *self.cpu;
        c.drain_code_written();
        let generation = c.flag_table.dirty_generation();
        if generation != c.dirty_generation {
            c.dirty_generation = generation;
            c.rearm_write_tags();
        }
    }

    fn run_inner(&mut self, until: Position, kick: &Kick, platform: &mut dyn Platform) -> Stop {
        let mut slice_end = self.position();
        let mut slice_over = false;
        loop {
            self.after_platform();
            let now = self.position();
            if platform.next_timer() <= now {
                platform.fire_timers(now);
                self.after_platform();
            }
            if now >= until {
                return Stop::Reached;
            }
            if platform.wants_stop() {
                return Stop::Platform;
            }
            if slice_over || now >= slice_end {
                slice_over = false;
                if kick.is_set() {
                    return Stop::Kicked;
                }
                slice_end = now.saturating_add(SLICE);
            }
            let c = &mut *self.cpu;
            if let Some(exception) = c.s.exception.take() {
                let (code, address) = (exception.code.unwrap_or(0), c.s.cr2);
                c.limit = now;
                c.budget = 0;
                let fault = Fault { address, ..Fault::with_code(exception.vector, code) };
                if self.raise(fault).is_err() {
                    return self.triple_fault(now);
                }
                continue;
            }
            if c.system_flags & IF != 0 && !c.s.interrupt_shadow && platform.pending_interrupt().is_some() {
                let vector = platform.acknowledge_interrupt();
                c.s.halted = false;
                c.limit = now;
                c.budget = 0;
                if self.raise(Fault::external(vector)).is_err() {
                    return self.triple_fault(now);
                }
            } else if c.s.halted {
                let wakes = c.system_flags & IF != 0;
                return if wakes { Stop::Halted } else { Stop::Dead(Dead::HaltedForEver) };
            }
            let mut limit = until;
            let timer = platform.next_timer();
            if timer > now {
                limit = limit.min(timer);
            }
            // Nothing but the kick is looked at where a slice ends, so it may as well end where a block does.
            let mut exact = limit <= slice_end;
            limit = limit.min(slice_end);
            if self.cpu.system_flags & TF != 0 {
                (limit, exact) = (now + 1, true);
            }
            if self.cpu.s.interrupt_shadow {
                self.cpu.s.interrupt_shadow = false;
                (limit, exact) = (now + 1, true);
            }
            match self.execute(limit, exact) {
                Ok(cut) => slice_over = cut,
                Err(TripleFault) => return self.triple_fault(now),
            }
            self.cpu.s.position = self.cpu.limit - self.cpu.budget as u64;
        }
    }

    fn triple_fault(&mut self, _at: Position) -> Stop {
        self.cpu.s.position = self.cpu.limit - self.cpu.budget as u64;
        Stop::Dead(Dead::TripleFault)
    }
}

impl Vcpu for SoftwareVcpu {
    fn position(&self) -> Position {
        self.cpu.s.position
    }

    fn run(&mut self, until: Position, kick: &Kick, platform: &mut dyn Platform) -> Stop {
        let pointer: *mut (dyn Platform + '_) = platform;
        // SAFETY: only the lifetime is forgotten; the pointer is cleared before this borrow ends.
        self.cpu.platform = Some(unsafe {
            std::mem::transmute::<*mut (dyn Platform + '_), *mut (dyn Platform + 'static)>(pointer)
        });
        // SAFETY: the handlers use the pointer only inside execute() and raise(), while this reference is not used.
        let stop = self.run_inner(until, kick, unsafe { &mut *pointer });
        self.cpu.platform = None;
        stop
    }

    fn state(&self) -> CpuState {
        let c = &*self.cpu;
        let mut state = c.s.clone();
        state.gpr.copy_from_slice(&c.gpr[..16]);
        state.rip = c.rip;
        state.rflags = c.rflags();
        for (pair, value) in state.xmm.iter_mut().zip(&c.xmm) {
            *pair = (*value as u64, (*value >> 64) as u64);
        }
        state
    }

    fn restore(&mut self, state: &CpuState) {
        let c = &mut *self.cpu;
        c.s = state.clone();
        c.gpr = [0; 20];
        c.gpr[..16].copy_from_slice(&state.gpr);
        c.rip = state.rip;
        c.set_rflags(state.rflags);
        for (value, (low, high)) in c.xmm.iter_mut().zip(&state.xmm) {
            *value = u128::from(*low) | u128::from(*high) << 64;
        }
        c.noted.clear();
        self.singles.clear();
        c.flush_blocks();
        c.bury();
        c.flush_tlbs(false);
        c.update_mode();
    }

    fn flush_tlb(&mut self) {
        self.cpu.flush_tlbs(false);
    }

    fn take_unimplemented(&mut self) -> Vec<String> {
        std::mem::take(&mut self.cpu.unimplemented)
    }
}

impl std::fmt::Debug for Cpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cpu").field("rip", &self.rip).finish_non_exhaustive()
    }
}
