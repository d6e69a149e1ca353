//! The board as the CPU sees it: ports, memory-mapped registers, MSRs, timers and interrupts.

use ft_core::output::{Output, OutputBody};
use ft_vcpu::{Access, Platform, Position};

use super::Board;
use crate::chipset::{Pic, Pit, Power, Rtc, power};
use crate::clock::TimerId;
use crate::lapic::{Effect, Lapic};
use crate::layout::{self, IOAPIC_BASE, IOAPIC_SIZE, LAPIC_BASE, LAPIC_SIZE, VIRTIO_BASE, VIRTIO_STRIDE};
use crate::reset::Reset;

const MSR_TSC: u32 = 0x10;
const MSR_APIC_BASE: u32 = 0x1b;
const MSR_TSC_DEADLINE: u32 = 0x6e0;

impl Board {
    fn port_read(&mut self, at: Position, port: u16) -> u8 {
        if (layout::COM1_PORT..layout::COM1_PORT + 8).contains(&port) {
            let value = self.com1.read((port - layout::COM1_PORT) as u8);
            self.after_com1();
            value
        } else if port == layout::EXIT_PORT {
            u8::from(self.power_button.pressed)
        } else if Pit::claims(port) {
            self.pit.read(port, self.clock.now(at))
        } else if Reset::claims(port) {
            self.reset.read(port)
        } else if Pic::claims(port) {
            self.pic.read(port)
        } else if Rtc::claims(port) {
            let value = self.rtc.read(port, self.clock.now(at));
            self.after_chipset();
            value
        } else if Power::claims(port) {
            let value = self.power.read(port, self.clock.now(at));
            self.after_chipset();
            value
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
        } else if Pit::claims(port) {
            self.pit.write(port, value, self.clock.now(at));
            self.refresh_timers();
        } else if port == layout::EXIT_PORT || Reset::claims(port) {
            if let Some(body) = self.reset.write(port, value) {
                self.end(at, body);
            }
        } else if Pic::claims(port) {
            self.pic.write(port, value);
        } else if Rtc::claims(port) {
            self.rtc.write(port, value, self.clock.now(at));
            self.after_chipset();
        } else if Power::claims(port) {
            let asked = self.power.write(port, value, self.clock.now(at));
            self.after_chipset();
            match asked {
                Some(power::Asked::PowerOff) => self.end(at, OutputBody::PowerOff { code: 0 }),
                Some(power::Asked::Reset) => self.end(at, OutputBody::Reset),
                None => {}
            }
        }
    }

    /// An interrupt of the 8259A pair goes before those of the local APIC, whose priorities it does not have.
    fn external_interrupt(&self) -> bool {
        self.lapic.passes_external() && self.pic.is_asking()
    }

    fn end(&mut self, at: Position, body: OutputBody) {
        // What was written before the end is seen before the end.
        self.flush_console(at);
        self.outputs.push(Output { position: at, body });
    }
}

fn offset(address: u64, base: u64, size: u64) -> Option<u64> {
    address.checked_sub(base).filter(|offset| *offset < size)
}

fn ones(size: u8) -> u64 {
    u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8)))
}

impl Platform for Board {
    fn pio_read(&mut self, at: Position, port: u16, size: u8) -> u32 {
        (0..u16::from(size.min(4))).fold(0, |value, index| {
            value | u32::from(self.port_read(at, port.wrapping_add(index))) << (8 * index)
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

    fn sees_time(&self, access: Access) -> bool {
        let register = |address| offset(address, LAPIC_BASE, LAPIC_SIZE).filter(|_| self.lapic.is_enabled());
        match access {
            Access::MmioRead(address) => register(address).is_some_and(Lapic::read_sees_time),
            Access::MmioWrite(address) => register(address).is_some_and(Lapic::write_sees_time),
            Access::MsrRead(msr) => msr == MSR_TSC,
            Access::MsrWrite(msr) => matches!(msr, MSR_TSC | MSR_TSC_DEADLINE),
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
                TimerId::Pit => {
                    if self.pit.fire(now) {
                        self.set_isa_line(0, true);
                        self.set_isa_line(0, false);
                    }
                    self.refresh_timers();
                }
                TimerId::Rtc => {
                    self.rtc.update(now);
                    self.after_chipset();
                }
                TimerId::Power => {
                    self.power.update(now);
                    self.after_chipset();
                }
                TimerId::Console => self.flush_console(at),
            }
        }
    }

    fn pending_interrupt(&self) -> Option<u8> {
        if self.external_interrupt() { Some(self.pic.vector()) } else { self.lapic.pending() }
    }

    fn acknowledge_interrupt(&mut self) -> u8 {
        if self.external_interrupt() { self.pic.acknowledge() } else { self.lapic.acknowledge() }
    }

    fn wants_stop(&self) -> bool {
        !self.outputs.is_empty()
    }
}
