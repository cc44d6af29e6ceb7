//! From samples to tables.

use std::fmt;
use std::time::Duration;

use anyhow::Result;

use super::Group;
use super::cell::{self, Cell};
use super::contestant::Contestant;

/// One contestant's figure in one round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample {
    /// Microseconds of CPU time for a unit of work, or bytes of memory.
    pub(super) value: f64,
    /// Of the CPU time, the part outside and inside the kernel, as coarse as clock ticks are.
    pub(super) user: f64,
    pub(super) system: f64,
    /// The median and the 99th percentile of the round trip, the delivery or the handshake.
    pub(super) latency: Option<(Duration, Duration)>,
}

impl Sample {
    pub(super) fn of_memory(bytes: f64) -> Self {
        Self {
            value: bytes,
            user: 0.0,
            system: 0.0,
            latency: None,
        }
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.latency {
            None => write!(f, "{:.0} B", self.value),
            Some((p50, p99)) => write!(
                f,
                "{:.2} us (user {:.2}, system {:.2}), p50 {}, p99 {}",
                self.value,
                self.user,
                self.system,
                time(p50),
                time(p99)
            ),
        }
    }
}

#[derive(Debug)]
struct Entry {
    cell: Cell,
    contestant: Contestant,
    round: u32,
    sample: std::result::Result<Sample, String>,
}

/// All figures of a group.
#[derive(Debug)]
pub(super) struct Results {
    group: Group,
    entries: Vec<Entry>,
}

impl Results {
    pub(super) fn new(group: Group) -> Self {
        Self {
            group,
            entries: Vec::new(),
        }
    }

    pub(super) fn add(
        &mut self,
        cell: Cell,
        contestant: Contestant,
        round: u32,
        sample: Result<Sample>,
    ) {
        self.entries.push(Entry {
            cell,
            contestant,
            round,
            sample: sample.map_err(|error| format!("{error:#}")),
        });
    }

    /// The group's section: its title, the table, and what failed.
    pub(super) fn table(&self) -> String {
        let mut contestants: Vec<Contestant> = Contestant::ALL.into();
        contestants.retain(|it| self.entries.iter().any(|entry| entry.contestant == *it));
        let mut cells: Vec<Cell> = Vec::new();
        for entry in &self.entries {
            if !cells.contains(&entry.cell) {
                cells.push(entry.cell);
            }
        }
        let rows = match self.group {
            Group::Idle => self.rows_of_memory(&cells, &contestants),
            Group::Flat => self.rows_of_growth(&cells, &contestants),
            Group::Echo | Group::Tls | Group::Handshakes | Group::Broadcast => {
                self.rows_of_time(&cells, &contestants)
            }
        };
        let mut section = format!("### {}\n\n{}\n", title(self.group), markdown(&rows));
        for entry in &self.entries {
            if let Err(cause) = &entry.sample {
                section += &format!(
                    "\nFailed: {}, {}, round {}: {}.\n",
                    entry.contestant,
                    entry.cell,
                    entry.round + 1,
                    cause
                        .lines()
                        .next()
                        .unwrap_or("no cause")
                        .trim_end_matches('.')
                );
            }
        }
        section
    }

    /// Bytes, each contestant by itself.
    fn rows_of_memory(&self, cells: &[Cell], contestants: &[Contestant]) -> Vec<Vec<String>> {
        let mut head = vec!["connections".to_owned()];
        head.extend(contestants.iter().map(|it| format!("{it}, B")));
        let mut rows = vec![head];
        for &cell in cells {
            let mut row = vec![cell.to_string()];
            for &contestant in contestants {
                let median = median(self.values(cell, contestant));
                let bytes = median.map(|bytes| format!("{bytes:.0}"));
                row.push(bytes.unwrap_or_else(|| self.absence(cell, contestant)));
            }
            rows.push(row);
        }
        rows
    }

    /// CPU time of each contestant, and its ratio to the first of the cells that are compared.
    fn rows_of_growth(&self, cells: &[Cell], contestants: &[Contestant]) -> Vec<Vec<String>> {
        let mut head = vec![first_column(self.group).to_owned()];
        for it in contestants {
            head.extend([format!("{it}, us"), "to the fewest".to_owned()]);
        }
        let mut rows = vec![head];
        for compared in cells.chunks(cell::compared(self.group)) {
            for &cell in compared {
                let mut row = vec![cell.to_string()];
                for &contestant in contestants {
                    let ratios = self.ratios((cell, contestant), (compared[0], contestant));
                    for median in [median(self.values(cell, contestant)), median(ratios)] {
                        let shown = median.map(|it| format!("{it:.2}"));
                        row.push(shown.unwrap_or_else(|| self.absence(cell, contestant)));
                    }
                }
                rows.push(row);
            }
        }
        rows
    }

    /// CPU time of the base, and the others' as ratios to it.
    fn rows_of_time(&self, cells: &[Cell], contestants: &[Contestant]) -> Vec<Vec<String>> {
        let base = base(contestants);
        let others: Vec<Contestant> = contestants
            .iter()
            .copied()
            .filter(|it| *it != base)
            .collect();
        let mut head = vec![first_column(self.group).to_owned(), format!("{base}, us")];
        head.extend(others.iter().map(|it| format!("{it} / {base}")));
        head.extend(["ws p50", "p99", &format!("{base} p50"), "p99"].map(str::to_owned));
        let mut rows = vec![head];
        for &cell in cells {
            let micros = median(self.values(cell, base)).map(|it| format!("{it:.2}"));
            let mut row = vec![
                cell.to_string(),
                micros.unwrap_or_else(|| self.absence(cell, base)),
            ];
            for &other in &others {
                let ratio =
                    median(self.ratios((cell, other), (cell, base))).map(|it| format!("{it:.2}"));
                row.push(ratio.unwrap_or_else(|| self.absence(cell, other)));
            }
            for contestant in [Contestant::Ours, base] {
                row.extend(self.latency(cell, contestant));
            }
            rows.push(row);
        }
        rows
    }

    fn samples(&self, cell: Cell, contestant: Contestant) -> impl Iterator<Item = (u32, &Sample)> {
        self.entries
            .iter()
            .filter(move |it| it.cell == cell && it.contestant == contestant)
            .filter_map(|it| Some((it.round, it.sample.as_ref().ok()?)))
    }

    fn values(&self, cell: Cell, contestant: Contestant) -> Vec<f64> {
        self.samples(cell, contestant)
            .map(|(_, it)| it.value)
            .collect()
    }

    /// One ratio for each round in which both succeeded.
    fn ratios(&self, one: (Cell, Contestant), base: (Cell, Contestant)) -> Vec<f64> {
        let ratio = |(round, sample): (u32, &Sample)| {
            let (_, other) = self.samples(base.0, base.1).find(|it| it.0 == round)?;
            (other.value > 0.0).then(|| sample.value / other.value)
        };
        self.samples(one.0, one.1).filter_map(ratio).collect()
    }

    /// The medians over the rounds of p50 and p99.
    fn latency(&self, cell: Cell, contestant: Contestant) -> [String; 2] {
        let latencies: Vec<_> = self
            .samples(cell, contestant)
            .filter_map(|(_, it)| it.latency)
            .collect();
        let of = |pick: fn(&(Duration, Duration)) -> Duration| {
            let seconds = latencies.iter().map(|it| pick(it).as_secs_f64()).collect();
            median(seconds).map_or_else(|| "-".to_owned(), |it| time(Duration::from_secs_f64(it)))
        };
        [of(|it| it.0), of(|it| it.1)]
    }

    /// What stands where there is no figure.
    fn absence(&self, cell: Cell, contestant: Contestant) -> String {
        let has_failed = self
            .entries
            .iter()
            .any(|it| it.cell == cell && it.contestant == contestant && it.sample.is_err());
        if has_failed { "failed" } else { "-" }.to_owned()
    }
}

/// Whom the others are compared with.
fn base(contestants: &[Contestant]) -> Contestant {
    let choices = [
        Contestant::UWebSockets,
        Contestant::Tcp,
        Contestant::Tungstenite,
    ];
    let found = choices.into_iter().find(|it| contestants.contains(it));
    found.unwrap_or(Contestant::Ours)
}

/// The middle of the values, or the mean of the two in the middle.
pub(super) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    if values.len().is_multiple_of(2) {
        return Some(f64::midpoint(values[middle - 1], upper));
    }
    Some(upper)
}

fn title(group: Group) -> &'static str {
    match group {
        Group::Echo => "Echo: CPU time for a message",
        Group::Tls => "Echo over TLS: CPU time for a message",
        Group::Idle => "Idle connections: bytes of memory in user space for each",
        Group::Handshakes => "Handshakes: CPU time for an upgrade",
        Group::Broadcast => "Broadcast of 64 B: CPU time for a delivery",
        Group::Flat => "Many connections, 100 messages in flight: CPU time for a message",
    }
}

fn first_column(group: Group) -> &'static str {
    match group {
        Group::Echo | Group::Tls => "connections x in flight x size",
        Group::Flat => "connections x size",
        Group::Idle | Group::Handshakes | Group::Broadcast => "connections",
    }
}

/// A table that can be read as it is, too: columns are padded, all but the first to the right.
pub(super) fn markdown(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..columns)
        .map(|it| width(it).unwrap_or(0).max(3))
        .collect();
    let mut lines = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        let cells = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, &width))| {
                if column == 0 {
                    format!("{cell:<width$}")
                } else {
                    format!("{cell:>width$}")
                }
            });
        lines.push(format!("| {} |", cells.collect::<Vec<_>>().join(" | ")));
        if at == 0 {
            let rules = widths.iter().enumerate().map(|(column, &width)| {
                let end = if column == 0 { '-' } else { ':' };
                format!("{}{end}", "-".repeat(width + 1))
            });
            lines.push(format!("|{}|", rules.collect::<Vec<_>>().join("|")));
        }
    }
    lines.join("\n")
}

fn time(duration: Duration) -> String {
    let micros = duration.as_secs_f64() * 1e6;
    let (value, unit) = match micros {
        ..1_000.0 => (micros, "us"),
        1_000.0..1_000_000.0 => (micros / 1e3, "ms"),
        _ => (micros / 1e6, "s"),
    };
    let digits = usize::from(value < 100.0);
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    const CELL: Cell = Cell::Handshakes { connections: 9_000 };

    fn sample(value: f64) -> Result<Sample> {
        Ok(Sample {
            latency: Some((Duration::from_micros(250), Duration::from_millis(12))),
            ..Sample::of_memory(value)
        })
    }

    #[test]
    fn median_is_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0]), Some(3.0));
        assert_eq!(median(vec![9.0, 1.0, 3.0]), Some(3.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 100.0]), Some(3.0));
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let mut results = Results::new(Group::Handshakes);
        // The machine was three times slower in the second round.
        for (round, slowness) in [(0, 1.0), (1, 3.0), (2, 1.0)] {
            results.add(CELL, Contestant::Ours, round, sample(20.0 * slowness));
            results.add(
                CELL,
                Contestant::UWebSockets,
                round,
                sample(10.0 * slowness),
            );
        }
        let ratios = results.ratios((CELL, Contestant::Ours), (CELL, Contestant::UWebSockets));
        assert_eq!(ratios, [2.0, 2.0, 2.0]);
        let table = results.table();
        let row = "| 9000, kept  |           10.00 |             2.00 | 250 us | 12.0 ms |";
        assert!(table.contains(row), "{table}");
    }

    #[test]
    fn what_failed_is_named_and_takes_no_part_in_medians() {
        let mut results = Results::new(Group::Handshakes);
        results.add(
            CELL,
            Contestant::Ours,
            0,
            Err(anyhow!("9 x refused.\nmore")),
        );
        results.add(CELL, Contestant::Ours, 1, sample(6.0));
        results.add(CELL, Contestant::Tungstenite, 0, sample(1.0));
        results.add(CELL, Contestant::Tungstenite, 1, sample(12.0));
        results.add(CELL, Contestant::NodeWs, 0, Err(anyhow!("gone")));
        let table = results.table();
        assert!(
            table.contains("| 0.50 |") || table.contains(" 0.50 |"),
            "{table}"
        );
        assert!(table.contains(" failed |"), "{table}");
        assert!(
            table.contains("\nFailed: ws, 9000, kept, round 1: 9 x refused.\n"),
            "{table}"
        );
        assert!(
            table.contains("\nFailed: Node ws, 9000, kept, round 1: gone.\n"),
            "{table}"
        );
    }

    #[test]
    fn growth_is_told_to_the_fewest_connections_of_the_same_round() {
        let mut results = Results::new(Group::Flat);
        let cell = |connections| Cell::Flat {
            connections,
            size: 20,
            speakers: cell::Speakers::All,
        };
        for (round, slowness) in [(0, 1.0), (1, 3.0), (2, 1.0)] {
            for (connections, value) in [(100, 10.0), (1_000, 11.0), (9_000, 11.5)] {
                let sample = sample(value * slowness);
                results.add(cell(connections), Contestant::Ours, round, sample);
            }
        }
        let table = results.table();
        for row in [
            "| connections x size   | ws, us | to the fewest |",
            "| 100 x 20 B, in turn  |  10.00 |          1.00 |",
            "| 9000 x 20 B, in turn |  11.50 |          1.15 |",
        ] {
            assert!(table.contains(row), "{table}");
        }
    }

    #[test]
    fn base_is_the_best_known_that_is_there() {
        use Contestant::{Ours, Tcp, Tungstenite, UWebSockets};
        assert_eq!(base(&[Ours, Tcp, UWebSockets]), UWebSockets);
        assert_eq!(base(&[Ours, Tcp, Tungstenite]), Tcp);
        assert_eq!(base(&[Ours]), Ours);
    }

    #[test]
    fn memory_is_shown_as_it_is() {
        let mut results = Results::new(Group::Idle);
        let cell = Cell::Idle(cell::Idle::Plain);
        results.add(cell, Contestant::Ours, 0, Ok(Sample::of_memory(1499.6)));
        let table = results.table();
        assert!(
            table.ends_with(
                "| connections | ws, B |\n|-------------|------:|\n| plain       |  1500 |\n"
            ),
            "{table}"
        );
    }
}
