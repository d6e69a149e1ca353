//! The engines under test.

use ft_vcpu::software::{Options, SoftwareVcpu};
use ft_vcpu::{CpuState, GuestRam, Kick, Platform, Position, Stop, Vcpu};

/// The software engine as it is used.
pub(crate) fn software(ram: GuestRam) -> Box<dyn Vcpu> {
    Box::new(SoftwareVcpu::new(ram, Options::default()).expect("an engine"))
}

/// The software engine with hardly any cache, which it also drops at random.
pub(crate) fn software_with_a_small_cache(ram: GuestRam) -> Box<dyn Vcpu> {
    let options = Options { blocks: 64, flush_seed: Some(7) };
    Box::new(SoftwareVcpu::new(ram, options).expect("an engine"))
}

/// A right engine of which a test makes a wrong one: `fault` spoils each state that it gives.
pub(crate) struct Spoilt {
    pub(crate) inner: Box<dyn Vcpu>,
    pub(crate) fault: fn(&mut CpuState),
}

impl Vcpu for Spoilt {
    fn position(&self) -> Position {
        self.inner.position()
    }

    fn run(&mut self, until: Position, kick: &Kick, platform: &mut dyn Platform) -> Stop {
        self.inner.run(until, kick, platform)
    }

    fn state(&self) -> CpuState {
        let mut state = self.inner.state();
        (self.fault)(&mut state);
        state
    }

    fn restore(&mut self, state: &CpuState) {
        self.inner.restore(state);
    }

    fn flush_tlb(&mut self) {
        self.inner.flush_tlb();
    }

    fn take_unimplemented(&mut self) -> Vec<String> {
        self.inner.take_unimplemented()
    }
}
