//! The deterministic machine: a vCPU, its RAM and its board, moved by [`Machine::run`] and [`Machine::apply`] only.
//!
//! Live, solo, primary and backup run the same `Machine`. They differ in where inputs come from and in what becomes of
//! outputs, and neither is known here.

use std::path::PathBuf;

use ft_core::input::Input;
use ft_core::output::{DiskRequest, Output, OutputBody};
use ft_devices::board::TooManyDevices;
use ft_devices::{ApplyError, Board, BoardSpec, DiskSpec, NicSpec};
use ft_policies::{Config, Kernel};
use ft_vcpu::kvm::{self, KvmVcpu};
use ft_vcpu::software::{Options, SoftwareVcpu};
use ft_vcpu::{Dead, GuestRam, Kick, Stand, Stop, Vcpu};
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress};
use xxhash_rust::xxh3::xxh3_128;

use crate::boot::{self, BootError, Payload};
use crate::digest::{self, Difference, Window};

/// What a machine is made of.
#[derive(Debug, Clone)]
pub struct MachineSpec {
    /// RAM in bytes.
    pub memory: u64,
    /// ELF image, or Linux's bzImage.
    pub kernel: Vec<u8>,
    /// Initial RAM disk; empty for none.
    pub initrd: Vec<u8>,
    /// The person's part of the kernel command line.
    pub command_line: String,
    /// How the kernel is told of its devices.
    pub discovery: Discovery,
    /// Devices.
    pub board: BoardSpec,
    /// What runs the guest's instructions.
    pub engine: Engine,
}

/// What runs the guest's instructions. The machine is the same; what a position is, is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// The software engine: positions are instructions.
    Software(Options),
    /// KVM: positions are completed exits.
    Kvm,
}

impl Engine {
    /// Positions between two digests of a guest that runs.
    pub fn digest_interval(self) -> u64 {
        match self {
            Self::Software(_) => 1 << 26,
            Self::Kvm => kvm::DIGEST_INTERVAL,
        }
    }

    /// True if positions say nothing of how long the guest ran: then time does not pass with them.
    pub fn counts_exits(self) -> bool {
        self == Self::Kvm
    }

    /// What to tell the operator of a pair that diverged, besides what differs.
    pub fn divergence_hint(self) -> &'static str {
        match self {
            Self::Software(_) => "",
            Self::Kvm => kvm::DIVERGENCE_HINT,
        }
    }
}

/// How a kernel is told of its devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discovery {
    /// By words appended to the command line: the in-tree guests.
    CommandLine,
    /// By ACPI tables: Linux as distributions build it.
    Acpi,
}

/// Why a machine cannot be built.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The kernel file.
    #[error("cannot read the kernel {}: {error}", path.display())]
    Kernel {
        /// As configured.
        path: PathBuf,
        /// From the operating system.
        error: std::io::Error,
    },
    /// The initial RAM disk.
    #[error("cannot read the initial RAM disk {}: {error}", path.display())]
    Initrd {
        /// As configured.
        path: PathBuf,
        /// From the operating system.
        error: std::io::Error,
    },
    /// No such in-tree guest.
    #[error("there is no in-tree guest \"{0}\"; there are: {known}", known = ft_guests::NAMES.join(", "))]
    Builtin(String),
    /// Booting.
    #[error("cannot boot {kernel}: {error}")]
    Boot {
        /// The kernel as configured.
        kernel: String,
        /// Reason.
        error: BootError,
    },
    /// RAM.
    #[error("cannot allocate {mebibytes} MiB of guest memory: {reason}")]
    Memory {
        /// Size.
        mebibytes: u64,
        /// From the host.
        reason: String,
    },
    /// Devices.
    #[error("cannot build the machine: {0}")]
    Devices(#[from] TooManyDevices),
    /// The engine.
    #[error("cannot start the software engine: {0}")]
    Software(#[from] ft_vcpu::software::Error),
    /// The other engine: the host lacks something.
    #[error("engine = \"kvm\" cannot be used on this host: {0}; engine = \"software\" needs no KVM")]
    Kvm(#[from] kvm::Lack),
}

/// A guest and everything that is inside the deterministic boundary.
pub struct Machine {
    vcpu: Box<dyn Vcpu>,
    board: Board,
    ram: GuestRam,
    ram_size: u64,
    image_digest: u128,
    engine: Engine,
    /// What CPUID tells the guest, where that depends on the host.
    leaves: Vec<kvm::Leaf>,
    window: Window,
    /// Set when the guest can never go on; the output that says so has been made.
    dead: bool,
    dead_output: Option<Output>,
}

impl Machine {
    /// Builds the machine that a config describes.
    ///
    /// `disk_sectors` are the sizes of the opened disks in 512-byte sectors, in the config's order.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn build(config: &Config, disk_sectors: &[u64]) -> Result<Self, BuildError> {
        let name = config.vm.kernel.to_string();
        let (kernel, discovery) = match &config.vm.kernel {
            Kernel::Builtin(builtin) => {
                let image = ft_guests::builtin(builtin);
                let image = image.ok_or_else(|| BuildError::Builtin(builtin.clone()))?;
                (image.to_vec(), Discovery::CommandLine)
            }
            Kernel::File(path) => {
                let kernel =
                    std::fs::read(path).map_err(|error| BuildError::Kernel { path: path.clone(), error })?;
                (kernel, Discovery::Acpi)
            }
        };
        let initrd = match &config.vm.initrd {
            Some(path) => {
                std::fs::read(path).map_err(|error| BuildError::Initrd { path: path.clone(), error })?
            }
            None => Vec::new(),
        };
        let disks = config.disks.iter().zip(disk_sectors);
        let board = BoardSpec {
            disks: disks.map(|(disk, &sectors)| DiskSpec { sectors, read_only: disk.read_only }).collect(),
            nics: config.nets.iter().map(|net| NicSpec { mac: net.mac }).collect(),
            rng: true,
            console: true,
        };
        let spec = MachineSpec {
            memory: config.vm.memory.bytes(),
            kernel,
            initrd,
            command_line: config.vm.cmdline.clone(),
            discovery,
            board,
            engine: match config.vm.engine {
                ft_policies::Engine::Software => Engine::Software(Options::default()),
                ft_policies::Engine::Kvm => Engine::Kvm,
            },
        };
        if spec.engine == Engine::Kvm {
            kvm::probe()?;
        }
        Self::new(spec, &name)
    }

    /// Builds a machine that stands at position 0, before the kernel's first instruction.
    ///
    /// # Errors
    /// See [`BuildError`]; `name` is the kernel as the person wrote it.
    pub fn new(spec: MachineSpec, name: &str) -> Result<Self, BuildError> {
        let ram = ft_vcpu::memory::allocate(spec.memory as usize)
            .map_err(|reason| BuildError::Memory { mebibytes: spec.memory >> 20, reason })?;
        let board = Board::new(&spec.board, ram.clone())?;
        let declared = match spec.discovery {
            Discovery::CommandLine => spec.board.command_line(),
            Discovery::Acpi => String::new(),
        };
        let command_line = format!("{} {declared}", spec.command_line);
        let command_line = command_line.trim();
        let payload = Payload {
            kernel: &spec.kernel,
            initrd: &spec.initrd,
            command_line,
            acpi: (spec.discovery == Discovery::Acpi).then_some(&spec.board),
        };
        let state = boot::load(&ram, spec.memory, &payload)
            .map_err(|error| BuildError::Boot { kernel: name.to_owned(), error })?;
        let (mut vcpu, leaves): (Box<dyn Vcpu>, _) = match spec.engine {
            Engine::Software(options) => (Box::new(SoftwareVcpu::new(ram.clone(), options)?), Vec::new()),
            Engine::Kvm => {
                let vcpu = KvmVcpu::new(ram.clone())?;
                let leaves = vcpu.leaves().to_vec();
                (Box::new(vcpu), leaves)
            }
        };
        vcpu.restore(&state);

        let mut identity = command_line.as_bytes().to_vec();
        identity.extend_from_slice(&spec.memory.to_le_bytes());
        identity.extend_from_slice(&xxh3_128(&spec.kernel).to_le_bytes());
        identity.extend_from_slice(&xxh3_128(&spec.initrd).to_le_bytes());
        Ok(Self {
            vcpu,
            board,
            ram,
            ram_size: spec.memory,
            image_digest: xxh3_128(&identity),
            engine: spec.engine,
            leaves,
            window: Window::default(),
            dead: false,
            dead_output: None,
        })
    }

    /// Where the machine stands.
    pub fn position(&self) -> u64 {
        self.vcpu.position()
    }

    /// The address of the next instruction, for profiles.
    pub fn instruction_pointer(&self) -> u64 {
        self.vcpu.state().rip
    }

    /// Identifies kernel, initial RAM disk, command line and memory size: both replicas must have the same.
    pub fn image_digest(&self) -> u128 {
        self.image_digest
    }

    /// What runs the guest's instructions.
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// What CPUID tells the guest, where that depends on the host: both replicas must have the same.
    pub fn cpu_leaves(&self) -> &[kvm::Leaf] {
        &self.leaves
    }

    /// What may be done with the machine where it is now.
    pub fn stand(&self) -> Stand {
        self.vcpu.stand()
    }

    /// Why the engine cannot go on, after [`Stop::Failed`].
    pub fn take_failure(&mut self) -> Option<String> {
        self.vcpu.take_failure()
    }

    /// The only thing that moves the guest. See [`Vcpu::run`]; a guest that cannot go on makes one last output.
    pub fn run(&mut self, until: u64, kick: &Kick) -> Stop {
        let stop = self.vcpu.run(until, kick, &mut self.board);
        match stop {
            Stop::Dead(dead) if !self.dead => {
                self.dead = true;
                self.board.flush_console(self.vcpu.position());
                let what = match dead {
                    Dead::TripleFault => "the guest had a triple fault",
                    Dead::HaltedForEver => "the guest halted with interrupts disabled",
                };
                let state = self.vcpu.state();
                let body = OutputBody::Dead(format!("{what} (rip {:#x}, cr2 {:#x})", state.rip, state.cr2));
                self.dead_output = Some(Output { position: state.position, body });
                Stop::Platform
            }
            other => other,
        }
    }

    /// Applies an input at the position where the machine stands. Device state changes; the CPU's does not.
    ///
    /// # Errors
    /// The input does not fit the machine's state (completion of a request that was never made, say): the log is wrong.
    pub fn apply(&mut self, input: &Input) -> Result<(), ApplyError> {
        self.board.apply(self.vcpu.position(), input)
    }

    /// The outputs made since the last call, in order.
    pub fn take_outputs(&mut self) -> Vec<Output> {
        let mut outputs = self.board.take_outputs();
        outputs.extend(self.dead_output.take());
        outputs
    }

    /// True if the guest has not begun, and its real-time clock was not told the date.
    pub fn wants_date(&self) -> bool {
        self.position() == 0 && self.board.wants_date()
    }

    /// Guest time here, in nanoseconds since power-on.
    pub fn now_ns(&self) -> u64 {
        self.board.now_ns(self.vcpu.position())
    }

    /// Guest time at which the next armed timer expires.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.board.next_deadline_ns()
    }

    /// Disk requests that the guest made and that are not complete, in submission order: issued again at go-live.
    pub fn pending_disk_requests(&self) -> Vec<DiskRequest> {
        self.board.pending_disk_requests()
    }

    /// A disk request in flight, in words.
    pub fn disk_request(&self, (disk, request): (u16, u64)) -> Option<String> {
        let pending = self.board.pending_disk_requests();
        let found = pending.iter().find(|pending| (pending.disk, pending.request) == (disk, request))?;
        let sectors = found.op.sectors();
        Some(format!("request {request}, sectors {} to {}", sectors.start, sectors.end.saturating_sub(1)))
    }

    /// Requests for random bytes that are not answered: (number, bytes wanted).
    pub fn pending_entropy(&self) -> Vec<(u64, u32)> {
        self.board.pending_entropy()
    }

    /// A digest of the state here: registers and devices, pages that devices wrote since the last digest, and the next part
    /// of memory in rotation; all of memory if `full`.
    ///
    /// Both sides call this, or [`Machine::compare_digest`], at the same (position, LSN) points.
    pub fn digest(&mut self, full: bool) -> Vec<u8> {
        digest::encode(&self.leaves(full), full)
    }

    /// Takes the own digest here and compares it with the other side's.
    ///
    /// # Errors
    /// The first register, device field or page that differs.
    pub fn compare_digest(&mut self, theirs: &[u8]) -> Result<(), Difference> {
        let full = digest::is_full(theirs);
        let position = self.vcpu.position();
        digest::compare(&self.leaves(full), theirs, position)
    }

    fn leaves(&mut self, full: bool) -> Vec<(String, u64)> {
        let mut leaves = digest::registers(ft_devices::digest::leaves(&self.vcpu.state()));
        leaves.extend(digest::named("board", self.board.leaves()));
        leaves.extend(self.window.pages(&self.ram, self.ram_size, full));
        leaves
    }

    /// Instructions that the guest met and the engine lacks, for the operator.
    pub fn take_unimplemented(&mut self) -> Vec<String> {
        self.vcpu.take_unimplemented()
    }

    /// Damages the guest on purpose, to show what a divergence report looks like: flips the lowest bit of a
    /// general register, by its number in the encoding.
    pub fn flip_register_bit(&mut self, register: usize) {
        let mut state = self.vcpu.state();
        state.gpr[register & 15] ^= 1;
        self.vcpu.restore(&state);
    }

    /// The same for the lowest bit of a byte of memory.
    ///
    /// # Errors
    /// The address is outside RAM.
    pub fn flip_memory_bit(&mut self, address: u64) -> Result<(), vm_memory::GuestMemoryError> {
        let byte: u8 = self.ram.read_obj(GuestAddress(address))?;
        self.ram.write_obj(byte ^ 1, GuestAddress(address))
    }
}
