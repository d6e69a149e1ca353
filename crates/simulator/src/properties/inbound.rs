//! Inbound frames reach the guest in order, each once; and of one machine's launcher none that was let in is lost.

use ft_core::input::Input;

use crate::shape::Setting;
use crate::world::World;

/// See the module.
pub fn judge(world: &World) -> Result<(), String> {
    let Some(node) = world.facts.live() else { return Ok(()) };
    let Some(process) = world.process(node) else { return Ok(()) };
    let mut last = None;
    for (_, input) in &process.journal {
        let Input::NetRx(batch) = input else { continue };
        let first = batch.switch_seq + 1 - batch.frames.len() as u64;
        let before = last.replace(batch.switch_seq);
        match (before, world.shape.setting) {
            (Some(before), _) if first <= before => {
                return Err(format!("frame {first} came to the guest again, after {before}"));
            }
            (Some(before), Setting::OneMachine) if first != before + 1 => {
                return Err(format!("frames {} to {} never came to the guest", before + 1, first - 1));
            }
            _ => {}
        }
    }
    Ok(())
}
