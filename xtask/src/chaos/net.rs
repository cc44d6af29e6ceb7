//! Networks of our own: namespaces without a name, which end with the last that uses them.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns, unshare};

use crate::{NotHere, Skipped, process, workspace};

const LIMIT: Duration = Duration::from_secs(10);

/// A network namespace with a loopback device that is up.
#[derive(Debug)]
pub(crate) struct Network(File);

impl Network {
    pub(crate) fn new() -> Result<Self> {
        // A thread of its own goes there, and leaves its descriptor behind.
        let made = thread::spawn(|| -> Result<File> {
            unshare(CloneFlags::CLONE_NEWNET)
                .map_err(|error| NotHere(format!("no network namespace can be made: {error}")))?;
            ip(&["link", "set", "lo", "up"])?;
            Ok(File::open("/proc/thread-self/ns/net")?)
        });
        let file = made.join().map_err(|_| anyhow!("a thread panicked"))??;
        Ok(Self(file))
    }

    /// Calls `act` in this network: sockets that it makes and processes that it starts stay there.
    pub(crate) fn within<T: Send>(&self, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET)?;
                act()
            });
            thread.join().map_err(|_| anyhow!("a thread panicked"))?
        })
    }

    /// Lays a cable between this network and `other`: the devices `a{index}` here and `b{index}`
    /// there, with the addresses that [`near`] and [`far`] give.
    pub(crate) fn connect(&self, other: &Self, index: u8) -> Result<()> {
        let (ours, theirs) = (device('a', index), device('b', index));
        // The path leads through a process that has the descriptor, which is this one.
        let there = format!("/proc/{}/fd/{}", std::process::id(), other.0.as_raw_fd());
        self.within(|| {
            ip(&[
                "link", "add", &ours, "type", "veth", "peer", "name", &theirs, "netns", &there,
            ])?;
            ip(&["addr", "add", &format!("{}/30", near(index)), "dev", &ours])?;
            ip(&["link", "set", &ours, "up"])
        })?;
        other.within(|| {
            ip(&["addr", "add", &format!("{}/30", far(index)), "dev", &theirs])?;
            ip(&["link", "set", &theirs, "up"])
        })
    }

    /// Lets so many kilobits a second leave this network by a cable.
    pub(crate) fn narrow(&self, index: u8, kilobits: u32) -> Result<()> {
        let rate = format!("{kilobits}kbit");
        let options = [
            "qdisc",
            "add",
            "dev",
            &device('a', index),
            "root",
            "tbf",
            "rate",
            &rate,
            "burst",
            "4kb",
            "latency",
            "400ms",
        ];
        self.within(|| run("tc", "iproute2", &options))
    }

    /// Pulls the cable: what is sent is lost, and nobody is told.
    pub(crate) fn unplug(&self, index: u8) -> Result<()> {
        self.within(|| ip(&["link", "set", &device('a', index), "down"]))
    }
}

/// The address of this end of a cable.
pub(crate) fn near(index: u8) -> String {
    format!("192.168.{index}.1")
}

/// The address of the other end.
pub(crate) fn far(index: u8) -> String {
    format!("192.168.{index}.2")
}

/// Gives the sockets of this thread's network the smallest send buffers.
pub(crate) fn shrink_send_buffers() -> Result<()> {
    fs::write("/proc/sys/net/ipv4/tcp_wmem", "4096 4096 4096").context("cannot shrink buffers")
}

fn device(side: char, index: u8) -> String {
    format!("{side}{index}")
}

fn ip(arguments: &[&str]) -> Result<()> {
    run("ip", "iproute2", arguments)
}

fn run(program: &str, package: &str, arguments: &[&str]) -> Result<()> {
    let path = workspace::find(program)
        .ok_or_else(|| Skipped(format!("{program} (package {package}) is not installed")))?;
    let mut command = Command::new(path);
    command.args(arguments);
    let status = process::run(&mut command, LIMIT).context("cannot change a network")?;
    ensure!(
        status.success(),
        "{program} {}: {status}",
        arguments.join(" ")
    );
    Ok(())
}
