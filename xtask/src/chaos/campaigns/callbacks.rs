//! Callbacks that are killed, stopped, or leave others behind.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::PAUSE;
use crate::chaos::Context;
use crate::chaos::askers::{Askers, FAILED};
use crate::chaos::client::Client;
use crate::chaos::family;
use crate::chaos::figures::{CALLBACK_RATIO, Percentiles, Report};
use crate::chaos::status::Status;
use crate::chaos::subject::{Subject, poll_until};
use crate::chaos::wire::{self, Dice, Event};
use crate::server::Launch;
use crate::{Skipped, workspace};

/// How long the server may take to be done with callbacks that have ended.
const PATIENCE: Duration = Duration::from_secs(20);
/// How much later than its time a callback may be found to have ended. What ignores SIGTERM ends
/// 2 s later, by SIGKILL; what was stopped hears of it.
const LATE: Duration = Duration::from_secs(1);

/// Gives back what it gets and takes its time to end, so that it can be hit; or stops itself.
const APPLICATION: &str = "read -r line; case \"$line\" in stop) kill -STOP $$;; esac; \
                           echo \"$line\"; exec sleep 0.03";

/// A command that runs the application in Perl as a worker or a fork server.
pub(super) fn in_perl(backend: &str) -> Result<Vec<String>> {
    if workspace::find("perl").is_none() {
        return Err(Skipped("perl is not installed".into()).into());
    }
    let path = |name: &str| workspace::root().join(name).display().to_string();
    let mut command = vec!["perl".to_owned(), path("ws-ipc/shims/fork.pl")];
    command.extend((backend == "worker").then(|| "--worker".to_owned()));
    command.push(path("xtask/src/chaos/programs/application.pl"));
    Ok(command)
}

/// Starts a server with the application as one of the backends.
fn launch(context: &Context, backend: &str, variables: &[(&str, &str)]) -> Result<Subject> {
    let flag = format!("--{backend}");
    let command = match backend {
        "exec" => ["/bin/sh", "-c", APPLICATION].map(str::to_owned).to_vec(),
        _ => in_perl(backend)?,
    };
    let mut arguments = Vec::new();
    arguments.extend((backend != "exec").then_some(&*flag));
    arguments.push("--");
    arguments.extend(command.iter().map(String::as_str));
    let mut all = vec![("WS__APP__ERROR_REPLY", FAILED)];
    all.extend(variables);
    let launch = Launch {
        arguments: &arguments,
        variables: &all,
        ..Launch::default()
    };
    Subject::launch(&context.ws, &launch)
}

/// The figures once every message that was accepted has its end.
pub(super) fn settled(subject: &Subject) -> Result<Status> {
    subject.wait_for("every message has its end", PATIENCE, |it| {
        let ended = it.get_u64("callbacks.finished")?
            + it.get_u64("callbacks.failed")?
            + it.get_u64("callbacks.cancelled")?;
        Ok(it.get_u64("callbacks.accepted")? == ended)
    })
}

pub(super) fn killed(context: &Context, report: &mut Report) -> Result<()> {
    let span = context.size(Duration::from_secs(1), Duration::from_secs(10));

    // Whoever is hit fails, and nobody else.
    let subject = launch(context, "exec", &[])?;
    let hits = strike(&subject, "exec", span, 20.0, family::started, report)?;
    report.exactly("exec: failures of the killed", hits.signal, "", hits.count);
    report.exactly("exec: failures", hits.failures, "", hits.count);
    subject.finish(report)?;

    // A worker that is killed has a request in its hands, or none.
    let subject = launch(context, "worker", &[("WS__APP__PROCESSES", "4")])?;
    let hits = strike(&subject, "worker", span, 1.5, family::started, report)?;
    report.at_most("worker: failures", hits.failures, "", hits.count);
    // What has ended may be heard of a moment later than that its connection has.
    let lost = hits.lost + hits.cut_off;
    report.exactly("worker: as lost or cut off", lost, "", hits.failures);
    poll_until("4 workers run again", PATIENCE, || {
        Ok(family::started(&subject).len() == 4)
    })?;
    subject.finish(report)?;

    // So has a child of a fork server, which has answered or has not.
    let subject = launch(context, "fork", &[])?;
    let hits = strike(&subject, "child", span, 20.0, family::offspring, report)?;
    report.at_most("child: failures", hits.failures, "", hits.count);
    let cut_off = hits.cut_off;
    report.exactly("child: as cut off", cut_off, "", hits.failures);
    subject.finish(report)?;

    // With the fork server itself all of them are lost that are in its hands.
    let subject = launch(context, "fork", &[])?;
    let hits = strike(&subject, "fork server", span, 1.0, family::started, report)?;
    let most = hits.count * ASKERS as f64;
    report.at_most("fork server: failures", hits.failures, "", most);
    let lost = hits.lost + hits.cut_off;
    report.exactly("fork server: as lost or cut off", lost, "", hits.failures);
    subject.finish(report)
}

const ASKERS: usize = 8;

/// What striking callbacks has led to.
struct Hits {
    count: f64,
    failures: f64,
    signal: f64,
    lost: f64,
    cut_off: f64,
}

/// Kills one of the processes that `find` finds, `rate` times a second, while clients ask.
fn strike(
    subject: &Subject,
    what: &str,
    span: Duration,
    rate: f64,
    find: impl Fn(&Subject) -> Vec<u32>,
    report: &mut Report,
) -> Result<Hits> {
    let baseline = subject.status()?;
    let askers = Askers::start(subject.address(), ASKERS, PAUSE)?;
    let mut calm = askers.over(span)?;
    let (count, during) = askers.during(|| {
        let mut dice = Dice::new(1);
        let (start, mut count) = (Instant::now(), 0);
        for turn in 0.. {
            let at = start + Duration::from_secs_f64(f64::from(turn) / rate);
            if at >= start + span {
                break;
            }
            thread::sleep(at.saturating_duration_since(Instant::now()));
            let found = find(subject);
            if !found.is_empty() {
                count += u32::from(family::strike(dice.pick(&found))?);
            }
        }
        Ok(f64::from(count))
    })?;
    // Other programs on the machine come and go: what is compared with lies on both sides.
    calm.extend(askers.over(span)?);
    let books = askers.stop()?;
    let after = settled(subject)?;
    let since = |path: &str| after.since(&baseline, &format!("callbacks.{path}"));
    report.at_least(format!("{what}: killed"), count, "", 1.0);
    let failures = since("failed")?;
    let seen = format!("{what}: failures that clients saw");
    report.exactly(seen, books.failed as f64, "", failures);
    books.show(what, report);
    if rate > 10.0 {
        report.at_most_times(CALLBACK_RATIO, &format!("{what}: others"), &calm, &during);
    } else {
        // Who waits for a process to be started again is not unaffected.
        let p99 = Percentiles::of(&during).p99;
        report.note(format!("{what}: others: p99"), p99.as_secs_f64(), "s");
    }
    Ok(Hits {
        count,
        failures,
        signal: since("failed_by.signal")?,
        lost: since("failed_by.lost")?,
        cut_off: since("failed_by.bad_answer")?,
    })
}

const STOPPED: usize = 10;
/// Two more than are stopped.
const SLOTS: &str = "12";

pub(super) fn stopped(context: &Context, report: &mut Report) -> Result<()> {
    let timeout = context.size(Duration::from_secs(2), Duration::from_secs(30));
    let limit = format!("{}s", timeout.as_secs());
    for backend in ["exec", "worker", "fork"] {
        let variables = [
            ("WS__APP__TIMEOUT", &*limit),
            if backend == "worker" {
                ("WS__APP__PROCESSES", SLOTS)
            } else {
                ("WS__APP__CONCURRENCY", SLOTS)
            },
        ];
        let subject = launch(context, backend, &variables)?;
        stop(&subject, backend, timeout, report)?;
        subject.finish(report)?;
    }
    Ok(())
}

fn stop(subject: &Subject, what: &str, timeout: Duration, report: &mut Report) -> Result<()> {
    let baseline = subject.status()?;
    let askers = Askers::start(subject.address(), 2, PAUSE)?;
    let span = (timeout / 2).min(Duration::from_secs(5));
    let mut calm = askers.over(span)?;
    let (ends, during) = askers.during(|| {
        let clients = (0..STOPPED).map(|_| {
            let mut client = Client::connect(subject.address())?;
            client.set_patience(timeout + PATIENCE)?;
            client.send(wire::TEXT, b"stop")?;
            Ok((client, Instant::now()))
        });
        let clients = clients.collect::<Result<Vec<_>>>()?;
        clients
            .into_iter()
            .map(|(mut client, start)| {
                let reply = client.receive()?;
                let is_failure = reply == Some(Event::Message(FAILED.into()));
                ensure!(is_failure, "{reply:?} instead of a failure");
                let took = start.elapsed();
                client.close()?;
                Ok(took)
            })
            .collect::<Result<Vec<_>>>()
    })?;
    calm.extend(askers.over(span)?);
    let books = askers.stop()?;
    books.show(what, report);
    report.exactly(
        format!("{what}: others failed"),
        books.failed as f64,
        "",
        0.0,
    );
    report.at_most_times(CALLBACK_RATIO, &format!("{what}: others"), &calm, &during);
    let after = settled(subject)?;
    let timeouts = after.since(&baseline, "callbacks.failed_by.timeout")?;
    report.exactly(format!("{what}: timeouts"), timeouts, "", STOPPED as f64);
    let first = ends.iter().min().copied().unwrap_or_default();
    let last = Percentiles::of(&ends).max;
    report.at_least(
        format!("{what}: first ended after"),
        first.as_secs_f64(),
        "s",
        timeout.as_secs_f64(),
    );
    report.at_most(
        format!("{what}: last ended after"),
        last.as_secs_f64(),
        "s",
        (timeout + LATE).as_secs_f64(),
    );
    // As many as there are slots, at once and again and again.
    let askers = Askers::start(subject.address(), SLOTS.parse()?, PAUSE)?;
    askers.over(Duration::from_secs(1))?;
    let books = askers.stop()?;
    books.show(&format!("{what}: afterwards"), report);
    let failed = books.failed as f64;
    report.exactly(format!("{what}: afterwards: failed"), failed, "", 0.0);
    Ok(())
}

/// Each leaves two daemons behind, in sessions of their own, one of which has dropped its
/// environment; the word by which they are found again is in the place of WORD.
const LEAVING: &str = "read -r line
leave() {
  setsid sh -c 'setsid sleep 600 WORD 2>&- >&- & exit 0' 2>/dev/null
  setsid env -i sh -c 'exec setsid sleep 600 WORD' >/dev/null 2>&1 &
  setsid sleep 600 WORD &
}
case \"$line\" in
  leave) leave; echo left;;
  crash) leave; kill -9 $$;;
  hang) leave; exec sleep 600 WORD;;
  *) echo \"$line\";;
esac";

pub(super) fn left_behind(context: &Context, report: &mut Report) -> Result<()> {
    // Sleep takes the sum of its arguments.
    let word = format!("0.{}", std::process::id());
    let application = LEAVING.replace("WORD", &word);
    let subject = Subject::launch(
        &context.ws,
        &Launch {
            arguments: &["--", "/bin/sh", "-c", &application],
            variables: &[
                ("WS__APP__TIMEOUT", "1s"),
                ("WS__APP__ERROR_REPLY", FAILED),
                ("WS__APP__EMPTY_REPLY", "nothing"),
            ],
            ..Launch::default()
        },
    )?;
    let baseline = subject.status()?;
    let rounds = context.size(3, 20);
    let mut most = 0;
    for _ in 0..rounds {
        let clients = ["leave", "leave", "crash", "hang"].map(|act| {
            let mut client = Client::connect(subject.address())?;
            client.send(wire::TEXT, act.as_bytes())?;
            anyhow::Ok((client, act))
        });
        for client in clients {
            let (mut client, act) = client?;
            let reply = client.receive()?;
            most = most.max(family::with_word(&word).len());
            let expected = if act == "leave" { "left" } else { FAILED };
            ensure!(
                reply == Some(Event::Message(expected.into())),
                "{act}: {reply:?}"
            );
            client.close()?;
        }
    }
    let after = settled(&subject)?;
    let failed = after.since(&baseline, "callbacks.failed")?;
    report.exactly("failures", failed, "", 2.0 * f64::from(rounds));
    report.at_least("daemons at a time", most as f64, "", 1.0);
    let gone = poll_until("no daemon is left", PATIENCE, || {
        Ok(family::with_word(&word).is_empty())
    });
    let left = family::with_word(&word);
    report.exactly("processes left", left.len() as f64, "", 0.0);
    // Whatever the server has overlooked does not outlive the campaign.
    for id in left {
        family::signal(id, Signal::SIGKILL)?;
    }
    if let Err(error) = gone {
        println!("  {error:#}");
    }
    subject.finish(report)
}
