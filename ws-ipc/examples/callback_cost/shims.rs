//! The shims: messages a second and CPU time for one, each way to run one beside its plain fork.
//!
//! Each application holds some 50 MiB, as one does that has loaded a framework. CPU time is that of
//! the shim and of the children it has waited for, page faults included.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ws_ipc::shims::{self, Shim};
use ws_ipc::{
    Confinement, Environment, Failure, PoolKind, Service, ServiceCommand, Spawners, SpawnersConfig,
    scgi_call,
};

use crate::Plan;
use crate::measure::{Outcome, Pair, Row, each, environment, helper, used_by};

pub(crate) async fn compare(plan: &Plan) -> Outcome<()> {
    let is_asked_for = |shim: &Shim| plan.shim.as_deref().is_none_or(|name| name == shim.name());
    for shim in shims::ALL.iter().copied().filter(is_asked_for) {
        let dir = tempfile::tempdir()?;
        measure(plan, shim, dir.path()).await?;
    }
    Ok(())
}

/// A way to run a shim.
struct Variant {
    name: &'static str,
    args: &'static [&'static str],
    env: Vec<(&'static str, &'static str)>,
    kind: PoolKind,
    /// What is wanted of its messages a second.
    wanted: &'static str,
}

fn variants(shim: Shim) -> Vec<Variant> {
    let variant = |name, args, env: &[&[(&'static str, &'static str)]]| Variant {
        name,
        args,
        env: env.concat(),
        kind: PoolKind::ForkServers,
        wanted: "",
    };
    let kill = &[("WS_FORK_EXIT", "kill")][..];
    let huge = shim.fork_environment();
    let mut variants = Vec::new();
    if shim.forks() {
        variants.push(variant("plain fork", &[], &[]));
    }
    if !huge.is_empty() {
        variants.push(variant("fork, huge pages", &[], &[huge]));
    }
    if shim == shims::PHP {
        variants.push(variant("kill", &[], &[kill]));
        variants.push(Variant {
            wanted: "at least 4",
            ..variant("kill, huge pages", &[], &[kill, huge])
        });
    }
    let args: &[&str] = if shim.forks() { &["--worker"] } else { &[] };
    variants.push(Variant {
        kind: PoolKind::Workers,
        ..variant("worker", args, &[])
    });
    variants
}

async fn measure(plan: &Plan, shim: Shim, dir: &Path) -> Outcome<()> {
    let (rounds, messages) = plan.size((3, 60), (7, 200));
    let spawners = Spawners::start(helper(), SpawnersConfig::default())?;
    let program = dir.join(shim.name());
    let application = dir.join(format!("application-{}", shim.name()));
    std::fs::write(&program, shim.source())?;
    std::fs::write(&application, application_of(shim))?;

    let mut services = Vec::new();
    for Variant {
        args, env, kind, ..
    } in variants(shim)
    {
        let mut argv = vec!["/usr/bin/env".into(), shim.interpreter().into()];
        argv.push(program.clone().into());
        argv.extend(args.iter().map(Into::into));
        argv.push(application.clone().into());
        let path = std::env::var("PATH")?;
        let path = ("PATH", path.as_str());
        let env = env.iter().chain([&path]);
        let command = ServiceCommand {
            argv,
            env: env
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            dir: None,
            identity: None,
            confinement: Confinement::default(),
        };
        let socket = dir.join(format!("{}.sock", services.len()));
        let service = Service::start(&spawners, command, kind, &socket).await?;
        if ask(&service).await.is_err() {
            return skip(plan, shim);
        }
        services.push(service);
    }
    for at_once in plan.at_once(&[4]) {
        let mut turns = vec![Vec::new(); services.len()];
        for _ in 0..rounds {
            for (service, turns) in services.iter().zip(&mut turns) {
                turns.push(turn(service, messages, at_once).await?);
            }
        }
        report(plan, shim, at_once, &turns)?;
    }
    for service in services {
        service.shutdown().await;
    }
    spawners.shutdown().await;
    Ok(())
}

/// What a variant's rows are called.
fn name(shim: Shim, variant: &Variant, at_once: usize) -> String {
    format!("{}, {}, {at_once} at once", shim.name(), variant.name)
}

const RATE: Row<'_> = Row {
    what: "",
    beside: "",
    unit: "messages/s",
    wanted: "",
};

const COST: Row<'_> = Row {
    unit: "us of CPU",
    ..RATE
};

fn report(plan: &Plan, shim: Shim, at_once: usize, turns: &[Vec<Pair>]) -> Outcome<()> {
    for (index, variant) in variants(shim).iter().enumerate() {
        let what = name(shim, variant, at_once);
        let is_first = index == 0;
        let beside = if is_first { "" } else { "the plain fork" };
        for (row, pick) in [(RATE, rate_of as fn(&Pair) -> f64), (COST, cost_of)] {
            let row = Row {
                what: &what,
                beside,
                wanted: if row.unit == RATE.unit {
                    variant.wanted
                } else {
                    ""
                },
                ..row
            };
            let values = turns[index].iter().map(pick);
            if is_first {
                row.report_alone(plan, &values.collect::<Vec<_>>())?;
            } else {
                let plain = turns[0].iter().map(pick);
                row.report(plan, &values.zip(plain).collect::<Vec<_>>())?;
            }
        }
    }
    Ok(())
}

const fn rate_of(turn: &Pair) -> f64 {
    turn.0
}

const fn cost_of(turn: &Pair) -> f64 {
    turn.1
}

fn skip(plan: &Plan, shim: Shim) -> Outcome<()> {
    let why = format!("{} does not run it", shim.interpreter());
    for at_once in plan.at_once(&[4]) {
        for variant in variants(shim) {
            let what = name(shim, &variant, at_once);
            for row in [RATE, COST] {
                let row = Row { what: &what, ..row };
                row.skip(plan, &why)?;
            }
        }
    }
    Ok(())
}

/// Messages a second, and microseconds of CPU time for one.
async fn turn(service: &Service, messages: usize, at_once: usize) -> Outcome<Pair> {
    let pid = service.pid().ok_or("the program does not run")?;
    let before = used_by(pid)?;
    let begun = Instant::now();
    let mut lanes = tokio::task::JoinSet::new();
    for lane in 0..at_once {
        let service = service.clone();
        let share = messages / at_once + usize::from(lane < messages % at_once);
        lanes.spawn(async move {
            for _ in 0..share {
                ask(&service).await?;
            }
            Ok::<(), Failure>(())
        });
    }
    for lane in lanes.join_all().await {
        lane?;
    }
    let elapsed = begun.elapsed();
    // Children count when they have been waited for.
    while !children(pid)?.is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let rate = messages as f64 / elapsed.as_secs_f64();
    Ok((rate, each(used_by(pid)?.saturating_sub(before), messages)))
}

fn children(pid: i32) -> std::io::Result<String> {
    std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
}

async fn ask(service: &Service) -> Result<Vec<u8>, Failure> {
    let env: Environment = environment();
    let body = Bytes::from_static(b"/hello");
    scgi_call(service, &env, &body, Duration::from_secs(60), 1 << 20).await
}

/// An application that holds some 50 MiB and answers with what it was sent.
fn application_of(shim: Shim) -> &'static str {
    match shim.name() {
        "fork.php" => {
            "<?php for ($i = 0; $i < 450_000; $i++) { $held[] = str_repeat('x', 60) . $i; }\n\
             return fn ($server, $body) => $body;\n"
        }
        "fork.py" => {
            "held = ['x' * 60 + str(i) for i in range(360_000)]\n\
             def answer(env, body):\n    return body\n"
        }
        "fork.rb" => {
            "HELD = Array.new(400_000) { |i| 'x' * 60 + i.to_s }\n\
             def answer(env, body) = body\n"
        }
        "fork.pl" => {
            "our @held = map { ('x' x 60) . $_ } 1 .. 350_000;\n\
             sub { $_[1] };\n"
        }
        _ => {
            "globalThis.held = Array.from({ length: 400_000 }, (_, i) => Buffer.alloc(60, 'x') + `${i}`);\n\
             module.exports = (env, body) => body;\n"
        }
    }
}
