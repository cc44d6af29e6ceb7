//! What a campaign has measured, and the bounds that it was held to.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

/// Below it, a percentile of a machine that others use too says nothing.
pub(crate) const LATENCY_FLOOR: Duration = Duration::from_millis(20);
/// How much worse than without the fault the well-behaved may fare.
const LATENCY_RATIO: f64 = 2.0;
/// The same beside callbacks that are up to no good: they are processes on the same CPUs.
pub(crate) const CALLBACK_RATIO: f64 = 3.0;

/// What a figure must be.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
    Exactly(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(bound) => value <= bound,
            Self::AtLeast(bound) => value >= bound,
            Self::Exactly(bound) => (value - bound).abs() < 1e-9,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtMost(bound) => format!("at most {}", number(bound)),
            Self::AtLeast(bound) => format!("at least {}", number(bound)),
            Self::Exactly(bound) => format!("must be {}", number(bound)),
        }
    }
}

#[derive(Clone, Debug)]
struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    bound: Option<Bound>,
}

impl Figure {
    fn is_broken(&self) -> bool {
        self.bound.is_some_and(|bound| !bound.holds(self.value))
    }
}

/// The figures of one campaign, in the order in which they were found.
#[derive(Debug, Default)]
pub(crate) struct Report {
    figures: Vec<Figure>,
    left_out: Vec<String>,
}

impl Report {
    /// A figure that is only shown.
    pub(crate) fn note(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.add(name, value, unit, None);
    }

    pub(crate) fn at_most(
        &mut self,
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
        bound: f64,
    ) {
        self.add(name, value, unit, Some(Bound::AtMost(bound)));
    }

    pub(crate) fn at_least(
        &mut self,
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
        bound: f64,
    ) {
        self.add(name, value, unit, Some(Bound::AtLeast(bound)));
    }

    pub(crate) fn exactly(
        &mut self,
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
        bound: f64,
    ) {
        self.add(name, value, unit, Some(Bound::Exactly(bound)));
    }

    /// The p99 of the well-behaved beside a fault: at most twice that without it, and below
    /// [`LATENCY_FLOOR`] always good. What else the machine does comes and goes, so it is best
    /// measured without the fault both before and after it.
    pub(crate) fn unaffected(&mut self, name: &str, without: &[Duration], during: &[Duration]) {
        self.at_most_times(LATENCY_RATIO, name, without, during);
    }

    /// As [`unaffected`](Self::unaffected), with another ratio.
    pub(crate) fn at_most_times(
        &mut self,
        ratio: f64,
        name: &str,
        without: &[Duration],
        during: &[Duration],
    ) {
        let (without, during) = self.compared(name, without, during);
        let bound = (ratio * millis(without.p99)).max(millis(LATENCY_FLOOR));
        self.at_most(
            format!("{name}: p99 during"),
            millis(during.p99),
            "ms",
            bound,
        );
    }

    /// The p99 of the well-behaved beside a fault that by itself takes the machine: at most twice
    /// that of a bare loop, which does the same beside the same fault without any server. No time
    /// is good by itself.
    ///
    /// Each slice is what was measured of both, one right after the other. The median of their
    /// ratios counts, as another program on the machine may fall into either part of some.
    pub(crate) fn at_most_twice_bare(
        &mut self,
        name: &str,
        without: &[Duration],
        slices: &[Slice],
    ) {
        let during: Vec<_> = slices.iter().flat_map(|it| &it.during).copied().collect();
        let bare: Vec<_> = slices.iter().flat_map(|it| &it.bare).copied().collect();
        let (_, during) = self.compared(name, without, &during);
        let bare = Percentiles::of(&bare);
        self.note(format!("{name}: p99 during"), millis(during.p99), "ms");
        let p50 = millis(bare.p50);
        self.note(format!("{name}: p50 without any server"), p50, "ms");
        let p99 = millis(bare.p99);
        self.note(format!("{name}: p99 without any server"), p99, "ms");
        let mut ratios: Vec<f64> = slices.iter().map(Slice::ratio).collect();
        ratios.sort_by(f64::total_cmp);
        // Without a sample there is no ratio, and no bound holds for that.
        let median = ratios.get(ratios.len() / 2).copied().unwrap_or(f64::NAN);
        let name = format!("{name}: p99 during, times that");
        self.at_most(name, median, "", LATENCY_RATIO);
    }

    /// Both, with how many samples there are and where they lie, but for the p99 beside the fault.
    fn compared(
        &mut self,
        name: &str,
        without: &[Duration],
        during: &[Duration],
    ) -> (Percentiles, Percentiles) {
        let (without, during) = (Percentiles::of(without), Percentiles::of(during));
        self.note(format!("{name}: samples without"), without.count as f64, "");
        self.at_least(
            format!("{name}: samples during"),
            during.count as f64,
            "",
            1.0,
        );
        self.note(format!("{name}: p50 without"), millis(without.p50), "ms");
        self.note(format!("{name}: p50 during"), millis(during.p50), "ms");
        self.note(format!("{name}: p99 without"), millis(without.p99), "ms");
        (without, during)
    }

    /// A part that could not be done here, and why.
    pub(crate) fn leave_out(&mut self, part: impl Into<String>) {
        self.left_out.push(part.into());
    }

    pub(crate) fn broken_count(&self) -> usize {
        self.figures.iter().filter(|it| it.is_broken()).count()
    }

    fn add(
        &mut self,
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
        bound: Option<Bound>,
    ) {
        self.figures.push(Figure {
            name: name.into(),
            value,
            unit,
            bound,
        });
    }

    /// The table that a person reads.
    pub(crate) fn table(&self) -> String {
        let mut table = String::new();
        for figure in &self.figures {
            let verdict = match figure.bound {
                None => String::new(),
                Some(bound) if figure.is_broken() => format!("  BROKEN, {}", bound.text()),
                Some(bound) => format!("  ok, {}", bound.text()),
            };
            let value = format!("{:>12} {:<6}", number(figure.value), figure.unit);
            let line = format!("  {:<44} {value}{verdict}", figure.name);
            // Writing to a string cannot fail.
            let _ = writeln!(table, "{}", line.trim_end());
        }
        for part in &self.left_out {
            let _ = writeln!(table, "  left out: {part}");
        }
        table
    }

    pub(crate) fn to_json(&self) -> Value {
        let figures = self.figures.iter().map(|figure| {
            json!({
                "name": figure.name,
                "value": figure.value,
                "unit": figure.unit,
                "bound": figure.bound.map(Bound::text),
                "holds": !figure.is_broken(),
            })
        });
        json!({
            "figures": figures.collect::<Vec<_>>(),
            "left_out": self.left_out,
        })
    }
}

/// What was measured beside a fault, and right before it by a bare loop.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slice {
    pub(crate) during: Vec<Duration>,
    pub(crate) bare: Vec<Duration>,
}

impl Slice {
    /// How much larger the p99 is than that of the bare loop.
    fn ratio(&self) -> f64 {
        let p99 = |samples: &[Duration]| Percentiles::of(samples).p99.as_secs_f64();
        p99(&self.during) / p99(&self.bare)
    }
}

/// Where the samples lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Percentiles {
    pub(crate) count: usize,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) max: Duration,
}

impl Percentiles {
    /// By nearest rank; zeroes if there is nothing.
    pub(crate) fn of(samples: &[Duration]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_unstable();
        let rank = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100).max(1);
            sorted.get(rank - 1).copied().unwrap_or_default()
        };
        Self {
            count: sorted.len(),
            p50: rank(50),
            p99: rank(99),
            max: rank(100),
        }
    }
}

pub(crate) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

/// Whole numbers as they are, others with three digits.
fn number(value: f64) -> String {
    if value.fract() == 0.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(range: std::ops::RangeInclusive<u64>) -> Vec<Duration> {
        range.rev().map(Duration::from_millis).collect()
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let found = Percentiles::of(&samples(1..=200));
        let expected = Percentiles {
            count: 200,
            p50: Duration::from_millis(100),
            p99: Duration::from_millis(198),
            max: Duration::from_millis(200),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn percentiles_of_one_sample_are_that_sample() {
        let found = Percentiles::of(&samples(7..=7));
        assert_eq!((found.p50, found.p99), (found.max, found.max));
        assert_eq!(Percentiles::of(&[]), Percentiles::default());
    }

    #[test]
    fn figure_at_its_bound_holds_and_beyond_it_does_not() {
        let mut report = Report::default();
        report.at_most("a", 2.0, "", 2.0);
        report.at_least("b", 2.0, "", 2.0);
        report.exactly("c", 2.0, "", 2.0);
        assert_eq!(report.broken_count(), 0);
        report.at_most("d", 2.1, "", 2.0);
        report.at_least("e", 1.9, "", 2.0);
        report.exactly("f", 1.0, "", 2.0);
        assert_eq!(report.broken_count(), 3);
        assert_eq!(report.table().matches("BROKEN").count(), 3);
    }

    #[test]
    fn latency_below_the_floor_is_good_whatever_the_ratio() {
        let mut report = Report::default();
        report.unaffected("echo", &samples(1..=1), &samples(20..=20));
        assert_eq!(report.broken_count(), 0);
        report.unaffected("echo", &samples(1..=1), &samples(21..=21));
        assert_eq!(report.broken_count(), 1);
        report.unaffected("echo", &samples(30..=30), &samples(60..=60));
        assert_eq!(report.broken_count(), 1);
    }

    #[test]
    fn latency_beside_a_bare_loop_is_judged_by_most_of_their_ratios() {
        let slice = |during: u64, bare: u64| Slice {
            during: samples(during..=during),
            bare: samples(bare..=bare),
        };
        let is_broken = |slices: &[Slice]| {
            let mut report = Report::default();
            report.at_most_twice_bare("flood", &samples(1..=1), slices);
            report.broken_count() > 0
        };
        assert!(!is_broken(&[slice(50, 25), slice(900, 25), slice(25, 25)]));
        assert!(is_broken(&[slice(5, 2), slice(5, 2), slice(2, 2)]));
        let without_bare = Slice {
            during: samples(4..=4),
            bare: Vec::new(),
        };
        assert!(is_broken(&[without_bare]));
        assert!(is_broken(&[]));
    }

    #[test]
    fn no_sample_during_the_fault_is_a_fault() {
        let mut report = Report::default();
        report.unaffected("echo", &samples(1..=9), &[]);
        assert_eq!(report.broken_count(), 1);
    }
}
