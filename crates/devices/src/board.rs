//! The board: all devices together, as the CPU sees them ([`Platform`]) and as the runtime moves them (inputs, outputs).
//!
//! Everything here is a function of the CPU's accesses, their positions and the inputs. Outputs are collected, never done.

use ft_core::input::Input;
use ft_core::output::{DiskRequest, Output, OutputBody};
use ft_vcpu::{GuestRam, Platform, Position};
use serde::{Deserialize, Serialize};

use crate::clock::{Clock, TimerId, Timers};
use crate::digest;
use crate::ioapic::IoApic;
use crate::lapic::{Effect, Lapic};
use crate::layout::{self, IOAPIC_BASE, IOAPIC_SIZE, LAPIC_BASE, LAPIC_SIZE, VIRTIO_BASE, VIRTIO_STRIDE};
use crate::reset::Reset;
use crate::serial::Com1;
use crate::state::{BoardState, Component, DeviceState, RestoreError, Versioned};
use crate::virtio::Device;
use crate::virtio::blk::{self, Blk, Mismatch};
use crate::virtio::console::Console;
use crate::virtio::net::Net;
use crate::virtio::rng::Rng;
use crate::virtio::slot::Slot;

const MSR_APIC_BASE: u32 = 0x1b;
const MSR_TSC_DEADLINE: u32 = 0x6e0;

/// Console bytes that are handed out without an end of line.
const CONSOLE_CHUNK: usize = 256;
/// Guest nanoseconds after which console bytes are handed out without an end of line.
const CONSOLE_DELAY: u64 = 1_000_000;

/// A disk of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpec {
    /// Size in sectors of 512 bytes.
    pub sectors: u64,
    /// Writes fail.
    pub read_only: bool,
}

/// A network device of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NicSpec {
    /// Its address.
    pub mac: [u8; 6],
}

/// The devices of a machine. Slots are given out in the order disks, network devices, rng, console.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BoardSpec {
    /// Disks, in the order of the config.
    pub disks: Vec<DiskSpec>,
    /// Network devices, in the order of the config.
    pub nics: Vec<NicSpec>,
    /// Whether there is a virtio source of entropy.
    pub rng: bool,
    /// Whether there is a virtio console beside the serial line.
    pub console: bool,
}

impl BoardSpec {
    /// Number of virtio-mmio slots in use.
    pub fn slots(&self) -> usize {
        self.disks.len() + self.nics.len() + usize::from(self.rng) + usize::from(self.console)
    }

    /// Linux command line parameters that declare the virtio devices.
    pub fn command_line(&self) -> String {
        layout::virtio_command_line(self.slots())
    }
}

/// A specification with more devices than there are slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{slots} virtio devices, at most {} fit", layout::VIRTIO_SLOTS)]
pub struct TooManyDevices {
    /// Devices asked for.
    pub slots: usize,
}

/// An input that does not fit the state of the board. Nothing has changed then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// There is no such disk.
    #[error("completion for disk {0}, which is not there")]
    NoDisk(u16),
    /// There is no such network device.
    #[error("frames for network device {0}, which is not there")]
    NoNic(u16),
    /// There is no source of entropy.
    #[error("entropy for a machine without a source of it")]
    NoRng,
    /// No request of this number and size is in flight on the disk.
    #[error("disk {disk}, request {request}: {mismatch}")]
    Disk {
        /// Disk of the completion.
        disk: u16,
        /// Request of the completion.
        request: u64,
        /// What does not fit.
        mismatch: Mismatch,
    },
    /// No request for entropy of this number and size is in flight.
    #[error("entropy, request {request}: {mismatch}")]
    Entropy {
        /// Request of the answer.
        request: u64,
        /// What does not fit.
        mismatch: Mismatch,
    },
    /// An anchor before the one in force.
    #[error("clock anchor at position {at}, but one is in force from {anchor} on")]
    AnchorGoesBack {
        /// Where it was to be applied.
        at: Position,
        /// Position of the anchor in force.
        anchor: Position,
    },
}

/// What the guest wrote to its consoles (serial line and virtio console, one stream) and is not yet an output.
///
/// Bytes are handed out at an end of line, at 256 bytes, or one guest millisecond after the first of them: a function of the
/// guest's history, cheaper than an output for each byte of a serial line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleStream {
    /// Offset in the stream of the first byte of `buffer`.
    offset: u64,
    buffer: Vec<u8>,
    /// Guest nanoseconds at which they are handed out at the latest.
    deadline: Option<u64>,
}

/// Whether the power button was pressed; the guest reads it as bit 0 of the exit port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerButton {
    pressed: bool,
}

/// The virtio devices in the order of their slots.
#[derive(Debug)]
struct Slots {
    disks: Vec<Slot<Blk>>,
    nics: Vec<Slot<Net>>,
    rng: Option<Slot<Rng>>,
    console: Option<Slot<Console>>,
}

/// What the bus needs of a slot.
trait OnBus {
    fn read(&self, offset: u64, size: u8) -> u64;
    fn write(&mut self, offset: u64, size: u8, value: u64, ram: &GuestRam, outputs: &mut Vec<OutputBody>);
    fn line(&self) -> bool;
}

impl<D: Device> OnBus for Slot<D> {
    fn read(&self, offset: u64, size: u8) -> u64 {
        Slot::read(self, offset, size)
    }

    fn write(&mut self, offset: u64, size: u8, value: u64, ram: &GuestRam, outputs: &mut Vec<OutputBody>) {
        Slot::write(self, offset, size, value, ram, outputs);
    }

    fn line(&self) -> bool {
        Slot::line(self)
    }
}

impl Slots {
    fn get(&mut self, index: usize) -> Option<&mut dyn OnBus> {
        let nics = self.disks.len();
        let rng = nics + self.nics.len();
        let console = rng + usize::from(self.rng.is_some());
        if index < nics {
            self.disks.get_mut(index).map(|slot| slot as &mut dyn OnBus)
        } else if index < rng {
            self.nics.get_mut(index - nics).map(|slot| slot as &mut dyn OnBus)
        } else if index < console {
            self.rng.as_mut().map(|slot| slot as &mut dyn OnBus)
        } else if index == console {
            self.console.as_mut().map(|slot| slot as &mut dyn OnBus)
        } else {
            None
        }
    }

    fn nic_slot(&self, nic: usize) -> usize {
        self.disks.len() + nic
    }

    fn rng_slot(&self) -> usize {
        self.disks.len() + self.nics.len()
    }

    fn console_slot(&self) -> usize {
        self.rng_slot() + usize::from(self.rng.is_some())
    }
}

/// All devices of a machine.
#[derive(Debug)]
pub struct Board {
    ram: GuestRam,
    clock: Clock,
    timers: Timers,
    /// Position of the first timer, because the CPU asks at every boundary.
    next_timer: Position,
    lapic: Lapic,
    ioapic: IoApic,
    com1: Com1,
    reset: Reset,
    stream: ConsoleStream,
    power_button: PowerButton,
    slots: Slots,
    outputs: Vec<Output>,
    /// Outputs of the access at hand; empty between accesses.
    made: Vec<OutputBody>,
}

impl Board {
    /// A board as at power-on, with guest time 0 at position 0 running at 1 ns per instruction.
    ///
    /// # Errors
    /// More virtio devices than interrupt lines.
    pub fn new(spec: &BoardSpec, ram: GuestRam) -> Result<Self, TooManyDevices> {
        if spec.slots() > layout::VIRTIO_SLOTS {
            return Err(TooManyDevices { slots: spec.slots() });
        }
        let disk = |(index, disk): (usize, &DiskSpec)| {
            Slot::new(Blk::new(index as u16, disk.sectors, disk.read_only))
        };
        let nic = |(index, nic): (usize, &NicSpec)| Slot::new(Net::new(index as u16, nic.mac));
        let slots = Slots {
            disks: spec.disks.iter().enumerate().map(disk).collect(),
            nics: spec.nics.iter().enumerate().map(nic).collect(),
            rng: spec.rng.then(|| Slot::new(Rng::default())),
            console: spec.console.then(|| Slot::new(Console::default())),
        };
        Ok(Self {
            ram,
            clock: Clock::default(),
            timers: Timers::default(),
            next_timer: Position::MAX,
            lapic: Lapic::default(),
            ioapic: IoApic::default(),
            com1: Com1::default(),
            reset: Reset::default(),
            stream: ConsoleStream::default(),
            power_button: PowerButton::default(),
            slots,
            outputs: Vec::new(),
            made: Vec::new(),
        })
    }

    /// Applies an input at `at`, where the machine stands.
    ///
    /// # Errors
    /// The input does not fit the state; nothing has changed. In a log that is a divergence or a broken log.
    pub fn apply(&mut self, at: Position, input: &Input) -> Result<(), ApplyError> {
        match input {
            Input::Anchor(anchor) => {
                if at < self.clock.position {
                    return Err(ApplyError::AnchorGoesBack { at, anchor: self.clock.position });
                }
                self.clock.apply(at, *anchor);
                self.place_timers();
                self.fire_timers(at);
            }
            Input::DiskDone(done) => {
                let index = usize::from(done.disk);
                let slot = self.slots.disks.get_mut(index).ok_or(ApplyError::NoDisk(done.disk))?;
                let pending = slot.device.take(done).map_err(|mismatch| ApplyError::Disk {
                    disk: done.disk,
                    request: done.request,
                    mismatch,
                })?;
                // A device that waits for its reset touches no memory.
                if slot.is_running() {
                    slot.step(&self.ram, &mut self.made, |disk, context| {
                        disk.complete(pending, done, context)
                    });
                }
                self.after_slot(at, index);
            }
            Input::NetRx(received) => {
                let index = usize::from(received.nic);
                let slot = self.slots.nics.get_mut(index).ok_or(ApplyError::NoNic(received.nic))?;
                if slot.is_running() {
                    slot.step(&self.ram, &mut self.made, |nic, context| {
                        nic.receive(&received.frames, context)
                    });
                } else {
                    slot.device.drop_received(received.frames.len());
                }
                self.after_slot(at, self.slots.nic_slot(index));
            }
            Input::Console(bytes) => match &mut self.slots.console {
                Some(slot) if slot.is_running() => {
                    slot.step(&self.ram, &mut self.made, |console, context| console.receive(bytes, context));
                    self.after_slot(at, self.slots.console_slot());
                }
                _ => {
                    self.com1.receive(bytes);
                    self.after_com1();
                }
            },
            Input::Entropy { request, bytes } => {
                let slot = self.slots.rng.as_mut().ok_or(ApplyError::NoRng)?;
                let mismatch = |mismatch| ApplyError::Entropy { request: *request, mismatch };
                let pending = slot.device.take(*request, bytes.len()).map_err(mismatch)?;
                if slot.is_running() {
                    slot.step(&self.ram, &mut self.made, |rng, context| {
                        rng.complete(pending, bytes, context)
                    });
                }
                self.after_slot(at, self.slots.rng_slot());
            }
            Input::PowerButton => self.power_button.pressed = true,
        }
        Ok(())
    }

    /// The outputs made since the last call, in the order made.
    pub fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// Hands out console bytes that wait for an end of line. For the end of a machine (dead, stopped): elsewhere it must be at
    /// the same position on both sides, and it is not needed, because a timer does it.
    pub fn flush_console(&mut self, at: Position) {
        if !self.stream.buffer.is_empty() {
            let bytes = std::mem::take(&mut self.stream.buffer);
            let offset = self.stream.offset;
            self.stream.offset += bytes.len() as u64;
            self.outputs.push(Output { position: at, body: OutputBody::Console { offset, bytes } });
        }
        self.stream.deadline = None;
        self.refresh_timers();
    }

    /// The clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Guest nanoseconds at `at`.
    pub fn now_ns(&self, at: Position) -> u64 {
        self.clock.now(at)
    }

    /// Guest nanoseconds at which the first timer expires: how long a halted machine may sleep.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.timers.first().map(|(deadline, _)| deadline)
    }

    /// Disk requests that the guest made and that are not complete, in the order of submission on each disk. What a machine
    /// that goes live has to issue again.
    pub fn pending_disk_requests(&self) -> Vec<DiskRequest> {
        self.slots.disks.iter().flat_map(|slot| slot.device.pending()).collect()
    }

    /// Requests for entropy that are not answered, as (request, bytes), in the order of submission.
    pub fn pending_entropy(&self) -> Vec<(u64, u32)> {
        self.slots.rng.iter().flat_map(|slot| slot.device.pending()).collect()
    }

    /// Offset of the next console byte that is handed out.
    pub fn console_offset(&self) -> u64 {
        self.stream.offset
    }

    /// The whole state.
    pub fn save(&self) -> BoardState {
        fn slot<D: Device + Clone>(slot: &Slot<D>) -> Versioned<DeviceState<D>>
        where
            DeviceState<D>: Component,
        {
            Versioned::new(DeviceState { slot: slot.save(), device: slot.device.clone() })
        }
        BoardState {
            clock: Versioned::new(self.clock),
            lapic: Versioned::new(self.lapic.clone()),
            ioapic: Versioned::new(self.ioapic.clone()),
            com1: Versioned::new(self.com1.save()),
            console_stream: Versioned::new(self.stream.clone()),
            power_button: Versioned::new(self.power_button),
            disks: self.slots.disks.iter().map(slot).collect(),
            nics: self.slots.nics.iter().map(slot).collect(),
            rng: self.slots.rng.as_ref().map(slot),
            console: self.slots.console.as_ref().map(slot),
            outputs: self.outputs.clone(),
        }
    }

    /// Takes over a saved state of a board with the same devices. Guest memory is restored elsewhere, and before this.
    ///
    /// # Errors
    /// The state is of another version or another machine, or contradicts itself; the board is then as before.
    pub fn restore(&mut self, state: &BoardState) -> Result<(), RestoreError> {
        fn slots<D: Device + Clone>(
            ram: &GuestRam,
            own: &[&Slot<D>],
            saved: &[&Versioned<DeviceState<D>>],
            fits: impl Fn(&D, &D) -> bool,
        ) -> Result<Vec<Slot<D>>, RestoreError>
        where
            DeviceState<D>: Component,
        {
            if own.len() != saved.len() {
                return Err(RestoreError::OtherMachine("another number of devices of a kind"));
            }
            let bad = |reason| RestoreError::Bad { component: DeviceState::<D>::NAME, reason };
            let restored = own.iter().zip(saved).map(|(own, saved)| {
                let saved = saved.get()?;
                if !fits(&own.device, &saved.device) {
                    return Err(bad("it is a device of another shape"));
                }
                Slot::restore(saved.device.clone(), &saved.slot, ram).map_err(bad)
            });
            restored.collect()
        }
        fn refs<T>(list: &[T]) -> Vec<&T> {
            list.iter().collect()
        }

        let ram = &self.ram;
        let disks = slots(ram, &refs(&self.slots.disks), &refs(&state.disks), |own, saved| {
            own.is_like(saved) && blk::is_in_ram(saved, ram)
        })?;
        let nics = slots(ram, &refs(&self.slots.nics), &refs(&state.nics), Net::is_like)?;
        let own: Vec<_> = self.slots.rng.iter().collect();
        let saved: Vec<_> = state.rng.iter().collect();
        let rng = slots(ram, &own, &saved, |_, saved| saved.is_sane(ram))?.pop();
        let own: Vec<_> = self.slots.console.iter().collect();
        let saved: Vec<_> = state.console.iter().collect();
        let console = slots(ram, &own, &saved, |_, saved| saved.is_sane())?.pop();
        let bad = |reason| RestoreError::Bad { component: "com1", reason };
        let com1 = Com1::restore(state.com1.get()?).map_err(bad)?;
        let (clock, ioapic) = (*state.clock.get()?, state.ioapic.get()?.clone());
        let mut lapic = state.lapic.get()?.clone();
        lapic.update();
        let (stream, power_button) = (state.console_stream.get()?.clone(), *state.power_button.get()?);

        let slots = Slots { disks, nics, rng, console };
        (self.clock, self.lapic, self.ioapic, self.com1) = (clock, lapic, ioapic, com1);
        (self.stream, self.power_button, self.slots) = (stream, power_button, slots);
        self.outputs = state.outputs.clone();
        self.refresh_timers();
        self.place_timers();
        Ok(())
    }

    /// Every field of the state by its path, with its value or hash: the devices' part of a digest.
    pub fn leaves(&self) -> Vec<(String, u64)> {
        digest::leaves(&self.save())
    }

    /// Outputs of the access at hand become outputs of the machine, and the line of `slot` follows its device.
    fn after_slot(&mut self, at: Position, slot: usize) {
        self.collect(at);
        if let Some(level) = self.slots.get(slot).map(|slot| slot.line()) {
            let lapic = &mut self.lapic;
            self.ioapic.set_line(layout::virtio_gsi(slot), level, &mut |message| lapic.deliver(message));
        }
    }

    fn after_com1(&mut self) {
        if self.com1.take_interrupt() {
            // The interrupt is an edge: what vm-superio says is that one is due.
            let lapic = &mut self.lapic;
            let mut send = |message| lapic.deliver(message);
            self.ioapic.set_line(layout::COM1_GSI, true, &mut send);
            self.ioapic.set_line(layout::COM1_GSI, false, &mut send);
        }
    }

    fn collect(&mut self, at: Position) {
        let mut made = std::mem::take(&mut self.made);
        for body in made.drain(..) {
            if let OutputBody::Console { bytes, .. } = body {
                self.write_console(at, &bytes);
            } else {
                self.outputs.push(Output { position: at, body });
            }
        }
        self.made = made;
    }

    fn write_console(&mut self, at: Position, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.stream.buffer.extend(bytes);
        if bytes.contains(&b'\n') || self.stream.buffer.len() >= CONSOLE_CHUNK {
            self.flush_console(at);
        } else if self.stream.deadline.is_none() {
            self.stream.deadline = Some(self.clock.now(at).saturating_add(CONSOLE_DELAY));
            self.refresh_timers();
        }
    }

    /// To be called when a deadline may have changed. The division is worth avoiding: this follows every end of interrupt.
    fn refresh_timers(&mut self) {
        let before = self.timers;
        self.timers.set(TimerId::Lapic, self.lapic.deadline());
        self.timers.set(TimerId::Console, self.stream.deadline);
        if self.timers != before {
            self.place_timers();
        }
    }

    /// To be called when the clock changed.
    fn place_timers(&mut self) {
        self.next_timer =
            self.timers.first().map_or(Position::MAX, |(deadline, _)| self.clock.position_of(deadline));
    }

    fn port_read(&mut self, port: u16) -> u8 {
        if (layout::COM1_PORT..layout::COM1_PORT + 8).contains(&port) {
            let value = self.com1.read((port - layout::COM1_PORT) as u8);
            self.after_com1();
            value
        } else if port == layout::EXIT_PORT {
            u8::from(self.power_button.pressed)
        } else if Reset::claims(port) {
            self.reset.read(port)
        } else {
            0xff
        }
    }

    fn port_write(&mut self, at: Position, port: u16, value: u8) {
        if (layout::COM1_PORT..layout::COM1_PORT + 8).contains(&port) {
            if let Some(byte) = self.com1.write((port - layout::COM1_PORT) as u8, value) {
                self.write_console(at, &[byte]);
            }
            self.after_com1();
        } else if (port == layout::EXIT_PORT || Reset::claims(port))
            && let Some(body) = self.reset.write(port, value)
        {
            // What was written before the end is seen before the end.
            self.flush_console(at);
            self.outputs.push(Output { position: at, body });
        }
    }
}

fn offset(address: u64, base: u64, size: u64) -> Option<u64> {
    address.checked_sub(base).filter(|offset| *offset < size)
}

fn ones(size: u8) -> u64 {
    u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8)))
}

impl Platform for Board {
    fn pio_read(&mut self, _at: Position, port: u16, size: u8) -> u32 {
        (0..u16::from(size.min(4))).fold(0, |value, index| {
            value | u32::from(self.port_read(port.wrapping_add(index))) << (8 * index)
        })
    }

    fn pio_write(&mut self, at: Position, port: u16, size: u8, value: u32) {
        for (index, byte) in value.to_le_bytes().into_iter().take(usize::from(size)).enumerate() {
            self.port_write(at, port.wrapping_add(index as u16), byte);
        }
    }

    fn mmio_read(&mut self, at: Position, address: u64, size: u8) -> u64 {
        if let Some(offset) = offset(address, LAPIC_BASE, LAPIC_SIZE).filter(|_| self.lapic.is_enabled()) {
            if size == 4 { u64::from(self.lapic.read(offset, self.clock.now(at))) } else { 0 }
        } else if let Some(offset) = offset(address, IOAPIC_BASE, IOAPIC_SIZE) {
            if size == 4 { u64::from(self.ioapic.read(offset)) } else { 0 }
        } else if let Some(offset) = address.checked_sub(VIRTIO_BASE)
            && let Some(slot) = self.slots.get(usize::try_from(offset / VIRTIO_STRIDE).unwrap_or(usize::MAX))
        {
            slot.read(offset % VIRTIO_STRIDE, size)
        } else {
            ones(size)
        }
    }

    fn mmio_write(&mut self, at: Position, address: u64, size: u8, value: u64) {
        if let Some(offset) = offset(address, LAPIC_BASE, LAPIC_SIZE).filter(|_| self.lapic.is_enabled()) {
            if size == 4 {
                let effect = self.lapic.write(offset, value as u32, self.clock.now(at));
                let lapic = &mut self.lapic;
                let mut send = |message| lapic.deliver(message);
                match effect {
                    Some(Effect::Ended(vector)) => self.ioapic.end_of_interrupt(vector, &mut send),
                    Some(Effect::Reopened) => self.ioapic.resend(&mut send),
                    None => {}
                }
                self.refresh_timers();
            }
        } else if let Some(offset) = offset(address, IOAPIC_BASE, IOAPIC_SIZE) {
            if size == 4 {
                let lapic = &mut self.lapic;
                self.ioapic.write(offset, value as u32, &mut |message| lapic.deliver(message));
            }
        } else if let Some(offset) = address.checked_sub(VIRTIO_BASE) {
            let index = usize::try_from(offset / VIRTIO_STRIDE).unwrap_or(usize::MAX);
            if let Some(slot) = self.slots.get(index) {
                slot.write(offset % VIRTIO_STRIDE, size, value, &self.ram, &mut self.made);
                self.after_slot(at, index);
            }
        }
    }

    fn tsc(&mut self, at: Position) -> u64 {
        self.clock.now(at)
    }

    fn msr_read(&mut self, _at: Position, msr: u32) -> Option<u64> {
        match msr {
            MSR_APIC_BASE => Some(self.lapic.base_msr()),
            MSR_TSC_DEADLINE => Some(self.lapic.tsc_deadline()),
            _ => None,
        }
    }

    fn msr_write(&mut self, _at: Position, msr: u32, value: u64) -> bool {
        let fits = match msr {
            MSR_APIC_BASE => {
                let fits = self.lapic.set_base_msr(value);
                let lapic = &mut self.lapic;
                self.ioapic.resend(&mut |message| lapic.deliver(message));
                fits
            }
            MSR_TSC_DEADLINE => {
                self.lapic.set_tsc_deadline(value);
                true
            }
            _ => false,
        };
        self.refresh_timers();
        fits
    }

    fn cr8(&self) -> u8 {
        self.lapic.cr8()
    }

    fn set_cr8(&mut self, value: u8) {
        self.lapic.set_cr8(value);
    }

    fn next_timer(&self) -> Position {
        self.next_timer
    }

    fn fire_timers(&mut self, at: Position) {
        let now = self.clock.now(at);
        while let Some(timer) = self.timers.due(now) {
            match timer {
                TimerId::Lapic => {
                    self.lapic.fire(now);
                    self.refresh_timers();
                }
                TimerId::Console => self.flush_console(at),
            }
        }
    }

    fn pending_interrupt(&self) -> Option<u8> {
        self.lapic.pending()
    }

    fn acknowledge_interrupt(&mut self) -> u8 {
        self.lapic.acknowledge()
    }

    fn wants_stop(&self) -> bool {
        !self.outputs.is_empty()
    }
}
