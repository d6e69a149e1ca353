//! Digests by which a backup finds out that it is no longer the same as its primary, and what it is that differs.
//!
//! A digest is a list of *leaves*, (name, value), in an order that both sides share because their state has the same
//! shape. Only a hash of each value travels, four bytes; the names are the backup's own. So a difference is named exactly (a
//! register, a device field, a page) without asking the primary, which has long gone on.

use std::fmt;

use ft_vcpu::GuestRam;
use ft_vcpu::memory::PAGE;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

const ROTATING: u8 = 0;
const FULL: u8 = 1;
/// Pages in the rotating window: 1 MiB.
const WINDOW_PAGES: u64 = 256;
/// Most leaves of memory in a digest of all of it: their hashes fit into one record.
const FULL_LEAVES: u64 = 16 * 1024;

/// What a backup found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Where both sides took the digest.
    pub position: u64,
    /// The first leaf that differs.
    pub first: String,
    /// The backup's own value.
    pub mine: u64,
    /// How many leaves differ, and of how many.
    pub count: (usize, usize),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the backup diverged from the primary: at position {} the first difference is in {} (here {:#x}); {} of {} \
             digested values differ",
            self.position, self.first, self.mine, self.count.0, self.count.1
        )
    }
}

/// Puts `prefix` before each name.
pub(crate) fn named(prefix: &str, leaves: Vec<(String, u64)>) -> Vec<(String, u64)> {
    leaves.into_iter().map(|(name, value)| (format!("{prefix}.{name}"), value)).collect()
}

/// Gives the CPU's leaves the names that people know.
pub(crate) fn registers(leaves: Vec<(String, u64)>) -> Vec<(String, u64)> {
    const GENERAL: [&str; 16] = [
        "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
        "r14", "r15",
    ];
    let number = |name: &str| name.strip_prefix("gpr[")?.strip_suffix(']')?.parse::<usize>().ok();
    let known = |name: String| match number(&name).and_then(|number| GENERAL.get(number)) {
        Some(register) => format!("register {register}"),
        None => format!("register {name}"),
    };
    leaves.into_iter().map(|(name, value)| (known(name), value)).collect()
}

/// The bytes that travel.
pub(crate) fn encode(leaves: &[(String, u64)], full: bool) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + 4 * leaves.len());
    bytes.push(if full { FULL } else { ROTATING });
    for (_, value) in leaves {
        bytes.extend_from_slice(&short(*value).to_le_bytes());
    }
    bytes
}

/// True if the digest covers all of memory.
pub(crate) fn is_full(bytes: &[u8]) -> bool {
    bytes.first() == Some(&FULL)
}

/// Compares own leaves with a received digest.
pub(crate) fn compare(mine: &[(String, u64)], theirs: &[u8], position: u64) -> Result<(), Difference> {
    let received = theirs.get(1..).unwrap_or(&[]);
    let (values, rest) = received.as_chunks::<4>();
    let differs =
        |index: usize| values.get(index).is_none_or(|v| u32::from_le_bytes(*v) != short(mine[index].1));
    let mut different = (0..mine.len()).filter(|index| differs(*index));
    if let Some(first) = different.next() {
        let (name, value) = &mine[first];
        let count = (1 + different.count(), mine.len());
        return Err(Difference { position, first: name.clone(), mine: *value, count });
    }
    if values.len() != mine.len() || !rest.is_empty() {
        let first = String::from("the number of digested values");
        return Err(Difference { position, first, mine: mine.len() as u64, count: (1, mine.len()) });
    }
    Ok(())
}

fn short(value: u64) -> u32 {
    let hash = xxh3_64(&value.to_le_bytes());
    (hash ^ (hash >> 32)) as u32
}

/// The part of memory that the next digest covers.
#[derive(Debug, Default)]
pub(crate) struct Window {
    next: u64,
}

impl Window {
    /// Leaves of the pages that devices wrote since the last call, then of the window, which moves on; or of every page.
    pub(crate) fn pages(&mut self, ram: &GuestRam, ram_size: u64, full: bool) -> Vec<(String, u64)> {
        let total = ram_size / PAGE as u64;
        let written = device_written(ram);
        if full {
            let step = total.div_ceil(FULL_LEAVES).max(1);
            return (0..total.div_ceil(step)).map(|part| leaves_of(ram, part * step, step, total)).collect();
        }
        let mut leaves: Vec<_> = written.into_iter().map(|page| leaf(ram, page as u64)).collect();
        leaves.extend((0..WINDOW_PAGES.min(total)).map(|step| leaf(ram, (self.next + step) % total)));
        self.next = (self.next + WINDOW_PAGES) % total;
        leaves
    }
}

fn device_written(ram: &GuestRam) -> Vec<usize> {
    ram.iter().next().map_or_else(Vec::new, |region| region.bitmap().take_device_written())
}

/// One leaf of `count` pages.
fn leaves_of(ram: &GuestRam, first: u64, count: u64, total: u64) -> (String, u64) {
    if count == 1 {
        return leaf(ram, first);
    }
    let end = (first + count).min(total);
    let mut hash = Xxh3::new();
    (first..end).for_each(|page| hash.update(&leaf(ram, page).1.to_le_bytes()));
    let (from, to) = (first * PAGE as u64, end * PAGE as u64 - 1);
    (format!("memory {from:#x} to {to:#x}"), hash.digest())
}

fn leaf(ram: &GuestRam, page: u64) -> (String, u64) {
    let mut bytes = [0; PAGE];
    let address = page * PAGE as u64;
    // RAM is one region that starts at 0 and holds every page up to its size.
    ram.read_slice(&mut bytes, GuestAddress(address)).expect("the page is RAM");
    (format!("memory page {address:#x}"), xxh3_64(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(values: &[u64]) -> Vec<(String, u64)> {
        values.iter().enumerate().map(|(index, value)| (format!("leaf{index}"), *value)).collect()
    }

    #[test]
    fn names_the_first_difference() {
        let theirs = encode(&leaves(&[1, 2, 3, 4]), false);
        assert_eq!(compare(&leaves(&[1, 2, 3, 4]), &theirs, 9), Ok(()));
        let found = compare(&leaves(&[1, 7, 3, 8]), &theirs, 9).unwrap_err();
        assert_eq!((found.first.as_str(), found.mine, found.count), ("leaf1", 7, (2, 4)));
    }

    #[test]
    fn a_digest_of_another_length_is_a_difference() {
        let theirs = encode(&leaves(&[1, 2, 3]), false);
        assert!(compare(&leaves(&[1, 2]), &theirs, 0).is_err());
        assert!(compare(&leaves(&[1, 2, 3, 4]), &theirs, 0).is_err());
        assert!(compare(&leaves(&[1, 2, 3]), &theirs[..theirs.len() - 1], 0).is_err());
        assert!(compare(&leaves(&[1]), &[], 0).is_err());
    }

    #[test]
    fn the_window_covers_all_of_memory_and_device_writes_at_once() {
        let size = 1024 * PAGE as u64;
        let ram = ft_vcpu::memory::allocate(size as usize).unwrap();
        let mut window = Window::default();
        let before: Vec<_> = (0..4).map(|_| window.pages(&ram, size, false)).collect();
        let names: std::collections::BTreeSet<_> = before.iter().flatten().map(|leaf| &leaf.0).collect();
        assert_eq!(names.len(), 1024);
        ram.write_obj(1_u8, GuestAddress(1000 * PAGE as u64)).unwrap();
        let leaves = window.pages(&ram, size, false);
        assert_eq!(leaves[0].0, format!("memory page {:#x}", 1000 * PAGE));
        assert_eq!(window.pages(&ram, size, true).len(), 1024);
        // Parts of a memory with more pages than leaves.
        let part = leaves_of(&ram, 998, 3, 1000);
        assert_eq!(part.0, format!("memory {:#x} to {:#x}", 998 * PAGE, 1000 * PAGE - 1));
        ram.write_obj(2_u8, GuestAddress(999 * PAGE as u64)).unwrap();
        assert_ne!(leaves_of(&ram, 998, 3, 1000).1, part.1);
    }
}
