//! Processes that the system does not give, or whose numbers it gives to others.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::PAUSE;
use super::callbacks::{in_perl, settled};
use crate::NotHere;
use crate::chaos::Context;
use crate::chaos::askers::{Askers, FAILED};
use crate::chaos::client::Client;
use crate::chaos::family;
use crate::chaos::figures::Report;
use crate::chaos::strace::Strace;
use crate::chaos::subject::{Subject, poll_until};
use crate::chaos::wire::{self, Event};
use crate::server::Launch;

const PATIENCE: Duration = Duration::from_secs(20);
/// All calls by which a process can be made.
const CLONES: &str = "clone,clone3,fork,vfork";

pub(super) fn no_processes(context: &Context, report: &mut Report) -> Result<()> {
    let subject = Subject::launch(
        &context.ws,
        &Launch {
            arguments: &["--", "/bin/sh", "-c", "read -r line; echo \"$line\""],
            variables: &[("WS__APP__ERROR_REPLY", FAILED)],
            ..Launch::default()
        },
    )?;
    let span = context.size(Duration::from_secs(3), Duration::from_secs(15));
    let spawners = family::spawners(&subject);
    report.at_least("spawners", spawners.len() as f64, "", 1.0);
    for error in ["EAGAIN", "ENOMEM"] {
        let baseline = subject.status()?;
        let inject = format!("inject={CLONES}:error={error}:when=1+2");
        let strace = Strace::attach_each(&spawners, CLONES, Some(&inject))?;
        let askers = Askers::start(subject.address(), 8, PAUSE)?;
        askers.over(span)?;
        let books = askers.stop()?;
        let after = settled(&subject)?;
        let injected = strace.detach()? as f64;
        report.at_least(format!("{error}: injected"), injected, "", 10.0);
        for (name, path) in [
            ("failures", "callbacks.failed"),
            ("failures to start", "callbacks.failed_by.cannot_start"),
        ] {
            let count = after.since(&baseline, path)?;
            report.exactly(format!("{error}: {name}"), count, "", injected);
        }
        let seen = format!("{error}: failures that clients saw");
        report.exactly(seen, books.failed as f64, "", injected);
        books.show(error, report);
    }
    subject.finish(report)
}

/// The number after which the next process is numbered.
const LAST_ID: &str = "/proc/sys/kernel/ns_last_pid";
/// How often a number is asked for that another program may have got first.
const ATTEMPTS: usize = 20;

/// Says its number, leaves somebody behind, or hangs.
const NUMBERED: &str = "read -r line
case \"$line\" in
  quick) echo $$;;
  leave) setsid sleep 600 & echo $$ $!;;
  hang) echo $$ > \"$PWD/hanging\"; exec sleep 600;;
  *) echo \"$line\";;
esac";

pub(super) fn reused_ids(context: &Context, report: &mut Report) -> Result<()> {
    let last = fs::read_to_string(LAST_ID).and_then(|last| fs::write(LAST_ID, last));
    if let Err(error) = last {
        return Err(NotHere(format!("{LAST_ID} cannot be written: {error}")).into());
    }
    let mut victims = Victims::default();
    let rounds = context.size(10, 100);
    let subject = Subject::launch(
        &context.ws,
        &Launch {
            arguments: &["--", "/bin/sh", "-c", NUMBERED],
            variables: &[
                ("WS__APP__ERROR_REPLY", FAILED),
                ("WS__APP__TIMEOUT", "500ms"),
            ],
            ..Launch::default()
        },
    )?;
    let mut client = Client::connect(subject.address())?;
    for _ in 0..rounds {
        for act in ["quick", "leave", "quick", "hang"] {
            client.send(wire::TEXT, act.as_bytes())?;
            let Some(Event::Message(reply)) = client.receive()? else {
                anyhow::bail!("{act}: no reply");
            };
            let reply = if act == "hang" {
                ensure!(reply == FAILED.as_bytes(), "a callback that hangs answers");
                fs::read(subject.folder().join("hanging"))?
            } else {
                reply
            };
            for id in String::from_utf8(reply)?.split_ascii_whitespace() {
                victims.replace(id.parse()?)?;
            }
        }
    }
    client.close()?;
    settled(&subject)?;
    victims.show("callbacks", report)?;
    subject.finish(report)?;
    victims.show("callbacks, after the server", report)?;

    let Ok(command) = in_perl("worker") else {
        report.leave_out("workers: perl is not installed");
        return victims.end();
    };
    let mut arguments = vec!["--worker", "--"];
    arguments.extend(command.iter().map(String::as_str));
    let subject = Subject::launch(
        &context.ws,
        &Launch {
            arguments: &arguments,
            variables: &[
                ("WS__APP__PROCESSES", "2"),
                ("WS__APP__ERROR_REPLY", FAILED),
                ("WS__APP__TIMEOUT", "500ms"),
            ],
            ..Launch::default()
        },
    )?;
    for round in 0..context.size(3, 8) {
        let workers = family::started(&subject);
        if round % 2 == 0 {
            for id in &workers {
                family::strike(*id)?;
            }
        } else {
            // Both are killed for not answering.
            let clients = workers.iter().map(|_| {
                let mut client = Client::connect(subject.address())?;
                client.send(wire::TEXT, b"stop")?;
                Ok(client)
            });
            for client in clients.collect::<Result<Vec<_>>>()? {
                let mut client = client;
                client.receive()?;
                client.close()?;
            }
        }
        for id in workers {
            victims.replace(id)?;
        }
        poll_until("2 workers run again", PATIENCE, || {
            Ok(family::started(&subject).len() == 2)
        })?;
    }
    victims.show("workers", report)?;
    subject.finish(report)?;
    victims.show("workers, after the server", report)?;
    victims.end()
}

/// Processes that have the numbers of others before them, and have done nothing to be killed for.
#[derive(Debug, Default)]
struct Victims {
    children: Vec<Child>,
    asked: usize,
    got: usize,
}

impl Victims {
    /// Starts one with this number, each leader of a group of that number, as soon as it is free.
    fn replace(&mut self, id: u32) -> Result<()> {
        self.asked += 1;
        let deadline = Instant::now() + Duration::from_secs(2);
        let is_free = || !Path::new(&format!("/proc/{id}")).exists();
        while !is_free() && Instant::now() < deadline {
            std::thread::yield_now();
        }
        for _ in 0..ATTEMPTS {
            if !is_free() {
                // Somebody else was faster.
                return Ok(());
            }
            fs::write(LAST_ID, (id - 1).to_string())?;
            let mut command = Command::new("sleep");
            let command = command.arg("600").process_group(0).stdin(Stdio::null());
            let mut child = command.spawn().context("cannot start sleep")?;
            if child.id() == id {
                self.got += 1;
                self.children.push(child);
                return Ok(());
            }
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// How many of them have been killed.
    fn killed_count(&mut self) -> Result<usize> {
        let mut count = 0;
        for child in &mut self.children {
            count += usize::from(child.try_wait()?.is_some());
        }
        Ok(count)
    }

    fn show(&mut self, what: &str, report: &mut Report) -> Result<()> {
        report.note(format!("{what}: numbers asked for"), self.asked as f64, "");
        report.at_least(format!("{what}: numbers got"), self.got as f64, "", 5.0);
        let killed = self.killed_count()? as f64;
        report.exactly(format!("{what}: wrong kills"), killed, "", 0.0);
        Ok(())
    }

    fn end(mut self) -> Result<()> {
        for child in &mut self.children {
            child.kill()?;
            child.wait()?;
        }
        self.children.clear();
        Ok(())
    }
}

impl Drop for Victims {
    fn drop(&mut self) {
        for child in &mut self.children {
            // A campaign that fails leaves nobody running.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn victim_that_was_killed_is_counted() {
        let mut victims = Victims::default();
        for _ in 0..2 {
            let mut command = Command::new("sleep");
            victims.children.push(command.arg("600").spawn().unwrap());
        }
        assert_eq!(victims.killed_count().unwrap(), 0);
        let id = victims.children[0].id();
        assert!(family::strike(id).unwrap());
        while victims.killed_count().unwrap() == 0 {
            std::thread::yield_now();
        }
        assert_eq!(victims.killed_count().unwrap(), 1);
        victims.end().unwrap();
    }
}
