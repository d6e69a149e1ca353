//! Where the devices are: addresses, ports and interrupt lines. Loaders build the guest's tables and command line from this.

/// Registers of the local APIC.
pub const LAPIC_BASE: u64 = 0xfee0_0000;
/// Bytes of the local APIC's page.
pub const LAPIC_SIZE: u64 = 0x1000;
/// Registers of the I/O APIC.
pub const IOAPIC_BASE: u64 = 0xfec0_0000;
/// Bytes that the I/O APIC claims.
pub const IOAPIC_SIZE: u64 = 0x1000;
/// Pins of the I/O APIC; GSI n is pin n.
pub const IOAPIC_PINS: usize = 24;
/// First port of the serial line.
pub const COM1_PORT: u16 = 0x3f8;
/// Interrupt line of the serial line.
pub const COM1_GSI: u8 = 4;
/// Pin of the I/O APIC for the interval timer; the other ISA lines are on the pin of their number.
pub const TIMER_GSI: u8 = 2;
/// First port of the keyboard controller, of which only the reset is there.
pub const I8042_PORT: u16 = 0x60;
/// A byte written here is the guest's exit code.
pub const EXIT_PORT: u16 = 0xf4;
/// First virtio-mmio slot.
pub const VIRTIO_BASE: u64 = 0xfeb0_0000;
/// Bytes from one virtio-mmio slot to the next.
pub const VIRTIO_STRIDE: u64 = 0x200;
/// Interrupt line of the first virtio-mmio slot; slot i has line 16 + i.
pub const VIRTIO_GSI: u8 = 16;
/// Slots for which there are interrupt lines.
pub const VIRTIO_SLOTS: usize = IOAPIC_PINS - VIRTIO_GSI as usize;

/// Address of virtio-mmio slot `slot`.
pub const fn virtio_address(slot: usize) -> u64 {
    VIRTIO_BASE + VIRTIO_STRIDE * slot as u64
}

/// Interrupt line of virtio-mmio slot `slot`.
pub const fn virtio_gsi(slot: usize) -> u8 {
    VIRTIO_GSI + slot as u8
}

/// Linux command line parameters that declare `slots` virtio-mmio devices, separated by spaces.
pub fn virtio_command_line(slots: usize) -> String {
    let parameter = |slot| {
        format!("virtio_mmio.device={VIRTIO_STRIDE:#x}@{:#x}:{}", virtio_address(slot), virtio_gsi(slot))
    };
    (0..slots).map(parameter).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_names_every_slot() {
        assert_eq!(virtio_command_line(0), "");
        assert_eq!(
            virtio_command_line(2),
            "virtio_mmio.device=0x200@0xfeb00000:16 virtio_mmio.device=0x200@0xfeb00200:17"
        );
    }
}
