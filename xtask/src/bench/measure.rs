//! One figure: a fresh server, `ws bench` against it, and what that reports.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::{SysconfVar, sysconf};
use serde_json::Value;

use super::cell::{BROADCAST_SIZE, Cell, Scale, Speakers, UNDER_WAY};
use super::contestant::{Contestant, Programs, Running};
use super::result::Sample;

/// No reply takes longer where little is in flight; a server that is stuck costs no more time than
/// this.
const TIMEOUT: Duration = Duration::from_secs(20);
/// And so many nanoseconds longer for each byte in flight: no server is as slow as 100 MB/s.
const TIMEOUT_PER_BYTE: u64 = 10;

pub(super) fn measure(
    cell: &Cell,
    contestant: Contestant,
    programs: &Programs,
    scale: Scale,
) -> Result<Sample> {
    let Cell::Idle(_) = cell else {
        check_room(cell)?;
        let report = load(cell, contestant, programs, &arguments(cell, scale))?;
        return sample(cell, &report);
    };
    // Two fresh servers, so that what the first connections left behind is in neither.
    let (few, many) = scale.idle_steps();
    let memory = |connections: u32| {
        let count = connections.to_string();
        let idle = ["idle", "--duration", "1s", "--connections", &count];
        let report = load(cell, contestant, programs, &idle.map(str::to_owned))?;
        number(&report, "/server/anonymous_bytes")
    };
    let bytes = (memory(many)? - memory(few)?) / f64::from(many - few);
    Ok(Sample::of_memory(bytes))
}

/// Fails if the kernel would drop packets of what is in flight for want of memory: the figure would
/// be that of repetitions.
fn check_room(cell: &Cell) -> Result<()> {
    let limits = fs::read_to_string("/proc/sys/net/ipv4/tcp_mem").unwrap_or_default();
    let Some(room) = room_in(&limits) else {
        return Ok(());
    };
    let mib = |bytes: u64| bytes >> 20;
    ensure!(
        cell.in_flight() <= room,
        "{} MiB are in flight and the kernel has {} MiB for TCP (sysctl net.ipv4.tcp_mem)",
        mib(cell.in_flight()),
        mib(room)
    );
    Ok(())
}

/// The bytes from which on TCP saves memory: the second of the three numbers, in pages.
fn room_in(limits: &str) -> Option<u64> {
    let pages: u64 = limits.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let page = sysconf(SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * u64::try_from(page).ok()?)
}

/// How long a cell is measured: where much is in flight, long enough that it all comes round twice
/// at a gigabyte a second.
fn duration(cell: &Cell, scale: Scale) -> Duration {
    scale
        .duration()
        .max(Duration::from_nanos(2 * cell.in_flight()))
}

/// The longest that a reply may take.
fn timeout(cell: &Cell) -> Duration {
    TIMEOUT + Duration::from_nanos(TIMEOUT_PER_BYTE * cell.in_flight())
}

/// What `ws bench` is told, besides the URL.
fn arguments(cell: &Cell, scale: Scale) -> Vec<String> {
    let duration = duration(cell, scale).as_millis();
    let words = match *cell {
        Cell::Echo {
            connections,
            in_flight,
            size,
            ..
        } => format!(
            "echo --connections {connections} --in-flight {in_flight} --size {size} \
             --duration {duration}ms --warm-up {}",
            scale.warm_up()
        ),
        Cell::Flat {
            connections,
            size,
            speakers,
        } => {
            let flag = match speakers {
                Speakers::Some => "active",
                Speakers::All => "in-turn",
            };
            format!(
                "echo --connections {connections} --{flag} {UNDER_WAY} --size {size} \
                 --duration {duration}ms --warm-up {}",
                scale.warm_up()
            )
        }
        Cell::Idle(_) => "idle".to_owned(),
        Cell::Handshakes { connections } => {
            format!("handshakes --keep --connections {connections}")
        }
        Cell::Broadcast { connections, burst } => format!(
            "broadcast --connections {connections} --burst {burst} --size {BROADCAST_SIZE} \
             --duration {duration}ms --warm-up {}",
            scale.warm_up()
        ),
    };
    words.split_whitespace().map(str::to_owned).collect()
}

fn load(
    cell: &Cell,
    contestant: Contestant,
    programs: &Programs,
    arguments: &[String],
) -> Result<Value> {
    let mut server = programs.start(contestant, cell)?;
    let output = command(cell, contestant, programs, &server, arguments).output();
    let output = output.context("cannot start ws bench")?;
    server.check()?;
    let report: Value = serde_json::from_slice(&output.stdout).map_err(|_| {
        let stderr = String::from_utf8_lossy(&output.stderr);
        anyhow::anyhow!("{}", stderr.trim().to_owned())
    })?;
    if !output.status.success() {
        bail!("{}", causes(&report));
    }
    Ok(report)
}

fn command(
    cell: &Cell,
    contestant: Contestant,
    programs: &Programs,
    server: &Running,
    arguments: &[String],
) -> std::process::Command {
    let mut command = programs.load();
    command
        .arg(server.url(cell))
        .args(arguments)
        .args(["--timeout", &format!("{}s", timeout(cell).as_secs())])
        .args(["--pid", &server.pid().to_string()])
        .stdin(Stdio::null());
    if contestant == Contestant::Tcp {
        command.arg("--raw");
    }
    if cell.has_tls() {
        command.arg("--insecure");
    }
    if matches!(cell, Cell::Broadcast { .. }) {
        command.args(["--publish", &server.publish()]);
    }
    command
}

/// What went wrong, in one line.
fn causes(report: &Value) -> String {
    let mut causes = Vec::new();
    if let Some(failures) = report["failures"].as_object() {
        causes.extend(
            failures
                .iter()
                .map(|(cause, count)| format!("{count} x {cause}")),
        );
    }
    for (name, what) in [
        ("missing_messages", "missing"),
        ("wrong_messages", "foreign"),
    ] {
        if let Some(count @ 1..) = report[name].as_u64() {
            causes.push(format!("{count} messages {what}"));
        }
    }
    if let Some(count @ 1..) = report["broadcast"]["out_of_order"].as_u64() {
        causes.push(format!("{count} messages out of order"));
    }
    causes.join(", ")
}

/// The CPU time for a unit, and the latency.
fn sample(cell: &Cell, report: &Value) -> Result<Sample> {
    let units = match cell {
        Cell::Handshakes { .. } => number(report, "/connections/opened")?,
        Cell::Echo { .. } | Cell::Broadcast { .. } | Cell::Flat { .. } | Cell::Idle(_) => {
            number(report, "/messages")?
        }
    };
    if units < 1.0 {
        bail!("nothing was answered in the time");
    }
    let times = match cell {
        Cell::Handshakes { .. } => "/handshake_microseconds",
        Cell::Echo { .. } | Cell::Broadcast { .. } | Cell::Flat { .. } | Cell::Idle(_) => {
            "/latency_microseconds"
        }
    };
    let micros = |name: &str| Ok::<_, anyhow::Error>(number(report, name)? * 1e6 / units);
    let time = |name: &str| -> Result<Duration> {
        Ok(Duration::from_secs_f64(
            number(report, &format!("{times}/{name}"))? / 1e6,
        ))
    };
    Ok(Sample {
        value: micros("/server/cpu_seconds")?,
        user: micros("/server/user_cpu_seconds")?,
        system: micros("/server/system_cpu_seconds")?,
        latency: Some((time("p50")?, time("p99")?)),
    })
}

fn number(report: &Value, pointer: &str) -> Result<f64> {
    let number = report.pointer(pointer).and_then(Value::as_f64);
    number.with_context(|| format!("ws bench reports no {pointer}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ECHO: Cell = Cell::Echo {
        connections: 100,
        in_flight: 16,
        size: 20,
        has_tls: false,
    };

    fn report() -> Value {
        json!({
            "messages": 1000,
            "connections": { "opened": 10 },
            "latency_microseconds": { "p50": 100.0, "p99": 300.5 },
            "handshake_microseconds": { "p50": 1.0, "p99": 2.0 },
            "server": { "cpu_seconds": 0.02, "user_cpu_seconds": 0.01, "system_cpu_seconds": 0.01 },
        })
    }

    #[test]
    fn cpu_time_is_divided_by_the_units_of_the_cell() {
        let echo = sample(&ECHO, &report()).unwrap();
        assert!((echo.value - 20.0).abs() < 1e-9 && (echo.user - 10.0).abs() < 1e-9);
        let (p50, p99) = echo.latency.unwrap();
        assert_eq!((p50.as_nanos(), p99.as_nanos()), (100_000, 300_500));
        let cell = Cell::Handshakes { connections: 10 };
        let handshakes = sample(&cell, &report()).unwrap();
        assert!((handshakes.value - 2000.0).abs() < 1e-9);
    }

    #[test]
    fn a_report_without_messages_or_figures_is_a_failure() {
        let mut none = report();
        none["messages"] = 0.into();
        assert!(sample(&ECHO, &none).is_err());
        let mut unwatched = report();
        unwatched["server"] = Value::Null;
        let error = sample(&ECHO, &unwatched).unwrap_err().to_string();
        assert!(error.contains("/server/cpu_seconds"), "{error}");
    }

    #[test]
    fn memory_for_tcp_is_told_in_pages() {
        assert_eq!(room_in("287898\t383867\t575796\n"), room_in("1 383867"));
        assert_eq!(room_in("1 2 3").map(|it| it % 8192), Some(0));
        assert_eq!((room_in(""), room_in("1 x")), (None, None));
    }

    #[test]
    fn causes_are_told_with_their_numbers() {
        let report = json!({
            "failures": { "stream: reset": 3 },
            "missing_messages": 7,
            "wrong_messages": 0,
            "broadcast": { "out_of_order": 2 },
        });
        let expected = "3 x stream: reset, 7 messages missing, 2 messages out of order";
        assert_eq!(causes(&report), expected);
    }

    #[test]
    fn load_generator_is_told_what_the_cell_is() {
        let line = arguments(&ECHO, Scale::Whole).join(" ");
        let expected = "echo --connections 100 --in-flight 16 --size 20 --duration 1000ms \
                        --warm-up 200ms";
        assert_eq!(line, expected);
        let flat = Cell::Flat {
            connections: 9_000,
            size: 20,
            speakers: Speakers::All,
        };
        let line = arguments(&flat, Scale::Quick).join(" ");
        assert!(line.contains("--connections 9000 --in-turn 100 "), "{line}");
        let heavy = Cell::Echo {
            connections: 5_000,
            in_flight: 16,
            size: 65_536,
            has_tls: false,
        };
        let line = arguments(&heavy, Scale::Whole).join(" ");
        assert!(line.contains("--duration 10485ms"), "{line}");
        assert_eq!(
            (timeout(&heavy).as_secs(), timeout(&flat).as_secs()),
            (72, 20)
        );
    }
}
