//! The KVM engine: the guest's instructions run on the host's processor.
//!
//! Stock KVM can neither stop at an instruction nor make RDTSC wait for us. So a position here is not an instruction but a
//! *completed exit*: HLT, a port or MMIO access, an MSR of ours, a task priority that was lowered, an interrupt window, a shutdown.
//! Where one instruction exits several times it is one position. After the exit's work is done KVM is entered once more with
//! `immediate_exit`, so that the instruction is over; only then is state read, are inputs applied and interrupts injected.
//! Everything that ends KVM_RUN for the host's own reasons counts nothing and changes nothing.
//!
//! - Interrupt controllers are the board's, in user space. An interrupt is injected at a position, or at the exit of the
//!   interrupt window, which is asked for as a function of the machine's state alone.
//! - Time does not pass with positions: it stands still between two clock anchors. An access that sees the time takes *two*
//!   positions, one before it and one after: at the first ([`Stand::Clock`]) an anchor may be applied.
//! - Between two positions nothing can be done ([`Stand::Between`]); a guest that does not exit holds up its inputs.
//! - CPUID hides what cannot be made the same on both sides ([`cpuid`]). A guest that executes it all the same (RDTSC, RDRAND), or
//!   that waits for something by spinning on memory, is found by the digests: see [`DIVERGENCE_HINT`].
//!
//! Page tables of a guest should have their Accessed and Dirty bits preset: when hardware sets them depends on its TLB.

mod cpuid;
mod exit;
mod msr;
mod probe;
mod state;
mod tick;
mod writes;

use kvm_ioctls::{Cap, Error as Errno, Kvm, VcpuFd, VmFd};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

pub use self::cpuid::Leaf;
pub use self::probe::{Probed, probe};

use self::exit::{Exit, Served};
use self::msr::Kept;
use self::tick::Ticks;
use self::writes::Slot;
use crate::memory::{PAGE, PageFlags};
use crate::{CpuState, Dead, GuestRam, Kick, Platform, Position, Stand, Stop, Vcpu};

/// What to tell the operator of a pair whose sides differ under this engine.
pub const DIVERGENCE_HINT: &str = "under engine = \"kvm\" the usual cause is a guest that executes what the two sides do not \
    share: a counter (RDTSC, RDTSCP, RDPMC), the processor's randomness (RDRAND, RDSEED), features that CPUID hides (XSAVE, AVX), or \
    a wait that spins on memory; engine = \"software\" runs such a guest";

/// Exits between two digests.
pub const DIGEST_INTERVAL: u64 = 1024;

/// Where Intel's processors without unrestricted guests keep a TSS and a page table of KVM's own: above everything of ours.
const TSS: usize = 0xFFFB_D000;
const IDENTITY_MAP: u64 = 0xFFFB_C000;

/// Why there is no KVM engine on this host.
#[derive(Debug, thiserror::Error)]
pub enum Lack {
    /// The device cannot be opened.
    #[error("/dev/kvm cannot be opened: {}", open_error(*.0))]
    Device(Errno),
    /// Another version of the interface.
    #[error("/dev/kvm speaks version {0} of the interface, not 12")]
    Version(i32),
    /// A capability is missing.
    #[error("/dev/kvm lacks {0}; a newer kernel has it")]
    Capability(&'static str),
    /// The processor lacks what every guest needs.
    #[error("/dev/kvm offers no 64-bit processor with SSE2 and no-execute pages")]
    Processor,
    /// RAM is not one region of whole pages from address 0.
    #[error("guest RAM must be one region of whole pages from address 0")]
    Layout,
    /// KVM refuses something that every KVM does.
    #[error("/dev/kvm does not work: {what}: {error}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// The answer.
        error: Errno,
    },
    /// A tiny guest did not do what it must.
    #[error("/dev/kvm does not work well enough: {0}")]
    Broken(String),
}

fn open_error(error: Errno) -> String {
    match error.errno() {
        libc::ENOENT => {
            "there is no such device (no hardware virtualisation, or kvm-intel or kvm-amd is not loaded)"
                .into()
        }
        libc::EACCES | libc::EPERM => {
            "permission denied (the user must be in the device's group, usually kvm)".into()
        }
        _ => error.to_string(),
    }
}

/// Names what was asked of KVM.
fn asked<T>(what: &'static str, result: Result<T, Errno>) -> Result<T, Lack> {
    result.map_err(|error| Lack::Refused { what, error })
}

/// Asks again where a signal came in between: a tick of an earlier run may still be on its way to this thread.
fn patiently<T>(mut ask: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match ask() {
            Err(error) if error.errno() == libc::EINTR => {}
            result => return result,
        }
    }
}

/// Capabilities without which there is no engine.
const NEEDED: [(Cap, &str); 9] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
    (Cap::Debugregs, "KVM_CAP_DEBUGREGS"),
    (Cap::Xsave, "KVM_CAP_XSAVE"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT (Linux 4.13)"),
    (Cap::X86UserSpaceMsr, "KVM_CAP_X86_USER_SPACE_MSR (Linux 5.10)"),
    (Cap::X86MsrFilter, "KVM_CAP_X86_MSR_FILTER (Linux 5.10)"),
];

/// Opens the device and looks whether it has all that the engine needs.
fn open() -> Result<Kvm, Lack> {
    let kvm = Kvm::new().map_err(Lack::Device)?;
    let version = kvm.get_api_version();
    if version != 12 {
        return Err(Lack::Version(version));
    }
    match NEEDED.iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
        Some((_, name)) => Err(Lack::Capability(name)),
        None => Ok(kvm),
    }
}

/// A processor that is the host's.
pub struct KvmVcpu {
    // Before the VM: closed in this order.
    vcpu: VcpuFd,
    slot: Slot,
    leaves: Vec<Leaf>,
    position: Position,
    stand: Stand,
    /// The access before which it stands, at [`Stand::Clock`].
    waiting: Option<Exit>,
    halted: bool,
    kept: Kept,
    /// Whether an interrupt can be injected here, as KVM says.
    open: bool,
    /// Interrupts are enabled here.
    enabled: bool,
    /// An interrupt waits for the window.
    window: bool,
    dead: Option<Dead>,
    failure: Option<String>,
}

impl std::fmt::Debug for KvmVcpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KvmVcpu")
            .field("position", &self.position)
            .field("stand", &self.stand)
            .finish_non_exhaustive()
    }
}

impl KvmVcpu {
    /// A processor on this RAM, in the state of [`CpuState::reset_pvh`] at entry 0. [`Vcpu::restore`] gives it a real one.
    ///
    /// # Errors
    /// [`Lack`]: what the host lacks.
    pub fn new(ram: GuestRam) -> Result<Self, Lack> {
        let mut regions = ram.iter();
        let (Some(region), None) = (regions.next(), regions.next()) else { return Err(Lack::Layout) };
        let size = region.len();
        let flags: PageFlags = region.bitmap();
        if region.start_addr() != GuestAddress(0) || size == 0 || size % PAGE as u64 != 0 {
            return Err(Lack::Layout);
        }
        let base = ram.get_host_address(GuestAddress(0)).map_err(|_| Lack::Layout)?;

        let kvm = open()?;
        let supported =
            asked("KVM_GET_SUPPORTED_CPUID", kvm.get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES))?;
        let leaves = cpuid::table(supported.as_slice())?;
        let vm = asked("KVM_CREATE_VM", patiently(|| kvm.create_vm()))?;
        asked("KVM_SET_TSS_ADDR", vm.set_tss_address(TSS))?;
        asked("KVM_SET_IDENTITY_MAP_ADDR", vm.set_identity_map_address(IDENTITY_MAP))?;
        Self::leave_msrs_to_us(&vm)?;
        let slot = Slot::new(vm, ram.clone(), base as u64, size, flags)?;
        let vcpu = asked("KVM_CREATE_VCPU", patiently(|| slot.vm().create_vcpu(0)))?;
        asked("KVM_SET_CPUID2", vcpu.set_cpuid2(&cpuid::entries(&leaves)?))?;
        let mut this = Self {
            vcpu,
            slot,
            leaves,
            position: 0,
            stand: Stand::Whole,
            waiting: None,
            halted: false,
            kept: Kept::default(),
            open: false,
            enabled: false,
            window: false,
            dead: None,
            failure: None,
        };
        asked("restoring a state", this.put(&CpuState::reset_pvh(0, 0)))?;
        asked("saving a state", state::save(&this.vcpu))?;
        Ok(this)
    }

    fn leave_msrs_to_us(vm: &VmFd) -> Result<(), Lack> {
        let reasons = kvm_bindings::KVM_MSR_EXIT_REASON_FILTER
            | kvm_bindings::KVM_MSR_EXIT_REASON_UNKNOWN
            | kvm_bindings::KVM_MSR_EXIT_REASON_INVAL;
        let cap = kvm_bindings::kvm_enable_cap {
            cap: Cap::X86UserSpaceMsr as u32,
            args: [u64::from(reasons), 0, 0, 0],
            ..Default::default()
        };
        asked("KVM_CAP_X86_USER_SPACE_MSR", vm.enable_cap(&cap))?;
        asked("KVM_X86_SET_MSR_FILTER", msr::filter(vm))
    }

    /// What CPUID tells the guest. Two replicas must have the same table.
    pub fn leaves(&self) -> &[Leaf] {
        &self.leaves
    }

    fn put(&mut self, state: &CpuState) -> Result<(), Errno> {
        self.position = state.position;
        (self.stand, self.waiting) = (Stand::Whole, None);
        self.halted = state.halted;
        self.kept = Kept { tsc_adjust: state.tsc_adjust, tsc_aux: state.tsc_aux, mtrr: state.mtrr.clone() };
        self.enabled = state.rflags & INTERRUPT_FLAG != 0;
        self.open = self.enabled && !state.interrupt_shadow && state.exception.is_none();
        self.window = false;
        (self.dead, self.failure) = (None, None);
        state::restore(&self.vcpu, state)
    }

    /// Moves from a position to the next, or to where nothing more can be done now.
    fn advance(&mut self, ticks: &Ticks, platform: &mut dyn Platform) -> Option<Stop> {
        let exit = match self.waiting.take() {
            Some(exit) => exit,
            None => match self.enter(ticks, platform) {
                Ok(exit) => exit,
                Err(stop) => return Some(stop),
            },
        };
        if self.stand == Stand::Between && exit.access().is_some_and(|access| platform.sees_time(access)) {
            self.position += 1;
            self.stand = Stand::Clock;
            self.waiting = Some(exit);
            return None;
        }
        let at = self.position + 1;
        match exit.serve(&mut self.vcpu, &mut self.kept, platform, at) {
            Served::Access => {
                if let Err(stop) = self.complete(ticks, platform, at) {
                    return Some(stop);
                }
            }
            Served::Halt => self.halted = true,
            Served::Nothing => {}
            Served::Shutdown => self.dead = Some(Dead::TripleFault),
            Served::Failed(why) => return Some(self.fail(why)),
        }
        let run = self.vcpu.get_kvm_run();
        self.open = run.ready_for_interrupt_injection != 0;
        self.enabled = run.if_flag != 0;
        self.position = at;
        self.stand = Stand::Whole;
        None
    }

    /// Tells KVM, where the guest is about to leave a position, what the board has for it.
    ///
    /// Once only: the guest may raise the task priority without an exit, and when the host leaves it before the next one, KVM has
    /// left there what it is to be entered with again.
    fn hand_over(&mut self, platform: &dyn Platform) {
        let window = u8::from(self.window);
        let run = self.vcpu.get_kvm_run();
        (run.cr8, run.request_interrupt_window) = (u64::from(platform.cr8()), window);
    }

    /// Runs the guest to its next exit.
    fn enter(&mut self, ticks: &Ticks, platform: &mut dyn Platform) -> Result<Exit, Stop> {
        loop {
            ticks.set_immediate_exit(false);
            if ticks.is_due() {
                return Err(Stop::Busy);
            }
            match Exit::next(&mut self.vcpu) {
                Ok(exit) => {
                    let cr8 = self.vcpu.get_kvm_run().cr8 as u8 & 15;
                    if cr8 != platform.cr8() {
                        platform.set_cr8(cr8);
                    }
                    return Ok(exit);
                }
                // The host had something to do; the guest's registers may be anything, and are not looked at.
                Err(error) if is_interruption(error) => {}
                Err(error) => return Err(self.fail(format!("KVM_RUN: {error}"))),
            }
        }
    }

    /// Ends the instruction whose access was served, and serves what else it accesses.
    fn complete(&mut self, ticks: &Ticks, platform: &mut dyn Platform, at: Position) -> Result<(), Stop> {
        loop {
            ticks.set_immediate_exit(true);
            let run = self.vcpu.get_kvm_run();
            (run.cr8, run.request_interrupt_window) = (u64::from(platform.cr8()), 0);
            match Exit::next(&mut self.vcpu) {
                Err(error) if error.errno() == libc::EINTR => return Ok(()),
                Err(error) if is_interruption(error) => {}
                Err(error) => return Err(self.fail(format!("KVM_RUN, completing an access: {error}"))),
                Ok(exit) => match exit.serve(&mut self.vcpu, &mut self.kept, platform, at) {
                    Served::Access => {}
                    Served::Halt => self.halted = true,
                    Served::Nothing => return Ok(()),
                    Served::Shutdown => {
                        self.dead = Some(Dead::TripleFault);
                        return Ok(());
                    }
                    Served::Failed(why) => return Err(self.fail(why)),
                },
            }
        }
    }

    fn fail(&mut self, why: String) -> Stop {
        self.failure.get_or_insert(why);
        Stop::Failed
    }

    fn step(
        &mut self,
        until: Position,
        kick: &Kick,
        ticks: &Ticks,
        platform: &mut dyn Platform,
    ) -> Option<Stop> {
        if self.failure.is_some() {
            return Some(Stop::Failed);
        }
        let now = self.position;
        match self.stand {
            Stand::Whole => {
                if platform.next_timer() <= now {
                    platform.fire_timers(now);
                }
                if now >= until {
                    return Some(Stop::Reached);
                }
                if platform.wants_stop() {
                    return Some(Stop::Platform);
                }
                if kick.is_set() || ticks.is_due() {
                    return Some(Stop::Kicked);
                }
                if let Some(dead) = self.dead {
                    return Some(Stop::Dead(dead));
                }
                let pending = platform.pending_interrupt().is_some();
                if self.halted && !(self.enabled && pending) {
                    let dead = Stop::Dead(Dead::HaltedForEver);
                    return Some(if self.enabled { Stop::Halted } else { dead });
                }
                self.window = pending && !self.open;
                if pending && self.open {
                    let vector = platform.acknowledge_interrupt();
                    if let Err(error) = exit::interrupt(&self.vcpu, vector) {
                        return Some(self.fail(format!("KVM_INTERRUPT: {error}")));
                    }
                    self.halted = false;
                }
                self.hand_over(platform);
                self.stand = Stand::Between;
            }
            Stand::Clock if now >= until => return Some(Stop::Reached),
            Stand::Clock | Stand::Between => {}
        }
        if let Some(stop) = self.advance(ticks, platform) {
            return Some(stop);
        }
        (self.stand == Stand::Clock && self.position < until).then_some(Stop::Clock)
    }
}

const INTERRUPT_FLAG: u64 = 1 << 9;

fn is_interruption(error: Errno) -> bool {
    matches!(error.errno(), libc::EINTR | libc::EAGAIN)
}

impl Vcpu for KvmVcpu {
    fn position(&self) -> Position {
        self.position
    }

    fn run(&mut self, until: Position, kick: &Kick, platform: &mut dyn Platform) -> Stop {
        let immediate_exit = &raw mut self.vcpu.get_kvm_run().immediate_exit;
        // SAFETY: the structure is mapped as long as `self.vcpu` lives, and `ticks` ends with this call.
        let ticks = match unsafe { Ticks::begin(immediate_exit) } {
            Ok(ticks) => ticks,
            Err(error) => return self.fail(format!("the host gives no timer: {error}")),
        };
        loop {
            if let Some(stop) = self.step(until, kick, &ticks, platform) {
                return stop;
            }
        }
    }

    /// To be called at [`Stand::Whole`]: elsewhere KVM has work of its own that is not done.
    fn state(&self) -> CpuState {
        // The same calls succeeded when the engine was made.
        let state = state::save(&self.vcpu).expect("KVM gives a vCPU's state");
        CpuState {
            position: self.position,
            halted: self.halted,
            tsc_adjust: self.kept.tsc_adjust,
            tsc_aux: self.kept.tsc_aux,
            mtrr: self.kept.mtrr.clone(),
            ..state
        }
    }

    fn restore(&mut self, state: &CpuState) {
        if let Err(error) = self.put(state) {
            self.fail(format!("KVM does not take the state: {error}"));
        }
    }

    /// Nothing: what KVM's processor has in its TLB is no function of the guest's history anyhow. See the module's last remark.
    fn flush_tlb(&mut self) {}

    fn stand(&self) -> Stand {
        self.stand
    }

    fn log_writes(&mut self, on: bool) -> Result<(), String> {
        self.slot.log_writes(on).map_err(|error| error.to_string())
    }

    fn gather_writes(&mut self) -> Result<(), String> {
        self.slot.gather_writes().map_err(|error| error.to_string())
    }

    fn take_failure(&mut self) -> Option<String> {
        self.failure.clone()
    }

    fn take_unimplemented(&mut self) -> Vec<String> {
        Vec::new()
    }
}
