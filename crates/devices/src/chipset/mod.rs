//! The parts of a PC's chipset that Linux expects beside the APICs: interrupt controllers ([`pic`]), timer ([`pit`]), clock
//! ([`rtc`]) and ACPI's fixed hardware ([`power`]).

pub mod pic;
pub mod pit;
pub mod power;
mod rate;
pub mod rtc;

pub use pic::Pic;
pub use pit::Pit;
pub use power::Power;
pub use rtc::Rtc;
