//! The board: all devices together, as the CPU sees them ([`Platform`]) and as the runtime moves them (inputs, outputs).
//!
//! Everything here is a function of the CPU's accesses, their positions and the inputs. Outputs are collected, never done.

mod bus;
mod saved;
mod slots;
mod spec;

use ft_core::input::Input;
use ft_core::output::{DiskRequest, Output, OutputBody};
use ft_vcpu::{GuestRam, Platform, Position};
use serde::{Deserialize, Serialize};

pub use self::spec::{ApplyError, BoardSpec, DiskSpec, NicSpec, TooManyDevices};

use self::slots::Slots;
use crate::chipset::{Pic, Pit, Power, Rtc, power, rtc};
use crate::clock::{Clock, TimerId, Timers};
use crate::ioapic::IoApic;
use crate::lapic::Lapic;
use crate::layout;
use crate::reset::Reset;
use crate::serial::Com1;
use crate::virtio::blk::Blk;
use crate::virtio::console::Console;
use crate::virtio::net::Net;
use crate::virtio::rng::Rng;
use crate::virtio::slot::Slot;

/// Console bytes that are handed out without an end of line.
const CONSOLE_CHUNK: usize = 256;
/// Guest nanoseconds after which console bytes are handed out without an end of line.
const CONSOLE_DELAY: u64 = 1_000_000;

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
    pic: Pic,
    pit: Pit,
    rtc: Rtc,
    power: Power,
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
            pic: Pic::default(),
            pit: Pit::default(),
            rtc: Rtc::default(),
            power: Power::default(),
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
            Input::PowerButton => {
                self.power_button.pressed = true;
                self.power.press_button();
                self.after_chipset();
            }
            Input::Date(seconds) => {
                self.rtc.set_date(*seconds, self.clock.now(at));
                self.after_chipset();
            }
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

    /// True until the real-time clock was told the date.
    pub fn wants_date(&self) -> bool {
        !self.rtc.has_date()
    }

    /// Offset of the next console byte that is handed out.
    pub fn console_offset(&self) -> u64 {
        self.stream.offset
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
            self.set_isa_line(layout::COM1_GSI, true);
            self.set_isa_line(layout::COM1_GSI, false);
        }
    }

    /// The levels of the clock and of ACPI's events, and their timers, follow their registers.
    fn after_chipset(&mut self) {
        self.power.set_rtc_line(self.rtc.line());
        self.set_isa_line(rtc::IRQ, self.rtc.line());
        self.set_isa_line(power::SCI_IRQ, self.power.line());
        self.refresh_timers();
    }

    /// An ISA line is on both kinds of controller.
    fn set_isa_line(&mut self, line: u8, asserted: bool) {
        self.pic.set_line(line, asserted);
        let pin = if line == 0 { layout::TIMER_GSI } else { line };
        let lapic = &mut self.lapic;
        self.ioapic.set_line(pin, asserted, &mut |message| lapic.deliver(message));
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
        self.timers.set(TimerId::Pit, self.pit.deadline());
        self.timers.set(TimerId::Rtc, self.rtc.deadline());
        self.timers.set(TimerId::Power, self.power.deadline());
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
}
