//! The client verbs: what they print, what they exit with, and how they find the server.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::Message;

use crate::carbonphp_app::make_site;
use crate::support::*;
use crate::wire::Wire;

/// A verb, run in a directory with this on its stdin.
fn ws_in(dir: &Path, args: &[&OsStr], stdin: &[u8], env: &[(&str, &str)]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ws"))
        .args(args)
        .current_dir(dir)
        .env_remove("WS_CONTROL_SOCKET")
        .envs(env.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command line that is refused is not read from.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    child.wait_with_output().unwrap()
}

fn ws(dir: &Path, args: &[&str]) -> Output {
    let args: Vec<_> = args.iter().map(OsStr::new).collect();
    ws_in(dir, &args, b"", &[])
}

/// Exit code, stdout and stderr.
fn told(output: &Output) -> (i32, String, String) {
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stdout.clone()).unwrap(),
        String::from_utf8(output.stderr.clone()).unwrap(),
    )
}

/// It went well, and this is what it printed.
#[track_caller]
fn printed(output: &Output) -> String {
    let (code, stdout, stderr) = told(output);
    assert_eq!((code, &*stderr), (0, ""), "{stdout}");
    stdout
}

/// It failed with this code, printed nothing, and said why in one line.
#[track_caller]
fn refused(output: &Output, expected: i32) -> String {
    let (code, stdout, stderr) = told(output);
    assert_eq!((code, &*stdout), (expected, ""), "{stderr}");
    assert!(stderr.starts_with("ws: "), "{stderr}");
    stderr
}

const USER_BY_PATH: &str = r#"printf %s "${PATH_INFO#/}""#;

#[tokio::test]
async fn send_pushes_text_and_prints_how_many_it_reached() {
    let setup = Setup::new().arg("--echo").validate(USER_BY_PATH);
    let server = setup.start();
    let mut alice = server.connect_with("/alice", &[]).await.unwrap();
    let mut bob = server.connect_with("/bob", &[]).await.unwrap();
    let of = |name: &str, key: &str| {
        let connections = server.connections();
        let entry = connections.iter().find(|entry| entry["user"] == name);
        entry.unwrap()[key].as_str().unwrap().to_owned()
    };
    assert_eq!(printed(&server.ws(&["send", "--all", "to all"])), "2\n");
    assert_eq!(hear(&mut bob).await, "to all");
    assert_eq!(hear(&mut alice).await, "to all");
    for (flag, id) in [
        ("--user", "alice".to_owned()),
        ("--session", of("alice", "session")),
        ("--connection", of("alice", "id")),
    ] {
        let output = server.ws(&["send", flag, &id, flag.trim_start_matches('-')]);
        assert_eq!(printed(&output), "1\n", "{flag}");
        assert_eq!(hear(&mut alice).await, flag.trim_start_matches('-'));
    }
    // From stdin it is the whole of it, with its newline; `--` lets a text begin with dashes.
    let stdin = |args: &[&str], stdin: &[u8]| {
        let args: Vec<_> = args.iter().map(OsStr::new).collect();
        ws_in(server.dir(), &args, stdin, &[])
    };
    let all_args: [&[&str]; 2] = [&["send", "--all", "-"], &["send", "--all"]];
    for args in all_args {
        let output = stdin(args, "zwei\nZeilen: ünï\n".as_bytes());
        assert_eq!(printed(&output), "2\n");
        assert_eq!(hear(&mut alice).await, "zwei\nZeilen: ünï\n");
        assert_eq!(hear(&mut bob).await, "zwei\nZeilen: ünï\n");
    }
    printed(&server.ws(&["send", "--user", "bob", "--", "--all"]));
    assert_eq!(hear(&mut bob).await, "--all");
    printed(&server.ws(&["send", "--user", "bob", ""]));
    assert_eq!(hear(&mut bob).await, "");
    let output = stdin(&["send", "--user", "bob", "--binary", "-"], &[0, 255, 10]);
    assert_eq!(printed(&output), "1\n");
    assert_eq!(next(&mut bob).await, Message::binary(vec![0, 255, 10]));
    let output = printed(&server.ws(&["send", "--user", "bob", "--json", "x"]));
    assert_eq!(hear(&mut bob).await, "x");
    let receipt: Value = serde_json::from_str(&output).unwrap();
    let expected = json!({ "connections": 1, "written": 1, "queued": 0, "dropped": 0 });
    assert_eq!(receipt, expected);
    for client in [&mut alice, &mut bob] {
        assert_eq!(ask(client, "nothing else").await, "nothing else");
    }
    bye(alice).await;
    bye(bob).await;
    server.finish();
}

#[tokio::test]
async fn who_reaches_nobody_exits_with_75() {
    let server = Setup::new().app("true").start();
    for args in [
        ["send", "--all", "x"].as_slice(),
        &["send", "--user", "nobody", "x"],
        &["run", "--user", "nobody", "/x"],
    ] {
        let (code, stdout, stderr) = told(&server.ws(args));
        assert_eq!((code, &*stdout), (75, "0\n"), "{args:?}: {stderr}");
        assert_eq!(stderr, "ws: nobody was reached\n");
    }
    let (code, stdout, _) = told(&server.ws(&["send", "--all", "--json", "x"]));
    let receipt: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &receipt["connections"]), (75, &json!(0)));
    server.finish();
}

#[tokio::test]
async fn send_refuses_what_the_server_would_not_take() {
    let setup = Setup::new().arg("--echo");
    let server = setup.set("limits.max_message_size", "1000").start();
    let args = ["send", "--all", "-"].map(OsStr::new);
    let error = refused(&ws_in(server.dir(), &args, b"\xff", &[]), 2);
    assert!(error.contains("--binary"), "{error}");
    let text = OsStr::from_bytes(b"\xff");
    let args = [OsStr::new("send"), OsStr::new("--all"), text];
    refused(&ws_in(server.dir(), &args, b"", &[]), 2);
    let args = ["send", "--all"].map(OsStr::new);
    for size in [1001, 10_000_000] {
        let error = refused(&ws_in(server.dir(), &args, &vec![b'x'; size], &[]), 1);
        assert!(error.contains("limits.max_message_size"), "{error}");
    }
    let error = refused(&server.ws(&["send", "--user", "a b", "x"]), 1);
    assert!(error.contains("to.user"), "{error}");
    server.finish();
}

#[tokio::test]
async fn run_runs_as_the_user_and_answers_the_browser() {
    let setup = Setup::new().app(r#"echo "$WS_USER_ID $WS_SOURCE $REQUEST_URI""#);
    let server = setup.validate(USER_BY_PATH).start();
    let mut first = server.connect_with("/alice", &[]).await.unwrap();
    let mut second = server.connect_with("/alice", &[]).await.unwrap();
    let output = server.ws(&["run", "--user", "alice", "/a?b=c"]);
    assert_eq!(printed(&output), "2\n");
    for client in [&mut first, &mut second] {
        assert_eq!(hear(client).await, "alice cli /a?b=c");
    }
    let id = server.connections()[0]["id"].as_str().unwrap().to_owned();
    let output = printed(&server.ws(&["run", "--connection", &id, "/b", "--json"]));
    let receipt: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(receipt["queued"], 1);
    let error = refused(&server.ws(&["run", "--user", "alice", "no path"]), 1);
    assert!(error.contains("uri"), "{error}");
    server.until("callbacks.finished", 3);
    for client in [first, second] {
        bye(client).await;
    }
    server.finish();
}

#[tokio::test]
async fn ls_and_status_show_what_is() {
    let setup = Setup::new().app("true").validate(USER_BY_PATH);
    let server = setup.start();
    assert_eq!(printed(&server.ws(&["ls"])), "", "nothing to say");
    let empty = printed(&server.ws(&["ls", "--json"]));
    let empty: Value = serde_json::from_str(&empty).unwrap();
    assert_eq!(empty, json!({ "connections": [] }));
    let client = server.connect_with("/alice", &[]).await.unwrap();
    let shown = printed(&server.ws(&["ls"]));
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines.len(), 2, "{shown}");
    assert!(lines[0].starts_with("CONNECTION"), "{shown}");
    let entry = server.connections().remove(0);
    for key in ["id", "user", "session", "uri", "fifo"] {
        let value = entry[key].as_str().unwrap();
        let cells: Vec<&str> = lines[1].split_whitespace().collect();
        assert!(cells.contains(&value), "{key}: {shown}");
    }
    let listed = printed(&server.ws(&["ls", "--json"]));
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["connections"][0], entry);
    let shown = printed(&server.ws(&["status"]));
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[0].starts_with("ws "), "{shown}");
    assert_eq!(lines[1], "all is well", "{shown}");
    let open: Vec<&str> = lines[3].split_whitespace().collect();
    assert_eq!(open[..4], ["connections", "open", "1", "of"], "{shown}");
    // Descriptors may allow fewer than limits.max_connections.
    assert!((1..=10_000).contains(&open[4].parse().unwrap()), "{shown}");
    let shown = printed(&server.ws(&["status", "--all"]));
    let open = shown
        .lines()
        .find(|line| line.starts_with("connections.open "));
    assert!(open.unwrap().ends_with(" 1"), "{shown}");
    let status = printed(&server.ws(&["status", "--json"]));
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(figure(&status, "connections.open"), 1);
    bye(client).await;
    server.finish();
}

#[test]
fn the_server_is_found_by_flag_variable_configuration_and_place() {
    let server = Setup::new().arg("--echo").start();
    assert_eq!(server.url, format!("ws://{}/", server.addr));
    let socket = server.state("control.sock");
    let socket = socket.to_str().unwrap();
    let elsewhere = TempDir::new().unwrap();
    let dir = elsewhere.path();
    let ls = |args: &[&str], env: &[(&str, &str)]| {
        let args: Vec<_> = ["ls"].iter().chain(args).map(OsStr::new).collect();
        ws_in(dir, &args, b"", env)
    };
    let error = refused(&ls(&[], &[]), 69);
    let tried = [
        dir.canonicalize().unwrap().join("tmp/control.sock"),
        "/run/ws/control.sock".into(),
    ];
    for path in tried {
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }
    assert_eq!(printed(&ls(&["--control", socket], &[])), "");
    assert_eq!(printed(&ls(&[], &[("WS_CONTROL_SOCKET", socket)])), "");
    // The flag stands above the variable, and neither looks elsewhere.
    let error = refused(
        &ls(&["--control", "nowhere"], &[("WS_CONTROL_SOCKET", socket)]),
        69,
    );
    assert!(
        error.contains("nowhere") && !error.contains(socket),
        "{error}"
    );
    refused(&ls(&[], &[("WS_CONTROL_SOCKET", "nowhere")]), 69);
    // The configuration: of a file named, of the file here, of a variable.
    let state = server.state("");
    let state = state.to_str().unwrap().trim_end_matches('/');
    let file = format!("[server]\nstate_dir = {state:?}\n");
    fs::write(dir.join("other.toml"), &file).unwrap();
    assert_eq!(printed(&ls(&["--config", "other.toml"], &[])), "");
    assert_eq!(printed(&ls(&[], &[("WS__SERVER__STATE_DIR", state)])), "");
    fs::write(dir.join("ws.toml"), &file).unwrap();
    assert_eq!(printed(&ls(&[], &[])), "");
    // ./tmp is looked at last, wherever the configuration points.
    fs::write(dir.join("ws.toml"), "[server]\nstate_dir = 'void'\n").unwrap();
    let error = refused(&ls(&[], &[]), 69);
    assert!(error.contains("void/control.sock"), "{error}");
    symlink(state, dir.join("tmp")).unwrap();
    assert_eq!(printed(&ls(&[], &[])), "");
    server.finish();
    // A socket that nobody listens on is like none.
    let dead = dir.join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    refused(&ls(&["--control", "dead.sock"], &[]), 69);
}

#[tokio::test]
async fn a_state_directory_may_have_a_path_longer_than_a_socket_address() {
    let deep = format!("{0}/{0}/{0}", "d".repeat(60));
    let setup = Setup::new().arg("--state-dir").arg(&deep);
    // The checks look at ./tmp.
    symlink(&deep, setup.dir().join("tmp")).unwrap();
    let server = setup.app("echo \"$WS_CONTROL_SOCKET\"").start();
    let mut client = server.connect().await;
    let socket = server.dir().canonicalize().unwrap().join(&deep);
    let socket = socket.join("control.sock");
    let socket = socket.to_str().unwrap();
    assert!(socket.len() > 107);
    assert_eq!(
        Path::new(&ask(&mut client, "/").await)
            .canonicalize()
            .unwrap(),
        Path::new(socket)
    );
    let elsewhere = TempDir::new().unwrap();
    let output = ws(
        elsewhere.path(),
        &["send", "--control", socket, "--all", "far"],
    );
    assert_eq!(printed(&output), "1\n");
    assert_eq!(hear(&mut client).await, "far");
    let config = elsewhere.path().join("ws.toml");
    let state = Path::new(socket).parent().unwrap();
    fs::write(config, format!("[server]\nstate_dir = {state:?}\n")).unwrap();
    assert_eq!(
        printed(&ws(elsewhere.path(), &["send", "--all", "so"])),
        "1\n"
    );
    assert_eq!(hear(&mut client).await, "so");
    bye(client).await;
    server.finish();

    // The demo has a socket of its own there.
    let setup = Setup::new().arg("--state-dir").arg(&deep);
    symlink(&deep, setup.dir().join("tmp")).unwrap();
    let server = setup.start();
    let mut client = server.connect().await;
    assert_eq!(ask(&mut client, "/echo/deep").await, "deep");
    bye(client).await;
    server.finish();
}

#[test]
fn wrong_command_lines_exit_with_2_and_name_the_help() {
    let dir = TempDir::new().unwrap();
    for args in [
        ["send", "x"].as_slice(),
        &["send", "--all", "--user", "u", "x"],
        &["send", "--all", "x", "y"],
        &["send", "--user"],
        &["send", "--all", "--bogus"],
        &["run", "--user", "u"],
        &["run", "--all", "/x"],
        &["ls", "x"],
        &["config"],
        &["config", "print", "--default", "--config", "f"],
        &["nonsense"],
        &["serve", "stray"],
        &["serve", "--echo", "--", "cat"],
    ] {
        let (code, stdout, stderr) = told(&ws(dir.path(), args));
        assert_eq!((code, &*stdout), (2, ""), "{args:?}: {stderr}");
        assert!(stderr.contains("--help"), "{args:?}: {stderr}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// Address and duration apart, each is run as it is printed, beside a server with a user.
#[test]
fn every_help_begins_with_an_example_that_works() {
    let people = Setup::new()
        .validate("echo alice")
        .command(&["cat"])
        .start();
    let echo = Setup::new().arg("--echo").start();
    let pages = people.dir().join("pages");
    let args = ["man", "--out", "pages"];
    assert_eq!(printed(&ws(people.dir(), &args)), "");
    let mut tried = 0;
    for page in fs::read_dir(&pages).unwrap() {
        let page = page.unwrap().file_name().into_string().unwrap();
        let verb: Vec<&str> = page
            .strip_suffix(".1")
            .unwrap()
            .split('-')
            .skip(1)
            .collect();
        for flag in ["--help", "-h"] {
            let args: Vec<&str> = verb.iter().copied().chain([flag]).collect();
            let help = printed(&ws(people.dir(), &args));
            let example = help.lines().next().unwrap().strip_prefix("Example: ");
            let example = example.unwrap_or_else(|| panic!("{args:?}: {help}"));
            let begin = [&["ws"], &verb[..]].concat().join(" ");
            assert!(example.starts_with(&begin), "{example}");
            if flag == "--help" {
                try_example(example, &people, &echo);
                tried += 1;
            }
        }
    }
    assert!(tried >= 20, "{tried}");
    let version = printed(&ws(people.dir(), &["--version"]));
    assert_eq!(version, format!("ws {}\n", env!("CARGO_PKG_VERSION")));
    people.finish();
    echo.finish();
}

fn try_example(example: &str, people: &Server, echo: &Server) {
    let url = match example.starts_with("ws doctor") {
        true => &people.url,
        false => &echo.url,
    };
    let line = example
        .replace("ws://127.0.0.1:8888/", url)
        .replace("10s", "200ms");
    let words = shell_words::split(&line).unwrap();
    let mut command = Command::new(WS);
    command.args(&words[1..]).env_remove("RUST_LOG");
    command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .stdout(Stdio::piped());
    let alice = Wire::open(people);
    if ["serve", "events"].contains(&words[1].as_str()) {
        // These go on until they are told to end.
        let elsewhere = TempDir::new().unwrap();
        let dir = if words[1] == "serve" {
            elsewhere.path()
        } else {
            people.dir()
        };
        let mut child = command
            .current_dir(dir)
            .env("WS__SERVER__LISTEN", "127.0.0.1:0")
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        // Whoever listens hears of somebody who goes, when he has begun to.
        if words[1] == "events" {
            people.until("events.listeners", 1);
            alice.bye();
        }
        let mut said = String::new();
        stdout.read_line(&mut said).unwrap();
        assert!(!said.is_empty(), "{example}");
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let status = child.wait().unwrap();
        assert!(
            words[1] != "serve" || status.success(),
            "{example}: {status}"
        );
        return;
    }
    let site = TempDir::new().unwrap();
    let dir = match words[1..] {
        [ref verb, ref check, ..] if verb == "carbonphp" && check == "check" => {
            if make_site(site.path()).is_none() {
                return;
            }
            site.path()
        }
        [ref verb, ..] if verb == "doctor" => {
            // It reads the server's configuration, and the other server's is another one.
            command.env("WS__SERVER__LISTEN", people.addr.to_string());
            people.dir()
        }
        _ => people.dir(),
    };
    let output = command.current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{example}: {output:?}");
}

#[test]
fn completions_are_there_for_every_shell() {
    let dir = TempDir::new().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = printed(&ws(dir.path(), &["completions", shell]));
        for word in ["sessions", "--listen", "completions"] {
            assert!(
                script.contains(word.trim_start_matches('-')),
                "{shell}: {word}"
            );
        }
        let json = printed(&ws(dir.path(), &["completions", shell, "--json"]));
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["script"], script);
    }
    let unknown = ws(dir.path(), &["completions", "nonsense"]);
    assert_eq!(unknown.status.code(), Some(2));
    // bash takes it, and completes with it.
    let script = printed(&ws(dir.path(), &["completions", "bash"]));
    fs::write(dir.path().join("ws.bash"), script).unwrap();
    let ask =
        "source ws.bash; COMP_WORDS=(ws conf); COMP_CWORD=1; _ws ws conf ws; echo ${COMPREPLY[@]}";
    let output = Command::new("bash")
        .args(["-c", ask])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "config\n");
}

#[test]
fn manual_pages_are_printed_or_written() {
    let dir = TempDir::new().unwrap();
    let page = printed(&ws(dir.path(), &["man", "sessions", "revoke"]));
    assert!(
        page.contains("ws sessions revoke \\-\\-user alice"),
        "{page}"
    );
    assert_eq!(printed(&ws(dir.path(), &["man", "--out", "a/b"])), "");
    let written = fs::read_to_string(dir.path().join("a/b/ws-sessions-revoke.1")).unwrap();
    assert_eq!(written, page);
    let json: Value = serde_json::from_str(&printed(&ws(dir.path(), &["man", "--json"]))).unwrap();
    assert_eq!(json["name"], "ws.1");
    refused(&ws(dir.path(), &["man", "nonsense"]), 2);
    fs::write(dir.path().join("file"), "").unwrap();
    let error = refused(&ws(dir.path(), &["man", "--out", "file/x"]), 1);
    assert!(error.contains("file/x"), "{error}");
}

#[test]
fn config_check_says_everything_that_is_wrong_and_nothing_else() {
    let dir = TempDir::new().unwrap();
    let check = |args: &[&str]| {
        let args: Vec<&str> = ["config", "check"].iter().chain(args).copied().collect();
        ws(dir.path(), &args)
    };
    assert_eq!(printed(&check(&[])), "");
    let file = dir.path().join("ws.toml");
    let right = "[server]\nlisten = ['127.0.0.1:0']\n[app]\ncommand = 'cat'\n";
    fs::write(&file, right).unwrap();
    assert_eq!(printed(&check(&[])), "");
    let valid = printed(&check(&["--json"]));
    let valid: Value = serde_json::from_str(&valid).unwrap();
    assert_eq!(valid, json!({ "valid": true, "faults": [] }));
    let wrong = "[server]\nlistn = ['127.0.0.1:0']\n[limits]\nmax_message_size = 'big'\n\
                 [fifo]\nmode = '0666'\n";
    fs::write(&file, wrong).unwrap();
    let error = refused(&check(&[]), 78);
    for part in [
        "ws.toml",
        "server.listn",
        "server.listen",
        "limits.max_message_size",
        "fifo.mode",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let (code, stdout, _) = told(&check(&["--json"]));
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(code, 78);
    assert_eq!(report["valid"], false);
    assert_eq!(report["faults"].as_array().unwrap().len(), 3, "{report}");
    let env = [("WS__LOG__LEVL", "x")];
    let args = ["config", "check"].map(OsStr::new);
    fs::write(&file, right).unwrap();
    let error = refused(&ws_in(dir.path(), &args, b"", &env), 78);
    assert!(
        error.contains("WS__LOG__LEVL") && error.contains("log.level"),
        "{error}"
    );
    for broken in ["[server", "\u{0}", "x = 1\nx = 2\n"] {
        fs::write(&file, broken).unwrap();
        let error = refused(&check(&[]), 78);
        assert!(error.contains("ws.toml"), "{error}");
    }
    refused(&check(&["--config", "missing.toml"]), 78);
    // And the server does not start with it, nor does a verb guess.
    for args in [["serve"].as_slice(), &["ls"]] {
        refused(&ws(dir.path(), args), 78);
    }
}

#[test]
fn config_check_looks_at_the_files_that_are_named() {
    let dir = TempDir::new().unwrap();
    let file = "[app]\ncommand = './none'\nwatch = ['gone']\nbackend = 'fork'\n\
                [validate]\ncommand = './plain'\n\
                [server]\nlisten = ['wss://127.0.0.1:0']\n\
                tls = { cert = 'cert.pem', key = 'key.pem' }\n\
                [control]\nlisten = '127.0.0.1:0'\ntoken_file = 'short'\n\
                [identity.token]\nsecret_file = 'open'\n\
                [identity.php]\nsave_path = 'plain'\n";
    fs::write(dir.path().join("ws.toml"), file).unwrap();
    fs::write(dir.path().join("plain"), "").unwrap();
    fs::write(dir.path().join("short"), "canary\n").unwrap();
    fs::write(dir.path().join("open"), "canary").unwrap();
    let error = refused(&ws(dir.path(), &["config", "check"]), 78);
    for told in [
        ":2:11: app.command: cannot run ",
        ":3:9: app.watch: cannot watch ",
        ":6:11: validate.command: cannot run ",
        ":9:16: server.tls.cert: cannot read the certificate ",
        ":12:14: control.token_file: cannot use ",
        ":14:15: identity.token.secret_file: cannot use ",
        ":16:13: identity.php.save_path: cannot use ",
    ] {
        assert!(error.contains(told), "{told}\n{error}");
    }
    assert!(!error.contains("canary"), "{error}");
    fs::write(dir.path().join("ws.toml"), "app.command = './plain'\n").unwrap();
    refused(&ws(dir.path(), &["config", "check"]), 78);
    fs::write(dir.path().join("ws.toml"), "app.command = 'plain'\n").unwrap();
    assert_eq!(printed(&ws(dir.path(), &["config", "check"])), "");
}

#[test]
fn config_print_can_be_read_again() {
    let dir = TempDir::new().unwrap();
    let print = |args: &[&str]| {
        let args: Vec<&str> = ["config", "print"].iter().chain(args).copied().collect();
        printed(&ws(dir.path(), &args))
    };
    let defaults = print(&["--default"]);
    assert!(defaults.contains("[fifo]") && defaults.contains("# "));
    fs::write(dir.path().join("defaults.toml"), &defaults).unwrap();
    let checked = ws(
        dir.path(),
        &["config", "check", "--config", "defaults.toml"],
    );
    assert_eq!(printed(&checked), "");
    fs::write(
        dir.path().join("ws.toml"),
        "[limits]\nmax_message_size = '7KiB'\n",
    )
    .unwrap();
    let own = print(&[]);
    let file = dir.path().join("ws.toml").display().to_string();
    for line in [
        format!("max_message_size = \"7KiB\"  # {file}:2"),
        "queue = 16  # default".to_owned(),
    ] {
        assert!(own.lines().any(|printed| printed == line), "{line}\n{own}");
    }
    fs::write(dir.path().join("again.toml"), &own).unwrap();
    let json = |args: &[&str]| -> Value {
        serde_json::from_str(&print(&[&["--json"], args].concat())).unwrap()
    };
    let settings = json(&[]);
    assert_eq!(
        json(&["--config", "again.toml"])["settings"],
        settings["settings"]
    );
    assert_eq!(settings["settings"]["limits"]["max_message_size"], "7KiB");
    let from = json!([{ "kind": "file", "name": file, "line": 2, "column": 20 }]);
    assert_eq!(settings["sources"]["limits.max_message_size"], from);
    assert_eq!(settings["settings"]["app"]["queue"], 16);
    assert_eq!(
        settings["sources"]["app.queue"],
        json!([{ "kind": "default" }])
    );
}

/// With the flags of `ws serve`: what a server that is started with them has.
#[test]
fn config_print_tells_each_source_and_no_secret() {
    let dir = TempDir::new().unwrap();
    let file = "[app.env]\nA = 'canary'\n[identity]\nstore = 'redis://:canary@host'\n";
    fs::write(dir.path().join("ws.toml"), file).unwrap();
    fs::write(dir.path().join("secret"), "mysql://u:canary@host/db\n").unwrap();
    let env = [
        ("WS__APP__QUEUE", "3"),
        ("WS__APP__ENV__B", "canary"),
        ("WS__IDENTITY__LOOKUP__SOURCE_FILE", "secret"),
        ("WS__IDENTITY__LOOKUP__COOKIE", "c"),
        ("WS__IDENTITY__LOOKUP__QUERY", "SELECT ?"),
    ];
    let print = |options: &[&str]| {
        let args = [
            &["config", "print"],
            options,
            &["--listen", "[::1]:0", "--", "tr", "a-z", "A-Z"],
        ];
        let args: Vec<_> = args.concat().into_iter().map(OsStr::new).collect();
        printed(&ws_in(dir.path(), &args, b"", &env))
    };
    let text = print(&[]);
    let place = dir.path().join("ws.toml").display().to_string();
    for line in [
        "listen = [\"[::1]:0\"]  # --listen".to_owned(),
        "command = [\"tr\", \"a-z\", \"A-Z\"]  # the command line".to_owned(),
        "queue = 3  # WS__APP__QUEUE".to_owned(),
        format!("env = {{ A = \"***\", B = \"***\" }}  # {place}:2, WS__APP__ENV__B"),
        format!("store = \"redis://:***@host\"  # {place}:4"),
        "source = \"mysql://u:***@host/db\"  # WS__IDENTITY__LOOKUP__SOURCE_FILE".to_owned(),
        "timeout = \"30s\"  # default".to_owned(),
    ] {
        assert!(
            text.lines().any(|printed| printed == line),
            "{line}\n{text}"
        );
    }
    for said in [text, print(&["--json"]), print(&["--dev"])] {
        assert!(!said.contains("canary"), "{said}");
    }
}

#[test]
fn connect_speaks_tls_and_believes_whom_it_is_told_to() {
    let setup = Setup::new().listen("wss://127.0.0.1:0");
    let made = ws(setup.dir(), &["cert"]);
    fs::write(setup.dir().join("ws.toml"), &made.stdout).unwrap();
    let server = setup.arg("--echo").start();
    let connect = |options: &[&str]| {
        let args = [&["connect"], options, &[&*server.url]].concat();
        let args: Vec<_> = args.iter().map(OsStr::new).collect();
        ws_in(server.dir(), &args, b"hello\n", &[])
    };
    assert_eq!(printed(&connect(&["--insecure"])), "hello\n");
    assert_eq!(printed(&connect(&["--ca", "cert.pem"])), "hello\n");
    fs::write(server.dir().join("none.pem"), "").unwrap();
    let error = refused(&connect(&["--ca", "none.pem"]), 1);
    assert!(error.contains("no certificate in it"), "{error}");
    // That of another authority.
    let other = TempDir::new().unwrap();
    assert!(ws(other.path(), &["cert"]).status.success());
    let other = other.path().join("cert.pem");
    let error = refused(&connect(&["--ca", other.to_str().unwrap()]), 1);
    assert!(error.contains("--insecure"), "{error}");
    let both = connect(&["--insecure", "--ca", "cert.pem"]);
    assert_eq!(both.status.code(), Some(2));
    server.until("connections.open", 0);
    server.finish();
}

#[test]
fn connect_serves_scripts() {
    let server = Setup::new().app("cat; [ $WS_MESSAGE_TYPE = text ]").start();
    let connect = |options: &[&str], stdin: &[u8]| {
        let args = [&["connect"], options, &[&*server.url]].concat();
        let args: Vec<_> = args.iter().map(OsStr::new).collect();
        ws_in(server.dir(), &args, stdin, &[])
    };
    // Nothing is said but what came, and a slash is no command.
    assert_eq!(
        printed(&connect(&[], b"one\n/ping\n\x1b\n")),
        "one\n/ping\n\x1b\n"
    );
    assert_eq!(printed(&connect(&["--once"], b"one\ntwo\n")), "one\n");
    assert_eq!(printed(&connect(&[], b"")), "");
    // Nothing is answered to an empty message here, and who waited for it is told.
    let (code, stdout, stderr) = told(&connect(&["--wait", "1"], b"\n"));
    assert_eq!((code, &*stdout), (0, ""));
    assert!(
        stderr.starts_with("* messages without an answer: 1, after 1 s;"),
        "{stderr}"
    );
    let none = connect(&["--once", "--wait", "0"], b"");
    assert!(refused(&none, 75).contains("no message came within 0 s"));
    let json = printed(&connect(&["--json"], b"{}\n"));
    let events: Vec<Value> = json
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(events[0], json!({ "type": "text", "text": "{}" }));
    assert_eq!(events[1]["type"], "close");
    let (code, stdout, stderr) = told(&connect(&["-v"], b"one\n"));
    assert_eq!((code, &*stdout), (0, "one\n"));
    for fact in [
        "* connected to 127.0.0.1:",
        "* HTTP/1.1 101 Switching",
        "* upgrade: websocket",
    ] {
        assert!(stderr.contains(fact), "{stderr}");
    }
    let pongs = connect(&["--ping-interval", "1ms", "--wait", "1"], b"one\n");
    assert_eq!(told(&pongs).1, "one\n");
    server.finish();
}

#[test]
fn connect_says_why_it_is_not_let_in() {
    let server = Setup::new().arg("--echo").start();
    let connect = |options: &[&str]| {
        let args = [&["connect"], options, &[&*server.url]].concat();
        let args: Vec<_> = args.iter().map(OsStr::new).collect();
        told(&ws_in(server.dir(), &args, b"", &[]))
    };
    let (code, stdout, stderr) = connect(&["--origin", "https://evil.example"]);
    assert_eq!((code, &*stdout), (77, ""), "{stderr}");
    assert!(stderr.contains("refused with 403 Forbidden: "), "{stderr}");
    assert!(stderr.contains("--origin"), "{stderr}");
    let (code, _, stderr) = connect(&["--subprotocol", "none-such"]);
    assert_eq!(code, 1);
    assert!(stderr.contains("none of the subprotocols"), "{stderr}");
    let (code, _, _) = connect(&["--cookie", "novalue"]);
    assert_eq!(code, 2);
    // Somebody listens, and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", silent.local_addr().unwrap());
    let args = ["connect", "--timeout", "50ms", &url].map(OsStr::new);
    let late = ws_in(server.dir(), &args, b"", &[]);
    assert!(refused(&late, 69).contains("not open after 50 ms"));
    server.finish();
}
