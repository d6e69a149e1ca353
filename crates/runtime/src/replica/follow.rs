//! The backup's loop: run to where the next record lies, do what it says.

use std::sync::atomic::Ordering;

use ft_core::input::Input;
use ft_core::{Body, LogRecord, Mode};
use ft_vcpu::Stop;

use super::vcpu::{NAP, Runner};

impl Runner {
    /// Executes records until the protocol wants something else.
    pub(super) fn follow(&mut self) {
        loop {
            self.shared.beat();
            let (record, mode, effects) = {
                let mut core = self.shared.core();
                (core.take_record(), core.mode(), core.has_effects())
            };
            if effects {
                self.shared.pump();
            }
            match record {
                Some(record) => {
                    if !self.execute(&record) {
                        return;
                    }
                }
                None if mode != Mode::Backup => return,
                None => self.shared.park(self.shared.now() + NAP),
            }
        }
    }

    /// Executes one record. False if this side has diverged, or is over.
    fn execute(&mut self, record: &LogRecord) -> bool {
        if !self.inject(record.position) || !self.run_to(record.position) {
            return false;
        }
        match &record.body {
            Body::Input(input) => {
                if let Err(error) = self.machine.apply(input) {
                    self.diverged(format!("an input of the primary does not fit here: {error}"));
                    return false;
                }
                if let Input::NetRx(batch) = input {
                    self.shared.seen_up_to(batch.switch_seq);
                }
                self.outputs_backup();
            }
            Body::Digest(theirs) => {
                if let Err(difference) = self.machine.compare_digest(theirs) {
                    self.diverged(difference.to_string());
                    return false;
                }
                self.shared.digests.fetch_add(1, Ordering::Relaxed);
            }
            Body::Progress | Body::Output { .. } | Body::Armed | Body::Stop => {}
        }
        self.shared.guest.store(self.machine.now_ns(), Ordering::Relaxed);
        let now = self.shared.now();
        let mut core = self.shared.core();
        let same = core.execute(record, now);
        let effects = core.has_effects();
        drop(core);
        if effects {
            self.shared.pump();
        }
        same
    }

    /// Runs the machine until it stands at `position`. False if it cannot get there.
    fn run_to(&mut self, position: u64) -> bool {
        loop {
            let stop = self.machine.run(position, &self.shared.kick);
            self.outputs_backup();
            self.shared.position.store(self.machine.position(), Ordering::Release);
            match stop {
                Stop::Reached => return true,
                Stop::Platform => {}
                Stop::Kicked => {
                    self.shared.kick.take();
                    self.shared.beat();
                    if self.shared.mode() == Mode::Over {
                        return false;
                    }
                }
                Stop::Halted => {
                    self.diverged(format!(
                        "this side's guest halts where the primary's ran on to position {position}"
                    ));
                    return false;
                }
                Stop::Dead(_) => {
                    self.diverged(format!(
                        "this side's guest is dead where the primary's ran on to position {position}"
                    ));
                    return false;
                }
            }
        }
    }

    /// Injects the faults that lie before `position`, each where it belongs.
    fn inject(&mut self, position: u64) -> bool {
        while let Some(index) = self.faults.iter().position(|fault| fault.position <= position) {
            let fault = self.faults.remove(index);
            if fault.position >= self.machine.position() {
                if !self.run_to(fault.position) {
                    return false;
                }
                if !fault.inject(&mut self.machine) {
                    self.shared.control.notice("a fault's address is outside the guest's memory");
                }
            }
        }
        true
    }
}
