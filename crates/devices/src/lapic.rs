//! The local APIC of the one CPU, in xAPIC mode (Intel SDM volume 3, chapter "Advanced Programmable Interrupt Controller").
//!
//! Its timer runs on guest time at 1 GHz before the divider. Messages to other CPUs, INIT, SMI, NMI and start-up go nowhere:
//! there is one CPU and no other source of them.

use serde::{Deserialize, Serialize};

const ID: u64 = 0x20;
const VERSION: u64 = 0x30;
const TPR: u64 = 0x80;
const PPR: u64 = 0xa0;
const EOI: u64 = 0xb0;
const LDR: u64 = 0xd0;
const DFR: u64 = 0xe0;
const SVR: u64 = 0xf0;
const ISR: u64 = 0x100;
const TMR: u64 = 0x180;
const IRR: u64 = 0x200;
const IRR_END: u64 = 0x280;
const ESR: u64 = 0x280;
const ICR_LOW: u64 = 0x300;
const ICR_HIGH: u64 = 0x310;
const LVT: u64 = 0x320;
const LVT_END: u64 = 0x380;
const INITIAL_COUNT: u64 = 0x380;
const CURRENT_COUNT: u64 = 0x390;
const DIVIDE: u64 = 0x3e0;

/// Version 0x14, six LVT entries.
const VERSION_VALUE: u32 = 0x0005_0014;
const SVR_ENABLE: u32 = 1 << 8;
const LVT_MASKED: u32 = 1 << 16;
const LVT_TIMER_MODE: u32 = 3 << 17;
const MODE_PERIODIC: u32 = 1 << 17;
const MODE_TSC_DEADLINE: u32 = 2 << 17;
/// Bits of each LVT entry that can be written: timer, thermal, performance, LINT0, LINT1, error.
const LVT_WRITABLE: [u32; 6] = [0x0007_00ff, 0x0001_07ff, 0x0001_07ff, 0x0001_a7ff, 0x0001_a7ff, 0x0001_00ff];
const LVT_TIMER: usize = 0;
const LVT_LINT0: usize = 3;
const LVT_ERROR: usize = 5;
/// ESR: received, or asked to send, a vector below 16.
const ERROR_RECEIVED_ILLEGAL: u32 = 1 << 6;

/// APIC base MSR: this is the boot CPU.
const BASE_BSP: u64 = 1 << 8;
/// APIC base MSR: the APIC is on.
const BASE_ENABLE: u64 = 1 << 11;

/// Delivery modes that carry a vector.
const DELIVERY_FIXED: u32 = 0;
const DELIVERY_LOWEST: u32 = 1;
/// Delivery mode of a pin that the 8259A pair is on.
const DELIVERY_EXTERNAL: u32 = 7;

/// A message on the APIC bus, from the I/O APIC or another sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Interrupt vector.
    pub vector: u8,
    /// Delivery mode, 0-7.
    pub delivery: u8,
    /// True for logical destination mode.
    pub logical: bool,
    /// Destination id or mask.
    pub destination: u8,
    /// True if triggered by level: the end of interrupt is told to the I/O APIC.
    pub level: bool,
}

/// What a register write means to the I/O APIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// This level-triggered vector ended.
    Ended(u8),
    /// Messages that were not taken may be taken now.
    Reopened,
}

/// Registers and timer of the local APIC. The whole of it is state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lapic {
    base: u64,
    tpr: u32,
    ldr: u32,
    dfr: u32,
    svr: u32,
    isr: [u32; 8],
    tmr: [u32; 8],
    irr: [u32; 8],
    esr: u32,
    esr_pending: u32,
    icr: [u32; 2],
    lvt: [u32; 6],
    initial_count: u32,
    divide: u32,
    /// Guest nanoseconds at which the timer expires next.
    deadline: Option<u64>,
    /// What [`Lapic::pending`] answers. A function of the rest, kept because the CPU asks at every boundary.
    #[serde(skip)]
    pending: Option<u8>,
}

impl Default for Lapic {
    fn default() -> Self {
        Self {
            base: crate::layout::LAPIC_BASE | BASE_BSP | BASE_ENABLE,
            tpr: 0,
            ldr: 0,
            dfr: u32::MAX,
            svr: 0xff,
            isr: [0; 8],
            tmr: [0; 8],
            irr: [0; 8],
            esr: 0,
            esr_pending: 0,
            icr: [0; 2],
            lvt: [LVT_MASKED; 6],
            initial_count: 0,
            divide: 0,
            deadline: None,
            pending: None,
        }
    }
}

fn highest(bits: &[u32; 8]) -> Option<u8> {
    let word = bits.iter().rposition(|word| *word != 0)?;
    Some((word as u32 * 32 + 31 - bits[word].leading_zeros()) as u8)
}

fn set(bits: &mut [u32; 8], vector: u8, on: bool) {
    let mask = 1 << (vector % 32);
    let word = &mut bits[usize::from(vector / 32)];
    *word = if on { *word | mask } else { *word & !mask };
}

fn get(bits: &[u32; 8], vector: u8) -> bool {
    bits[usize::from(vector / 32)] & (1 << (vector % 32)) != 0
}

impl Lapic {
    /// True if the registers answer at their address.
    pub fn is_enabled(&self) -> bool {
        self.base & BASE_ENABLE != 0
    }

    /// The APIC base MSR.
    pub fn base_msr(&self) -> u64 {
        self.base
    }

    /// Writes the APIC base MSR. False (a #GP) for another address, for x2APIC mode and for reserved bits: this board has
    /// neither.
    pub fn set_base_msr(&mut self, value: u64) -> bool {
        if value & !BASE_ENABLE != crate::layout::LAPIC_BASE | BASE_BSP {
            return false;
        }
        if value & BASE_ENABLE == 0 {
            *self = Self::default();
        }
        self.base = value;
        self.update();
        true
    }

    /// Whether what a read of this register gives depends on the time.
    pub fn read_sees_time(offset: u64) -> bool {
        offset == CURRENT_COUNT
    }

    /// Whether what a write of this register does depends on the time.
    pub fn write_sees_time(offset: u64) -> bool {
        matches!(offset, INITIAL_COUNT | DIVIDE)
    }

    /// Reads the register at `offset` in the page. Registers are 32 bits at multiples of 16; others read 0.
    pub fn read(&self, offset: u64, now: u64) -> u32 {
        let word = |bits: &[u32; 8], first: u64| bits[((offset - first) / 16) as usize];
        match offset {
            _ if !offset.is_multiple_of(16) => 0,
            ID => 0,
            VERSION => VERSION_VALUE,
            TPR => self.tpr,
            PPR => u32::from(self.ppr()),
            LDR => self.ldr,
            DFR => self.dfr,
            SVR => self.svr,
            ISR..TMR => word(&self.isr, ISR),
            TMR..IRR => word(&self.tmr, TMR),
            IRR..IRR_END => word(&self.irr, IRR),
            ESR => self.esr,
            ICR_LOW => self.icr[0],
            ICR_HIGH => self.icr[1],
            LVT..LVT_END => self.lvt[((offset - LVT) / 16) as usize],
            INITIAL_COUNT => self.initial_count,
            CURRENT_COUNT => self.current_count(now),
            DIVIDE => self.divide,
            _ => 0,
        }
    }

    /// Writes the register at `offset` in the page at guest time `now`.
    pub fn write(&mut self, offset: u64, value: u32, now: u64) -> Option<Effect> {
        let mut effect = None;
        match offset {
            TPR => self.tpr = value & 0xff,
            EOI => effect = self.end_of_interrupt(),
            LDR => self.ldr = value & 0xff00_0000,
            DFR => self.dfr = value | 0x0fff_ffff,
            SVR => {
                self.svr = value & 0x1ff;
                if value & SVR_ENABLE == 0 {
                    self.lvt.iter_mut().for_each(|entry| *entry |= LVT_MASKED);
                }
            }
            ESR => self.esr = std::mem::take(&mut self.esr_pending),
            ICR_LOW => {
                self.icr[0] = value & 0x000c_cfff;
                self.send();
            }
            ICR_HIGH => self.icr[1] = value & 0xff00_0000,
            LVT..LVT_END if offset.is_multiple_of(16) => {
                self.write_lvt(((offset - LVT) / 16) as usize, value);
            }
            INITIAL_COUNT if self.timer_mode() != MODE_TSC_DEADLINE => {
                self.initial_count = value;
                self.deadline = (value != 0).then(|| now.saturating_add(self.period()));
            }
            DIVIDE => self.write_divide(value & 0b1011, now),
            _ => {}
        }
        self.update();
        if matches!(offset, LDR | DFR | SVR) { Some(Effect::Reopened) } else { effect }
    }

    /// The TSC-deadline MSR; 0 when it is not armed.
    pub fn tsc_deadline(&self) -> u64 {
        if self.timer_mode() == MODE_TSC_DEADLINE { self.deadline.unwrap_or(0) } else { 0 }
    }

    /// Arms the TSC-deadline timer, or disarms it with 0. Ignored in the other timer modes.
    pub fn set_tsc_deadline(&mut self, value: u64) {
        if self.timer_mode() == MODE_TSC_DEADLINE {
            self.deadline = (value != 0).then_some(value);
        }
    }

    /// Guest nanoseconds at which the timer expires next.
    pub fn deadline(&self) -> Option<u64> {
        self.deadline
    }

    /// Expires the timer if it is due at `now`. A periodic timer that expired several times gives one interrupt and goes on
    /// at its next multiple after `now`.
    pub fn fire(&mut self, now: u64) {
        let Some(deadline) = self.deadline.filter(|deadline| *deadline <= now) else { return };
        self.deadline = if self.timer_mode() == MODE_PERIODIC {
            let period = self.period().max(1);
            let missed = (now - deadline) / period;
            deadline.checked_add((missed + 1).saturating_mul(period))
        } else {
            None
        };
        self.local_interrupt(LVT_TIMER);
        self.update();
    }

    /// Takes a message from the bus. False if it was not for this CPU, carries no vector, or the APIC is off.
    pub fn deliver(&mut self, message: Message) -> bool {
        let vectored = matches!(u32::from(message.delivery), DELIVERY_FIXED | DELIVERY_LOWEST);
        if !vectored || !self.is_destination(message.logical, message.destination) {
            return false;
        }
        let accepted = self.accept(message.vector, message.level);
        self.update();
        accepted
    }

    /// The vector that would be delivered now.
    pub fn pending(&self) -> Option<u8> {
        self.pending
    }

    /// The CPU takes the pending vector. Without one it is the spurious vector.
    pub fn acknowledge(&mut self) -> u8 {
        let Some(vector) = self.pending else { return self.svr as u8 };
        set(&mut self.irr, vector, false);
        set(&mut self.isr, vector, true);
        self.update();
        vector
    }

    /// True if an interrupt of the 8259A pair reaches the CPU: through LINT0, or past an APIC that is off.
    pub fn passes_external(&self) -> bool {
        let pin = self.lvt[LVT_LINT0];
        !self.is_enabled() || (pin & LVT_MASKED == 0 && pin >> 8 & 7 == DELIVERY_EXTERNAL)
    }

    /// Task priority, 0-15.
    pub fn cr8(&self) -> u8 {
        (self.tpr >> 4) as u8
    }

    /// Sets the task priority, 0-15.
    pub fn set_cr8(&mut self, value: u8) {
        self.tpr = u32::from(value & 15) << 4;
        self.update();
    }

    /// Computes what is kept beside the state; to be called after deserialisation.
    pub fn update(&mut self) {
        let ready = self.is_enabled() && self.svr & SVR_ENABLE != 0;
        let ppr = self.ppr();
        self.pending = highest(&self.irr).filter(|vector| ready && vector & 0xf0 > ppr & 0xf0);
    }

    fn ppr(&self) -> u8 {
        let tpr = self.tpr as u8;
        let serviced = highest(&self.isr).unwrap_or(0);
        if tpr & 0xf0 >= serviced & 0xf0 { tpr } else { serviced & 0xf0 }
    }

    fn end_of_interrupt(&mut self) -> Option<Effect> {
        let vector = highest(&self.isr)?;
        set(&mut self.isr, vector, false);
        get(&self.tmr, vector).then_some(Effect::Ended(vector))
    }

    fn is_destination(&self, logical: bool, destination: u8) -> bool {
        if !logical {
            return matches!(destination, 0 | 0xff);
        }
        let own = (self.ldr >> 24) as u8;
        if self.dfr >> 28 == 0xf {
            own & destination != 0
        } else {
            // Cluster model: cluster number in the high half, members in the low half.
            (destination >> 4 == 0xf || destination >> 4 == own >> 4) && own & destination & 0xf != 0
        }
    }

    fn send(&mut self) {
        let [low, high] = self.icr;
        let to_self = match low >> 18 & 3 {
            0 => self.is_destination(low & 1 << 11 != 0, (high >> 24) as u8),
            1 | 2 => true,
            _ => false,
        };
        if to_self && matches!(low >> 8 & 7, DELIVERY_FIXED | DELIVERY_LOWEST) {
            self.accept(low as u8, false);
        }
    }

    fn accept(&mut self, vector: u8, level: bool) -> bool {
        // A software-disabled APIC keeps what it has and takes nothing new.
        if !self.is_enabled() || self.svr & SVR_ENABLE == 0 {
            return false;
        }
        if vector < 16 {
            self.esr_pending |= ERROR_RECEIVED_ILLEGAL;
            // An error entry that is itself illegal must not report itself for ever.
            if self.lvt[LVT_ERROR] as u8 >= 16 {
                self.local_interrupt(LVT_ERROR);
            }
            return false;
        }
        set(&mut self.irr, vector, true);
        set(&mut self.tmr, vector, level);
        true
    }

    fn local_interrupt(&mut self, entry: usize) {
        let entry = self.lvt[entry];
        if entry & LVT_MASKED == 0 {
            self.accept(entry as u8, false);
        }
    }

    fn write_lvt(&mut self, entry: usize, value: u32) {
        let before = self.timer_mode();
        self.lvt[entry] = value & LVT_WRITABLE[entry];
        if self.svr & SVR_ENABLE == 0 {
            self.lvt[entry] |= LVT_MASKED;
        }
        let after = self.timer_mode();
        // Going to or from TSC-deadline mode disarms the timer.
        if before != after && (before == MODE_TSC_DEADLINE || after == MODE_TSC_DEADLINE) {
            self.deadline = None;
            self.initial_count = 0;
        }
    }

    fn write_divide(&mut self, value: u32, now: u64) {
        let count = self.current_count(now);
        self.divide = value;
        if self.deadline.is_some() && self.timer_mode() != MODE_TSC_DEADLINE {
            self.deadline = Some(now.saturating_add(u64::from(count) * self.divider()));
        }
    }

    fn timer_mode(&self) -> u32 {
        self.lvt[LVT_TIMER] & LVT_TIMER_MODE
    }

    /// Nanoseconds per count.
    fn divider(&self) -> u64 {
        match (self.divide >> 1 & 4) | (self.divide & 3) {
            7 => 1,
            shift => 2 << shift,
        }
    }

    fn period(&self) -> u64 {
        u64::from(self.initial_count) * self.divider()
    }

    fn current_count(&self, now: u64) -> u32 {
        if self.timer_mode() == MODE_TSC_DEADLINE {
            return 0;
        }
        let left = self.deadline.map_or(0, |deadline| deadline.saturating_sub(now));
        u32::try_from(left.div_ceil(self.divider())).unwrap_or(u32::MAX)
    }
}
