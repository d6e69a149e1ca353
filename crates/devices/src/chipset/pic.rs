//! The pair of 8259A interrupt controllers (Intel 8259A data sheet), as a PC has them: the second on line 2 of the first.
//!
//! Linux programs them, reads its mask back to see that they are there, and then masks them for good: lines reach the CPU
//! through the I/O APIC. Their output is the external interrupt of the local APIC's LINT0 pin.

use serde::{Deserialize, Serialize};

/// Command and data port of the first chip.
pub const MASTER_PORT: u16 = 0x20;
/// Command and data port of the second chip.
pub const SLAVE_PORT: u16 = 0xa0;
/// Edge or level of each line: two ports, one bit a line.
pub const TRIGGER_PORT: u16 = 0x4d0;

/// The line of the first chip on which the second is.
const CASCADE: u8 = 2;
/// Lines that are edge-triggered whatever the trigger register says: timer, keyboard, cascade; RTC and coprocessor.
const ALWAYS_EDGE: [u8; 2] = [0b0000_0111, 0b0010_0001];

const ICW1: u8 = 1 << 4;
const ICW1_NEEDS_ICW4: u8 = 1;
const ICW1_SINGLE: u8 = 1 << 1;
const ICW4_AUTO_EOI: u8 = 1 << 1;
const ICW4_FULLY_NESTED: u8 = 1 << 4;
const OCW3: u8 = 1 << 3;

/// What the data port expects next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Expects {
    /// The mask (OCW1).
    #[default]
    Mask,
    /// The vector base (ICW2).
    Base,
    /// The cascade word (ICW3).
    Cascade,
    /// The mode word (ICW4).
    Mode,
}

/// One 8259A. Bit n of a byte is line n.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Chip {
    lines: u8,
    requested: u8,
    in_service: u8,
    mask: u8,
    level: u8,
    base: u8,
    /// The line of highest priority.
    first: u8,
    expects: Expects,
    single: bool,
    needs_mode: bool,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    fully_nested: bool,
    special_mask: bool,
    read_in_service: bool,
    poll: bool,
}

impl Chip {
    fn set_line(&mut self, line: u8, asserted: bool) {
        let bit = 1 << line;
        let rises = asserted && self.lines & bit == 0;
        self.lines = if asserted { self.lines | bit } else { self.lines & !bit };
        if self.level & bit != 0 {
            self.requested = if asserted { self.requested | bit } else { self.requested & !bit };
        } else if rises {
            self.requested |= bit;
        }
    }

    /// The line of highest priority among `lines`.
    fn highest(&self, lines: u8) -> Option<u8> {
        let rotated = lines.rotate_right(self.first.into());
        (rotated != 0).then(|| (rotated.trailing_zeros() as u8 + self.first) & 7)
    }

    /// How urgent a line is: 0 is first.
    fn rank(&self, line: u8) -> u8 {
        line.wrapping_sub(self.first) & 7
    }

    /// The line that asks for an interrupt now.
    fn asking(&self, is_master: bool) -> Option<u8> {
        let line = self.highest(self.requested & !self.mask)?;
        let mut serviced = self.in_service;
        if self.special_mask {
            serviced &= !self.mask;
        }
        if self.fully_nested && is_master {
            serviced &= !(1 << CASCADE);
        }
        let busy = self.highest(serviced).map_or(8, |line| self.rank(line));
        (self.rank(line) < busy).then_some(line)
    }

    fn acknowledge(&mut self, line: u8) {
        let bit = 1 << line;
        if self.auto_eoi {
            if self.rotate_on_auto_eoi {
                self.first = (line + 1) & 7;
            }
        } else {
            self.in_service |= bit;
        }
        if self.level & bit == 0 {
            self.requested &= !bit;
        }
    }

    fn command(&mut self, value: u8) {
        if value & ICW1 != 0 {
            let (lines, level) = (self.lines, self.level);
            *self = Self { lines, level, expects: Expects::Base, ..Self::default() };
            // Level lines that are asserted still ask; edges start anew.
            self.requested = lines & level;
            self.single = value & ICW1_SINGLE != 0;
            self.needs_mode = value & ICW1_NEEDS_ICW4 != 0;
        } else if value & OCW3 != 0 {
            match value & 3 {
                2 => self.read_in_service = false,
                3 => self.read_in_service = true,
                _ => {}
            }
            if value & 0x40 != 0 {
                self.special_mask = value & 0x20 != 0;
            }
            self.poll = value & 4 != 0;
        } else {
            let line = value & 7;
            match value >> 5 {
                0 => self.rotate_on_auto_eoi = false,
                4 => self.rotate_on_auto_eoi = true,
                rotate @ (1 | 5) => {
                    if let Some(ended) = self.highest(self.in_service) {
                        self.in_service &= !(1 << ended);
                        if rotate == 5 {
                            self.first = (ended + 1) & 7;
                        }
                    }
                }
                3 => self.in_service &= !(1 << line),
                6 => self.first = (line + 1) & 7,
                7 => {
                    self.in_service &= !(1 << line);
                    self.first = (line + 1) & 7;
                }
                _ => {}
            }
        }
    }

    fn data(&mut self, value: u8) {
        let after_cascade = if self.needs_mode { Expects::Mode } else { Expects::Mask };
        self.expects = match self.expects {
            Expects::Mask => {
                self.mask = value;
                Expects::Mask
            }
            Expects::Base => {
                self.base = value & 0xf8;
                if self.single { after_cascade } else { Expects::Cascade }
            }
            Expects::Cascade => after_cascade,
            Expects::Mode => {
                self.auto_eoi = value & ICW4_AUTO_EOI != 0;
                self.fully_nested = value & ICW4_FULLY_NESTED != 0;
                Expects::Mask
            }
        };
    }
}

/// Both chips. The whole of it is state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pic {
    chips: [Chip; 2],
}

impl Pic {
    /// True if the state can be that of a pair.
    pub fn is_sane(&self) -> bool {
        self.chips.iter().all(|chip| chip.first < 8 && chip.base & 7 == 0)
    }

    /// True if `port` belongs to the pair.
    pub fn claims(port: u16) -> bool {
        matches!(port & !1, MASTER_PORT | SLAVE_PORT | TRIGGER_PORT)
    }

    /// Reads a port. In poll mode that acknowledges an interrupt.
    pub fn read(&mut self, port: u16) -> u8 {
        if port & !1 == TRIGGER_PORT {
            return self.chips[usize::from(port & 1)].level;
        }
        let number = usize::from(port & !1 == SLAVE_PORT);
        let chip = &mut self.chips[number];
        if std::mem::take(&mut chip.poll) {
            let Some(line) = chip.asking(number == 0) else { return 0 };
            chip.acknowledge(line);
            self.cascade();
            return 0x80 | line;
        }
        match port & 1 {
            1 => chip.mask,
            _ if chip.read_in_service => chip.in_service,
            _ => chip.requested,
        }
    }

    /// Writes a port.
    pub fn write(&mut self, port: u16, value: u8) {
        let number = usize::from(port & !1 == SLAVE_PORT);
        match port & !1 {
            TRIGGER_PORT => {
                let number = usize::from(port & 1);
                let chip = &mut self.chips[number];
                chip.level = value & !ALWAYS_EDGE[number];
                chip.requested |= chip.lines & chip.level;
            }
            _ if port & 1 == 0 => self.chips[number].command(value),
            _ => self.chips[number].data(value),
        }
        self.cascade();
    }

    /// A device asserts or releases line 0-15. Line 2 is the second chip's.
    pub fn set_line(&mut self, line: u8, asserted: bool) {
        if line < 16 && line != CASCADE {
            self.chips[usize::from(line / 8)].set_line(line & 7, asserted);
            self.cascade();
        }
    }

    /// True if the CPU is asked for an interrupt.
    pub fn is_asking(&self) -> bool {
        self.chips[0].asking(true).is_some()
    }

    /// The CPU takes the interrupt; gives its vector. One that went away meanwhile is the spurious line 7.
    pub fn acknowledge(&mut self) -> u8 {
        let Some(line) = self.chips[0].asking(true) else { return self.chips[0].base | 7 };
        self.chips[0].acknowledge(line);
        if line != CASCADE {
            return self.chips[0].base | line;
        }
        let line = self.chips[1].asking(false);
        if let Some(line) = line {
            self.chips[1].acknowledge(line);
        }
        self.cascade();
        self.chips[1].base | line.unwrap_or(7)
    }

    /// The vector that [`Pic::acknowledge`] would give.
    pub fn vector(&self) -> u8 {
        match self.chips[0].asking(true) {
            Some(CASCADE) => self.chips[1].base | self.chips[1].asking(false).unwrap_or(7),
            line => self.chips[0].base | line.unwrap_or(7),
        }
    }

    /// The second chip's output is a line of the first.
    fn cascade(&mut self) {
        let asks = self.chips[1].asking(false).is_some();
        let master = &mut self.chips[0];
        // An acknowledged cascade line must rise again for the next interrupt of the second chip.
        if asks && master.lines & 1 << CASCADE != 0 && master.requested & 1 << CASCADE == 0 {
            master.set_line(CASCADE, false);
        }
        master.set_line(CASCADE, asks);
        if !asks {
            master.requested &= !(1 << CASCADE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Linux programs it: vectors 0x30 and 0x38, everything unmasked.
    fn programmed() -> Pic {
        let mut pic = Pic::default();
        for (port, base, cascade) in [(MASTER_PORT, 0x30, 1 << CASCADE), (SLAVE_PORT, 0x38, CASCADE)] {
            pic.write(port, 0x11);
            for word in [base, cascade, 1, 0] {
                pic.write(port + 1, word);
            }
        }
        pic
    }

    #[test]
    fn a_line_or_vector_that_there_is_not_is_no_state() {
        let mut pic = programmed();
        assert!(pic.is_sane());
        pic.chips[1].first = 8;
        assert!(!pic.is_sane());
        let mut pic = programmed();
        pic.chips[0].base += 1;
        assert!(!pic.is_sane());
    }

    #[test]
    fn the_mask_reads_back() {
        let mut pic = programmed();
        pic.write(MASTER_PORT + 1, 0xfb);
        assert_eq!(pic.read(MASTER_PORT + 1), 0xfb);
    }

    #[test]
    fn an_edge_interrupts_once_and_waits_for_its_end() {
        let mut pic = programmed();
        pic.set_line(4, true);
        assert!(pic.is_asking());
        assert_eq!(pic.vector(), 0x34);
        assert_eq!(pic.acknowledge(), 0x34);
        assert!(!pic.is_asking());
        pic.set_line(4, false);
        pic.set_line(4, true);
        assert!(!pic.is_asking(), "its first interrupt is in service");
        pic.write(MASTER_PORT, 0x20);
        assert_eq!(pic.acknowledge(), 0x34);
        pic.write(MASTER_PORT, 0x20);
        assert!(!pic.is_asking());
    }

    #[test]
    fn lower_lines_go_first_and_interrupt_higher_ones() {
        let mut pic = programmed();
        pic.set_line(5, true);
        assert_eq!(pic.acknowledge(), 0x35);
        pic.set_line(7, true);
        assert!(!pic.is_asking());
        pic.set_line(0, true);
        assert_eq!(pic.acknowledge(), 0x30);
        // Ends come innermost first.
        pic.write(MASTER_PORT, 0x20);
        pic.write(MASTER_PORT, 0x0b);
        assert_eq!(pic.read(MASTER_PORT), 1 << 5);
        pic.write(MASTER_PORT, 0x20);
        assert_eq!(pic.acknowledge(), 0x37);
    }

    #[test]
    fn the_second_chip_comes_through_line_2() {
        let mut pic = programmed();
        pic.set_line(8, true);
        pic.set_line(12, true);
        assert_eq!(pic.acknowledge(), 0x38);
        assert!(!pic.is_asking());
        pic.write(SLAVE_PORT, 0x20);
        pic.write(MASTER_PORT, 0x62);
        assert_eq!(pic.acknowledge(), 0x3c);
        pic.write(SLAVE_PORT, 0x20);
        pic.write(MASTER_PORT, 0x20);
        assert!(!pic.is_asking());
    }

    #[test]
    fn a_level_asks_until_it_is_released() {
        let mut pic = programmed();
        pic.write(TRIGGER_PORT + 1, 0xff);
        assert_eq!(pic.read(TRIGGER_PORT + 1), !ALWAYS_EDGE[1]);
        pic.set_line(9, true);
        assert_eq!(pic.acknowledge(), 0x39);
        pic.write(SLAVE_PORT, 0x20);
        pic.write(MASTER_PORT, 0x20);
        assert_eq!(pic.acknowledge(), 0x39);
        pic.set_line(9, false);
        pic.write(SLAVE_PORT, 0x20);
        pic.write(MASTER_PORT, 0x20);
        assert!(!pic.is_asking());
    }

    #[test]
    fn masked_lines_ask_when_they_are_unmasked() {
        let mut pic = programmed();
        pic.write(MASTER_PORT + 1, 0xff);
        pic.set_line(3, true);
        assert!(!pic.is_asking());
        assert_eq!(pic.read(MASTER_PORT), 1 << 3);
        pic.write(MASTER_PORT + 1, 0);
        assert_eq!(pic.acknowledge(), 0x33);
    }

    #[test]
    fn poll_mode_acknowledges_by_reading() {
        let mut pic = programmed();
        pic.set_line(6, true);
        pic.write(MASTER_PORT, 0x0c);
        assert_eq!(pic.read(MASTER_PORT), 0x86);
        assert!(!pic.is_asking());
        pic.write(MASTER_PORT, 0x0c);
        assert_eq!(pic.read(MASTER_PORT), 0);
    }
}
