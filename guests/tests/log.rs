//! The log: what was acknowledged is there after any crash, and damage is told from a torn end.

mod memory_disk;

use kv_core::{Disk, Log, OpenError, SECTOR, Store, crc32};
use memory_disk::MemoryDisk;

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

fn pairs(store: &Store) -> Pairs {
    let mut pairs: Pairs = store.iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
    pairs.sort();
    pairs
}

fn open(disk: &mut MemoryDisk) -> Result<(Log, bool, Store), OpenError<std::convert::Infallible>> {
    let mut store = Store::default();
    Log::open(disk, 42, &mut store).map(|(log, torn)| (log, torn, store))
}

/// A disk with `batches` commits, the positions of their writes, and the store after each.
fn filled(sectors: usize, batches: usize) -> (MemoryDisk, Vec<usize>, Vec<Pairs>) {
    let mut disk = MemoryDisk::new(sectors);
    let (mut log, torn, mut store) = open(&mut disk).expect("a blank disk");
    assert!(!torn);
    let (mut ends, mut states) = (vec![disk.writes.len()], vec![pairs(&store)]);
    for batch in 0..batches {
        let key = format!("key{}", batch % 7).into_bytes();
        let value = vec![b'a' + (batch % 26) as u8; 100 + batch * 37 % 1500];
        match batch % 5 {
            0..3 => {
                store.set(&key, &value, 0);
                log.set(&key, &value);
            }
            3 => {
                store.update(&key, 0, |old| old.extend_from_slice(&value));
                log.append(&key, &value);
            }
            _ if store.remove(&key) => log.remove(&key),
            _ => {
                store.clear();
                log.clear();
            }
        }
        if log.fits() {
            let (sector, data) = log.take();
            disk.write(sector, data).expect("memory");
        } else {
            log.compact(&mut disk, &store).expect("memory");
        }
        ends.push(disk.writes.len());
        states.push(pairs(&store));
    }
    (disk, ends, states)
}

#[test]
fn crc_is_that_of_ethernet() {
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    assert_eq!(crc32(b""), 0);
    assert_eq!(crc32(&[0xff; 32]), 0xff6c_ab0b);
}

/// After every single sector write, compactions included, the store is that of the last commit that was complete, or
/// of the one under way.
#[test]
fn a_crash_after_any_sector_keeps_what_was_acknowledged() {
    let (full, ends, states) = filled(200, 200);
    assert!(full.writes.iter().filter(|(sector, _)| *sector < 2).count() > 6, "compactions took place");
    let mut disk = MemoryDisk::new(200);
    let mut done = 0;
    for (index, (sector, content)) in full.writes.iter().enumerate() {
        disk.write(*sector, content.clone()).expect("memory");
        while done + 1 < ends.len() && ends[done + 1] <= index + 1 {
            done += 1;
        }
        if index < 1 {
            continue;
        }
        let (_, _, store) =
            open(&mut disk.clone()).unwrap_or_else(|error| panic!("write {index}: {error:?}"));
        let found = pairs(&store);
        let next = states.get(done + 1);
        assert!(found == states[done] || Some(&found) == next, "write {index}, after commit {done}");
    }
    assert_eq!(done, 200);
}

#[test]
fn the_log_goes_on_after_a_torn_batch() {
    let (full, ends, states) = filled(4096, 21);
    let last = full.writes[ends[20]].0;
    let mut disk = full.clone();
    disk.bytes[last as usize * SECTOR + 40] ^= 1;
    let (mut log, torn, mut store) = open(&mut disk).expect("a torn end is no damage");
    assert!(torn);
    assert_eq!(pairs(&store), states[20]);
    store.set(b"more", b"value", 0);
    log.set(b"more", b"value");
    let (sector, data) = log.take();
    disk.write(sector, data).expect("memory");
    let (_, torn, again) = open(&mut disk).expect("good");
    assert!(!torn);
    assert_eq!(pairs(&again), pairs(&store));
}

#[test]
fn damage_before_the_end_is_an_error() {
    let (full, ends, _) = filled(4096, 21);
    for (batch, &first) in ends[..20].iter().enumerate() {
        let sector = full.writes[first].0;
        for offset in [0, 5, 9, 17, 25, 29, 33] {
            let mut disk = full.clone();
            disk.bytes[sector as usize * SECTOR + offset] ^= 0x10;
            assert_eq!(
                open(&mut disk).err(),
                Some(OpenError::Damaged { sector }),
                "batch {batch} at {offset}"
            );
        }
    }
}

#[test]
fn either_superblock_is_enough_and_is_repaired() {
    let (full, _, states) = filled(200, 200);
    for copy in 0..2 {
        let mut disk = full.clone();
        disk.bytes[copy * SECTOR + 20] ^= 1;
        let (_, _, store) = open(&mut disk).expect("the other copy is good");
        assert_eq!(pairs(&store), states[200]);
        assert_eq!(disk.bytes[..2 * SECTOR], full.bytes[..2 * SECTOR]);
    }
    let mut disk = full.clone();
    disk.bytes[20] ^= 1;
    disk.bytes[SECTOR + 20] ^= 1;
    assert_eq!(open(&mut disk).err(), Some(OpenError::NotOurs));
    disk.bytes[..2 * SECTOR].fill(b'x');
    assert_eq!(open(&mut disk).err(), Some(OpenError::NotOurs));
    assert_eq!(open(&mut MemoryDisk::new(100)).err(), Some(OpenError::TooSmall));
}
