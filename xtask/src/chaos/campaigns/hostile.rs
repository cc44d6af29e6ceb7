//! Callbacks that take what they can get, and write what they can.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use super::PAUSE;
use super::callbacks::settled;
use crate::chaos::Context;
use crate::chaos::askers::{Askers, FAILED};
use crate::chaos::client::Client;
use crate::chaos::family;
use crate::chaos::figures::{CALLBACK_RATIO, Percentiles, Report, Slice, mib, millis};
use crate::chaos::scheduling::{BareLoop, CpuGroup};
use crate::chaos::subject::{Subject, poll_until};
use crate::chaos::wire::{self, Event};
use crate::chaos::witness::{Errand, Witnesses};
use crate::server::Launch;
use crate::{NotHere, Skipped, workspace};

/// Nobody else's, so that a limit of processes counts only the callbacks'.
const USER: &str = "64113";
/// What confines each callback, by the server's own settings: it is served only once nobody else
/// wants the CPU.
const SETTINGS: [(&str, &str); 3] = [
    ("WS__APP__NICE", "19"),
    ("WS__APP__MAX_MEMORY", "256MiB"),
    ("WS__APP__MAX_CPU_TIME", "1s"),
];
/// The same for a server without these settings, as an operator can do it in front of any command.
const WRAPPER: [&str; 6] = ["nice", "-n", "19", "prlimit", "--as=268435456", "--cpu=1"];
/// So few processes, since each that computes has a share of the CPUs. Without a control group the
/// limit counts those of all callbacks: set before a callback starts (`app.max_processes`), the
/// others could not start beside one that forks; set here, they only cannot fork themselves.
const PROCESSES: [&str; 3] = ["prlimit", "--nproc=8", "--"];
/// Those of the limit, and some that are dead or about to change their user.
const MAX_PROCESSES: f64 = 16.0;
const PATIENCE: Duration = Duration::from_secs(20);

/// One forks for as long as it can, one fills its memory, one computes for ever.
const GREEDY: &str = "read -r line
case \"$line\" in
  fork) exec perl -e 'fork while 1';;
  memory) exec perl -e '$x .= \"x\" x (1 << 24) while 1';;
  cpu) while :; do :; done;;
  *) echo \"$line\";;
esac";

pub(super) fn greedy(context: &Context, report: &mut Report) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err(NotHere("callbacks can have a user of their own only as root".into()).into());
    }
    for program in ["perl", "prlimit"] {
        if workspace::find(program).is_none() {
            return Err(Skipped(format!("{program} is not installed")).into());
        }
    }
    let mut arguments = vec!["--"];
    let mut variables = vec![
        ("WS__APP__USER", USER),
        ("WS__APP__GROUP", USER),
        ("WS__APP__TIMEOUT", "1s"),
        ("WS__APP__ERROR_REPLY", FAILED),
    ];
    if can_confine(&context.ws)? {
        variables.extend(SETTINGS);
    } else {
        arguments.extend(WRAPPER);
    }
    arguments.extend(PROCESSES);
    arguments.extend(["/bin/sh", "-c", GREEDY]);
    let subject = Subject::launch(
        &context.ws,
        &Launch {
            arguments: &arguments,
            variables: &variables,
            ..Launch::default()
        },
    )?;
    let span = context.size(Duration::from_secs(2), Duration::from_secs(15));
    for act in ["fork", "memory", "cpu"] {
        let baseline = subject.status()?;
        let askers = Askers::start(subject.address(), 2, 4 * PAUSE)?;
        let mut calm = askers.over(span)?;
        let (most, during) = askers.during(|| be_hostile(&subject, act, span))?;
        // Other programs on the machine come and go: what is compared with lies on both sides.
        calm.extend(askers.over(span)?);
        let books = askers.stop()?;
        let after = settled(&subject)?;
        let failed = after.since(&baseline, "callbacks.failed")?;
        report.at_least(format!("{act}: failures"), failed, "", 1.0);
        report.at_most(format!("{act}: processes"), most as f64, "", MAX_PROCESSES);
        books.show(act, report);
        let unlucky = format!("{act}: others failed");
        report.exactly(unlucky, books.failed as f64, "", 0.0);
        let others = format!("{act}: others");
        report.at_most_times(CALLBACK_RATIO, &others, &calm, &during);
        // What it had started ends with it.
        let gone = poll_until("its processes are gone", PATIENCE, || {
            Ok(family::strangers(&subject).is_empty())
        });
        let left = family::strangers(&subject).len();
        report.exactly(format!("{act}: processes left"), left as f64, "", 0.0);
        gone?;
    }
    subject.finish(report)
}

/// Whether the server knows the settings that confine a callback.
fn can_confine(ws: &Path) -> Result<bool> {
    let mut command = Command::new(ws);
    let output = command.args(["config", "print", "--default"]).output()?;
    ensure!(
        output.status.success(),
        "ws config print: {}",
        output.status
    );
    Ok(String::from_utf8(output.stdout)?.contains("max_processes = "))
}

/// Has one such callback run after the other; tells how many processes there were at most.
fn be_hostile(subject: &Subject, act: &str, span: Duration) -> Result<usize> {
    let end = Instant::now() + span;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut most = 0;
            while !is_over.load(Ordering::Relaxed) {
                most = most.max(family::strangers(subject).len());
                thread::sleep(20 * PAUSE);
            }
            most
        });
        let outcome = (|| {
            let mut client = Client::connect(subject.address())?;
            while Instant::now() < end {
                client.send(wire::TEXT, act.as_bytes())?;
                let reply = client.receive()?;
                ensure!(
                    reply == Some(Event::Message(FAILED.into())),
                    "{act}: {reply:?} instead of a failure"
                );
            }
            client.close()
        })();
        is_over.store(true, Ordering::Relaxed);
        let most = watch.join().map_err(|_| anyhow!("the watch panicked"))?;
        outcome.map(|()| most)
    })
}

const MAX_OUTPUT: u64 = 1 << 20;
/// What is read ahead of the limit, and what a buffer is larger than it has to be.
const SLACK: u64 = 512 << 10;
/// What the server itself may need meanwhile, the lines of its log included.
const OWN: u64 = 12 << 20;
const FLOODS: usize = 8;
/// In how many parts they are done, each beside as long a part of the bare loop.
const SLICES: u32 = 6;
/// As the server has it for callbacks unless it is told otherwise.
const NICE: i32 = 10;
/// Who asks beside them, and how long each rests.
const ASKERS: (usize, Duration) = (2, Duration::from_millis(10));

/// One floods, one drips, one floods the log.
const WRITING: &str = "read -r line
case \"$line\" in
  flood) exec yes;;
  drip) while :; do printf x; sleep 1; done;;
  mutter) exec yes 'a line of some length that nobody wants to read' >&2;;
  *) echo \"$line\";;
esac";

pub(super) fn output_flood(context: &Context, report: &mut Report) -> Result<()> {
    let timeout = context.size(Duration::from_secs(2), Duration::from_secs(10));
    let limit = format!("{}s", timeout.as_secs());
    let max_output = MAX_OUTPUT.to_string();
    let rounds = context.size(2_usize, 50);
    let span = context.size(Duration::from_secs(1), Duration::from_secs(6));
    let bare = BareLoop {
        script: WRITING,
        flood: ("flood", FLOODS),
        max_output: MAX_OUTPUT,
        askers: ASKERS,
        nice: NICE,
    };
    let group = CpuGroup::enter();
    if let Err(error) = &group {
        report.leave_out(format!("nice values that hold between all: {error:#}"));
    }
    let subject = Subject::launch(
        &context.ws,
        &Launch {
            arguments: &["--", "/bin/sh", "-c", WRITING],
            variables: &[
                ("WS__APP__MAX_OUTPUT", &*max_output),
                ("WS__APP__TIMEOUT", &*limit),
                ("WS__APP__ERROR_REPLY", FAILED),
            ],
            ..Launch::default()
        },
    )?;
    let askers = Askers::start(subject.address(), ASKERS.0, ASKERS.1)?;
    let pings = Witnesses::start(subject.address(), 2, Errand::Ping, 10 * PAUSE)?;
    for (act, cause, count, rounds, slices) in [
        ("flood", "output", FLOODS, rounds, SLICES),
        ("drip", "timeout", FLOODS, 1, 1),
        ("mutter", "timeout", 1, 1, 1),
    ] {
        let failures = (count * rounds * slices as usize) as f64;
        let baseline = subject.status()?;
        let both = || pings.during(|| askers.over(span));
        let (mut calm, mut calm_pings) = both()?;
        let logged = fs::metadata(subject.log_file())?.len();
        let (mut peak, mut ends) = (0, Vec::new());
        let (mut measured, mut during_pings) = (Vec::new(), Vec::new());
        for _ in 0..slices {
            // Other programs on the machine come and go: what is compared is done in turns.
            let bare = match act {
                "flood" => askers.resting(|| bare.run(span / slices))?,
                _ => Vec::new(),
            };
            let slice = pings.during(|| askers.during(|| write(&subject, act, count, rounds)))?;
            let (((slice_peak, slice_ends), during), slice_pings) = slice;
            peak = peak.max(slice_peak);
            ends.extend(slice_ends);
            measured.push(Slice { during, bare });
            during_pings.extend(slice_pings);
        }
        let after = subject.wait_for("all of them have failed", PATIENCE, |it| {
            Ok(it.since(&baseline, "callbacks.failed")? >= failures)
        })?;
        let failed = after.since(&baseline, &format!("callbacks.failed_by.{cause}"))?;
        report.exactly(format!("{act}: failures by {cause}"), failed, "", failures);
        let bound = match act {
            "flood" => OWN + count as u64 * (MAX_OUTPUT + SLACK),
            _ => OWN,
        };
        report.at_most(format!("{act}: memory"), mib(peak), "MiB", mib(bound));
        let ends = Percentiles::of(&ends);
        report.note(format!("{act}: failed after, p50"), millis(ends.p50), "ms");
        let logged = fs::metadata(subject.log_file())?.len() - logged;
        report.note(format!("{act}: logged"), mib(logged), "MiB");
        let after = both()?;
        calm.extend(after.0);
        calm_pings.extend(after.1);
        report.unaffected(&format!("{act}: pings"), &calm_pings, &during_pings);
        let others = format!("{act}: others");
        match act {
            "flood" => report.at_most_twice_bare(&others, &calm, &measured),
            _ => report.at_most_times(CALLBACK_RATIO, &others, &calm, &measured[0].during),
        }
    }
    pings.stop()?;
    let books = askers.stop()?;
    books.show("others", report);
    report.exactly("others: failed", books.failed as f64, "", 0.0);
    settled(&subject)?;
    subject.finish(report)?;
    drop(group);
    Ok(())
}

/// Has `count` such callbacks at a time write until they have failed, `rounds` times; tells the
/// peak of the server's memory and what each took.
fn write(
    subject: &Subject,
    act: &str,
    count: usize,
    rounds: usize,
) -> Result<(u64, Vec<Duration>)> {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut peak = 0;
            while !is_over.load(Ordering::Relaxed) {
                peak = peak.max(subject.memory_growth()?);
                thread::sleep(PAUSE);
            }
            anyhow::Ok(peak)
        });
        let clients: Vec<_> = (0..count)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = Client::connect(subject.address())?;
                    let mut ends = Vec::new();
                    for _ in 0..rounds {
                        let start = Instant::now();
                        client.send(wire::TEXT, act.as_bytes())?;
                        let reply = client.receive()?;
                        ensure!(
                            reply == Some(Event::Message(FAILED.into())),
                            "{act}: not a failure"
                        );
                        ends.push(start.elapsed());
                    }
                    client.close()?;
                    Ok(ends)
                })
            })
            .collect();
        let ends = clients
            .into_iter()
            .map(|it| it.join().map_err(|_| anyhow!("a client panicked"))?)
            .collect::<Result<Vec<_>>>();
        is_over.store(true, Ordering::Relaxed);
        let peak = watch.join().map_err(|_| anyhow!("the watch panicked"))??;
        Ok((peak, ends?.concat()))
    })
}
