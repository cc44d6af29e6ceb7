//! What a message costs with each shim, measured: messages a second and CPU time for one.
//!
//! ```sh
//! cargo run --release -p ws-ipc --example shims          # all that are installed
//! cargo run --release -p ws-ipc --example shims fork.php
//! ```
//!
//! Each application holds some 50 MiB, as one does that has loaded a framework. The variants take
//! turns, so that a noisy machine is noisy to all of them; the figures are medians over the turns.
//! CPU time is that of the shim and of the children it has waited for, page faults included.

#![expect(clippy::print_stdout, reason = "it talks to a person")]

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ws_ipc::shims::{self, Shim};
use ws_ipc::{
    Confinement, Environment, HelperCommand, Service, ServiceCommand, Spawners, SpawnersConfig,
    scgi_call,
};

const TURNS: usize = 7;
const MESSAGES: usize = 200;

/// The kernel counts CPU time for `/proc` in hundredths of a second, whatever its own tick.
const TICK: Duration = Duration::from_millis(10);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let argument = std::env::args().nth(1);
    if argument.as_deref() == Some("__spawner") {
        ws_ipc::spawner::main();
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let is_asked_for = |shim: &Shim| argument.as_deref().is_none_or(|name| name == shim.name());
    println!("shim       variant          at once  messages/s  CPU/message   resident");
    runtime.block_on(async {
        for shim in shims::ALL.iter().copied().filter(is_asked_for) {
            measure(shim).await?;
        }
        Ok(())
    })
}

/// A way to run a shim.
struct Variant {
    name: &'static str,
    args: &'static [&'static str],
    env: Vec<(&'static str, &'static str)>,
}

fn variants(shim: Shim) -> Vec<Variant> {
    let variant = |name, args, env: &[&[(&'static str, &'static str)]]| Variant {
        name,
        args,
        env: env.concat(),
    };
    let kill = &[("WS_FORK_EXIT", "kill")][..];
    let huge = shim.fork_environment();
    let mut variants = Vec::new();
    if shim.forks() {
        variants.push(variant("fork", &[], &[]));
    }
    if !huge.is_empty() {
        variants.push(variant("fork, huge pages", &[], &[huge]));
    }
    if shim == shims::PHP {
        variants.push(variant("kill", &[], &[kill]));
        variants.push(variant("kill, huge pages", &[], &[kill, huge]));
    }
    let args: &[&str] = if shim.forks() { &["--worker"] } else { &[] };
    variants.push(variant("worker", args, &[]));
    variants
}

async fn measure(shim: Shim) -> Result<()> {
    let dir = std::env::temp_dir().join(format!("ws-shims-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let measured = measure_in(&dir, shim).await;
    std::fs::remove_dir_all(&dir)?;
    measured
}

async fn measure_in(dir: &Path, shim: Shim) -> Result<()> {
    let helper = HelperCommand {
        program: "/proc/self/exe".into(),
        args: vec!["__spawner".into()],
    };
    let spawners = Spawners::start(helper, SpawnersConfig::default())?;
    let program = dir.join(shim.name());
    let application = dir.join(format!("application-{}", shim.name()));
    std::fs::write(&program, shim.source())?;
    std::fs::write(&application, application_of(shim))?;

    let mut services = Vec::new();
    for Variant { name, args, env } in variants(shim) {
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
        let service = Service::start(&spawners, command, &socket).await?;
        if ask(&service).await.is_err() {
            println!(
                "{:10} skipped: {} does not run it",
                shim.name(),
                shim.interpreter()
            );
            return Ok(());
        }
        services.push((name, service));
    }
    for at_once in [1, 4] {
        compare(shim, &services, at_once).await?;
    }
    for (_, service) in services {
        service.shutdown().await;
    }
    spawners.shutdown().await;
    Ok(())
}

async fn compare(shim: Shim, services: &[(&str, Service)], at_once: usize) -> Result<()> {
    let mut figures = vec![Vec::new(); services.len()];
    for _ in 0..TURNS {
        for ((_, service), figures) in services.iter().zip(&mut figures) {
            figures.push(turn(service, at_once).await?);
        }
    }
    for ((name, service), figures) in services.iter().zip(figures) {
        let (rates, costs): (Vec<_>, Vec<_>) = figures.into_iter().unzip();
        println!(
            "{:10} {name:18} {at_once:5}  {:10.0}  {:8.0} us  {:5} MiB",
            shim.name(),
            median(rates),
            median(costs),
            resident(service)? >> 10,
        );
    }
    Ok(())
}

/// Messages a second, and microseconds of CPU time for one.
async fn turn(service: &Service, at_once: usize) -> Result<(f64, f64)> {
    let cpu = cpu_time(service)?;
    let begun = Instant::now();
    let mut lanes = tokio::task::JoinSet::new();
    for _ in 0..at_once {
        let service = service.clone();
        lanes.spawn(async move {
            for _ in 0..MESSAGES / at_once {
                ask(&service).await?;
            }
            Ok::<(), ws_ipc::Failure>(())
        });
    }
    for lane in lanes.join_all().await {
        lane?;
    }
    let elapsed = begun.elapsed();
    // Children count when they have been waited for.
    while !children(service)?.is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let cpu = cpu_time(service)?.saturating_sub(cpu);
    let messages = MESSAGES as f64;
    Ok((
        messages / elapsed.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / messages,
    ))
}

async fn ask(service: &Service) -> std::result::Result<Vec<u8>, ws_ipc::Failure> {
    let mut env = Environment::new();
    for (name, value) in [("REQUEST_METHOD", "GET"), ("REQUEST_URI", "/hello")] {
        env.set(name, value)
            .expect("names and values are those of CGI");
    }
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

/// CPU time of the program and of the children it has waited for.
fn cpu_time(service: &Service) -> Result<Duration> {
    let stat = std::fs::read_to_string(proc(service, "stat")?)?;
    // The name, in parentheses, may hold spaces.
    let (_, fields) = stat.rsplit_once(')').ok_or("no name in stat")?;
    let fields = fields.split_ascii_whitespace();
    // proc_pid_stat(5): utime, stime, cutime, cstime are the fields 14 to 17; the name is the second.
    let ticks = fields.skip(11).take(4).map(str::parse::<u32>);
    let ticks = ticks.sum::<std::result::Result<u32, _>>()?;
    Ok(TICK * ticks)
}

fn children(service: &Service) -> Result<String> {
    let pid = service.pid().ok_or("the program does not run")?;
    let list = std::fs::read_to_string(proc(service, &format!("task/{pid}/children"))?)?;
    Ok(list)
}

/// Resident memory in KiB.
fn resident(service: &Service) -> Result<usize> {
    let status = std::fs::read_to_string(proc(service, "status")?)?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let size = line.and_then(|line| line.split_ascii_whitespace().next());
    Ok(size.ok_or("no VmRSS in status")?.parse()?)
}

fn proc(service: &Service, name: &str) -> Result<String> {
    let pid = service.pid().ok_or("the program does not run")?;
    Ok(format!("/proc/{pid}/{name}"))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
