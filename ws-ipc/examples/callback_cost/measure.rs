//! Clocks, and what is printed.

use std::error::Error;
use std::io::{self, Write};
use std::time::Duration;

use nix::sys::resource::{Usage, UsageWho, getrusage};
use ws_ipc::{Environment, HelperCommand};

use crate::Plan;

pub(crate) type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// One round: ours, and what it is held beside.
pub(crate) type Pair = (f64, f64);

/// A line of the table.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(crate) what: &'a str,
    /// What it is held beside; empty if nothing is.
    pub(crate) beside: &'a str,
    pub(crate) unit: &'a str,
    /// What is wanted of it; empty if nothing is.
    pub(crate) wanted: &'a str,
}

pub(crate) fn print_head() -> io::Result<()> {
    let head = ("what", "ours", "beside it", "ratio", "unit");
    let (what, ours, beside, ratio, unit) = head;
    writeln!(
        io::stdout(),
        "{what:44} {ours:>10} {beside:>10} {ratio:>6}  {unit}"
    )
}

impl Row<'_> {
    /// Prints the medians over the rounds.
    pub(crate) fn report(&self, plan: &Plan, pairs: &[Pair]) -> io::Result<()> {
        let ours = median(pairs.iter().map(|pair| pair.0));
        let beside = median(pairs.iter().map(|pair| pair.1));
        let ratio = median(pairs.iter().map(|pair| pair.0 / pair.1));
        self.print(plan, ours, Some((beside, ratio)))
    }

    /// As [`report`](Self::report), of what is held beside nothing.
    pub(crate) fn report_alone(&self, plan: &Plan, values: &[f64]) -> io::Result<()> {
        self.print(plan, median(values.iter().copied()), None)
    }

    fn print(&self, plan: &Plan, ours: f64, beside: Option<(f64, f64)>) -> io::Result<()> {
        let mut out = io::stdout().lock();
        let (what, unit, wanted) = (self.what, self.unit, self.wanted);
        if plan.has_json {
            let name = self.beside;
            // No text of ours has anything to be escaped.
            write!(
                out,
                r#"{{"what":"{what}","beside":"{name}","unit":"{unit}","wanted":"{wanted}","ours":{ours:.3}"#
            )?;
            if let Some((beside, ratio)) = beside {
                write!(out, r#","floor":{beside:.3},"ratio":{ratio:.4}"#)?;
            }
            return writeln!(out, "}}");
        }
        let (beside, ratio) = match beside {
            Some((beside, ratio)) => (format!("{beside:.1}"), format!("{ratio:.2}")),
            None => ("-".to_owned(), "-".to_owned()),
        };
        write!(out, "{what:44} {ours:10.1} {beside:>10} {ratio:>6}  {unit}")?;
        if !wanted.is_empty() {
            write!(out, ", wanted: {wanted}")?;
        }
        if !self.beside.is_empty() {
            write!(out, " (beside {})", self.beside)?;
        }
        writeln!(out)
    }

    /// Says that there is no figure, and why.
    pub(crate) fn skip(&self, plan: &Plan, why: &str) -> io::Result<()> {
        let Self {
            what,
            beside,
            unit,
            wanted,
        } = self;
        let mut out = io::stdout().lock();
        if plan.has_json {
            return writeln!(
                out,
                r#"{{"what":"{what}","beside":"{beside}","unit":"{unit}","wanted":"{wanted}","skipped":"{why}"}}"#
            );
        }
        writeln!(out, "{what:44} skipped: {why}")
    }
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The median in microseconds.
pub(crate) fn p50(times: &[Duration]) -> f64 {
    median(times.iter().map(|time| time.as_secs_f64() * 1e6))
}

/// Microseconds for each of so many calls.
pub(crate) fn each(time: Duration, calls: usize) -> f64 {
    time.as_secs_f64() * 1e6 / calls as f64
}

/// The CPU time of this process, or of the children that it has waited for.
pub(crate) fn used(who: UsageWho) -> Outcome<Duration> {
    let usage: Usage = getrusage(who)?;
    let micros = [usage.user_time(), usage.system_time()].map(|time| {
        Duration::from_secs(time.tv_sec().unsigned_abs())
            + Duration::from_micros(time.tv_usec().unsigned_abs())
    });
    Ok(micros[0] + micros[1])
}

/// The CPU time of another process, and of the children that it has waited for.
pub(crate) fn used_by(pid: i32) -> Outcome<Duration> {
    let mut own = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // To the nanosecond, where the other file has ticks.
        let figures = std::fs::read_to_string(task?.path().join("schedstat"))?;
        let figure = figures.split(' ').next().ok_or("schedstat is empty")?;
        own += figure.parse::<u64>()?;
    }
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold spaces.
    let (_, fields) = stat.rsplit_once(") ").ok_or("no name in stat")?;
    // proc_pid_stat(5): cutime and cstime are the fields 16 and 17, the state is 3.
    let ticks = fields.split(' ').skip(13).take(2).map(str::parse::<u32>);
    let ticks = ticks.sum::<Result<u32, _>>()?;
    Ok(Duration::from_nanos(own) + TICK * ticks)
}

/// The kernel counts CPU time for `/proc` in hundredths of a second, whatever its own tick.
const TICK: Duration = Duration::from_millis(10);

/// A number in KiB from `/proc/PID/status`.
pub(crate) fn status_kib(pid: i32, name: &str) -> Outcome<usize> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let size = line.and_then(|line| line.split_ascii_whitespace().next());
    Ok(size
        .ok_or_else(|| format!("no {name} in status"))?
        .parse()?)
}

/// How this program becomes a spawner.
pub(crate) fn helper() -> HelperCommand {
    HelperCommand {
        program: "/proc/self/exe".into(),
        args: vec![crate::SPAWNER.into()],
    }
}

/// What a callback gets, about as many variables as it has.
pub(crate) fn environment() -> Environment {
    let mut env = Environment::new();
    let variables = (0..30).map(|n| (format!("VARIABLE_{n}"), "some value"));
    let path = ("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin");
    for (name, value) in variables.chain([path, ("REQUEST_URI".to_owned(), "/")]) {
        env.set(&name, value)
            .expect("names and values are those of CGI");
    }
    env
}

/// What a callback is sent.
pub(crate) const PAYLOAD: &[u8] = b"hello";
