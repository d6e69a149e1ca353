//! The checked-in list of instruction forms that the software engine does not have yet: one name of a form per line,
//! sorted. A guest that runs one gets #UD, and the engine reports it.
//!
//! `tests/implemented.rs` holds the list against the engine in both directions, so it can only become shorter.
//! `FT_UPDATE=1` writes it anew.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::OnceLock;

use iced_x86::Code;

use super::drive::Source;
use super::forms::{self, Family};
use super::guest::Guest;
use super::layout;

/// All families.
pub(crate) const FAMILIES: [Family; 7] = [
    Family::Integer,
    Family::Sse,
    Family::LaterSse,
    Family::Mmx,
    Family::X87,
    Family::Far,
    Family::Privileged,
];

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/host/unimplemented.txt")
}

/// The names on the list.
pub(crate) fn listed() -> &'static BTreeSet<String> {
    static LISTED: OnceLock<BTreeSet<String>> = OnceLock::new();
    LISTED.get_or_init(|| {
        // Part of the binary, which may run where the tree is not.
        include_str!("unimplemented.txt").lines().map(str::to_owned).collect()
    })
}

/// True if the form is on the list.
pub(crate) fn is_listed(code: Code) -> bool {
    listed().contains(&format!("{code:?}"))
}

/// The forms of a family that are not on the list.
pub(crate) fn implemented(family: Family) -> Vec<Code> {
    forms::forms(family).into_iter().filter(|code| !is_listed(*code)).collect()
}

/// Replaces the list.
pub(crate) fn write(names: &BTreeSet<String>) {
    let text: String = names.iter().map(|name| format!("{name}\n")).collect();
    std::fs::write(path(), text).expect("the list can be written");
}

/// The forms that the engine itself calls not implemented, found by running some cases of each.
pub(crate) fn found(window: u64) -> BTreeSet<String> {
    let window = layout::window(window);
    let mut guest = Guest::new(window, super::engine::software);
    let mut source = Source::new(window);
    let mut names = BTreeSet::new();
    for family in FAMILIES {
        for code in forms::forms(family) {
            for number in 0..12 {
                let Some((case, _)) = source.form(family, code, number) else { continue };
                // What it does is compared elsewhere; here only what it says counts.
                let _ = guest.run_one(&case);
                if !guest.vcpu.take_unimplemented().is_empty() {
                    names.insert(format!("{code:?}"));
                    break;
                }
            }
        }
    }
    names
}
