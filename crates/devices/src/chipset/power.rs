//! ACPI fixed hardware (ACPI 6.5, section 4.8): PM1a event and control registers, the 32-bit PM timer, the reset register.
//!
//! There is no SMI command: the machine is in ACPI mode from the start. Sleep state S5 switches off with exit code 0.

use serde::{Deserialize, Serialize};

use super::rate::Rate;

/// First port of the PM1a event block: status and enable, two bytes each.
pub const EVENT_PORT: u16 = 0x600;
/// PM1a control register, two bytes.
pub const CONTROL_PORT: u16 = 0x604;
/// The PM timer, four bytes.
pub const TIMER_PORT: u16 = 0x608;
/// The reset register of the FADT.
pub const RESET_PORT: u16 = 0xcf9;
/// What is written there to reset.
pub const RESET_VALUE: u8 = 0x06;
/// Interrupt line of the events.
pub const SCI_IRQ: u8 = 9;
/// The value of SLP_TYP that means S5, for the `_S5` object.
pub const SLEEP_S5: u8 = 5;

const ENABLE_PORT: u16 = EVENT_PORT + 2;
const PORT_END: u16 = TIMER_PORT + 4;
const RATE: Rate = Rate::hertz(3_579_545);

const TIMER_STATUS: u16 = 1;
const GLOBAL_STATUS: u16 = 1 << 5;
const BUTTON_STATUS: u16 = 1 << 8;
const RTC_STATUS: u16 = 1 << 10;
const EVENTS: u16 = TIMER_STATUS | GLOBAL_STATUS | BUTTON_STATUS | RTC_STATUS;
const SCI_ENABLED: u16 = 1;
const SLEEP_ENABLE: u8 = 1 << 5;
const RESET_CPU: u8 = 1 << 2;

/// What a write asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Switch off.
    PowerOff,
    /// Start again.
    Reset,
}

/// The registers. The whole of it is state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Power {
    status: u16,
    enable: u16,
    control: u16,
    /// How often the timer's highest bit has changed, as far as `status` knows.
    toggles: u64,
    rtc_line: bool,
}

impl Power {
    /// True if `port` belongs here.
    pub fn claims(port: u16) -> bool {
        (EVENT_PORT..PORT_END).contains(&port) || port == RESET_PORT
    }

    /// Reads a byte of a register.
    pub fn read(&mut self, port: u16, now: u64) -> u8 {
        self.update(now);
        if (TIMER_PORT..PORT_END).contains(&port) {
            return (RATE.ticks(now) as u32).to_le_bytes()[usize::from(port - TIMER_PORT)];
        }
        let word = match port & !1 {
            EVENT_PORT => self.status,
            ENABLE_PORT => self.enable,
            CONTROL_PORT => self.control | SCI_ENABLED,
            _ => 0,
        };
        word.to_le_bytes()[usize::from(port & 1)]
    }

    /// Writes a byte of a register.
    pub fn write(&mut self, port: u16, value: u8, now: u64) -> Option<Asked> {
        self.update(now);
        let word = u16::from(value) << (8 * (port & 1));
        let others = 0xff00_u16 >> (8 * (port & 1));
        match port & !1 {
            // Bits are cleared by writing ones.
            EVENT_PORT => self.status &= !word,
            ENABLE_PORT => self.enable = (self.enable & others | word) & EVENTS,
            CONTROL_PORT => {
                self.control = self.control & others | word;
                // SLP_EN reads as 0.
                self.control &= !(u16::from(SLEEP_ENABLE) << 8);
                if port == CONTROL_PORT + 1 && value & SLEEP_ENABLE != 0 && value >> 2 & 7 == SLEEP_S5 {
                    return Some(Asked::PowerOff);
                }
            }
            _ if port == RESET_PORT && value & RESET_CPU != 0 => return Some(Asked::Reset),
            _ => {}
        }
        None
    }

    /// Somebody pressed the power button.
    pub fn press_button(&mut self) {
        self.status |= BUTTON_STATUS;
    }

    /// The level of the real-time clock's line; its rise is an event.
    pub fn set_rtc_line(&mut self, asserted: bool) {
        if asserted && !self.rtc_line {
            self.status |= RTC_STATUS;
        }
        self.rtc_line = asserted;
    }

    /// True while the SCI is asserted.
    pub fn line(&self) -> bool {
        self.status & self.enable != 0
    }

    /// Guest nanoseconds at which the timer sets its status, if that interrupts.
    pub fn deadline(&self) -> Option<u64> {
        let armed = self.enable & TIMER_STATUS != 0 && self.status & TIMER_STATUS == 0;
        armed.then(|| RATE.nanos(self.toggles.saturating_add(1).saturating_mul(1 << 31)))
    }

    /// Brings the timer's status up to `now`.
    pub fn update(&mut self, now: u64) {
        let toggles = RATE.ticks(now) >> 31;
        if toggles != self.toggles {
            self.toggles = toggles;
            self.status |= TIMER_STATUS;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write16(power: &mut Power, port: u16, value: u16) -> Option<Asked> {
        let [low, high] = value.to_le_bytes();
        let first = power.write(port, low, 0);
        first.or(power.write(port + 1, high, 0))
    }

    fn timer(power: &mut Power, now: u64) -> u32 {
        u32::from_le_bytes([0, 1, 2, 3].map(|byte| power.read(TIMER_PORT + byte, now)))
    }

    #[test]
    fn the_timer_counts_guest_time() {
        let mut power = Power::default();
        assert_eq!(timer(&mut power, 0), 0);
        assert_eq!(timer(&mut power, 1_000_000_000), 3_579_545);
        assert_eq!(timer(&mut power, 3600 * 1_000_000_000), (3600_u64 * 3_579_545) as u32);
    }

    #[test]
    fn s5_switches_off_and_other_states_do_not() {
        let mut power = Power::default();
        assert_eq!(write16(&mut power, CONTROL_PORT, 0x2001), None);
        assert_eq!(write16(&mut power, CONTROL_PORT, 5 << 10), None, "without SLP_EN");
        assert_eq!(write16(&mut power, CONTROL_PORT, 0x2000 | 5 << 10), Some(Asked::PowerOff));
    }

    #[test]
    fn acpi_mode_is_on_and_sleep_enable_reads_as_zero() {
        let mut power = Power::default();
        assert_eq!(power.read(CONTROL_PORT, 0) & 1, 1);
        write16(&mut power, CONTROL_PORT, 0x2000 | 1 << 10);
        assert_eq!(power.read(CONTROL_PORT + 1, 0), 1 << 2);
    }

    #[test]
    fn the_button_interrupts_until_its_status_is_cleared() {
        let mut power = Power::default();
        power.press_button();
        assert!(!power.line());
        write16(&mut power, EVENT_PORT + 2, BUTTON_STATUS);
        assert!(power.line());
        write16(&mut power, EVENT_PORT, BUTTON_STATUS);
        assert!(!power.line());
        assert_eq!(power.read(EVENT_PORT + 1, 0), 0);
    }

    #[test]
    fn the_clock_is_an_event_when_its_line_rises() {
        let mut power = Power::default();
        write16(&mut power, EVENT_PORT + 2, RTC_STATUS);
        power.set_rtc_line(true);
        assert!(power.line());
        write16(&mut power, EVENT_PORT, RTC_STATUS);
        power.set_rtc_line(true);
        assert!(!power.line());
    }

    #[test]
    fn the_timer_interrupts_when_its_highest_bit_changes() {
        let mut power = Power::default();
        assert_eq!(power.deadline(), None);
        write16(&mut power, EVENT_PORT + 2, TIMER_STATUS);
        let deadline = power.deadline().unwrap();
        power.update(deadline - 1);
        assert!(!power.line());
        power.update(deadline);
        assert!(power.line());
        assert_eq!(timer(&mut power, deadline), 1 << 31);
        assert_eq!(power.deadline(), None);
    }

    #[test]
    fn the_reset_register_resets() {
        let mut power = Power::default();
        assert_eq!(power.write(RESET_PORT, 0x02, 0), None);
        assert_eq!(power.write(RESET_PORT, RESET_VALUE, 0), Some(Asked::Reset));
    }
}
