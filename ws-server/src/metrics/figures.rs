//! How a figure is written down.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::histogram::Histogram;

use crate::counters::Counter;

/// Where the figures of one scrape go.
///
/// Names are whole but for the ending that their type asks for: `_total` of a counter, `_info`.
pub(super) struct Figures<'a>(DescriptorEncoder<'a>);

impl<'a> Figures<'a> {
    pub(super) fn new(encoder: DescriptorEncoder<'a>) -> Self {
        Self(encoder)
    }

    pub(super) fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.0
            .encode_descriptor(name, help, None, MetricType::Counter)?
            .encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    /// A counter of seconds.
    pub(super) fn seconds(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.0
            .encode_descriptor(name, help, None, MetricType::Counter)?
            .encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    pub(super) fn counters<const N: usize>(
        &mut self,
        figures: [(&str, &str, &Counter); N],
    ) -> fmt::Result {
        figures
            .into_iter()
            .try_for_each(|(name, help, counter)| self.counter(name, help, counter.get()))
    }

    /// A counter for each of a closed set of reasons.
    pub(super) fn tally(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        figures: impl Iterator<Item = (&'static str, u64)>,
    ) -> fmt::Result {
        let mut family = self
            .0
            .encode_descriptor(name, help, None, MetricType::Counter)?;
        for (reason, value) in figures {
            family
                .encode_family(&[(label, reason)])?
                .encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }

    pub(super) fn gauge(
        &mut self,
        name: &str,
        help: &str,
        value: impl EncodeGaugeValue,
    ) -> fmt::Result {
        self.0
            .encode_descriptor(name, help, None, MetricType::Gauge)?
            .encode_gauge(&value)
    }

    pub(super) fn gauges<const N: usize>(
        &mut self,
        figures: [(&str, &str, usize); N],
    ) -> fmt::Result {
        figures.into_iter().try_for_each(|(name, help, value)| {
            // No figure comes near the end of the range.
            self.gauge(name, help, i64::try_from(value).unwrap_or(i64::MAX))
        })
    }

    pub(super) fn histogram(
        &mut self,
        name: &str,
        help: &str,
        label: (&'static str, &'static str),
        histogram: &Histogram,
    ) -> fmt::Result {
        let mut family = self
            .0
            .encode_descriptor(name, help, None, MetricType::Histogram)?;
        histogram.encode(family.encode_family(&[label])?)
    }

    pub(super) fn info<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: [(&'static str, &'static str); N],
    ) -> fmt::Result {
        self.0
            .encode_descriptor(name, help, None, MetricType::Info)?
            .encode_info(&labels)
    }
}
