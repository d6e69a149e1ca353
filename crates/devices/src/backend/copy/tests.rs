//! Two sides that talk to each other, over disks in memory.

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::super::memory::MemoryMedium;
use super::super::stamp::CopyState;
use super::*;
use proptest::prelude::*;

const LIVE: Origin = Origin::Stamped { state: CopyState::Live, generation: 5, clean: None };
const STALE: Origin = Origin::Stamped { state: CopyState::Live, generation: 4, clean: None };

fn disk(medium: &Arc<MemoryMedium>, origin: Origin) -> CopyDisk {
    CopyDisk { medium: Arc::clone(medium) as Arc<dyn Medium>, name: "disk 0 (a.img)".into(), origin }
}

/// A disk of which each byte of a block is the same, and the last block has one sector.
fn medium(blocks: &[u8]) -> Arc<MemoryMedium> {
    let mut bytes: Vec<u8> = blocks.iter().flat_map(|byte| [*byte; BLOCK as usize]).collect();
    bytes.truncate((bytes.len() + 512).saturating_sub(BLOCK as usize));
    Arc::new(MemoryMedium::new(bytes))
}

/// What a copy ended with.
#[derive(Debug, Default)]
struct Run {
    messages: usize,
    blocks: usize,
    marked: BTreeSet<u16>,
    done: bool,
    refused: Option<String>,
}

/// Lets the two talk for at most `limit` messages. Before a write the disk must be marked: checked at each message.
fn run(source: Vec<CopyDisk>, target: Vec<CopyDisk>, window: u64, limit: usize) -> Run {
    let marked = RefCell::new(BTreeSet::new());
    let before: Vec<Vec<u128>> =
        target.iter().map(|disk| block_digests(&*disk.medium, 0, disk.blocks()).unwrap()).collect();
    let media: Vec<_> = target.iter().map(|disk| Arc::clone(&disk.medium)).collect();
    let changed =
        |index: usize| block_digests(&*media[index], 0, before[index].len() as u64).unwrap() != before[index];
    let mut source = CopySource::new(source);
    let mut target = CopyTarget::new(target, |disk| {
        assert!(!changed(usize::from(disk)), "written before it was marked");
        assert!(marked.borrow_mut().insert(disk), "marked twice");
        Ok(())
    })
    .with_window(window);
    let mut run = Run::default();
    while !(source.is_done() && target.is_done()) && run.messages < limit {
        let message = target.next_message().unwrap();
        if let Some(message) = message {
            run.messages += 1;
            source.handle(CopyMessage::decode(&message.encode()).unwrap()).unwrap();
            continue;
        }
        let Some(message) = source.next_message().unwrap() else { break };
        run.messages += 1;
        if let CopyMessage::Blocks { blocks, .. } = &message {
            run.blocks += blocks.len();
        }
        match target.handle(CopyMessage::decode(&message.encode()).unwrap()) {
            Ok(()) => {}
            Err(CopyError::Refused(reason)) => {
                assert_eq!(source.refusal(), Some(&*reason));
                run.refused = Some(reason);
                break;
            }
            Err(error) => panic!("{error}"),
        }
        for index in 0..media.len() {
            assert!(!changed(index) || marked.borrow().contains(&(index as u16)), "written without a mark");
        }
    }
    run.done = source.is_done() && target.is_done();
    let written: BTreeSet<u16> =
        (0..).zip(target.written()).filter(|(_, written)| **written).map(|(disk, _)| disk).collect();
    drop(target);
    run.marked = marked.into_inner();
    assert_eq!(run.marked, written);
    run
}

fn copy(source: (&[u8], Origin), target: (&[u8], Origin)) -> (Run, Arc<MemoryMedium>) {
    let (from, to) = (medium(source.0), medium(target.0));
    let run = run(vec![disk(&from, source.1)], vec![disk(&to, target.1)], 2, 1000);
    assert!(!run.done || run.blocks == 0 || from.bytes() == to.bytes());
    (run, to)
}

#[test]
fn only_what_differs_is_copied() {
    let (run, to) = copy((&[1, 0, 3, 4, 0, 6], LIVE), (&[1, 2, 3, 5, 0, 0], STALE));
    assert!(run.done);
    assert_eq!((run.blocks, to.bytes().len()), (3, 5 * 65536 + 512));
    let (run, _) = copy((&[1, 2], LIVE), (&[1, 2], STALE));
    assert!(run.done && run.marked.is_empty());
}

#[test]
fn a_new_disk_is_filled_and_an_old_one_is_kept() {
    let (run, _) = copy((&[1, 0, 3], Origin::Existing), (&[0, 0, 0], Origin::New));
    assert!(run.done);
    assert_eq!(run.blocks, 2);
    let (run, _) = copy((&[1, 0, 3], Origin::Existing), (&[1, 0, 3], Origin::Existing));
    assert!(run.done && run.marked.is_empty());
    for (source, target) in [
        (Origin::Existing, Origin::Existing),
        (Origin::New, Origin::Existing),
        (LIVE, Origin::Existing),
        (Origin::New, LIVE),
    ] {
        let (run, to) = copy((&[1, 0, 3, 7], source), (&[1, 0, 4, 8], target));
        assert!(!run.done && run.marked.is_empty());
        let reason = run.refused.unwrap();
        assert!(reason.starts_with("disk 0 (a.img): "), "{reason}");
        assert!(target != Origin::Existing || reason.contains("from 131072 on"), "{reason}");
        assert_eq!(to.bytes(), medium(&[1, 0, 4, 8]).bytes());
    }
}

#[test]
fn copies_of_one_clean_stop_are_not_even_compared() {
    let clean = |state| Origin::Stamped { state, generation: 5, clean: Some((5, 77)) };
    let (run, _) = copy((&[1, 2], clean(CopyState::Live)), (&[1, 2], clean(CopyState::Backup)));
    assert!(run.done);
    // Offer, answer, and two that say that it is the end.
    assert_eq!(run.messages, 4);
}

#[test]
fn disks_of_different_sizes_are_refused() {
    let (run, _) = copy((&[1, 2], LIVE), (&[1, 2, 3], STALE));
    let reason = "disk 0 (a.img): the other replica's copy has 131584 bytes, this one 66048";
    assert_eq!(run.refused.as_deref(), Some(reason));
}

#[test]
fn no_disks_and_empty_disks_are_done_at_once() {
    assert!(run(vec![], vec![], 8, 10).done);
    let empty = Arc::new(MemoryMedium::default());
    let disks = || vec![disk(&empty, LIVE), disk(&empty, Origin::Existing)];
    assert!(run(vec![disk(&empty, LIVE), disk(&empty, LIVE)], disks(), 8, 10).done);
}

#[test]
fn a_block_is_what_the_medium_holds() {
    let medium = medium(&[1, 0, 2]);
    assert_eq!(read_block(&*medium, 0).unwrap(), vec![1; 65536]);
    assert!(read_block(&*medium, 1).unwrap().is_empty());
    assert_eq!(read_block(&*medium, 2).unwrap(), [2; 512]);
    for index in [3, u64::MAX / BLOCK + 1, u64::MAX] {
        assert!(read_block(&*medium, index).is_err());
        assert!(write_block(&*medium, index, &[]).is_err());
    }
    assert!(write_block(&*medium, 2, &[1; 1024]).is_err());
    assert_eq!(block_digests(&*medium, 0, 3).unwrap()[1], xxh3_128(&[0; 65536]));
    write_block(&*medium, 2, &[]).unwrap();
    assert_eq!(block_digests(&*medium, 2, 1).unwrap(), [xxh3_128(&[0; 512])]);
    assert!(block_digests(&*medium, 2, 2).is_err());
    assert_eq!(medium.bytes()[2 * 65536..], [0; 512]);
}

#[test]
fn what_a_side_must_not_say_is_refused_and_changes_nothing() {
    let (from, to) = (medium(&[1, 2, 3]), medium(&[0, 0, 0]));
    let mut target = CopyTarget::new(vec![disk(&to, STALE)], |_| Ok(()));
    let blocks = |disk, end, blocks: &[(u64, usize)]| CopyMessage::Blocks {
        disk,
        end,
        blocks: blocks.iter().map(|(index, len)| Block { index: *index, data: vec![9; *len] }).collect(),
    };
    assert!(target.handle(CopyMessage::Done).is_err());
    assert!(target.handle(CopyMessage::Accepted { disk: 0, compare: true }).is_err());
    target.next_message().unwrap().unwrap();
    assert!(target.handle(CopyMessage::Accepted { disk: 1, compare: true }).is_err());
    assert!(target.handle(blocks(0, 3, &[])).is_err());
    target.handle(CopyMessage::Accepted { disk: 0, compare: true }).unwrap();
    target.next_message().unwrap().unwrap();
    for bad in [
        blocks(1, 3, &[]),
        blocks(0, 0, &[]),
        blocks(0, 4, &[]),
        blocks(0, 3, &[(3, 0)]),
        blocks(0, 2, &[(2, 512)]),
        blocks(0, 3, &[(1, 65536), (0, 65536)]),
        blocks(0, 3, &[(0, 512)]),
        CopyMessage::Done,
    ] {
        assert!(target.handle(bad.clone()).is_err(), "{bad:?}");
        assert!(to.bytes().iter().all(|byte| *byte == 0));
    }

    let mut source = CopySource::new(vec![disk(&from, LIVE)]);
    let digests = |disk, first, count| CopyMessage::Digests { disk, first, digests: vec![0; count] };
    let len = from.len();
    assert!(source.handle(digests(0, 0, 1)).is_err());
    assert!(source.handle(CopyMessage::Done).is_err());
    assert!(source.handle(CopyMessage::Offer { disk: 1, len, origin: STALE }).is_err());
    source.handle(CopyMessage::Offer { disk: 0, len, origin: STALE }).unwrap();
    assert!(source.handle(CopyMessage::Offer { disk: 0, len, origin: STALE }).is_err());
    source.next_message().unwrap().unwrap();
    for bad in [digests(1, 0, 1), digests(0, 1, 1), digests(0, 0, 4), digests(0, 0, 0), CopyMessage::Done] {
        assert!(source.handle(bad.clone()).is_err(), "{bad:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Two disks whose blocks are of few kinds. Left alone the two sides end up equal; cut off anywhere, what was written to is
    /// marked, and a second run completes it.
    #[test]
    fn copies_end_up_equal_also_after_an_interruption(
        blocks in prop::collection::vec(((0..3_u8, 0..3_u8), (0..2_u8, 0..2_u8)), 1..40),
        window in 1..24_u64,
        limit in 0..40_usize,
    ) {
        let (first, second): (Vec<_>, Vec<_>) = blocks.into_iter().unzip();
        let pair = |blocks: Vec<(u8, u8)>| {
            let (from, to): (Vec<u8>, Vec<u8>) = blocks.into_iter().unzip();
            (medium(&from), medium(&to))
        };
        let disks = [pair(first), pair(second)];
        let source = || disks.iter().map(|(from, _)| disk(from, LIVE)).collect::<Vec<_>>();
        let target = |origin| disks.iter().map(|(_, to)| disk(to, origin)).collect::<Vec<_>>();
        let cut = run(source(), target(STALE), window, limit);
        prop_assert!(cut.messages <= limit);
        let incomplete = Origin::Stamped { state: CopyState::Incomplete, generation: 5, clean: None };
        let whole = run(source(), target(incomplete), window, usize::MAX);
        prop_assert!(whole.done);
        for (from, to) in &disks {
            prop_assert!(from.bytes() == to.bytes());
        }
        prop_assert!(!cut.done || whole.blocks == 0);
    }
}
