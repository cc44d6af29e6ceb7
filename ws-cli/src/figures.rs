//! What a server says of itself at one moment: `GET /v1/status`, and what only `/metrics` has.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::control::{CallError, Caller};

/// The figures of one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    status: Value,
    metrics: Metrics,
    /// The Unix time when they were asked for.
    at: Duration,
}

impl Figures {
    /// Asks the server.
    pub(crate) async fn take(caller: &mut Caller) -> Result<Self, CallError> {
        let status = caller.get("/v1/status").await?;
        let metrics = Metrics::parse(&caller.get_text("/metrics").await?);
        let at = SystemTime::now().duration_since(UNIX_EPOCH);
        Ok(Self::of(status, metrics, at.unwrap_or_default()))
    }

    pub(crate) fn of(status: Value, metrics: Metrics, at: Duration) -> Self {
        Self {
            status,
            metrics,
            at,
        }
    }

    /// The Unix time when they were asked for.
    pub(crate) fn at(&self) -> Duration {
        self.at
    }

    /// How often a figure grows in a second, since `before`; 0 if that cannot be said.
    pub(crate) fn rate(&self, before: &Self, path: &str) -> f64 {
        // A server that was started again begins at 0.
        let grown = self.count(path).saturating_sub(before.count(path));
        per_second(grown, self.at.saturating_sub(before.at))
    }

    /// A figure of the status by its path, `messages.received`; one that this server does not have
    /// is 0.
    pub(crate) fn count(&self, path: &str) -> u64 {
        self.value(path).and_then(Value::as_u64).unwrap_or(0)
    }

    /// A text of the status by its path.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.value(path)?.as_str()
    }

    /// What the status has at a path.
    pub(crate) fn value(&self, path: &str) -> Option<&Value> {
        path.split('.')
            .try_fold(&self.status, |value, key| value.get(key))
    }

    /// The reasons of a tally that have occurred, the most frequent first: `origin 2, host 1`.
    pub(crate) fn reasons(&self, path: &str) -> String {
        let reasons = self.value(path).and_then(Value::as_object);
        let reasons = reasons.into_iter().flatten();
        let mut reasons: Vec<(&String, u64)> = reasons
            .filter_map(|(name, count)| Some((name, count.as_u64().filter(|it| *it > 0)?)))
            .collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let shown = reasons
            .iter()
            .map(|(name, count)| format!("{} {count}", name.replace('_', " ")));
        shown.collect::<Vec<_>>().join(", ")
    }

    /// A gauge of the metrics; `None` if what it measures is not configured.
    pub(crate) fn gauge(&self, name: &str) -> Option<f64> {
        self.metrics.value(name)
    }

    /// How long the server has run.
    pub(crate) fn uptime(&self) -> Option<Duration> {
        let started = self.gauge("process_start_time_seconds")?;
        let started = Duration::try_from_secs_f64(started).ok()?;
        Some(self.at.saturating_sub(started))
    }

    /// How long callbacks took since the server's start, or since `before`.
    pub(crate) fn callback_durations(&self, before: Option<&Self>) -> Durations {
        let name = "ws_callback_duration_seconds";
        let mut durations = self.metrics.durations(name);
        if let Some(before) = before {
            durations.subtract(&before.metrics.durations(name));
        }
        durations
    }
}

/// 0 if no time has passed: a clock may be set back.
pub(crate) fn per_second(count: u64, time: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let count = count as f64;
    match time.is_zero() {
        true => 0.0,
        false => count / time.as_secs_f64(),
    }
}

/// Prometheus' text format, as far as our own server writes it: values by name, or by name and the
/// bucket's upper bound. Other labels are of no interest here.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    values: HashMap<String, f64>,
    buckets: HashMap<String, Vec<(f64, f64)>>,
}

impl Metrics {
    pub(crate) fn parse(text: &str) -> Self {
        let mut metrics = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let Ok(value) = value.parse() else {
                continue;
            };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            match name.strip_suffix("_bucket") {
                Some(name) => {
                    let bound = labels.split_once("le=\"").and_then(|(_, rest)| {
                        let (bound, _) = rest.split_once('"')?;
                        match bound {
                            "+Inf" => Some(f64::INFINITY),
                            bound => bound.parse().ok(),
                        }
                    });
                    if let Some(bound) = bound {
                        let buckets = metrics.buckets.entry(name.to_owned()).or_default();
                        buckets.push((bound, value));
                    }
                }
                None if labels.is_empty() => {
                    metrics.values.insert(name.to_owned(), value);
                }
                None => {}
            }
        }
        metrics
    }

    fn value(&self, name: &str) -> Option<f64> {
        self.values.get(name).copied()
    }

    fn durations(&self, name: &str) -> Durations {
        let mut buckets = self.buckets.get(name).cloned().unwrap_or_default();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        Durations(buckets)
    }
}

/// A histogram: for each upper bound in seconds how many were not above it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Durations(Vec<(f64, f64)>);

impl Durations {
    pub(crate) fn count(&self) -> f64 {
        self.0.last().map_or(0.0, |(_, count)| *count)
    }

    /// What the share `q` of them did not exceed, interpolated within its bucket as Prometheus'
    /// `histogram_quantile` does; `None` if there are none.
    pub(crate) fn quantile(&self, q: f64) -> Option<Duration> {
        let rank = q * self.count();
        if self.count() <= 0.0 {
            return None;
        }
        let at = self.0.iter().position(|(_, count)| *count >= rank)?;
        let (low, below) = match at {
            0 => (0.0, 0.0),
            at => self.0[at - 1],
        };
        let (high, count) = self.0[at];
        if high.is_infinite() {
            // No more is known than that they are above the last bound.
            return Duration::try_from_secs_f64(low).ok();
        }
        let share = match count > below {
            true => (rank - below) / (count - below),
            false => 1.0,
        };
        Duration::try_from_secs_f64(low + (high - low) * share).ok()
    }

    /// Leaves those that came after `before`; a server that was started again has none before.
    fn subtract(&mut self, before: &Self) {
        if before.0.len() != self.0.len() || before.count() > self.count() {
            return;
        }
        for ((_, count), (_, before)) in self.0.iter_mut().zip(&before.0) {
            *count = (*count - before).max(0.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const TEXT: &str = "# HELP ws_callback_duration_seconds How long.\n\
        # TYPE ws_callback_duration_seconds histogram\n\
        ws_callback_duration_seconds_sum{backend=\"exec\"} 1.5\n\
        ws_callback_duration_seconds_bucket{le=\"0.001\",backend=\"exec\"} 50\n\
        ws_callback_duration_seconds_bucket{le=\"0.002\",backend=\"exec\"} 90\n\
        ws_callback_duration_seconds_bucket{le=\"+Inf\",backend=\"exec\"} 100\n\
        process_start_time_seconds 1000.5\n\
        ws_callbacks_running 3\n";

    #[test]
    fn figures_have_paths_and_metrics_names() {
        let status = json!({
            "messages": { "received": 7 },
            "sockets": { "refused_by": { "origin": 1, "max_connections": 2, "host": 0 } },
        });
        let at = Duration::from_secs(1010);
        let figures = Figures::of(status, Metrics::parse(TEXT), at);
        assert_eq!(figures.count("messages.received"), 7);
        assert_eq!(figures.count("messages.nothing"), 0);
        assert_eq!(
            figures.reasons("sockets.refused_by"),
            "max connections 2, origin 1"
        );
        assert_eq!(figures.gauge("ws_callbacks_running"), Some(3.0));
        assert_eq!(figures.gauge("ws_nothing"), None);
        assert_eq!(figures.uptime(), Some(Duration::from_millis(9500)));
    }

    #[test]
    fn quantiles_are_interpolated_within_their_bucket() {
        let figures = Figures::of(json!({}), Metrics::parse(TEXT), Duration::ZERO);
        let durations = figures.callback_durations(None);
        let quantile = |q| durations.quantile(q).unwrap();
        assert_eq!(quantile(0.25), Duration::from_micros(500));
        assert_eq!(quantile(0.5), Duration::from_millis(1));
        assert_eq!(quantile(0.7), Duration::from_micros(1500));
        assert_eq!(quantile(0.99), Duration::from_millis(2));
        let none = figures.callback_durations(Some(&figures));
        assert_eq!(none.quantile(0.5), None);
        assert_eq!(Durations::default().quantile(0.5), None);
    }

    proptest! {
        #[test]
        fn prop_a_larger_share_takes_no_less(counts in prop::collection::vec(0_u32..100, 1..18)) {
            let mut sum = 0.0;
            let mut bound = 0.000_25;
            let mut buckets = Vec::new();
            for count in counts {
                sum += f64::from(count);
                buckets.push((bound, sum));
                bound *= 2.0;
            }
            buckets.push((f64::INFINITY, sum + 1.0));
            let durations = Durations(buckets);
            let quantiles: Vec<_> = (0_u32..=100)
                .map(|q| durations.quantile(f64::from(q) / 100.0).unwrap())
                .collect();
            prop_assert!(quantiles.is_sorted());
        }

        #[test]
        fn prop_any_text_is_read_without_a_panic(text in ".*") {
            Metrics::parse(&text);
        }
    }
}
