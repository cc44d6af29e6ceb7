//! Real clients against the server as it is shipped, without TLS and with it: Python's websockets,
//! Node's ws, and curl.
//!
//! The scripts lie in `ws-cli/tests/clients`. They print a line for each check, `ok ...` or
//! `FAILED ...`, and end with 1 if any failed.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::server::{Binary, Server};
use crate::{Skipped, browser, process, workspace};

const SCRIPTS: &str = "ws-cli/tests/clients";

/// The application: a shell script that gives back what it gets.
const APPLICATION: &[&str] = &["--", "/bin/sh", "-c", "exec cat"];

/// Makes the server agree to all that a client offers of compression.
const COMPRESSION: &[(&str, &str)] = &[
    ("WS__COMPRESSION__ENABLED", "true"),
    ("WS__COMPRESSION__MIN_SIZE", "1"),
    ("WS__COMPRESSION__SERVER_CONTEXT_TAKEOVER", "true"),
    ("WS__COMPRESSION__CLIENT_CONTEXT_TAKEOVER", "true"),
];

const LIMIT: Duration = Duration::from_secs(120);

/// curl stays on after a 101 until its time is up, which is then its exit code.
const CURL_SECONDS: &str = "2";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    binary: Binary,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let ws = arguments.binary.get()?;
    let mut skipped = Vec::new();
    let mut failed = Vec::new();
    let clients: [(&str, Client, Start, Variables); 8] = [
        ("curl", curl, Server::start, &[]),
        ("python websockets", python_websockets, Server::start, &[]),
        ("node ws", node_ws, Server::start, &[]),
        (
            "python websockets, compressed",
            python_websockets,
            Server::start,
            COMPRESSION,
        ),
        ("node ws, compressed", node_ws, Server::start, COMPRESSION),
        ("curl, TLS", curl, Server::start_secure, &[]),
        (
            "python websockets, TLS",
            python_websockets,
            Server::start_secure,
            &[],
        ),
        ("node ws, TLS", node_ws, Server::start_secure, &[]),
    ];
    for (name, client, start, variables) in clients {
        println!("{name}:");
        let server = start(&ws, APPLICATION, variables)?;
        let outcome = client(&ws, &server, variables);
        let log = server.log();
        match outcome.and_then(|()| server.stop()) {
            Ok(()) => {}
            Err(error) if error.is::<Skipped>() => {
                println!("  skipped: {error}");
                skipped.push(name);
            }
            Err(error) => {
                println!("  FAILED {error:#}\n  the server's log:\n{log}");
                failed.push(name);
            }
        }
    }
    if !failed.is_empty() {
        bail!("failing clients: {}", failed.join(", "));
    }
    if !skipped.is_empty() {
        return Err(Skipped(format!("not installed: {}", skipped.join(", "))).into());
    }
    println!("{} runs of clients got what they should", clients.len());
    Ok(())
}

/// The server's configuration, which a script sees too.
type Variables = &'static [(&'static str, &'static str)];

/// How the server is started: with TLS or without.
type Start = fn(&Path, &[&str], &[(&str, &str)]) -> Result<Server>;

type Client = fn(ws: &Path, server: &Server, variables: Variables) -> Result<()>;

fn python_websockets(ws: &Path, server: &Server, variables: Variables) -> Result<()> {
    let mut command = Command::new(python_with_websockets()?);
    command.arg("-B").arg(script("websockets_client.py"));
    run_script(command, ws, server, variables)
}

/// Finds a Python that has the package websockets.
pub(crate) fn python_with_websockets() -> Result<PathBuf> {
    let missing = || Skipped("python has no package websockets".into());
    let python = workspace::python().ok_or_else(missing)?;
    let imports = Command::new(&python)
        .args(["-c", "import websockets.asyncio.client"])
        .output();
    if !imports?.status.success() {
        return Err(missing().into());
    }
    Ok(python)
}

fn node_ws(ws: &Path, server: &Server, variables: Variables) -> Result<()> {
    let node = browser::node_with("ws")?;
    let mut command = browser::node_command(&node);
    command.arg(script("ws_client.mjs"));
    run_script(command, ws, server, variables)
}

fn script(name: &str) -> PathBuf {
    workspace::root().join(SCRIPTS).join(name)
}

fn run_script(
    mut command: Command,
    ws: &Path,
    server: &Server,
    variables: Variables,
) -> Result<()> {
    command
        .envs(variables.iter().copied())
        .env("WS_URL", server.url())
        .env("WS_BIN", ws)
        .env("WS_CONTROL_SOCKET", server.state().join("control.sock"))
        .env(
            "WS_GLOBAL_FIFO",
            server.state().join("fifo/global_pipe.fifo"),
        );
    if let Some(certificate) = server.certificate() {
        // OpenSSL's, and so Python's, instead of the system's issuers; Node's in addition to its own.
        command
            .env("SSL_CERT_FILE", certificate)
            .env("NODE_EXTRA_CA_CERTS", certificate);
    }
    let status = process::run(&mut command, LIMIT)?;
    if !status.success() {
        bail!("{status}");
    }
    Ok(())
}

/// What a good opening handshake sends; the checks change a part of it.
const HANDSHAKE: &[&str] = &[
    "-HConnection: Upgrade",
    "-HUpgrade: websocket",
    "-HSec-WebSocket-Version: 13",
    "-HSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];

/// One request by curl and what must be in the head of its answer.
struct Request {
    name: &'static str,
    /// Replaces the header of the same name of [`HANDSHAKE`], or is added. `-HName:` removes it.
    arguments: &'static [&'static str],
    path: &'static str,
    status: u16,
    /// Lower-case headers, each with a value or one element of a list; with `!` in front, a
    /// beginning that no line may have.
    headers: &'static [&'static str],
}

const REQUESTS: &[Request] = &[
    Request {
        name: "a good handshake is accepted, its offer of compression declined",
        arguments: &["-HSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"],
        path: "/",
        status: 101,
        headers: &[
            "upgrade: websocket",
            "connection: upgrade",
            "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=",
            "!sec-websocket-extensions",
            "!sec-websocket-protocol",
        ],
    },
    Request {
        name: "an unknown subprotocol is not chosen",
        arguments: &["-HSec-WebSocket-Protocol: nonsense"],
        path: "/some/path?and=query",
        status: 101,
        headers: &["!sec-websocket-protocol"],
    },
    Request {
        name: "a plain GET must upgrade",
        arguments: &[
            "-HConnection:",
            "-HUpgrade:",
            "-HSec-WebSocket-Version:",
            "-HSec-WebSocket-Key:",
        ],
        path: "/",
        status: 426,
        headers: &["upgrade: websocket", "connection: close"],
    },
    Request {
        name: "a wrong version is told the right one",
        arguments: &["-HSec-WebSocket-Version: 777"],
        path: "/",
        status: 426,
        headers: &["sec-websocket-version: 13", "connection: close"],
    },
    Request {
        name: "a missing key is a bad request",
        arguments: &["-HSec-WebSocket-Key:"],
        path: "/",
        status: 400,
        headers: &["connection: close"],
    },
    Request {
        name: "a short key is a bad request",
        arguments: &["-HSec-WebSocket-Key: c2hvcnQ="],
        path: "/",
        status: 400,
        headers: &["connection: close"],
    },
    Request {
        name: "a foreign origin is forbidden",
        arguments: &["-HOrigin: https://evil.example"],
        path: "/",
        status: 403,
        headers: &["connection: close"],
    },
    Request {
        name: "another method is not allowed",
        arguments: &["-XPUT"],
        path: "/",
        status: 405,
        headers: &["allow: get", "connection: close"],
    },
    Request {
        name: "a body is a bad request",
        arguments: &["-XGET", "--data-binary", "body"],
        path: "/",
        status: 400,
        headers: &["connection: close"],
    },
    Request {
        name: "HTTP/1.0 is not supported",
        // By ALPN curl would ask for http/1.0 and nothing else, and not get as far as a status.
        arguments: &["--http1.0", "--no-alpn"],
        path: "/",
        status: 505,
        headers: &["connection: close"],
    },
];

fn curl(_ws: &Path, server: &Server, _variables: Variables) -> Result<()> {
    let curl = workspace::find("curl").ok_or_else(|| Skipped("curl is not installed".into()))?;
    let mut failed = 0;
    for request in REQUESTS {
        let output = Command::new(&curl)
            .args([
                "-q",
                "-sS",
                "-i",
                "-N",
                "--noproxy",
                "*",
                "--max-time",
                CURL_SECONDS,
            ])
            .args(
                HANDSHAKE
                    .iter()
                    .filter(|header| !is_replaced(header, request.arguments)),
            )
            .args(request.arguments)
            .args(trusting(server))
            .arg(address(server, request.path))
            .output()
            .context("cannot start curl")?;
        match faults(request, &String::from_utf8_lossy(&output.stdout)) {
            faults if faults.is_empty() => println!("  ok {}", request.name),
            faults => {
                println!("  FAILED {}: {}", request.name, faults.join("; "));
                failed += 1;
            }
        }
    }
    if failed > 0 {
        bail!("{failed} of {} requests", REQUESTS.len());
    }
    match server.certificate() {
        Some(_) => curl_over_tls(&curl, server),
        None => Ok(()),
    }
}

fn address(server: &Server, path: &str) -> String {
    let scheme = match server.certificate() {
        Some(_) => "https",
        None => "http",
    };
    format!("{scheme}://{}{path}", server.address())
}

/// The arguments with which curl trusts the server's certificate.
fn trusting(server: &Server) -> Vec<&OsStr> {
    let certificate = server.certificate().map(Path::as_os_str);
    certificate
        .into_iter()
        .flat_map(|path| [OsStr::new("--cacert"), path])
        .collect()
}

/// What is TLS's own: the certificate is verified unless curl is told otherwise, and of the protocols
/// that curl offers (h2 among them) HTTP/1.1 is agreed upon.
fn curl_over_tls(curl: &Path, server: &Server) -> Result<()> {
    const UNKNOWN_ISSUER: i32 = 60;
    let ask = |arguments: &[&OsStr]| {
        Command::new(curl)
            .args(["-q", "-sS", "-v", "--http2", "--noproxy", "*"])
            .args(["--max-time", CURL_SECONDS, "-o", "/dev/null"])
            .args(arguments)
            .arg(address(server, "/"))
            .output()
            .context("cannot start curl")
    };
    let is_agreed = |text: &[u8]| {
        String::from_utf8_lossy(text).lines().any(|line| {
            line.contains("ALPN") && line.contains("accepted") && line.contains("http/1.1")
        })
    };
    for arguments in [trusting(server), vec![OsStr::new("--insecure")]] {
        let output = ask(&arguments)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "curl: {}", said);
        ensure!(
            is_agreed(&output.stderr),
            "http/1.1 is not agreed upon: {said}"
        );
    }
    println!("  ok http/1.1 is agreed upon by ALPN");
    let output = ask(&[])?;
    ensure!(
        output.status.code() == Some(UNKNOWN_ISSUER),
        "a certificate of nobody's is taken: {}",
        output.status
    );
    println!("  ok a certificate of nobody's is not trusted");
    Ok(())
}

/// Whether one of `arguments` has the same header's name.
fn is_replaced(header: &str, arguments: &[&str]) -> bool {
    let name = |line: &str| line.split(':').next().map(str::to_owned);
    arguments
        .iter()
        .any(|argument| name(argument) == name(header))
}

/// What is wrong with an answer.
fn faults(request: &Request, answer: &str) -> Vec<String> {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let mut lines = head.lines();
    let status_line = lines.next().unwrap_or_default();
    let mut faults = Vec::new();
    if status_line.split(' ').nth(1) != Some(&request.status.to_string()) {
        faults.push(format!("{status_line:?} instead of {}", request.status));
    }
    let headers: Vec<String> = lines.map(str::to_ascii_lowercase).collect();
    for expected in request.headers {
        match expected.strip_prefix('!') {
            Some(start) => {
                faults.extend(headers.iter().filter(|it| it.starts_with(start)).cloned());
            }
            None if headers.iter().any(|it| has(it, expected)) => {}
            None => faults.push(format!("no header {expected:?}")),
        }
    }
    if request.status != 101 && body.len() > 512 {
        faults.push(format!("a body of {} bytes", body.len()));
    }
    faults
}

/// Whether a header line has the name and, alone or in a list, the value of `expected`.
fn has(line: &str, expected: &str) -> bool {
    let (Some((name, list)), Some((expected_name, value))) =
        (line.split_once(':'), expected.split_once(": "))
    else {
        return false;
    };
    name == expected_name && list.split(',').any(|element| element.trim() == value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_of_a_check_replaces_that_of_the_handshake() {
        assert!(is_replaced("-HUpgrade: websocket", &["-HUpgrade:"]));
        assert!(!is_replaced(
            "-HUpgrade: websocket",
            &["-HOrigin: x", "-XPUT"]
        ));
    }

    #[test]
    fn value_is_found_in_a_list() {
        assert!(has("connection: close, upgrade", "connection: close"));
        assert!(has("connection:close", "connection: close"));
        assert!(!has("connection: closed", "connection: close"));
        assert!(!has("upgrade: close", "connection: close"));
    }

    #[test]
    fn wrong_answers_are_faults() {
        let request = Request {
            name: "",
            arguments: &[],
            path: "/",
            status: 426,
            headers: &["upgrade: websocket", "!server"],
        };
        let good = "HTTP/1.1 426 Upgrade Required\r\nUpgrade: WebSocket\r\n\r\nno";
        assert_eq!(faults(&request, good), Vec::<String>::new());
        assert_eq!(faults(&request, "").len(), 2);
        let bad = "HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n";
        assert_eq!(faults(&request, bad).len(), 3);
    }
}
