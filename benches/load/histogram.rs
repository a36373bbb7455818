//! Latencies in logarithmic buckets: a fixed size, any range, an error under one per cent.
//!
//! The value range is cut into powers of two and each power into 128 equal buckets, as in HdrHistogram; a reported
//! quantile is the upper edge of its bucket, so it never flatters.

use std::time::Duration;

const SUB_BITS: u32 = 7;
const SUB: u64 = 1 << SUB_BITS;
/// Longest latency told apart: above an hour, everything is an hour.
const MAX_NANOS: u64 = 3_600_000_000_000;

/// A histogram of durations.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u32>,
    total: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; index_of(MAX_NANOS) + 1], total: 0, max: 0 }
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&mut self, value: Duration) {
        let nanos = u64::try_from(value.as_nanos()).unwrap_or(MAX_NANOS).min(MAX_NANOS);
        let slot = &mut self.counts[index_of(nanos)];
        *slot = slot.saturating_add(1);
        self.total += 1;
        self.max = self.max.max(nanos);
    }

    /// Adds what another histogram counted.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine = mine.saturating_add(*theirs);
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// How many durations were counted.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.total
    }

    /// Whether nothing was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// The duration that `q` (0 to 1) of all are not above; zero when there are none.
    #[must_use]
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub fn quantile(&self, q: f64) -> Duration {
        let rank = ((self.total as f64 * q).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= rank {
                return Duration::from_nanos(upper_edge(index).min(self.max));
            }
        }
        Duration::ZERO
    }
}

fn index_of(nanos: u64) -> usize {
    let exponent = (u64::BITS - nanos.leading_zeros()).saturating_sub(SUB_BITS + 1);
    // Above the linear start every power of two has `SUB` buckets; its values begin at `SUB` after the shift.
    let index = u64::from(exponent) * SUB + (nanos >> exponent);
    usize::try_from(index).unwrap_or(usize::MAX)
}

fn upper_edge(index: usize) -> u64 {
    let index = index as u64;
    let exponent = (index / SUB).saturating_sub(1);
    let base = index - exponent * SUB;
    ((base + 1) << exponent) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_within_one_percent_of_the_edge_of_its_bucket() {
        let mut value = 1_u64;
        while value < MAX_NANOS {
            let edge = upper_edge(index_of(value));
            assert!(edge >= value, "{value} is above its edge {edge}");
            assert!(edge - value <= value / 100, "{value} is far from its edge {edge}");
            value += 1 + value / 37;
        }
    }

    #[test]
    fn buckets_neither_overlap_nor_leave_a_gap() {
        for index in 0..index_of(1 << 40) {
            assert_eq!(index_of(upper_edge(index)), index);
            assert_eq!(index_of(upper_edge(index) + 1), index + 1);
        }
    }

    #[test]
    fn quantiles_of_a_known_distribution() {
        let mut histogram = Histogram::default();
        for ms in 1..=1000 {
            histogram.record(Duration::from_millis(ms));
        }
        for (q, expected) in [(0.5, 500.0), (0.99, 990.0), (0.999, 999.0), (1.0, 1000.0)] {
            let got = histogram.quantile(q).as_secs_f64() * 1e3;
            assert!((got - expected).abs() / expected < 0.01, "p{q}: {got} instead of {expected}");
        }
        assert_eq!(Histogram::default().quantile(0.5), Duration::ZERO);
    }

    #[test]
    fn merging_counts_both() {
        let (mut a, mut b) = (Histogram::default(), Histogram::default());
        a.record(Duration::from_micros(10));
        b.record(Duration::from_secs(2));
        a.merge(&b);
        assert_eq!(a.len(), 2);
        assert_eq!(a.quantile(1.0), Duration::from_secs(2));
        assert!(a.quantile(0.5) < Duration::from_micros(11));
    }
}
