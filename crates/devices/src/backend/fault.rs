//! Faults on purpose: what hosts' disks do now and then, done often and at the same requests each time.
//!
//! The tables of the config decide which ([`DiskFaults`]); here they are carried out, between a replica and its disk's file. A
//! request's fate depends on the seed and on how many requests of the disk came before it, on nothing else.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use ft_core::output::SECTOR;
use ft_policies::DiskFaults;

use super::medium::Medium;
use super::overlay::Overlay;

/// Of so many writes that a crash would lose, one reaches the file in part at once.
const TORN: u64 = 16;
/// Most pieces of a request that is carried out in pieces.
const PIECES: u64 = 4;

/// A medium with faults around another.
#[derive(Debug)]
pub struct FaultMedium {
    inner: Box<dyn Medium>,
    faults: DiskFaults,
    requests: AtomicU64,
    /// Writes that the inner medium gets at a flush, with `lose_unflushed`. A simulated cache without bound: guests flush.
    unflushed: RwLock<Overlay>,
}

/// Numbers that are a function of the seed and of a request's number (splitmix64).
#[derive(Debug, Clone)]
struct Dice(u64);

impl Dice {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

    fn new(seed: u64, request: u64) -> Self {
        let mut first = Self(seed);
        // The neighbours of a request must not be its continuation.
        Self(first.roll() ^ request.wrapping_mul(0xd134_2543_de82_ef95))
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(Self::STEP);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound.max(1)
    }

    /// True in a share of the cases.
    fn strikes(&mut self, share: f64) -> bool {
        // 53 bits are what a float holds.
        ((self.roll() >> 11) as f64) < share * (1_u64 << 53) as f64
    }
}

/// What happens to one request.
#[derive(Debug)]
struct Fate {
    delay: Option<Duration>,
    fails: bool,
    in_pieces: bool,
    torn: bool,
    dice: Dice,
}

impl Fate {
    /// The fate of request number `request` if a share of `errors` of its kind fails. Every number is drawn in every case, so
    /// that a change of one share leaves the others' choices as they are.
    fn of(faults: &DiskFaults, request: u64, errors: f64) -> Self {
        let mut dice = Dice::new(faults.seed, request);
        let struck = request >= faults.after;
        let delayed = dice.strikes(faults.delayed);
        let fails = dice.strikes(errors);
        let in_pieces = dice.strikes(faults.short);
        let torn = dice.below(TORN) == 0;
        Self {
            delay: (struck && delayed).then(|| faults.delay.duration()),
            fails: struck && fails,
            in_pieces: struck && in_pieces,
            torn: struck && torn,
            dice,
        }
    }

    /// The part of it that comes before the medium is touched.
    fn begin(&self) -> io::Result<()> {
        if let Some(delay) = self.delay {
            std::thread::sleep(delay);
        }
        if self.fails { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
    }

    /// Lengths of the pieces in which `len` bytes are moved: whole sectors but for the last.
    fn pieces(&mut self, len: usize) -> Vec<usize> {
        let sectors = len as u64 / SECTOR;
        let mut cuts = vec![0, len];
        if self.in_pieces {
            let count = 1 + self.dice.below(PIECES - 1);
            cuts.extend((0..count).map(|_| (self.dice.below(sectors) * SECTOR) as usize));
        }
        cuts.sort_unstable();
        cuts.dedup();
        cuts.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }
}

impl FaultMedium {
    /// Puts `faults` around `inner`. Whether they are for this replica is the caller's to know.
    pub fn new(inner: Box<dyn Medium>, faults: DiskFaults) -> Self {
        Self { inner, faults, requests: AtomicU64::new(0), unflushed: RwLock::default() }
    }

    fn next(&self, errors: f64) -> Fate {
        let request = self.requests.fetch_add(1, Ordering::Relaxed);
        Fate::of(&self.faults, request, errors)
    }
}

impl Medium for FaultMedium {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut fate = self.next(self.faults.read_errors);
        fate.begin()?;
        // Held meanwhile: what a flush moves to the medium must be seen in one of the two places.
        let unflushed = self.unflushed.read().unwrap_or_else(PoisonError::into_inner);
        let mut done = 0;
        for piece in fate.pieces(buffer.len()) {
            self.inner.read(&mut buffer[done..done + piece], offset + done as u64)?;
            done += piece;
        }
        unflushed.read(buffer, offset);
        Ok(())
    }

    fn write(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut fate = self.next(self.faults.write_errors);
        fate.begin()?;
        if self.faults.lose_unflushed {
            let mut unflushed = self.unflushed.write().unwrap_or_else(PoisonError::into_inner);
            if fate.torn {
                let sectors = fate.dice.below(data.len() as u64 / SECTOR + 1);
                self.inner.write(&data[..(sectors * SECTOR) as usize], offset)?;
            }
            unflushed.write(data, offset);
            return Ok(());
        }
        let mut done = 0;
        for piece in fate.pieces(data.len()) {
            self.inner.write(&data[done..done + piece], offset + done as u64)?;
            done += piece;
        }
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.next(self.faults.write_errors).begin()?;
        if self.faults.lose_unflushed {
            let mut unflushed = self.unflushed.write().unwrap_or_else(PoisonError::into_inner);
            unflushed.zero(offset, len, unmap);
            return Ok(());
        }
        self.inner.zero(offset, len, unmap)
    }

    fn flush(&self) -> io::Result<()> {
        self.next(self.faults.flush_errors).begin()?;
        let mut unflushed = self.unflushed.write().unwrap_or_else(PoisonError::into_inner);
        unflushed.write_back(&*self.inner)?;
        self.inner.flush()?;
        unflushed.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::memory::MemoryMedium;
    use super::*;
    use ft_policies::Time;
    use proptest::prelude::*;

    const SECTORS: usize = 64;

    fn none() -> DiskFaults {
        DiskFaults {
            replica: None,
            after: 0,
            read_errors: 0.0,
            write_errors: 0.0,
            flush_errors: 0.0,
            short: 0.0,
            delayed: 0.0,
            delay: Time::millis(10),
            lose_unflushed: false,
            seed: 1,
        }
    }

    fn medium(faults: DiskFaults) -> (FaultMedium, Arc<MemoryMedium>) {
        let inner = Arc::new(MemoryMedium::new(vec![0; SECTORS * 512]));
        (FaultMedium::new(Box::new(Arc::clone(&inner)), faults), inner)
    }

    #[test]
    fn a_fate_is_a_function_of_seed_and_number_and_strikes_its_share() {
        let faults = DiskFaults { read_errors: 0.25, delayed: 0.5, after: 100, ..none() };
        let fates = |seed| -> Vec<(bool, bool)> {
            let faults = DiskFaults { seed, ..faults.clone() };
            let fate = |request| Fate::of(&faults, request, faults.read_errors);
            (0..4100).map(fate).map(|fate| (fate.fails, fate.delay.is_some())).collect()
        };
        let first = fates(7);
        assert_eq!(first, fates(7));
        assert_ne!(first, fates(8));
        assert!(first[..100].iter().all(|fate| *fate == (false, false)));
        let count = |wanted: fn(&(bool, bool)) -> bool| first.iter().filter(|fate| wanted(fate)).count();
        assert!((900..1100).contains(&count(|(fails, _)| *fails)));
        assert!((1850..2150).contains(&count(|(_, delayed)| *delayed)));
        assert!((440..560).contains(&count(|(fails, delayed)| *fails && *delayed)));
    }

    #[test]
    fn certain_errors_are_certain_for_their_kind_only() {
        let (medium, inner) = medium(DiskFaults { write_errors: 1.0, after: 1, ..none() });
        medium.write(&[1; 512], 0).unwrap();
        let errors = [medium.write(&[2; 512], 0), medium.zero(0, 512, true)];
        assert!(errors.iter().all(|result| result.as_ref().unwrap_err().raw_os_error() == Some(libc::EIO)));
        medium.read(&mut [0; 512], 0).unwrap();
        medium.flush().unwrap();
        assert_eq!(inner.bytes()[..512], [1; 512]);
    }

    #[test]
    fn pieces_are_whole_sectors_and_all_of_the_request() {
        let faults = DiskFaults { short: 1.0, ..none() };
        let mut most = 0;
        for request in 0..200 {
            for len in [512, 1024, 64 << 10] {
                let pieces = Fate::of(&faults, request, 0.0).pieces(len);
                assert_eq!(pieces.iter().sum::<usize>(), len);
                assert!(pieces.iter().all(|piece| *piece > 0 && piece.is_multiple_of(512)));
                most = most.max(pieces.len());
            }
        }
        assert_eq!(most as u64, PIECES);
        assert_eq!(Fate::of(&none(), 0, 0.0).pieces(4096), [4096]);
    }

    #[derive(Debug, Clone)]
    enum Op {
        Read(usize, usize),
        Write(usize, usize, u8),
        Zero(usize, usize, bool),
        Flush,
    }

    fn ops() -> impl Strategy<Value = Op> {
        let at = || (0..SECTORS, 1..9_usize).prop_map(|(at, len)| (at, len.min(SECTORS - at)));
        prop_oneof![
            3 => at().prop_map(|(at, len)| Op::Read(at, len)),
            5 => (at(), 1..=255_u8).prop_map(|((at, len), byte)| Op::Write(at, len, byte)),
            2 => (at(), any::<bool>()).prop_map(|((at, len), unmap)| Op::Zero(at, len, unmap)),
            1 => Just(Op::Flush),
        ]
    }

    proptest! {
        /// Reads see what was written last; a flush that succeeds puts all of it onto the file; what a crash then leaves is,
        /// in each sector, what was flushed last or something written since.
        #[test]
        fn what_is_written_is_read_and_what_is_flushed_stays(
            ops in prop::collection::vec(ops(), 1..60),
            lose_unflushed: bool,
            errors in prop_oneof![Just(0.0), Just(0.3)],
            seed: u64,
        ) {
            let (medium, inner) = medium(DiskFaults {
                write_errors: errors, flush_errors: errors, read_errors: errors, short: 0.5, lose_unflushed, seed, ..none()
            });
            let mut now = vec![0_u8; SECTORS];
            let mut allowed: Vec<Vec<u8>> = vec![vec![0]; SECTORS];
            let spread = |bytes: &[u8]| -> Vec<u8> { bytes.iter().flat_map(|byte| [*byte; 512]).collect() };
            for op in ops {
                let (range, byte, result) = match op {
                    Op::Read(at, len) => {
                        let mut found = vec![0xee; len * 512];
                        if medium.read(&mut found, at as u64 * 512).is_ok() {
                            prop_assert_eq!(found, spread(&now[at..at + len]));
                        }
                        continue;
                    }
                    Op::Flush => {
                        if medium.flush().is_ok() {
                            prop_assert_eq!(inner.bytes(), spread(&now));
                            allowed = now.iter().map(|byte| vec![*byte]).collect();
                        }
                        continue;
                    }
                    Op::Write(at, len, byte) => {
                        (at..at + len, byte, medium.write(&vec![byte; len * 512], at as u64 * 512))
                    }
                    Op::Zero(at, len, unmap) => {
                        (at..at + len, 0, medium.zero(at as u64 * 512, len as u64 * 512, unmap))
                    }
                };
                if result.is_ok() {
                    now[range.clone()].fill(byte);
                    allowed[range].iter_mut().for_each(|allowed| allowed.push(byte));
                }
            }
            drop(medium);
            let left = inner.bytes();
            for (sector, allowed) in left.chunks(512).zip(&allowed) {
                prop_assert!(allowed.contains(&sector[0]) && sector.iter().all(|byte| *byte == sector[0]));
            }
        }
    }

    #[test]
    fn some_writes_that_are_lost_leave_a_part() {
        let (medium, inner) = medium(DiskFaults { lose_unflushed: true, ..none() });
        let mut torn = 0;
        for round in 1..=200_u8 {
            medium.write(&[round; 8 * 512], 0).unwrap();
            let bytes = inner.bytes();
            torn += usize::from(bytes[0] == round && bytes[7 * 512] != round);
        }
        assert!((1..40).contains(&torn), "{torn}");
    }
}
