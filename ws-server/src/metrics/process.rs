//! Figures of the server's own process, under the names that Prometheus' clients give them.
//!
//! What the kernel does not tell is left out. The callbacks' processes are not the server's.

use std::fmt;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{SysconfVar, sysconf};

use super::figures::Figures;
use crate::status::resident_memory;

pub(super) fn figures(figures: &mut Figures<'_>) -> fmt::Result {
    if let Some(stat) = fs::read_to_string("/proc/self/stat")
        .ok()
        .and_then(|text| Stat::parse(&text, ticks_per_second()?))
    {
        figures.seconds(
            "process_cpu_seconds",
            "Time on a processor, of the user and of the kernel",
            stat.cpu_seconds,
        )?;
        figures.gauge("process_threads", "Threads", stat.threads)?;
        figures.gauge(
            "process_virtual_memory_bytes",
            "Address space",
            stat.virtual_bytes,
        )?;
        if let Some(since_boot) = seconds_since_boot() {
            figures.gauge(
                "process_start_time_seconds",
                "When the process began, in seconds since 1970",
                seconds_since_epoch() - since_boot + stat.started_at,
            )?;
        }
    }
    if let Some(bytes) = resident_memory() {
        figures.gauge("process_resident_memory_bytes", "Memory in use", bytes)?;
    }
    if let Ok(descriptors) = fs::read_dir("/proc/self/fd") {
        // One is that of the directory.
        let open = descriptors.count().saturating_sub(1);
        figures.gauges([("process_open_fds", "Open descriptors", open)])?;
    }
    if let Ok((most, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
        figures.gauge("process_max_fds", "Descriptors that may be open", most)?;
    }
    Ok(())
}

/// What of /proc/PID/stat is of interest (proc(5)).
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_seconds: f64,
    threads: u64,
    /// Seconds after the system's start.
    started_at: f64,
    virtual_bytes: u64,
}

impl Stat {
    fn parse(text: &str, ticks_per_second: f64) -> Option<Self> {
        // The name of the program may hold anything, parentheses among it.
        let (_, fields) = text.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        // The first of them is the third of all.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        #[expect(clippy::cast_precision_loss, reason = "ticks of a lifetime fit")]
        let seconds = |ticks: u64| ticks as f64 / ticks_per_second;
        Some(Self {
            cpu_seconds: seconds(field(14)? + field(15)?),
            threads: field(20)?,
            started_at: seconds(field(22)?),
            virtual_bytes: field(23)?,
        })
    }
}

fn ticks_per_second() -> Option<f64> {
    let ticks = sysconf(SysconfVar::CLK_TCK).ok()??;
    Some(f64::from(u32::try_from(ticks).ok()?))
}

fn seconds_since_boot() -> Option<f64> {
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    uptime.split_ascii_whitespace().next()?.parse().ok()
}

fn seconds_since_epoch() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |duration| duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_is_no_field() {
        let text = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 3 0 1000 4096 5 6";
        let stat = Stat::parse(text, 100.0).unwrap();
        assert_eq!(
            stat,
            Stat {
                cpu_seconds: 2.0,
                threads: 3,
                started_at: 10.0,
                virtual_bytes: 4096,
            }
        );
    }

    #[test]
    fn what_is_cut_off_is_nothing() {
        assert_eq!(Stat::parse("42 (ws) S 1 2 3", 100.0), None);
        assert_eq!(Stat::parse("", 100.0), None);
    }
}
