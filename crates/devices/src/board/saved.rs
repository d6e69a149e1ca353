//! Saving, restoring and digesting a board.

use ft_vcpu::GuestRam;

use super::Board;
use super::slots::Slots;
use crate::digest;
use crate::serial::Com1;
use crate::state::{BoardState, Component, DeviceState, RestoreError, Versioned};
use crate::virtio::net::Net;
use crate::virtio::slot::Slot;
use crate::virtio::{Device, blk};

impl Board {
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
            pic: Versioned::new(self.pic.clone()),
            pit: Versioned::new(self.pit.clone()),
            rtc: Versioned::new(self.rtc.clone()),
            power: Versioned::new(self.power.clone()),
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
        let (pic, pit) = (state.pic.get()?.clone(), state.pit.get()?.clone());
        let (rtc, power) = (state.rtc.get()?.clone(), state.power.get()?.clone());
        if !rtc.is_sane() {
            return Err(RestoreError::Bad { component: "rtc", reason: "it is no clock's" });
        }
        if !pic.is_sane() {
            return Err(RestoreError::Bad {
                component: "pic",
                reason: "it is no pair of interrupt controllers'",
            });
        }
        let (clock, ioapic) = (*state.clock.get()?, state.ioapic.get()?.clone());
        let mut lapic = state.lapic.get()?.clone();
        lapic.update();
        let (stream, power_button) = (state.console_stream.get()?.clone(), *state.power_button.get()?);

        let slots = Slots { disks, nics, rng, console };
        (self.clock, self.lapic, self.ioapic, self.com1) = (clock, lapic, ioapic, com1);
        (self.pic, self.pit, self.rtc, self.power) = (pic, pit, rtc, power);
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
}
