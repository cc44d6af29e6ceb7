//! What the server's process has used: CPU time and memory, as the kernel counts them.

use std::fs;
use std::io;

use serde::Serialize;

/// CPU time of a process up to now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct CpuTime {
    /// Of all its threads, to the nanosecond.
    nanos: u64,
    /// User and system time apart, in clock ticks.
    user: u64,
    system: u64,
}

/// What the server has used while it was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct ServerUsage {
    pub(super) pid: u32,
    pub(super) cpu_seconds: f64,
    pub(super) user_cpu_seconds: f64,
    pub(super) system_cpu_seconds: f64,
    /// Memory of its own that is neither shared nor backed by a file, at the end.
    pub(super) anonymous_bytes: u64,
}

impl CpuTime {
    /// Reads it from proc(5): `schedstat` of each thread, and `stat`.
    pub(super) fn of(pid: u32) -> io::Result<Self> {
        let mut nanos = 0;
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread may end while they are listed.
            if let Ok(stat) = fs::read_to_string(task?.path().join("schedstat")) {
                nanos += first_number(&stat)?;
            }
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (user, system) = user_and_system(&stat).ok_or_else(|| malformed("stat"))?;
        Ok(Self {
            nanos,
            user,
            system,
        })
    }

    /// What was used since an earlier time.
    pub(super) fn since(self, earlier: Self, pid: u32) -> io::Result<ServerUsage> {
        let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.unwrap_or(100) as f64;
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        Ok(ServerUsage {
            pid,
            cpu_seconds: self.nanos.saturating_sub(earlier.nanos) as f64 / 1e9,
            user_cpu_seconds: self.user.saturating_sub(earlier.user) as f64 / ticks,
            system_cpu_seconds: self.system.saturating_sub(earlier.system) as f64 / ticks,
            anonymous_bytes: anonymous(&rollup).ok_or_else(|| malformed("smaps_rollup"))?,
        })
    }
}

fn malformed(file: &str) -> io::Error {
    io::Error::other(format!("/proc has an unknown form of {file}"))
}

fn first_number(text: &str) -> io::Result<u64> {
    let number = text.split_whitespace().next();
    number
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| malformed("schedstat"))
}

/// Fields 14 and 15; the second field, a name in parentheses, may hold anything.
fn user_and_system(stat: &str) -> Option<(u64, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn anonymous(rollup: &str) -> Option<u64> {
    let line = rollup
        .lines()
        .find_map(|line| line.strip_prefix("Anonymous:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let stat = "7 (a) b) (c) S 1 2 3 4 5 6 7 8 9 10 111 222 13";
        assert_eq!(user_and_system(stat), Some((111, 222)));
        assert_eq!(user_and_system("7 (a) S 1"), None);
    }

    #[test]
    fn memory_is_in_bytes() {
        let rollup = "00-ff ---p 0 [rollup]\nRss:  9 kB\nAnonymous:          12 kB\n";
        assert_eq!(anonymous(rollup), Some(12_288));
        assert_eq!(anonymous("Rss: 9 kB"), None);
    }

    #[test]
    fn our_own_process_uses_time_and_memory() {
        let pid = std::process::id();
        let before = CpuTime::of(pid).unwrap();
        let mut now = before;
        while now == before {
            now = CpuTime::of(pid).unwrap();
        }
        let usage = now.since(before, pid).unwrap();
        assert!(
            usage.cpu_seconds > 0.0 && usage.anonymous_bytes > 0,
            "{usage:?}"
        );
    }
}
