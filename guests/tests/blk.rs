//! The description that the guest `blk` and the tests of disks share: what is done, what the disk must hold, and that
//! wrong content is found.

use std::collections::HashMap;

use ft_guests::blk::content::{Origin, fill, is_from, is_zero};
use ft_guests::blk::{
    HOT, Kind, MAX_COUNT, Model, Op, SECTOR, Stamp, Which, check_crashed, check_image, expected_image,
    explain, image_hash, op, ops,
};
use proptest::prelude::*;

const SECTORS: u64 = 2048;

/// The same as [`expected_image`], in the most obvious way: every operation is carried out.
fn carried_out(seed: u64, count: u64, sectors: u64) -> Vec<u8> {
    let mut image = vec![0; sectors as usize * SECTOR];
    for op in ops(seed, count, sectors).filter(Op::changes) {
        carry_out(seed, &op, &mut image);
    }
    image
}

fn carry_out(seed: u64, op: &Op, image: &mut [u8]) {
    let (contents, _) = image.as_chunks_mut::<SECTOR>();
    for sector in op.sectors() {
        let content = &mut contents[sector as usize];
        match op.kind {
            Kind::Write => fill(Origin { seed, op: op.index, sector }, content),
            _ => content.fill(0),
        }
    }
}

proptest! {
    #[test]
    fn operations_are_a_function_of_their_number(seed: u64, index in 0_u64..1 << 31, sectors in 1_u64..200_000) {
        let one = op(seed, index, sectors);
        prop_assert_eq!(one, op(seed, index, sectors));
        prop_assert_eq!(one.index, index);
        prop_assert!(one.sector + one.count <= sectors);
        prop_assert!(one.count <= MAX_COUNT);
        prop_assert_eq!(one.count == 0, one.kind == Kind::Flush);
    }

    #[test]
    fn the_image_is_what_the_operations_leave(seed: u64, count in 0_u64..400, sectors in 1_u64..3000) {
        let image = expected_image(seed, count, sectors);
        prop_assert!(image == carried_out(seed, count, sectors));
        prop_assert_eq!(check_image(seed, count, &image), Ok(()));
    }

    /// Whatever bit is wrong, wherever.
    #[test]
    fn a_flipped_bit_is_found(seed: u64, count in 0_u64..400, at in 0..SECTORS * 4096) {
        let mut image = expected_image(seed, count, SECTORS);
        let hash = image_hash(&image);
        image[at as usize / 8] ^= 1 << (at % 8);
        prop_assert_ne!(image_hash(&image), hash);
        let wrong = check_image(seed, count, &image).expect_err("a bit is wrong");
        prop_assert_eq!(wrong.sector, at / 4096);
        prop_assert!(matches!(wrong.found, Which::Torn(_) | Which::Foreign(_)), "{}", wrong);
    }

    #[test]
    fn a_sector_says_whose_it_is(seed: u64, op: u64, sector: u64, other: u64) {
        let (origin, mut content) = (Origin { seed, op, sector }, [0; SECTOR]);
        fill(origin, &mut content);
        prop_assert_eq!(explain(&content), Which::Written(origin));
        prop_assert!(is_from(origin, &content) && !is_zero(&content));
        let elsewhere = Origin { op: other, ..origin };
        prop_assert_eq!(is_from(elsewhere, &content), other == op);
    }

    /// Everything before a point is on the disk, of the rest whatever some order of them leaves.
    #[test]
    fn a_crash_leaves_new_sectors_beside_old_ones(
        seed: u64, durable in 0_u64..300, more in 0_u64..100, picks in prop::collection::vec(any::<bool>(), 100)
    ) {
        let mut image = carried_out(seed, durable, SECTORS);
        let submitted = durable + more;
        for (index, _) in (durable..submitted).zip(picks).filter(|(_, pick)| *pick) {
            let op = op(seed, index, SECTORS);
            if op.changes() {
                // Cut short, as a crash may.
                let count = op.count.div_ceil(2);
                carry_out(seed, &Op { count, ..op }, &mut image);
            }
        }
        prop_assert_eq!(check_crashed(seed, &image, durable, submitted), Ok(()));
    }
}

#[test]
fn a_crash_may_not_lose_what_was_durable() {
    const SEED: u64 = 7;
    let full = carried_out(SEED, 500, SECTORS);
    let old = carried_out(SEED, 400, SECTORS);
    assert_eq!(check_crashed(SEED, &full, 500, 500), Ok(()));
    let wrong = check_crashed(SEED, &old, 500, 500).expect_err("a hundred operations are lost");
    assert_ne!(Stamp::NEVER, wrong.expected, "{wrong}");
    assert_eq!(check_crashed(SEED, &full, 400, 500), Ok(()));
    // What nobody has submitted yet.
    let wrong = check_crashed(SEED, &full, 400, 400).expect_err("a hundred operations too many");
    assert!(matches!(wrong.found, Which::Written(origin) if origin.op >= 400) || wrong.found == Which::Zero);
    // Content of the right operation in the wrong place, and of another run.
    let mut moved = full.clone();
    let is_written = |sector: u64| {
        let content = moved[sector as usize * SECTOR..].first_chunk().expect("inside");
        matches!(explain(content), Which::Written(_))
    };
    let from = (0..SECTORS - 1).find(|sector| is_written(*sector)).expect("something was written") as usize;
    moved.copy_within(from * SECTOR..(from + 1) * SECTOR, (from + 1) * SECTOR);
    assert!(check_crashed(SEED, &moved, 400, 500).is_err());
    assert!(check_crashed(SEED + 1, &full, 400, 500).is_err());
}

/// What the operations are like: of every kind, mostly short, some long, many in the hot region.
#[test]
fn operations_meet() {
    const OPS: u64 = 20_000;
    for (seed, sectors) in [(1, 2048), (2, 16_384), (3, 131_072)] {
        let all: Vec<Op> = ops(seed, OPS, sectors).collect();
        let share = |what: &dyn Fn(&Op) -> bool| all.iter().filter(|op| what(op)).count() as f64 / OPS as f64;
        for (kind, least) in [
            (Kind::Read, 0.35),
            (Kind::Write, 0.4),
            (Kind::Flush, 0.01),
            (Kind::Discard, 0.05),
            (Kind::WriteZeroes, 0.06),
        ] {
            assert!(share(&|op| op.kind == kind) > least, "{kind:?}");
        }
        assert!(share(&|op| op.count <= 16) > 0.7);
        assert!(share(&|op| op.count > 64) > 0.04);
        assert!(share(&|op| op.count > 128) > 0.008);

        // The hot region is where most of the short operations are: the busiest sector is in it.
        let mut hits = HashMap::new();
        all.iter().flat_map(Op::sectors).for_each(|sector| *hits.entry(sector).or_insert(0_u64) += 1);
        let (hot, most) = hits.into_iter().max_by_key(|(_, count)| *count).expect("some sector");
        assert!(most > OPS / 20, "sector {hot} is hit {most} times");
        let near = |op: &Op| op.sector + op.count > hot.saturating_sub(HOT) && op.sector < hot + HOT;
        assert!(share(&near) > 0.45);

        // Among any sixteen in flight, several must wait for another.
        let meet = |one: &Op, other: &Op| {
            one.sector < other.sector + other.count
                && other.sector < one.sector + one.count
                && (one.changes() || other.changes())
        };
        let waits = |window: &[Op]| {
            let (last, earlier) = window.split_last().expect("sixteen");
            earlier.iter().any(|op| meet(op, last))
        };
        let waiting = all.windows(16).filter(|window| waits(window)).count();
        assert!(waiting as u64 > OPS / 4, "{waiting} of {OPS} wait");
    }
}

#[test]
fn stamps_tell_zeroes_from_content() {
    let sectors = 64;
    let mut model = Model::new(1, sectors);
    let write = Op { index: 0, kind: Kind::Write, sector: 3, count: 4 };
    model.apply(&write);
    model.apply(&Op { index: 1, kind: Kind::Read, sector: 0, count: 64 });
    model.apply(&Op { index: 2, kind: Kind::Discard, sector: 5, count: 1 });
    let stamps = model.stamps(2..7);
    let found: Vec<_> = stamps.iter().map(|stamp| (stamp.op(), stamp.writer())).collect();
    let written = (Some(0), Some(0));
    assert_eq!(found, [(None, None), written, written, (Some(2), None), written]);
    assert_eq!(stamps[3].to_string(), "zeroes of op 2");
    assert_eq!(stamps[0], Stamp::NEVER);
    let last = Op { index: Stamp::MAX_OPS - 1, ..write };
    assert_eq!(Stamp::of(&last).writer(), Some(last.index));
}

/// Pinned, so that a change of the description is seen to change what guests print.
#[test]
fn a_known_image() {
    assert_eq!(image_hash(&expected_image(1, 1000, SECTORS)), 0xab11_91e1_5d6c_57a4);
}
