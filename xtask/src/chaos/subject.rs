//! The server under test: its figures, what the system says of it, and whether it is well again.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::chaos::client::Client;
use crate::chaos::figures::{Report, mib};
use crate::chaos::status::{self, Status};
use crate::server::{Launch, Server};

/// How long a server may take until it is as it was.
const RECOVERY: Duration = Duration::from_secs(15);
/// Over so long it is looked at whether a server that has nothing to do does nothing.
const IDLE_WATCH: Duration = Duration::from_secs(1);
const MAX_IDLE_CPU: f64 = 10.0;
/// Between two looks at something that has no event to wait for.
const GLANCE: Duration = Duration::from_millis(10);

/// A server under test.
#[derive(Debug)]
pub(crate) struct Subject {
    server: Server,
    address: SocketAddr,
    descriptors: usize,
    memory: u64,
}

impl Subject {
    /// Starts a server that gives back what it gets.
    pub(crate) fn echo(ws: &Path) -> Result<Self> {
        Self::launch(
            ws,
            &Launch {
                arguments: &["--echo"],
                ..Launch::default()
            },
        )
    }

    pub(crate) fn launch(ws: &Path, launch: &Launch<'_>) -> Result<Self> {
        let server = Server::launch(ws, launch)?;
        let address = server.address().parse()?;
        let mut subject = Self {
            server,
            address,
            descriptors: 0,
            memory: 0,
        };
        // What is made on first use belongs to the baseline.
        subject.status()?;
        subject.descriptors = subject.settled_descriptors()?;
        subject.memory = subject.memory()?;
        Ok(subject)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// `HOST:PORT` of a listener, by the scheme of its URL.
    pub(crate) fn listener(&self, scheme: &str) -> Result<SocketAddr> {
        let urls = self.server.urls().iter();
        let mut addresses = urls.filter_map(|url| url.strip_prefix(scheme)?.strip_suffix('/'));
        let address = addresses
            .next()
            .with_context(|| format!("no listener {scheme}"))?;
        Ok(address.parse()?)
    }

    pub(crate) fn id(&self) -> u32 {
        self.server.id()
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.server.state().join("control.sock")
    }

    /// The directory that it and its callbacks run in.
    pub(crate) fn folder(&self) -> &Path {
        self.server.folder()
    }

    /// The file that it logs to.
    pub(crate) fn log_file(&self) -> PathBuf {
        self.server.log_file()
    }

    pub(crate) fn status(&self) -> Result<Status> {
        Status::get(&self.control())
    }

    pub(crate) fn broadcast(&self, text: &str) -> Result<()> {
        status::broadcast(&self.control(), text, status::PATIENCE)
    }

    /// Resident memory in bytes.
    pub(crate) fn memory(&self) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        resident_in(&text).context("no VmRSS in /proc")
    }

    /// Resident memory beyond that of the start.
    pub(crate) fn memory_growth(&self) -> Result<u64> {
        Ok(self.memory()?.saturating_sub(self.memory))
    }

    /// CPU time of the server itself, without its helpers.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let mut nanos = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.id()))? {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            let first = text.split_ascii_whitespace().next();
            nanos += first.context("an empty schedstat")?.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(nanos))
    }

    pub(crate) fn descriptors(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.id()))?.count())
    }

    /// The number of descriptors once it stays the same: that of the connection by which the
    /// status was asked for goes a moment later.
    fn settled_descriptors(&self) -> Result<usize> {
        let mut last = self.descriptors()?;
        let mut same = 0;
        while same < 5 {
            thread::sleep(GLANCE);
            let now = self.descriptors()?;
            same = if now == last { same + 1 } else { 0 };
            last = now;
        }
        Ok(last)
    }

    /// Measures CPU time as a share of the time that `act` takes, in percent of one core.
    pub(crate) fn cpu_while<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
        let (cpu, start) = (self.cpu()?, Instant::now());
        let done = act()?;
        let used = self.cpu()?.saturating_sub(cpu);
        Ok((
            done,
            100.0 * used.as_secs_f64() / start.elapsed().as_secs_f64(),
        ))
    }

    /// Waits until `is_so` of the figures, looking at them again and again.
    pub(crate) fn wait_for(
        &self,
        what: &str,
        limit: Duration,
        mut is_so: impl FnMut(&Status) -> Result<bool>,
    ) -> Result<Status> {
        let deadline = Instant::now() + limit;
        loop {
            let status = self.status()?;
            if is_so(&status)? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("not within {} s: {what}", limit.as_secs());
            }
            thread::sleep(GLANCE);
        }
    }

    /// What must be true after every fault, once the clients have gone: nobody is connected, no
    /// descriptor is left over, the sums hold, an idle server does nothing, and a new client is
    /// served. Then it is stopped, and must end in good order.
    pub(crate) fn finish(self, report: &mut Report) -> Result<()> {
        let outcome = self.look_back(report);
        if outcome.is_err() {
            println!("  the server's log:\n{}", self.server.log());
        }
        outcome?;
        self.server.stop()
    }

    fn look_back(&self, report: &mut Report) -> Result<()> {
        let deadline = Instant::now() + RECOVERY;
        let mut open = self.open()?;
        let mut descriptors = self.descriptors()?;
        while (open > 0 || descriptors > self.descriptors) && Instant::now() < deadline {
            thread::sleep(GLANCE);
            open = self.open()?;
            descriptors = self.settled_descriptors()?;
        }
        report.exactly("after: connections", open as f64, "", 0.0);
        report.at_most(
            "after: descriptors",
            descriptors as f64,
            "",
            self.descriptors as f64,
        );
        let mut client = Client::connect(self.address)?;
        client.echo("still here")?;
        client.close()?;
        let ended = self.wait_for("the last connection has ended", RECOVERY, |it| {
            Ok(it.get_u64("connections.open")? == 0 && it.broken_laws()?.is_empty())
        });
        let laws = match ended {
            Ok(_) => Vec::new(),
            Err(_) => self.status()?.broken_laws()?,
        };
        for law in &laws {
            println!("  {law}");
        }
        report.exactly(
            "after: broken sums of ws status",
            laws.len() as f64,
            "",
            0.0,
        );
        let ((), idle) = self.cpu_while(|| {
            thread::sleep(IDLE_WATCH);
            Ok(())
        })?;
        report.at_most("after: CPU when idle", idle, "%", MAX_IDLE_CPU);
        report.note("after: memory grown", mib(self.memory_growth()?), "MiB");
        Ok(())
    }

    fn open(&self) -> Result<u64> {
        self.status()?.get_u64("connections.open")
    }
}

/// `VmRSS` of `/proc/PID/status`, in bytes.
fn resident_in(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Polls until `is_so`.
pub(crate) fn poll_until(
    what: &str,
    limit: Duration,
    mut is_so: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !is_so()? {
        ensure!(
            Instant::now() < deadline,
            "not within {} s: {what}",
            limit.as_secs()
        );
        thread::sleep(GLANCE);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_in_bytes() {
        let text = "Name:\tws\nVmRSS:\t    6780 kB\nRssAnon:\t 704 kB\n";
        assert_eq!(resident_in(text), Some(6780 * 1024));
        assert_eq!(resident_in("Name:\tws\n"), None);
    }

    #[test]
    fn polling_ends_with_an_error_that_says_what_was_waited_for() {
        let error = poll_until("spring", Duration::ZERO, || Ok(false)).unwrap_err();
        assert!(error.to_string().contains("spring"));
        poll_until("now", Duration::ZERO, || Ok(true)).unwrap();
    }
}
