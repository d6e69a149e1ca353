//! What one uninterrupted machine says, given the same inputs at the same positions.

use ft_core::input::Input;
use ft_core::output::OutputBody;

use super::{Guest, Profile, data};

/// Inputs and where they were applied, in order.
pub type Journal = Vec<(u64, Input)>;

/// Something that happened to the guest's disk or on it, in the order in which the guest made or was told it.
#[derive(Debug, Clone)]
pub enum OnDisk {
    /// It made a request.
    Made(ft_core::output::DiskRequest),
    /// It was told of the end of one.
    Done(ft_core::input::DiskDone),
}

/// All that the machine said.
#[derive(Debug)]
pub struct Transcript {
    /// Frames, by number.
    pub frames: Vec<data::Frame>,
    /// Console bytes.
    pub console: Vec<u8>,
    /// Its disk's history.
    pub disk: Vec<OnDisk>,
    /// It has ended.
    pub over: bool,
    /// Its digest at the end.
    pub digest: u64,
    /// Guest time went back.
    pub time_went_back: bool,
}

/// Runs a machine of this profile, in this life, through the journal and up to `end`.
///
/// # Errors
/// The journal does not fit such a machine, in words.
pub fn run(profile: Profile, life: u64, journal: &Journal, end: u64) -> Result<Transcript, String> {
    let mut guest = Guest::new(profile);
    guest.boot(life);
    let mut said = Transcript {
        frames: Vec::new(),
        console: Vec::new(),
        disk: Vec::new(),
        over: false,
        digest: 0,
        time_went_back: false,
    };
    for (position, input) in journal {
        advance(&mut guest, *position, &mut said)?;
        if let Input::DiskDone(done) = input {
            said.disk.push(OnDisk::Done(done.clone()));
        }
        guest.apply(input).map_err(|error| format!("at position {position}: {error}"))?;
        take(&mut guest, &mut said);
    }
    advance(&mut guest, end, &mut said)?;
    said.over = guest.over.is_some();
    said.digest = guest.digest();
    said.time_went_back = guest.time_went_back;
    Ok(said)
}

fn advance(guest: &mut Guest, to: u64, said: &mut Transcript) -> Result<(), String> {
    if to < guest.position {
        return Err(format!("an input at position {to} after one at {}", guest.position));
    }
    while guest.position < to {
        match guest.run(to) {
            super::Stop::Reached | super::Stop::Platform => take(guest, said),
            stop => return Err(format!("{stop:?} at {} on the way to {to}", guest.position)),
        }
    }
    Ok(())
}

fn take(guest: &mut Guest, said: &mut Transcript) {
    for output in guest.take_outputs() {
        match output.body {
            OutputBody::NetTx { frames, .. } => {
                said.frames.extend(frames.iter().map(|frame| data::Frame::decode(frame)));
            }
            OutputBody::Console { bytes, .. } => said.console.extend(bytes),
            OutputBody::Disk(request) => said.disk.push(OnDisk::Made(request)),
            _ => {}
        }
    }
}
