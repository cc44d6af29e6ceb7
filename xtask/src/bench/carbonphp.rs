//! An application of CarbonPHP's, served by CarbonPHP's own server and by ours: what a message costs,
//! and how many browsers stay connected.
//!
//! Each contestant of a round has a fresh site and a fresh server, and the whole machine: parents and
//! children, workers and kernel, whatever the way of a message.

mod browsers;
mod contestant;
mod messages;
mod site;
mod visitor;

use std::fmt;

use anyhow::Result;

use self::browsers::Served;
use self::contestant::Contestant;
use self::messages::Cost;
use self::site::{CarbonPhp, Size};
use super::cell::Scale;
use super::result::{markdown, median};
use crate::workspace;

const TITLE: &str = "CarbonPHP: messages and browsers, beside its own server";
/// What is wanted of a message with the bridge: how many times as many in a second, and which part
/// of the processor time.
const WANTED: [&str; 2] = ["at least 4", "at most 0.25"];

/// Those whose browsers are counted: the others differ in how messages are run.
const CONNECTED: [Contestant; 2] = [Contestant::Original, Contestant::Bridge];

/// Measures everything and returns the group's section.
pub(super) fn measure(scale: Scale, rounds: Option<u32>) -> String {
    let carbonphp = match CarbonPhp::find() {
        Ok(Ok(carbonphp)) => carbonphp,
        Ok(Err(why)) => {
            println!("carbonphp skipped: {why}");
            return format!("### {TITLE}\n\nSkipped: {why}.\n");
        }
        Err(error) => {
            println!("failed: {error:#}");
            return format!("### {TITLE}\n\nFailed: {}.\n", cause(&error));
        }
    };
    let rounds = rounds.unwrap_or_else(|| scale.rounds().max(3));
    let mut results = Results::default();
    let mut contestants = Contestant::ALL.to_vec();
    if workspace::php_fpm().is_none() {
        println!("carbonphp without php-fpm: there is none");
        contestants.retain(|it| *it != Contestant::PhpFpm);
        results.skip(Contestant::PhpFpm, "there is none");
    }
    for size in Size::ALL {
        for round in 0..rounds {
            for &contestant in super::order(&contestants, round) {
                let cost = cost(contestant, &carbonphp, size, scale);
                let at = format!("round {}/{rounds}  application {size}", round + 1);
                tell(&at, contestant, &cost);
                results.add_cost(size, contestant, round, cost);
            }
        }
    }
    for contestant in CONNECTED {
        let served = browsers::measure(contestant, &carbonphp, scale);
        tell("browsers", contestant, &served);
        results.add_served(contestant, served);
    }
    results.section()
}

fn cost(contestant: Contestant, carbonphp: &CarbonPhp, size: Size, scale: Scale) -> Result<Cost> {
    let running = contestant.start(carbonphp, size)?;
    running.with(|running| messages::measure(running.address(), scale))
}

fn tell(at: &str, contestant: Contestant, figures: &Result<impl fmt::Display>) {
    match figures {
        Ok(figures) => println!("carbonphp {at}  {contestant}: {figures}"),
        Err(error) => println!("carbonphp {at}  {contestant}: failed: {error:#}"),
    }
}

/// Why something failed, in one line without its end.
fn cause(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    let line = text.lines().next().unwrap_or("no cause");
    line.trim_end_matches(['.', ':']).to_owned()
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.0} messages/s, {:.2} ms of CPU each",
            self.rate, self.cpu
        )
    }
}

impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} served, {:.1} MiB, connected in {:.1} s",
            self.served,
            self.wanted,
            mebibytes(self.memory),
            self.connecting.as_secs_f64()
        )
    }
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// All figures of the group.
#[derive(Debug, Default)]
struct Results {
    costs: Vec<(Size, Contestant, u32, Cost)>,
    served: Vec<(Contestant, Served)>,
    /// What is missing in the tables, and why.
    notes: Vec<String>,
}

impl Results {
    fn skip(&mut self, contestant: Contestant, why: &str) {
        self.notes.push(format!("Skipped: {contestant}: {why}."));
    }

    fn add_cost(&mut self, size: Size, contestant: Contestant, round: u32, cost: Result<Cost>) {
        match cost {
            Ok(cost) => self.costs.push((size, contestant, round, cost)),
            Err(error) => self.notes.push(format!(
                "Failed: {contestant}, application {size}, round {}: {}.",
                round + 1,
                cause(&error)
            )),
        }
    }

    fn add_served(&mut self, contestant: Contestant, served: Result<Served>) {
        match served {
            Ok(served) => self.served.push((contestant, served)),
            Err(error) => {
                let cause = cause(&error);
                self.notes
                    .push(format!("Failed: {contestant}, browsers: {cause}."));
            }
        }
    }

    /// The costs of one contestant with one site, by their rounds.
    fn costs(&self, size: Size, contestant: Contestant) -> impl Iterator<Item = (u32, Cost)> {
        self.costs
            .iter()
            .filter(move |it| it.0 == size && it.1 == contestant)
            .map(|it| (it.2, it.3))
    }

    fn section(&self) -> String {
        let mut section = format!("### {TITLE}\n\n{}\n", markdown(&self.rows_of_costs()));
        if !self.served.is_empty() {
            section += &format!("\n{}\n", markdown(&self.rows_of_browsers()));
            let times = self.served.iter().map(|(contestant, served)| {
                let seconds = served.connecting.as_secs_f64();
                format!("{contestant} {seconds:.1} s")
            });
            let times = times.collect::<Vec<_>>().join(", ");
            let at_once = browsers::AT_ONCE;
            section += &format!("\nUntil the last was let in, {at_once} at once: {times}.\n");
        }
        for note in &self.notes {
            section += &format!("\n{note}\n");
        }
        section
    }

    /// Each contestant with each site, and its ratios to the original of the same round.
    fn rows_of_costs(&self) -> Vec<Vec<String>> {
        let head = [
            "application",
            "server",
            "messages/s",
            "ratio",
            "wanted",
            "CPU, ms",
            "ratio",
            "wanted",
        ];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for size in Size::ALL {
            for contestant in Contestant::ALL {
                let figures = |of: fn(Cost) -> f64| {
                    let values = self.costs(size, contestant).map(|(_, cost)| of(cost));
                    [
                        median(values.collect()),
                        median(self.ratios(size, contestant, of)),
                    ]
                };
                let [rate, more] = figures(|cost| cost.rate);
                let [cpu, part] = figures(|cost| cost.cpu);
                let [more_wanted, part_wanted] = match contestant {
                    Contestant::Bridge | Contestant::PhpFpm => WANTED,
                    Contestant::Original => ["-", "-"],
                };
                let shown = |figure: Option<f64>, digits: usize| {
                    figure.map_or_else(|| "-".to_owned(), |it| format!("{it:.digits$}"))
                };
                rows.push(vec![
                    size.to_string(),
                    contestant.to_string(),
                    shown(rate, 0),
                    shown(more, 2),
                    more_wanted.to_owned(),
                    shown(cpu, 2),
                    shown(part, 2),
                    part_wanted.to_owned(),
                ]);
            }
        }
        rows
    }

    /// One ratio for each round in which the original succeeded as well.
    fn ratios(&self, size: Size, contestant: Contestant, of: fn(Cost) -> f64) -> Vec<f64> {
        let ratio = |(round, cost)| {
            let mut originals = self.costs(size, Contestant::Original);
            let (_, original) = originals.find(|it| it.0 == round)?;
            Some(of(cost) / of(original))
        };
        self.costs(size, contestant).filter_map(ratio).collect()
    }

    fn rows_of_browsers(&self) -> Vec<Vec<String>> {
        let head = [
            "server",
            "browsers",
            "served",
            "memory, MiB",
            "for each, KiB",
        ];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for (contestant, served) in &self.served {
            let each = served.growth as f64 / f64::from(1 << 10) / f64::from(served.served.max(1));
            rows.push(vec![
                contestant.to_string(),
                served.wanted.to_string(),
                served.served.to_string(),
                format!("{:.1}", mebibytes(served.memory)),
                format!("{each:.1}"),
            ]);
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use anyhow::anyhow;

    use super::*;

    fn cost(rate: f64, cpu: f64) -> Result<Cost> {
        Ok(Cost { rate, cpu })
    }

    #[test]
    fn ratios_are_to_the_original_of_the_same_round() {
        let mut results = Results::default();
        // The machine was half as fast in the second round.
        for (round, speed) in [(0, 1.0), (1, 0.5), (2, 1.0)] {
            let (original, bridge) = (
                cost(100.0 * speed, 8.0 / speed),
                cost(400.0 * speed, 2.0 / speed),
            );
            results.add_cost(Size::Small, Contestant::Original, round, original);
            results.add_cost(Size::Small, Contestant::Bridge, round, bridge);
        }
        let section = results.section();
        for row in [
            "| as it is         | php index.php websocket |        100 |  1.00 |          - |    8.00 |  1.00 |            - |",
            "| as it is         |    ws serve --carbonphp |        400 |  4.00 | at least 4 |    2.00 |  0.25 | at most 0.25 |",
            "| as it is         |         ws with php-fpm |          - |     - | at least 4 |       - |     - | at most 0.25 |",
        ] {
            assert!(section.contains(row), "{section}");
        }
    }

    #[test]
    fn browsers_are_told_with_their_memory_and_failures_with_their_causes() {
        let mut results = Results::default();
        let served = Served {
            wanted: 9_000,
            served: 9_000,
            memory: 60 << 20,
            growth: 9_000 * 4_608,
            connecting: Duration::from_millis(9_870),
        };
        results.add_served(Contestant::Bridge, Ok(served));
        results.add_served(Contestant::Original, Err(anyhow!("gone.\nmore")));
        results.add_cost(
            Size::Large,
            Contestant::Original,
            1,
            Err(anyhow!("it ended")),
        );
        results.skip(Contestant::PhpFpm, "there is none");
        let section = results.section();
        for line in [
            "| ws serve --carbonphp |     9000 |   9000 |        60.0 |           4.5 |",
            "\nUntil the last was let in, 20 at once: ws serve --carbonphp 9.9 s.\n",
            "\nSkipped: ws with php-fpm: there is none.\n",
            "\nFailed: php index.php websocket, browsers: gone.\n",
            "\nFailed: php index.php websocket, application with 500 classes, round 2: it ended.\n",
        ] {
            assert!(section.contains(line), "{section}");
        }
    }
}
