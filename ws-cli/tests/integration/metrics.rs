//! What monitoring sees: figures for Prometheus, whether the server is ready, and the last line of
//! each connection.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use futures_util::StreamExt;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::fifo::{fifo_of, write};
use crate::support::*;

/// What `GET /metrics` answers on the control socket.
fn scrape(server: &Server) -> String {
    let (status, text) = server.control("GET", "/metrics", "");
    assert_eq!(status, 200, "{text}");
    text
}

/// Each series: its name with its labels.
fn series(text: &str) -> BTreeSet<&str> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| line.rsplit_once(' ').unwrap().0)
        .collect()
}

fn value(text: &str, series: &str) -> f64 {
    let mut lines = text.lines();
    let found = lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    found
        .unwrap_or_else(|| panic!("no {series} in {text}"))
        .parse()
        .unwrap()
}

/// A request to `metrics.listen`; returns its status, head and body.
fn get(server: &Server, request: &str) -> (u16, String, String) {
    let status = server.status();
    let url = status["metrics"]["listen"].as_str().unwrap();
    let addr = url.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("{request} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head[9..12].parse().unwrap();
    (status, head.to_lowercase(), body.to_owned())
}

#[tokio::test]
async fn figures_are_there_under_their_names() {
    let setup = Setup::new().app("read -r line; [ \"$line\" = fail ] && exit 3; echo \"$line\"");
    let server = setup.set("metrics.listen", "127.0.0.1:0").start();
    let mut client = server.connect().await;
    assert_eq!(ask(&mut client, "one").await, "one");
    assert_eq!(ask(&mut client, "two").await, "two");
    say(&mut client, "fail").await;
    server.until("callbacks.failed", 1);
    server.send(serde_json::json!({ "all": true }), "to all");
    assert_eq!(hear(&mut client).await, "to all");
    let too_long = "x".repeat(5000) + "\n";
    write(&server.state("fifo/global_pipe.fifo"), &too_long);
    server.until("fifo.refused", 1);

    let text = scrape(&server);
    for (series, expected) in [
        ("ws_connections", 1.0),
        ("ws_users", 1.0),
        ("ws_sessions", 1.0),
        ("ws_messages_received_total", 3.0),
        ("ws_messages_received_bytes_total", 10.0),
        ("ws_callbacks_started_total", 3.0),
        ("ws_callbacks_finished_total", 2.0),
        ("ws_callbacks_failed_total{cause=\"exit\"}", 1.0),
        ("ws_callbacks_running", 0.0),
        ("ws_callbacks_running_max", 64.0),
        ("ws_callback_duration_seconds_count{backend=\"exec\"}", 3.0),
        (
            "ws_callback_duration_seconds_bucket{backend=\"exec\",le=\"+Inf\"}",
            3.0,
        ),
        ("ws_deliveries_made_total", 1.0),
        ("ws_send_queue_bytes", 0.0),
        ("ws_fifo_records_rejected_total{reason=\"too_long\"}", 1.0),
        ("ws_handshakes_rejected_total{reason=\"origin\"}", 0.0),
        ("ws_connections_closed_total{cause=\"peer\"}", 0.0),
        ("ws_session_store_up", 1.0),
        ("ws_draining", 0.0),
        (
            concat!("ws_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}"),
            1.0,
        ),
    ] {
        assert_eq!(value(&text, series), expected, "{series}");
    }
    let took = value(&text, "ws_callback_duration_seconds_sum{backend=\"exec\"}");
    assert!(took > 0.0 && took < PATIENCE.as_secs_f64(), "{took}");
    for series in [
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_threads",
        "process_start_time_seconds",
    ] {
        assert!(value(&text, series) > 0.0, "{series}");
    }
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn figures_have_an_address_of_their_own_where_nothing_else_is() {
    let server = Setup::new()
        .arg("--echo")
        .set("metrics.listen", "127.0.0.1:0")
        .start();
    let (status, head, body) = get(&server, "GET /metrics");
    assert_eq!(status, 200);
    assert!(
        head.contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
    assert_eq!(value(&body, "ws_connections"), 0.0);
    assert_eq!(get(&server, "GET /live").0, 200);
    assert_eq!(get(&server, "GET /ready").0, 200);
    // Nobody controls the server from here.
    assert_eq!(get(&server, "GET /v1/status").0, 404);
    assert_eq!(get(&server, "POST /v1/send").0, 404);
    assert_eq!(get(&server, "POST /metrics").0, 405);
    server.finish();
}

#[tokio::test]
async fn t36_clients_make_no_series() {
    const ROUNDS: u32 = 100;
    let server = Setup::new()
        .app("cat")
        .validate("read -r x; echo \"$HTTP_X_USER\"")
        .set("origin.allow", "same-origin")
        .start();
    let mut client = server
        .connect_with("/first", &[("X-User", "first")])
        .await
        .unwrap();
    ask(&mut client, "/first").await;
    let before = scrape(&server);
    for round in 0..ROUNDS {
        let user = format!("user-{round}");
        let uri = format!("/uri-{round}?query={round}");
        let mut client = server
            .connect_with(&uri, &[("X-User", &user), ("User-Agent", &user)])
            .await
            .unwrap();
        if round % 10 == 0 {
            ask(&mut client, &uri).await;
            write(&fifo_of(&server, &client), "not a URI\n");
        }
        let origin = format!("https://origin-{round}.example");
        let refused = server
            .connect_with("/", &[("X-User", &user), ("Origin", &origin)])
            .await;
        assert!(refused.is_err());
        bye(client).await;
    }
    server.until("sockets.refused_by.origin", u64::from(ROUNDS));
    let after = scrape(&server);
    assert_eq!(series(&before), series(&after));
    assert!(!after.contains("user-") && !after.contains("uri-") && !after.contains("example"));
    bye(client).await;
    server.finish();
}

#[test]
fn promtool_finds_nothing_wrong_with_the_figures() {
    let Ok(version) = Command::new("promtool").arg("--version").output() else {
        eprintln!("skipped: no promtool");
        return;
    };
    assert!(version.status.success());
    let server = Setup::new().arg("--echo").start();
    let mut check = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let text = scrape(&server);
    check
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = check.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    server.finish();
}

/// Whoever adds a figure says there what it means.
#[test]
fn the_documentation_lists_each_figure() {
    let server = Setup::new().app("cat").validate("echo user").start();
    let text = scrape(&server);
    let help = text.lines().filter_map(|line| {
        let (name, help) = line.strip_prefix("# HELP ")?.split_once(' ')?;
        Some((name.to_owned(), help.trim_end_matches('.').to_owned()))
    });
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/monitoring.md");
    let docs = fs::read_to_string(docs).unwrap();
    let rows = docs.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let name = cells.next()?.split('`').next()?;
        let meaning = cells.nth(1)?.trim_end_matches(" |");
        Some((name.to_owned(), meaning.to_owned()))
    });
    let listed: BTreeSet<(String, String)> =
        rows.filter(|(name, _)| !name.starts_with('/')).collect();
    assert_eq!(listed, help.collect());
    server.finish();
}

/// The names of figures that a text mentions, without the endings that histograms have.
fn mentioned(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names = words.filter(|word| word.starts_with("ws_") || word.starts_with("process_"));
    names.map(str::to_owned).collect()
}

#[test]
fn dashboard_and_alerts_name_figures_that_exist() {
    let server = Setup::new().app("cat").start();
    let text = scrape(&server);
    let known: BTreeSet<&str> = series(&text)
        .into_iter()
        .map(|series| series.split('{').next().unwrap())
        .collect();
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging");
    for file in ["grafana/ws.json", "prometheus/ws.rules.yml"] {
        let names = mentioned(&fs::read_to_string(packaging.join(file)).unwrap());
        assert!(names.len() > 10, "{file}: {names:?}");
        for name in names {
            assert!(known.contains(&*name), "{file}: there is no {name}");
        }
    }
    let dashboard = fs::read_to_string(packaging.join("grafana/ws.json")).unwrap();
    serde_json::from_str::<serde_json::Value>(&dashboard).unwrap();
    server.finish();
}

#[test]
fn alerts_fire_when_they_should() {
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/prometheus");
    for (verb, file) in [("check", "ws.rules.yml"), ("test", "ws.rules.test.yml")] {
        let promtool = Command::new("promtool")
            .args([verb, "rules", file])
            .current_dir(&rules)
            .output();
        let Ok(output) = promtool else {
            eprintln!("skipped: no promtool");
            return;
        };
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
    }
}

#[test]
fn a_server_whose_backend_does_not_answer_is_not_ready() {
    let setup = Setup::new()
        .set("app.backend", "scgi")
        .set("app.address", "unix:app.sock")
        .set("metrics.listen", "127.0.0.1:0");
    let server = setup.start();
    let (status, text) = server.control("GET", "/ready", "");
    assert_eq!(status, 503);
    assert!(text.contains("app:") && text.contains("app.sock"), "{text}");
    // Anybody may ask here, and hears no names and addresses.
    let (status, _, text) = get(&server, "GET /ready");
    assert_eq!(status, 503);
    assert_eq!(text, "{\"error\":\"not ready\"}");
    assert_eq!(server.control("GET", "/live", "").0, 200);
    // It comes and goes, and so does readiness.
    let path = server.dir().join("app.sock");
    let backend = UnixListener::bind(&path).unwrap();
    let is_ready = || server.control("GET", "/ready", "").0 == 200;
    eventually("it is ready", is_ready);
    // However many ask, and however often, it is not asked for each.
    backend.set_nonblocking(true).unwrap();
    let begun = Instant::now();
    for _ in 0..50 {
        assert!(is_ready());
    }
    let dials = std::iter::from_fn(|| backend.accept().ok()).count() as u64;
    let most = 2 + begun.elapsed().as_secs();
    assert!((1..=most).contains(&dials), "{dials} of {most}");
    drop(backend);
    eventually("it is not ready", || !is_ready());
    server.finish();
}

#[test]
fn a_server_whose_workers_do_not_run_is_not_ready() {
    let setup = Setup::new();
    let worker = setup.script(
        "worker",
        "#!/bin/sh\n[ -e broken ] && exit 1\nexec sleep 1000\n",
    );
    let server = setup
        .arg("--worker")
        .set("app.processes", "1")
        .command(&[worker.to_str().unwrap()])
        .start();
    assert_eq!(server.control("GET", "/ready", "").0, 200);
    fs::write(server.dir().join("broken"), "").unwrap();
    for (pid, line) in server.processes() {
        if line.contains("sleep 1000") {
            nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid),
                nix::sys::signal::Signal::SIGKILL,
            )
            .unwrap();
        }
    }
    eventually("it is not ready", || {
        let (status, text) = server.control("GET", "/ready", "");
        status == 503 && text.contains("none of its processes runs")
    });
    server.finish();
}

#[tokio::test]
async fn the_last_line_of_a_connection_tells_what_it_was() {
    let server = Setup::new().arg("--echo").start();
    let mut client = server.connect().await;
    assert_eq!(ask(&mut client, "hello").await, "hello");
    let frame = CloseFrame {
        code: CloseCode::Library(4000),
        reason: "done\n\u{1b}[31m\u{202e}".into(),
    };
    client.close(Some(frame)).await.unwrap();
    while client.next().await.is_some_and(|message| message.is_ok()) {}
    drop(client);
    server.until("connections.closed", 1);
    let log = server.finish();
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("connection closed"))
        .collect();
    let [line] = lines[..] else {
        panic!("{lines:?}");
    };
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["cause"], "peer");
    assert_eq!(line["close.code"], 4000);
    assert_eq!(line["close.reason"], "done\n\u{1b}[31m\u{202e}");
    assert_eq!(
        (&line["received"], &line["received_bytes"]),
        (&1.into(), &5.into())
    );
    // With its header of two bytes; and the close frame, which has the code alone.
    let close = 2 + 2;
    assert_eq!(
        (&line["sent"], &line["sent_bytes"]),
        (&1.into(), &(5 + 2 + close).into())
    );
}
