//! Writes that have not reached a medium yet: what [`super::fault`] loses when the process ends.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use super::medium::Medium;

/// One run of bytes.
#[derive(Debug, Clone)]
enum Run {
    Bytes(Vec<u8>),
    Zeroes { len: u64, unmap: bool },
}

impl Run {
    fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Zeroes { len, .. } => *len,
        }
    }

    /// Keeps the first `at` bytes and gives the rest.
    fn split_off(&mut self, at: u64) -> Self {
        match self {
            Self::Bytes(bytes) => Self::Bytes(bytes.split_off(at as usize)),
            Self::Zeroes { len, unmap } => {
                let rest = Self::Zeroes { len: *len - at, unmap: *unmap };
                *len = at;
                rest
            }
        }
    }
}

/// Runs by the offset at which they begin; none overlaps another.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    runs: BTreeMap<u64, Run>,
}

impl Overlay {
    /// Remembers a write.
    pub(super) fn write(&mut self, data: &[u8], offset: u64) {
        self.insert(offset, Run::Bytes(data.to_vec()));
    }

    /// Remembers zeroes.
    pub(super) fn zero(&mut self, offset: u64, len: u64, unmap: bool) {
        self.insert(offset, Run::Zeroes { len, unmap });
    }

    /// Puts what is remembered over `buffer`, which holds what the medium has at `offset`.
    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) {
        let wanted = offset..offset + buffer.len() as u64;
        // The run before may reach in.
        let first = self.runs.range(..=wanted.start).next_back().map_or(wanted.start, |(start, _)| *start);
        for (start, run) in self.runs.range(first..wanted.end) {
            let common = wanted.start.max(*start)..wanted.end.min(start + run.len());
            if common.is_empty() {
                continue;
            }
            let target = &mut buffer[within(&common, wanted.start)];
            match run {
                Run::Bytes(bytes) => target.copy_from_slice(&bytes[within(&common, *start)]),
                Run::Zeroes { .. } => target.fill(0),
            }
        }
    }

    /// Gives all to the medium, and keeps it: until the medium is flushed it may be lost there too.
    pub(super) fn write_back(&self, medium: &dyn Medium) -> io::Result<()> {
        self.runs.iter().try_for_each(|(offset, run)| match run {
            Run::Bytes(bytes) => medium.write(bytes, *offset),
            Run::Zeroes { len, unmap } => medium.zero(*offset, *len, *unmap),
        })
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.runs.clear();
    }

    fn insert(&mut self, offset: u64, run: Run) {
        let end = offset + run.len();
        if offset == end {
            return;
        }
        self.split_at(offset);
        self.split_at(end);
        let covered: Vec<u64> = self.runs.range(offset..end).map(|(start, _)| *start).collect();
        for start in covered {
            self.runs.remove(&start);
        }
        self.runs.insert(offset, run);
    }

    /// Cuts the run that `offset` lies inside of in two.
    fn split_at(&mut self, offset: u64) {
        let Some((start, run)) = self.runs.range_mut(..offset).next_back() else { return };
        if start + run.len() > offset {
            let rest = run.split_off(offset - start);
            self.runs.insert(offset, rest);
        }
    }
}

/// `range`, relative to `start`.
fn within(range: &Range<u64>, start: u64) -> Range<usize> {
    (range.start - start) as usize..(range.end - start) as usize
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryMedium;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever is written over what: reads see the last, from any offset, and so does a medium that gets all of it.
        #[test]
        fn an_overlay_is_the_sum_of_its_writes(
            ops in prop::collection::vec((0..64_u64, 0..24_u64, any::<Option<u8>>()), 0..40),
            reads in prop::collection::vec((0..88_usize, 0..88_usize), 4),
        ) {
            let under = vec![0xee; 88];
            let mut model = under.clone();
            let mut overlay = Overlay::default();
            for (offset, len, byte) in ops {
                model[offset as usize..(offset + len) as usize].fill(byte.unwrap_or(0));
                match byte {
                    Some(byte) => overlay.write(&vec![byte; len as usize], offset),
                    None => overlay.zero(offset, len, true),
                }
            }
            for (a, b) in reads {
                let range = a.min(b)..a.max(b);
                let mut found = under[range.clone()].to_vec();
                overlay.read(&mut found, range.start as u64);
                prop_assert_eq!(&found, &model[range]);
            }
            let medium = MemoryMedium::new(under);
            overlay.write_back(&medium).unwrap();
            prop_assert_eq!(medium.bytes(), model);
        }
    }
}
