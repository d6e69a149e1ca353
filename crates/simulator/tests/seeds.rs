//! Seeds in `cargo test`: some of every kind, and those that once violated a property.

use ft_simulator::run::{Without, run};

/// Seeds that found a mistake once, in the protocol or in the simulator: each with what it was.
const OFFENDERS: &[(u64, &str)] = &[
    (72, "a replica that is started after the guest's end waits, and nothing is wrong with that"),
    (1540, "a process writes to the file of kept blocks that it knows, not to a later one"),
    (1423, "requests are held up while blocks are brought back"),
    (1330, "a backup that was stopped reads what its primary, alone by now, has written"),
    (2682, "what seems in order right after the faults need not stay so"),
    (2875, "a store put back while a deposed replica still asks is more than one fault"),
    (
        950_002_854,
        "a peer that was started anew before the guest's first instruction has the disk open before it is heard",
    ),
    (3129, "a pair that is stopped while its copies are made the same arms nobody any more"),
    (414, "a copy that was lost for good may leave the decision to a person"),
    (799, "an operator's stop of one side does not decide for the other one, where that takes a person"),
    (1356, "a primary whose copy fails it logs nothing while it waits for its backup"),
    (3909, "by hand two may win one generation in registers of their own, and one of them goes on"),
    (4181, "a late answer of the register stamps no copy"),
    (
        500_004_700,
        "a backup without a pacing may be seconds behind, and what waits for its reading waits as long",
    ),
    (600_005_234, "where a person decides, what the guest says takes as long as a person"),
    (215, "a replica goes live between its own look for effects and that for outputs"),
    (70, "a backup reads at a position that it was told before its primary is there"),
    (1911, "a stop while the copies are made the same is no record for a backup that was never armed"),
    (
        720_014_359,
        "a side that has won by hand, and whose other side the operator has stopped, waits for a person",
    ),
    (750_000_531, "a backup is lost when its copies are the same and the guest has not run yet"),
    (1_100_000_386, "a replica that has lost a connection before the guest has started dials again at once"),
    (
        1_100_009_285,
        "a backup whose guest was damaged is told so by its primary, which finds it first in its reads",
    ),
    (1_100_014_071, "a target that was lost in the middle of a copying is waited for as at the start"),
    (
        1_300_014_124,
        "two guests that a person let go on both, and that stop alike, leave no copies that are the same",
    ),
    (1_500_025_849, "by hand somebody may have won above the one that is live, in a register of its own"),
    (1_600_015_735, "a cold start trusts that what a lost host had under way has landed"),
    (1_600_015_856, "the stamp of copies that are the same may come just after the other side was lost"),
    (
        1_800_024_247,
        "a primary that was stopped before its first instruction begins when it wakes, and is not the real one",
    ),
    (1_800_030_234, "whoever promotes a side with earlier copies gives up what the other one wrote"),
    (211, "copies that cannot be made the same are no divergence"),
    (3_200_037_061, "what is started again after an operator's stop may wait for the other side as well"),
    (
        3_200_038_436,
        "a backup that was lost before the guest's first instruction is waited for as at the start",
    ),
    (4_100_005_333, "who gives up a backup that is too slow asks just when somebody looks"),
    (4_120_003_897, "whoever cannot hear a process that has the disk open ends, and is started again"),
    (4_200_028_486, "an operator's stop comes while the guest's own end waits to be let out"),
    (4_210_012_499, "whoever waits for a person is not started anew by the operator meanwhile"),
    (
        4_210_036_176,
        "a backup whose thread got nowhere before its guest's first record takes over the guest that it was armed for",
    ),
    (4_300_006_189, "a damaged length in a message about copies, for whose bytes both sides would wait"),
    (4_600_037_660, "what a backup that went astray is told must not be lost with the connection"),
    (
        4_700_017_104,
        "by hand, the last winner does not start the guest beside a promotion that is being written down",
    ),
    (
        5_100_014_573,
        "frames that a primary let out before it goes on alone are not those of one that was deposed",
    ),
    (820_002_950, "whoever is alone learns from the register that another process of its identity has won"),
];

#[test]
fn seeds_hold() {
    for seed in 0..150 {
        let outcome = run(seed, &Without::default(), 0);
        assert!(outcome.violation.is_none(), "seed {seed}: {:?}", outcome.violation);
    }
}

#[test]
fn what_was_found_once_stays_mended() {
    for (seed, what) in OFFENDERS {
        let outcome = run(*seed, &Without::default(), 0);
        assert!(outcome.violation.is_none(), "seed {seed} ({what}): {:?}", outcome.violation);
    }
}

#[test]
fn a_seed_is_one_run_to_the_byte() {
    for seed in [3, 17, 40] {
        let [first, second] = [(); 2].map(|()| run(seed, &Without::default(), 3000));
        assert_eq!(first.trace, second.trace, "seed {seed}");
        assert_eq!(first.counters.events, second.counters.events, "seed {seed}");
        assert!(first.counters.events > 1000, "seed {seed} is a run at all");
    }
}
