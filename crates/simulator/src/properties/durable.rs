//! After every run the guest is started anew from the disk, and finds each write that it had told a client to be durable, or a later one.

use super::transcript::references;
use crate::guest::data;
use crate::guest::reference::OnDisk;
use crate::world::World;

/// See the module.
pub fn judge(world: &World) -> Result<(), String> {
    let references = references(world)?;
    for (sector, version) in &world.outside.durable {
        // Whoever starts reads the blocks that are kept apart in their place.
        let found = world.disk.sector(*sector, world.disk.look_apart());
        if found.version < *version {
            return Err(format!(
                "sector {sector} holds version {:x}, and a client was told that {version:x} is durable",
                found.version
            ));
        }
        let written = references
            .iter()
            .flat_map(|(life, said)| said.disk.iter().map(move |step| (life, step)))
            .any(|(life, step)| {
                let OnDisk::Made(request) = step else { return false };
                data::contents(*life, request).contains(&(*sector, found))
            });
        if !written {
            return Err(format!("sector {sector} holds {found:?}, which the guest never wrote there"));
        }
    }
    Ok(())
}
