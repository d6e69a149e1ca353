//! What was seen outside is what one uninterrupted machine says that is given the same inputs at the same positions.

use std::collections::BTreeMap;

use ft_core::input::DiskStatus;
use ft_core::output::{DiskOp, DiskRequest};

use crate::guest::Guest;
use crate::guest::data;
use crate::guest::reference::{self, Journal, OnDisk, Transcript};
use crate::world::World;

/// The guest and the journal of the process that was live last in a life.
fn authority(world: &World, incarnation: u64) -> Option<(&Guest, &Journal)> {
    let of = |node: usize| world.process(node).filter(|process| process.incarnation == incarnation);
    match of(0).or_else(|| of(1)) {
        Some(process) => Some((&process.guest, &process.journal)),
        None => world.facts.ghosts.get(&incarnation).map(|ghost| (&ghost.guest, &ghost.journal)),
    }
}

/// The reference's transcript of every life.
///
/// # Errors
/// No such machine exists.
pub(super) fn references(world: &World) -> Result<Vec<(u64, Transcript)>, String> {
    let mut all = Vec::new();
    for (life, incarnation) in &world.facts.lives {
        let Some((guest, journal)) = authority(world, *incarnation) else { continue };
        let said = reference::run(world.shape.profile, *life, journal, guest.position)
            .map_err(|error| format!("life {life}: {error}"))?;
        if said.digest != guest.digest() {
            return Err(format!("life {life}: the guest is not what an uninterrupted one is"));
        }
        all.push((*life, said));
    }
    Ok(all)
}

/// See the module.
pub fn judge(world: &World) -> Result<(), String> {
    let references = references(world)?;
    for (life, said) in &world.outside.said {
        let Some((_, reference)) = references.iter().find(|(known, _)| known == life) else {
            return Err(format!("something was said in life {life}, which nobody had"));
        };
        for frame in &said.frames {
            if reference.frames.get(frame.number as usize) != Some(frame) {
                return Err(format!("{frame:?} was seen, and an uninterrupted machine never sends it"));
            }
        }
        if !reference.console.starts_with(&said.console) {
            return Err(format!("life {life}: the console is not what an uninterrupted machine writes"));
        }
        if said.over && !reference.over {
            return Err(format!("life {life}: its end was seen, and an uninterrupted machine goes on"));
        }
    }
    Ok(())
}

/// A read finds what was written last before it, in the order in which the guest asked.
pub fn judge_reads(world: &World) -> Result<(), String> {
    for (life, reference) in references(world)? {
        reads(life, &reference).map_err(|what| format!("life {life}: {what}"))?;
    }
    Ok(())
}

fn reads(life: u64, said: &Transcript) -> Result<(), String> {
    let mut made: BTreeMap<u64, DiskRequest> = BTreeMap::new();
    // For each sector: which versions a read may find that was asked for after each write.
    let mut writes: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
    let mut failed: Vec<u64> = Vec::new();
    for step in &said.disk {
        if let OnDisk::Done(done) = step
            && done.status != DiskStatus::Ok
        {
            failed.push(done.request);
        }
    }
    for step in &said.disk {
        match step {
            OnDisk::Made(request) => {
                if request.op.is_write() {
                    for sector in request.op.sectors() {
                        writes
                            .entry(sector)
                            .or_default()
                            .push((request.request, data::version(life, request.request)));
                    }
                }
                made.insert(request.request, request.clone());
            }
            OnDisk::Done(done) => {
                let Some(request) = made.get(&done.request) else {
                    return Err(format!("request {} ended that was never made", done.request));
                };
                if !matches!(request.op, DiskOp::Read { .. }) || done.status != DiskStatus::Ok {
                    continue;
                }
                for (sector, found) in request.op.sectors().zip(data::decode(&done.data)) {
                    let known = writes.get(&sector).map_or(&[][..], Vec::as_slice);
                    let mut earlier =
                        known.iter().rev().filter(|(number, _)| *number < done.request).peekable();
                    let mut fine = earlier.peek().is_none();
                    for (number, version) in earlier {
                        if found.version == *version {
                            fine = true;
                        }
                        if !failed.contains(number) {
                            break;
                        }
                        // A failed one may or may not be there; what was before it, too.
                        fine |= found.version >> 32 < life;
                    }
                    if !fine {
                        return Err(format!(
                            "read {} of sector {sector} finds version {:x}, and not what was written last before it",
                            done.request, found.version
                        ));
                    }
                }
            }
        }
    }
    Ok(())
}
