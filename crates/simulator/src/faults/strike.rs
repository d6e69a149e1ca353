//! What each kind of fault does, and how it ends.

use ft_core::Event;
use ft_devices::backend::stamp::CopyState;

use super::{Fault, Kind};
use crate::node::{Doom, Thread};
use crate::shape::{MS, Setting};
use crate::trace::Of;
use crate::world::links::flip;
use crate::world::queue::Happening;
use crate::world::{Strike, World};

impl World {
    /// A fault of the plan strikes.
    pub(crate) fn strike(&mut self, index: usize) {
        if self.calm {
            return;
        }
        let fault = self.plan.faults[index];
        let Fault { kind, victim, lasts, number, .. } = fault;
        let there = self.process(victim).is_some();
        let (empty, both) = (!there, self.shape.setting == Setting::OneMachine && kind == Kind::HostLoss);
        let applies = match kind {
            Kind::Restart | Kind::Return => empty,
            // Where there is no backup, nobody is there to go on.
            Kind::WedgedForGood | Kind::DiskErrorsForGood => self.facts.is_paired() && there,
            Kind::Damage => {
                let backup = self.facts.is_paired() && self.facts.live() == Some(1 - victim);
                backup && self.process(victim).is_some_and(|process| process.guest.is_booted())
            }
            Kind::CopyMissing | Kind::CopyLost => {
                if !empty || !self.may_lose_copy(victim, kind) {
                    // It has its meaning only for a start.
                    return self.schedule(10 * MS, Happening::Strike(index));
                }
                true
            }
            Kind::CopyCut => {
                self.cuts_copying = Some(index);
                return;
            }
            Kind::Promote => {
                if self.shape.by_hand {
                    self.schedule(0, Happening::Person(index));
                }
                return;
            }
            Kind::Blackout
            | Kind::Partition
            | Kind::OneWay
            | Kind::Deaf
            | Kind::Clog
            | Kind::RegisterCut
            | Kind::RegisterDown
            | Kind::Cut
            | Kind::Truncate => true,
            Kind::Twin => self.twin.is_none(),
            // A store put back while a deposed replica still asks would be two faults (PROTOCOL section 2).
            Kind::Restored => {
                let alone = self.process(0).is_none() || self.process(1).is_none();
                self.facts.is_paired() || alone && self.facts.live().is_some()
            }
            Kind::HostLoss => there || both,
            _ => there,
        };
        if !applies {
            return;
        }
        self.strikes.push(Strike { fault, paired: self.facts.is_paired() });
        *self.counters.faults.entry(kind).or_default() += 1;
        self.note(Of::World, || format!("FAULT {index}: {kind:?} at {}", ["a", "b"][victim]));
        match kind {
            Kind::Kill => self.at(victim).doom = Some(((number % 80) as u32, Doom::Death)),
            Kind::HostLoss if both => self.lose_machine(),
            Kind::Blackout => {
                self.facts.restarted = true;
                match (number & 1, self.shape.setting) {
                    (0, Setting::OneMachine) => self.lose_machine(),
                    (how, _) => (0..2).for_each(|node| self.die(node, how == 0)),
                }
            }
            Kind::CopyMissing => {
                if let Some(own) = &self.disk.own {
                    let mut content = own[victim].content();
                    *if number & 1 == 0 { &mut content.there } else { &mut content.intact } = false;
                }
            }
            Kind::CopyLost => {
                self.facts.copy_lost = true;
                if let Some(own) = &self.disk.own {
                    own[victim].lose();
                }
                return;
            }
            Kind::Truncate => return self.truncate(victim, number),
            // Dealt with above.
            Kind::Promote | Kind::CopyCut => return,
            Kind::HostLoss => self.die(victim, true),
            Kind::Pause => self.at(victim).doom = Some(((number % 80) as u32, Doom::Pause)),
            Kind::Wedge => {
                // A primary's thread that gets nowhere and seems well is more than a backup can notice.
                let backup = self.facts.live() != Some(victim);
                self.at(victim).wedged = Some(backup && number & 1 == 0);
            }
            Kind::Twin => self.twin_starts(victim),
            Kind::Partition => self.block(&[0, 1]),
            Kind::OneWay => self.block(&[victim]),
            Kind::Clog => self.links.clogged[victim] += 1,
            Kind::Deaf => self.links.deaf[victim] += 1,
            Kind::Cut => {
                for node in 0..2 {
                    if let Some(end) = self.process(node).and_then(|process| process.link)
                        && let Some(link) = self.links.open.get_mut(&end.id)
                    {
                        link.to[node].reset(self.now);
                        self.schedule(0, Happening::Bytes { link: end.id, to: node });
                    }
                }
            }
            Kind::Corrupt => {
                self.facts.corrupt = true;
                let link = self.process(victim).and_then(|process| process.link);
                let stream =
                    link.and_then(|end| self.links.open.get_mut(&end.id)).map(|link| &mut link.to[victim]);
                match stream.and_then(|stream| stream.queue.back_mut()) {
                    Some((_, bytes)) => flip(bytes, number),
                    // Nothing is on its way just now.
                    None => self.links.damage[victim] = Some(number),
                }
                return;
            }
            Kind::RegisterCut => self.register.cut[victim] += 1,
            Kind::RegisterDown => self.register.cut.iter_mut().for_each(|cut| *cut += 1),
            Kind::DiskErrors | Kind::DiskErrorsForGood => {
                self.facts.disk_errors = true;
                self.at(victim).disk_trouble.0 = true;
                if kind == Kind::DiskErrorsForGood {
                    return;
                }
            }
            Kind::DiskSlow => self.at(victim).disk_trouble.1 = true,
            Kind::ClockJump => {
                let now = self.now;
                self.seats[victim].clock.jump(now, MS * (1 + number % 3000));
                self.wake_soon(victim, Thread::Loop);
                return;
            }
            Kind::Slow => self.at(victim).slow = 2 + number % 30,
            Kind::Crowded => self.at(victim).crowded = true,
            Kind::Stop => {
                self.handle(victim, Event::Stop);
                self.wake_soon(victim, Thread::Vcpu);
                self.stepped(victim);
                return;
            }
            Kind::WedgedForGood => {
                let backup = self.facts.live() != Some(victim);
                self.at(victim).wedged = Some(backup);
                return;
            }
            Kind::Damage => {
                let process = self.at(victim);
                process.guest.damage(number);
                let incarnation = process.incarnation;
                self.facts.damaged = Some(incarnation);
                return;
            }
            Kind::Reboot => {
                self.facts.restarted = true;
                self.die(victim, self.shape.setting == Setting::TwoHosts);
                return self.schedule(MS * (2 + number % 50), Happening::Start(victim));
            }
            Kind::KillAsker => {
                self.at(victim).asker = Some(number);
                return;
            }
            Kind::Return => {
                self.facts.restarted = true;
                self.block(&[0, 1]);
                self.start_process(victim);
            }
            Kind::Restart => {
                self.facts.restarted = true;
                self.start_process(victim);
                return;
            }
            Kind::Restored => {
                self.facts.restored = true;
                let state = &mut self.register.state;
                // As it was in an earlier generation; nobody remembers who had that.
                state.generation = state.generation.saturating_sub(1 + number % 2);
                state.holder = self.facts.wins.get(&state.generation).copied();
                return;
            }
        }
        self.lasting.push(index);
        self.schedule(lasts, Happening::Heal(index));
    }

    /// A machine that has both replicas is lost.
    fn lose_machine(&mut self) {
        self.die(0, true);
        self.die(1, true);
        self.disk.settle(|_| true, || 0);
        self.disk.lose_cache();
    }

    /// One copy may be lost for good, if the other one is whole; one that cannot be used for a while must be there.
    fn may_lose_copy(&self, victim: usize, kind: Kind) -> bool {
        let Some(own) = &self.disk.own else { return false };
        let state = |node: usize| own[node].content().stamp.map(|stamp| stamp.state);
        let whole = |state| matches!(state, Some(CopyState::Live | CopyState::Backup));
        let fine = own[victim].content().there && own[victim].content().intact;
        match kind {
            Kind::CopyLost => fine && !self.facts.copy_lost && whole(state(1 - victim)),
            _ => fine && whole(state(victim)),
        }
    }

    /// What is on its way to a seat breaks off in the middle.
    fn truncate(&mut self, victim: usize, number: u64) {
        let Some(end) = self.process(victim).and_then(|process| process.link) else { return };
        let now = self.now;
        let Some(link) = self.links.open.get_mut(&end.id) else { return };
        let stream = &mut link.to[victim];
        stream.queue.truncate(1);
        if let Some((_, bytes)) = stream.queue.front_mut() {
            bytes.truncate(number as usize % (bytes.len() + 1));
        }
        stream.bytes = stream.queue.iter().map(|(_, bytes)| bytes.len()).sum();
        let at = stream.queue.front().map_or(now, |(at, _)| *at).max(now);
        stream.end = Some(at);
        self.schedule(at - now, Happening::Bytes { link: end.id, to: victim });
    }

    fn block(&mut self, seats: &[usize]) {
        seats.iter().for_each(|seat| self.links.blocked[*seat] += 1);
    }

    /// A fault ends.
    pub(crate) fn heal(&mut self, index: usize) {
        let Some(place) = self.lasting.iter().position(|lasting| *lasting == index) else { return };
        self.lasting.remove(place);
        let Fault { kind, victim, .. } = self.plan.faults[index];
        self.note(Of::World, || format!("fault {index} ({kind:?}) ends"));
        match kind {
            Kind::Pause => {
                if let Some(process) = self.process_mut(victim) {
                    process.doom.take_if(|(_, doom)| *doom == Doom::Pause);
                }
                self.resume(victim);
            }
            Kind::Wedge => {
                if let Some(process) = self.process_mut(victim) {
                    process.wedged = None;
                }
            }
            Kind::Twin => self.twin_ends(),
            Kind::Partition | Kind::Return => self.unblock(&[0, 1]),
            Kind::Blackout => {
                let gap = [0, 50, 900, 2500][(self.plan.faults[index].number >> 8 & 3) as usize] * MS;
                self.schedule(0, Happening::Start(victim));
                self.schedule(if self.calm { 0 } else { gap }, Happening::Start(1 - victim));
            }
            Kind::CopyMissing => {
                if let Some(own) = &self.disk.own {
                    let mut content = own[victim].content();
                    (content.there, content.intact) = (true, true);
                }
                self.facts.restarted = true;
                self.schedule(0, Happening::Start(victim));
            }
            Kind::OneWay => self.unblock(&[victim]),
            Kind::Clog => {
                self.links.clogged[victim] -= 1;
                self.wake_soon(victim, Thread::Reader);
            }
            Kind::Deaf => self.links.deaf[victim] -= 1,
            Kind::RegisterCut => self.register.cut[victim] -= 1,
            Kind::RegisterDown => self.register.cut.iter_mut().for_each(|cut| *cut -= 1),
            Kind::DiskErrors | Kind::DiskSlow => {
                if let Some(process) = self.process_mut(victim) {
                    let (errors, slow) = &mut process.disk_trouble;
                    *if kind == Kind::DiskErrors { errors } else { slow } = false;
                }
            }
            Kind::Slow => {
                if let Some(process) = self.process_mut(victim) {
                    process.slow = 1;
                }
            }
            Kind::Crowded => {
                if let Some(process) = self.process_mut(victim) {
                    process.crowded = false;
                }
                self.wake_soon(victim, Thread::Outside);
            }
            _ => {}
        }
    }

    fn unblock(&mut self, seats: &[usize]) {
        for seat in seats {
            self.links.blocked[*seat] -= 1;
            self.wake_soon(*seat, Thread::Reader);
        }
    }

    /// Everything that goes wrong ends now.
    pub fn calm_down(&mut self) {
        self.calm = true;
        self.busy = false;
        self.links.damage = [None; 2];
        self.note(Of::World, || "FAULTS END".to_owned());
        for index in self.lasting.clone() {
            self.heal(index);
        }
        for node in 0..2 {
            if let Some(process) = self.process_mut(node) {
                process.doom = None;
            }
            self.resume(node);
        }
    }
}
