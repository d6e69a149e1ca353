//! Late writes, cold starts and second failures, over a disk in memory and a directory of its own.

#![expect(clippy::single_range_in_vec_init, reason = "one run of blocks is the usual case")]

use std::sync::atomic::{AtomicBool, Ordering};

use super::super::memory::MemoryMedium;
use super::*;
use ft_policies::ReplicaId;
use proptest::prelude::*;

const SECTORS: usize = 64;
const PAIR: u128 = 7 << 64;

struct Place {
    dir: tempfile::TempDir,
    disk: PathBuf,
    inner: Arc<MemoryMedium>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let disk = std::fs::canonicalize(dir.path()).unwrap().join("disk");
        std::fs::write(&disk, "").unwrap();
        Self { dir, disk, inner: Arc::new(MemoryMedium::new(vec![1; SECTORS * 512])) }
    }

    fn open(&self) -> Quarantine {
        Quarantine::new(Arc::clone(&self.inner) as Arc<dyn Medium>, Some(&self.disk))
    }

    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn owner(generation: u64) -> QuarantineOwner {
    QuarantineOwner { pair: PAIR, generation, replica: ReplicaId::A, incarnation: 100 + generation }
}

/// The first byte of each sector; all bytes of a sector are the same here.
fn sectors(medium: &dyn Medium) -> Vec<u8> {
    let mut bytes = vec![0xee; SECTORS * 512];
    medium.read(&mut bytes, 0).unwrap();
    assert!(bytes.chunks(512).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
    bytes.iter().step_by(512).copied().collect()
}

fn write(medium: &dyn Medium, sectors: Range<u64>, byte: u8) {
    let len = (sectors.end - sectors.start) as usize * 512;
    medium.write(&vec![byte; len], sectors.start * 512).unwrap();
}

#[test]
fn a_late_write_is_never_seen() {
    let place = Place::new();
    let disk = place.open();
    write(&disk, 0..8, 2);
    disk.begin(&[4..8, 20..22], owner(5)).unwrap();
    let status = disk.status().unwrap();
    assert_eq!((status.owners, status.sectors), (vec![owner(5)], 6));
    assert_eq!(place.files(), ["disk", "disk.quarantine-5"]);
    // The old replica wrote half of its request before, and writes the rest now.
    write(&*place.inner, 4..8, 66);
    let mut model = vec![1; SECTORS];
    model[..8].fill(2);
    assert_eq!(sectors(&disk), model);
    // A request may lie on both sides.
    write(&disk, 6..24, 3);
    disk.zero(7 * 512, 2 * 512, true).unwrap();
    model[6..24].fill(3);
    model[7..9].fill(0);
    assert_eq!(sectors(&disk), model);
    write(&*place.inner, 4..8, 77);
    write(&*place.inner, 20..22, 77);
    disk.flush().unwrap();
    assert_eq!(sectors(&disk), model);
    disk.end().unwrap();
    assert_eq!(sectors(&*place.inner), model);
    assert_eq!((disk.status(), place.files()), (None, vec!["disk".to_owned()]));
    disk.end().unwrap();
}

#[test]
fn a_cold_start_finds_what_was_left_apart() {
    let place = Place::new();
    place.open().begin(&[3..5], owner(2)).unwrap();
    {
        let disk = place.open();
        assert_eq!(disk.load(PAIR).unwrap().unwrap().owners, [owner(2)]);
        write(&disk, 4..6, 9);
    }
    let looked = look(&place.disk, PAIR).unwrap();
    let disk = place.open();
    assert_eq!(disk.load(PAIR).unwrap(), looked);
    assert_eq!(sectors(&disk)[3..7], [1, 9, 9, 1]);
    assert_eq!(sectors(&*place.inner)[3..7], [1, 1, 9, 1]);
    disk.end().unwrap();
    assert_eq!(sectors(&*place.inner)[3..7], [1, 9, 9, 1]);
    assert_eq!(look(&place.disk, PAIR).unwrap(), None);
    assert_eq!(place.open().load(PAIR).unwrap(), None);
}

#[test]
fn a_second_failure_adds_to_the_first_in_a_file_of_its_own() {
    let place = Place::new();
    let first = place.open();
    first.begin(&[3..5], owner(2)).unwrap();
    write(&first, 3..5, 8);
    // The next live replica finds it without being told.
    let second = place.open();
    second.begin(&[4..7], owner(3)).unwrap();
    assert_eq!(place.files(), ["disk", "disk.quarantine-3"]);
    assert_eq!(second.status().unwrap().owners, [owner(2), owner(3)]);
    assert_eq!(second.status().unwrap().sectors, 4);
    // The first is stopped in the middle of whatever it does, wakes, and goes on with it.
    write(&first, 3..5, 66);
    write(&first, 5..7, 66);
    assert_eq!(sectors(&second)[2..8], [1, 8, 8, 1, 1, 1]);
    first.end().unwrap();
    assert_eq!(sectors(&second)[2..8], [1, 8, 8, 1, 1, 1]);
    assert_eq!(place.files(), ["disk", "disk.quarantine-3"]);
    second.end().unwrap();
    assert_eq!(sectors(&*place.inner)[2..8], [1, 8, 8, 1, 1, 1]);
}

#[test]
fn without_blocks_nothing_is_done() {
    let place = Place::new();
    let disk = place.open();
    disk.begin(&[], owner(1)).unwrap();
    disk.begin(&[5..5], owner(1)).unwrap();
    assert_eq!((disk.status(), place.files().len()), (None, 1));
    disk.begin(&[5..6], owner(2)).unwrap();
    disk.begin(&[], owner(3)).unwrap();
    assert_eq!(disk.status().unwrap().owners, [owner(2)]);

    let device = Quarantine::new(Arc::clone(&place.inner) as Arc<dyn Medium>, None);
    device.begin(&[], owner(1)).unwrap();
    assert!(matches!(device.begin(&[0..1], owner(1)), Err(QuarantineError::NoPlace)));
    assert_eq!(device.load(PAIR).unwrap(), None);
}

#[test]
fn what_a_crash_leaves_half_done_is_told_from_what_counts() {
    let place = Place::new();
    let file = |suffix: &str| place.dir.path().join(format!("disk{suffix}"));
    // Never finished.
    std::fs::write(file(".quarantine-9.tmp"), "half").unwrap();
    // Somebody else's.
    std::fs::write(file(".quarantine-x"), "").unwrap();
    place.open().begin(&[3..5], owner(2)).unwrap();
    let old = std::fs::read(file(".quarantine-2")).unwrap();
    let disk = place.open();
    disk.begin(&[4..7], owner(3)).unwrap();
    write(&disk, 3..4, 5);
    // The older one was not removed yet.
    std::fs::write(file(".quarantine-2"), &old).unwrap();
    let disk = place.open();
    assert_eq!(disk.load(PAIR).unwrap().unwrap().owners, [owner(2), owner(3)]);
    assert_eq!(place.files(), ["disk", "disk.quarantine-3", "disk.quarantine-x"]);
    // Brought back and marked so, but neither is removed yet.
    let mut new = std::fs::read(file(".quarantine-3")).unwrap();
    disk.end().unwrap();
    new[..8].copy_from_slice(b"FTVMDONE");
    std::fs::write(file(".quarantine-3"), &new).unwrap();
    std::fs::write(file(".quarantine-2"), &old).unwrap();
    let disk = place.open();
    assert_eq!(disk.load(PAIR).unwrap(), None);
    assert_eq!(place.files(), ["disk", "disk.quarantine-x"]);
    assert_eq!(sectors(&disk)[2..5], [1, 5, 1]);
}

#[test]
fn a_side_file_that_cannot_be_used_says_why() {
    let place = Place::new();
    place.open().begin(&[3..5], owner(2)).unwrap();
    for error in [place.open().load(PAIR + 1).unwrap_err(), look(&place.disk, PAIR + 1).unwrap_err()] {
        assert!(matches!(error, QuarantineError::OtherPair { .. }), "{error}");
    }
    let error = place.open().begin(&[0..1], QuarantineOwner { pair: 1, ..owner(3) }).unwrap_err();
    assert!(matches!(error, QuarantineError::OtherPair { .. }), "{error}");
    for late in [owner(1), QuarantineOwner { incarnation: 1, ..owner(2) }] {
        let error = place.open().begin(&[0..1], late).unwrap_err();
        assert!(matches!(error, QuarantineError::Unfit(_)), "{error}");
    }
    place.open().begin(&[4..6], owner(2)).unwrap();
    assert_eq!(place.open().load(PAIR).unwrap().unwrap().sectors, 3);
    let error = place.open().begin(&[0..65], owner(3)).unwrap_err();
    assert!(matches!(error, QuarantineError::Unfit(_)), "{error}");

    let path = place.dir.path().join("disk.quarantine-2");
    let bytes = std::fs::read(&path).unwrap();
    // Every byte of the head, then some of the data.
    for len in (0..200).chain([4095, 4096, bytes.len() - 1]) {
        std::fs::write(&path, &bytes[..len]).unwrap();
        for error in [place.open().load(PAIR).unwrap_err(), look(&place.disk, PAIR).unwrap_err()] {
            assert!(matches!(error, QuarantineError::Damaged { .. }), "{len}: {error}");
        }
    }
    std::fs::write(&path, &bytes).unwrap();
    place.open().load(PAIR).unwrap().unwrap();
    std::fs::rename(&path, place.dir.path().join("disk.quarantine-3")).unwrap();
    assert!(matches!(look(&place.disk, PAIR), Err(QuarantineError::Damaged { .. })));
    assert!(matches!(place.open().load(PAIR), Err(QuarantineError::Damaged { .. })));
}

/// Each thread has sectors of its own; what it wrote last it must read, whatever is begun and ended meanwhile.
#[test]
fn requests_on_other_threads_see_no_change() {
    let place = Place::new();
    let disk = place.open();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..3_u64 {
            let (disk, stop) = (&disk, &stop);
            scope.spawn(move || {
                for round in 0.. {
                    let range = 20 * thread + round % 8..20 * thread + round % 8 + 8;
                    write(disk, range.clone(), round as u8);
                    let mut found = vec![0; 8 * 512];
                    disk.read(&mut found, range.start * 512).unwrap();
                    assert_eq!(found, vec![round as u8; 8 * 512]);
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
        }
        for generation in 1..20 {
            disk.begin(&[generation..generation + 30], owner(generation)).unwrap();
            disk.end().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(sectors(&disk), sectors(&*place.inner));
}

#[derive(Debug, Clone)]
enum Op {
    Write(u64, u64, u8),
    Zero(u64, u64),
    Flush,
    Begin(Vec<(u64, u64)>),
    End,
    Crash,
    Late(u64, u64, u8),
}

fn ops() -> impl Strategy<Value = Op> {
    let range = || (0..SECTORS as u64, 0..12_u64).prop_map(|(at, len)| (at, len.min(SECTORS as u64 - at)));
    prop_oneof![
        6 => (range(), any::<u8>()).prop_map(|((at, len), byte)| Op::Write(at, len, byte)),
        2 => range().prop_map(|(at, len)| Op::Zero(at, len)),
        1 => Just(Op::Flush),
        2 => prop::collection::vec(range(), 0..4).prop_map(Op::Begin),
        1 => Just(Op::End),
        1 => Just(Op::Crash),
        3 => (range(), any::<u8>()).prop_map(|((at, len), byte)| Op::Late(at, len, byte)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever a deposed replica writes to blocks that are kept apart, and whenever the live one ends: reads see what the
    /// live ones wrote last, and in the end the disk holds it.
    #[test]
    fn the_disk_is_what_the_live_replicas_wrote(ops in prop::collection::vec(ops(), 1..40)) {
        let place = Place::new();
        let mut disk = place.open();
        let mut model = vec![1_u8; SECTORS];
        let mut apart = [false; SECTORS];
        let mut generation = 0;
        for op in ops {
            let fill = |model: &mut [u8], at: u64, len: u64, byte| model[at as usize..(at + len) as usize].fill(byte);
            match op {
                Op::Write(at, len, byte) => {
                    write(&disk, at..at + len, byte);
                    fill(&mut model, at, len, byte);
                }
                Op::Zero(at, len) => {
                    disk.zero(at * 512, len * 512, true).unwrap();
                    fill(&mut model, at, len, 0);
                }
                Op::Flush => disk.flush().unwrap(),
                Op::Begin(ranges) => {
                    generation += 1;
                    let ranges: Vec<_> = ranges.into_iter().map(|(at, len)| at..at + len).collect();
                    disk.begin(&ranges, owner(generation)).unwrap();
                    for range in ranges {
                        apart[range.start as usize..range.end as usize].fill(true);
                    }
                }
                Op::End => {
                    disk.end().unwrap();
                    apart.fill(false);
                    prop_assert_eq!(sectors(&*place.inner), model.clone());
                }
                Op::Crash => {
                    disk = place.open();
                    let found = disk.load(PAIR).unwrap();
                    prop_assert_eq!(found.is_some(), apart.contains(&true));
                }
                Op::Late(at, len, byte) => {
                    for sector in (at..at + len).filter(|sector| apart[*sector as usize]) {
                        write(&*place.inner, sector..sector + 1, byte);
                    }
                }
            }
            prop_assert_eq!(sectors(&disk), model.clone());
        }
        disk.end().unwrap();
        prop_assert_eq!(sectors(&*place.inner), model);
        prop_assert_eq!(place.files(), ["disk"]);
    }
}
