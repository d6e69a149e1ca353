//! Counts of durations in fixed buckets, for percentiles in status: host time only, no guest sees them.

use crate::Nanos;

/// Four buckets for each power of two of nanoseconds.
const STEPS: u32 = 4;
const BUCKETS: usize = 64 * STEPS as usize;

/// Durations counted in buckets about 19 % wide.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Box<[u64; BUCKETS]>,
    total: u64,
    max: Nanos,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: Box::new([0; BUCKETS]), total: 0, max: 0 }
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn add(&mut self, value: Nanos) {
        self.counts[bucket(value)] += 1;
        self.total += 1;
        self.max = self.max.max(value);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// The longest.
    pub fn max(&self) -> Nanos {
        self.max
    }

    /// An upper bound of the given per cent (0-100) of what was counted; 0 if there is nothing.
    pub fn percentile(&self, per_cent: f64) -> Nanos {
        let wanted = (self.total as f64 * per_cent / 100.0).ceil() as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted.max(1) {
                return upper(index).min(self.max);
            }
        }
        self.max
    }
}

fn bucket(value: Nanos) -> usize {
    let value = value.max(STEPS as u64);
    let power = value.ilog2();
    let step = (value >> (power - 2)) as u32 & (STEPS - 1);
    (power * STEPS + step) as usize
}

fn upper(index: usize) -> Nanos {
    let (power, step) = (index as u32 / STEPS, index as u128 % u128::from(STEPS));
    let top = ((1u128 << power) * (u128::from(STEPS) + step + 1)) / u128::from(STEPS);
    u64::try_from(top - 1).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_bound_what_was_counted() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentile(50.0), 0);
        for value in 1..=1000u64 {
            histogram.add(value * 1000);
        }
        let (half, most) = (histogram.percentile(50.0), histogram.percentile(99.0));
        assert!((500_000..=620_000).contains(&half), "{half}");
        assert!((990_000..=1_000_000).contains(&most), "{most}");
        histogram.add(u64::MAX);
        assert_eq!(histogram.percentile(100.0), u64::MAX);
    }
}
