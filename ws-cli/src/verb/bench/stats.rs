//! What is counted, and the latencies.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

/// The longest time that is told from longer ones.
const MAX_NANOS: u64 = 3_600_000_000_000;
/// Times are kept to a thousandth of themselves.
const SIGNIFICANT_DIGITS: u8 = 3;

/// A distribution of times in nanoseconds.
#[derive(Debug, Clone)]
pub(super) struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, MAX_NANOS, SIGNIFICANT_DIGITS);
        Self(histogram.expect("the bounds and digits are in range"))
    }
}

impl Times {
    /// Records a time; zero counts as a nanosecond, and more than an hour as an hour.
    #[inline]
    pub(super) fn record(&mut self, nanos: u64) {
        self.0.saturating_record(nanos.max(1));
    }

    pub(super) fn add(&mut self, other: &Self) {
        let added = self.0.add(&other.0);
        added.expect("all histograms have the same bounds");
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// `None` if nothing was recorded.
    pub(super) fn percentiles(&self) -> Option<Percentiles> {
        if self.0.is_empty() {
            return None;
        }
        let micros = |nanos: u64| nanos as f64 / 1_000.0;
        Some(Percentiles {
            count: self.0.len(),
            min: micros(self.0.min()),
            mean: self.0.mean() / 1_000.0,
            p50: micros(self.0.value_at_quantile(0.5)),
            p90: micros(self.0.value_at_quantile(0.9)),
            p99: micros(self.0.value_at_quantile(0.99)),
            p999: micros(self.0.value_at_quantile(0.999)),
            max: micros(self.0.max()),
        })
    }
}

/// The points of a distribution, in microseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Percentiles {
    pub(super) count: u64,
    pub(super) min: f64,
    pub(super) mean: f64,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
    pub(super) max: f64,
}

/// What happened to the connections.
#[derive(Debug, Default, Clone)]
pub(super) struct Tally {
    pub(super) opened: u64,
    /// From the first packet to the server's consent.
    pub(super) handshakes: Times,
    /// Handshakes that were answered with a status other than 101.
    pub(super) refused: BTreeMap<u16, u64>,
    /// Everything that went wrong, by its cause.
    pub(super) failures: BTreeMap<String, u64>,
    /// Of these, connections that could not even be made.
    pub(super) unreachable: u64,
    /// The codes of the close frames that the server sent; 1005 is a frame without one.
    pub(super) close_codes: BTreeMap<u16, u64>,
}

impl Tally {
    pub(super) fn fail(&mut self, cause: impl Into<String>) {
        *self.failures.entry(cause.into()).or_default() += 1;
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.opened += other.opened;
        self.unreachable += other.unreachable;
        self.handshakes.add(&other.handshakes);
        merge(&mut self.refused, &other.refused);
        merge(&mut self.failures, &other.failures);
        merge(&mut self.close_codes, &other.close_codes);
    }
}

fn merge<K: Ord + Clone>(into: &mut BTreeMap<K, u64>, from: &BTreeMap<K, u64>) {
    for (key, count) in from {
        *into.entry(key.clone()).or_default() += count;
    }
}

/// What the messages came to.
#[derive(Debug, Default, Clone)]
pub(super) struct Figures {
    /// While it was measured: replies or deliveries.
    pub(super) messages: u64,
    pub(super) payload_bytes: u64,
    pub(super) latency: Times,
    /// From the first to the last: deliveries that were valid.
    pub(super) valid: u64,
    /// Messages that were not what they should be.
    pub(super) wrong: u64,
    /// Deliveries that came before one published earlier.
    pub(super) out_of_order: u64,
    /// Replies that did not come.
    pub(super) missing: u64,
}

impl Figures {
    #[inline]
    pub(super) fn record(&mut self, payload: usize, nanos: u64) {
        self.messages += 1;
        self.payload_bytes += payload as u64;
        self.latency.record(nanos);
    }

    /// Forgets what was measured, but not what went wrong.
    pub(super) fn begin_measuring(&mut self) {
        self.messages = 0;
        self.payload_bytes = 0;
        self.latency.clear();
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.messages += other.messages;
        self.payload_bytes += other.payload_bytes;
        self.latency.add(&other.latency);
        self.valid += other.valid;
        self.wrong += other.wrong;
        self.out_of_order += other.out_of_order;
        self.missing += other.missing;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_has_no_percentiles() {
        assert_eq!(Times::default().percentiles(), None);
    }

    #[test]
    fn extremes_are_kept_and_bounded() {
        let mut times = Times::default();
        times.record(0);
        times.record(u64::MAX);
        let percentiles = times.percentiles().unwrap();
        assert_eq!(percentiles.count, 2);
        assert!(percentiles.min <= 0.001, "{percentiles:?}");
        let hour = MAX_NANOS as f64 / 1_000.0;
        assert!(
            (percentiles.max / hour - 1.0).abs() < 0.002,
            "{percentiles:?}"
        );
    }

    #[test]
    fn measuring_anew_keeps_what_went_wrong() {
        let mut figures = Figures {
            wrong: 1,
            valid: 2,
            ..Figures::default()
        };
        figures.record(10, 5);
        figures.begin_measuring();
        assert_eq!((figures.messages, figures.payload_bytes), (0, 0));
        assert_eq!(figures.latency.percentiles(), None);
        assert_eq!((figures.wrong, figures.valid), (1, 2));
    }

    #[test]
    fn tallies_add_up_by_cause() {
        let mut one = Tally::default();
        one.fail("late");
        one.close_codes.insert(1000, 2);
        let mut two = Tally {
            opened: 3,
            ..Tally::default()
        };
        two.fail("late");
        two.fail("wrong");
        two.close_codes.insert(1000, 1);
        one.add(&two);
        assert_eq!(one.opened, 3);
        assert_eq!(
            one.failures,
            BTreeMap::from([("late".into(), 2), ("wrong".into(), 1)])
        );
        assert_eq!(one.close_codes, BTreeMap::from([(1000, 3)]));
    }

    proptest! {
        /// Against the sorted list: within the histogram's precision, in parts or as a whole.
        #[test]
        fn prop_percentiles_are_those_of_the_list(
            values in prop::collection::vec(1_u64..10_000_000_000, 1..300),
            cut in 0_usize..300,
        ) {
            let cut = cut.min(values.len());
            let (mut times, mut rest) = (Times::default(), Times::default());
            values[..cut].iter().for_each(|&value| times.record(value));
            values[cut..].iter().for_each(|&value| rest.record(value));
            times.add(&rest);
            let mut sorted = values;
            sorted.sort_unstable();
            let percentiles = times.percentiles().unwrap();
            prop_assert_eq!(percentiles.count, sorted.len() as u64);
            for (quantile, given) in [
                (0.5, percentiles.p50),
                (0.9, percentiles.p90),
                (0.99, percentiles.p99),
                (0.999, percentiles.p999),
                (1.0, percentiles.max),
            ] {
                let rank = (quantile * sorted.len() as f64).ceil() as usize;
                let exact = sorted[rank.max(1) - 1] as f64 / 1_000.0;
                prop_assert!((given / exact - 1.0).abs() < 0.002, "{} {} {}", quantile, given, exact);
            }
        }
    }
}
