//! What takes more than a shell: other servers beside ours, and files that belong into other files.

use std::fs;
use std::process::Command;

use ws_server::testing::{DatabaseServer, TestDatabase};

use super::block::Block;
use super::likeness::shape;
use super::story::{Story, find, say_that_it_is_skipped};
use super::{page, repository};
use crate::callbacks::Outside;
use crate::doctor::{Kind, Proxy};
use crate::support::{Setup, WS};
use crate::terminal::Terminal;

/// Carries out a block; `false` if what that takes is not installed.
pub(super) fn carry_out(story: &mut Story, block: &Block, text: &str, place: &str) -> bool {
    match &*block.name {
        "php-fpm" => {
            let server = Outside::php_fpm_at(text.trim());
            keep(story, server)
        }
        "mariadb" => {
            let server = DatabaseServer::start(TestDatabase::MariaDb);
            if let Some(server) = &server {
                let _ = fs::remove_file(text.trim());
                std::os::unix::fs::symlink(server.socket(), text.trim()).unwrap();
            }
            keep(story, server)
        }
        "sql" => {
            let database = story
                .kept
                .iter()
                .find_map(|it| it.downcast_ref::<DatabaseServer>());
            let database = database.unwrap_or_else(|| panic!("{place}: where is the database?"));
            database.execute(text);
            true
        }
        "conversation" => {
            converse(story, text, place);
            true
        }
        "nginx" => lets_through(Kind::Nginx, &in_location(&block.text)),
        "apache" => lets_through(Kind::Apache, &in_virtual_host(&block.text)),
        "doctor" => {
            let case = block.word("case").unwrap_or_default();
            finds_out(case, &block.text, place)
        }
        "unit" => {
            verify(story, block.word("unit").unwrap_or_default(), text, place);
            true
        }
        step => panic!("{place}: what is {step}?"),
    }
}

/// Has it run to the end of the story.
fn keep<T: 'static>(story: &mut Story, server: Option<T>) -> bool {
    let is_there = server.is_some();
    story
        .kept
        .extend(server.map(|it| Box::new(it) as Box<dyn std::any::Any>));
    is_there
}

/// The shipped configuration with these lines in the place of its own.
fn in_location(lines: &str) -> String {
    within(
        "docs/proxies/nginx.conf",
        "location / {\n",
        "        }\n    }",
        lines,
    )
}

fn in_virtual_host(lines: &str) -> String {
    let file = "docs/proxies/apache.conf";
    within(file, "<VirtualHost *:8080>\n", "</VirtualHost>", lines)
}

fn within(file: &str, begin: &str, end: &str, lines: &str) -> String {
    let text = page(file);
    let (before, behind) = text.split_once(begin).unwrap();
    let (_, behind) = behind.split_once(end).unwrap();
    [before, begin, lines, end, behind].concat()
}

/// Speaks with a server through a proxy that is configured like that.
fn lets_through(kind: Kind, configuration: &str) -> bool {
    let server = Setup::new().arg("--echo").start();
    let addr = server.addr.to_string();
    let Some(proxy) = Proxy::start_as(kind, &addr, configuration) else {
        server.finish();
        return false;
    };
    let url = format!("ws://{}/", proxy.front);
    let origin = format!("http://{}", proxy.front);
    let question = format!("echo hello | {WS} connect --origin {origin} {url}");
    let output = Command::new("sh").args(["-c", &question]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.stdout, b"hello\n", "{kind:?}: {said}");
    drop(proxy);
    server.finish();
    true
}

/// A proxy with one thing wrong, what `ws doctor` is asked besides, and the word before what it
/// finds.
type Case = (
    &'static str,
    Kind,
    &'static [(&'static str, &'static str)],
    &'static [&'static str],
);

const CASES: &[Case] = &[
    (
        "nginx-without-the-headers",
        Kind::Nginx,
        &[
            ("proxy_set_header Upgrade $http_upgrade;", ""),
            ("proxy_set_header Connection $connection_upgrade;", ""),
        ],
        &[],
    ),
    (
        "nginx-with-its-own-name",
        Kind::Nginx,
        &[("proxy_set_header Host $http_host;", "")],
        &[],
    ),
    (
        "nginx-without-patience",
        Kind::Nginx,
        &[("proxy_read_timeout 60s;", "proxy_read_timeout 1s;")],
        &["--silence", "2s"],
    ),
    (
        "nginx-with-a-page",
        Kind::Nginx,
        &[("proxy_pass http://ws;", "return 200 '<html>hello</html>';")],
        &[],
    ),
    (
        "apache-without-upgrades",
        Kind::Apache,
        &[(" upgrade=websocket", "")],
        &[],
    ),
    (
        "haproxy-that-deletes",
        Kind::Haproxy,
        &[(
            "default_backend ws",
            "http-request del-header Upgrade\n    default_backend ws",
        )],
        &["--proxy", "haproxy"],
    ),
    (
        "haproxy-to-elsewhere",
        Kind::Haproxy,
        &[("server ws1 127.0.0.1:8888", "server ws1 127.0.0.1:1")],
        &["--proxy", "haproxy"],
    ),
    ("nobody-trusted", Kind::Nginx, &[], &[]),
];

/// Compares what `ws doctor` says of a proxy with what the page says.
fn finds_out(case: &str, expected: &str, place: &str) -> bool {
    let found = CASES.iter().find(|(name, ..)| *name == case);
    let (name, kind, wrong, args) = found.unwrap_or_else(|| panic!("{place}: what is {case}?"));
    let setup = Setup::new().arg("--echo");
    let trusted = if *name == "nobody-trusted" {
        ""
    } else {
        "'127.0.0.1'"
    };
    let text = format!("[server.proxy]\ntrusted = [{trusted}]\n");
    fs::write(setup.dir().join("ws.toml"), text).unwrap();
    let server = setup.start();
    let addr = server.addr.to_string();
    let Some(proxy) = Proxy::start(*kind, &addr, wrong) else {
        server.finish();
        return false;
    };
    let url = format!("ws://{}/", proxy.front);
    let words = [&["doctor", "--echo", "--listen", &addr, &url], *args].concat();
    let output = server.ws(&words);
    let said = String::from_utf8(output.stdout).unwrap();
    let said = shape(&without_platform(&said));
    let expected = shape(&without_platform(expected));
    assert!(
        said.contains(expected.trim()),
        "{place}: {said}\nlacks\n{expected}"
    );
    drop(proxy);
    server.finish();
    true
}

/// A text without the name that a distribution puts behind Apache's: `Apache/2.4.71 (Debian)`.
fn without_platform(text: &str) -> String {
    let mut parts = text.split("Apache/");
    let mut result = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        result.push_str("Apache/");
        let platform = part.split_once(" (").and_then(|(version, behind)| {
            let (_, behind) = behind.split_once(')')?;
            (!version.contains(char::is_whitespace)).then_some((version, behind))
        });
        let (version, behind) = platform.unwrap_or((part, ""));
        result.push_str(version);
        result.push_str(behind);
    }
    result
}

#[test]
fn apache_is_the_same_one_on_every_platform() {
    let text = without_platform("Apache/2.4.71 (Debian) has; Apache/2 has (not) Apache/2.4 (Unix)");
    assert_eq!(text, "Apache/2.4.71 has; Apache/2 has (not) Apache/2.4");
}

/// A program on a terminal: what follows `> ` is typed, everything else is shown.
fn converse(story: &Story, text: &str, place: &str) {
    let mut lines = text.lines();
    let command = lines.next().and_then(|line| line.strip_prefix("$ ws "));
    let words = shell_words::split(command.unwrap_or_default()).unwrap();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut terminal = Terminal::start(story.dir(), &words, &[("NO_COLOR", "1")]);
    for line in lines {
        if let Some(typed) = line.strip_prefix("> ") {
            terminal.until("> ");
            terminal.press(&format!("{typed}\r"));
        } else {
            // Up to what is another one each time.
            let figure = line.find(|it: char| it.is_ascii_digit());
            let begin = figure.and_then(|at| line[..at].rfind([' ', '"']).map(|at| &line[..=at]));
            terminal.until(begin.unwrap_or(line));
        }
    }
    // Who presses it before is not heard: between two lines the keys are nobody's.
    terminal.until("> ");
    terminal.press("\x04");
    let (status, shown) = terminal.end();
    assert!(status.success(), "{place}: {shown}");
}

/// Has systemd look at our units with this one, or with these lines for one of ours.
fn verify(story: &Story, unit: &str, text: &str, place: &str) {
    let Some(program) = find("systemd-analyze") else {
        return say_that_it_is_skipped(&format!("only {place}"), "systemd-analyze");
    };
    let shipped = repository().join("ws-cli/packaging/systemd");
    let units = story.dir().join("units");
    fs::create_dir_all(&units).unwrap();
    for name in ["ws.service", "ws.socket"] {
        let unit = fs::read_to_string(shipped.join(name)).unwrap();
        fs::write(units.join(name), unit.replace("/usr/bin/ws", WS)).unwrap();
    }
    let text = text.replace("/usr/bin/ws", WS);
    if text.contains("[Unit]") || text.contains("[Socket]") {
        fs::write(units.join(unit), text).unwrap();
    } else {
        let drop_ins = units.join(format!("{unit}.d"));
        fs::create_dir_all(&drop_ins).unwrap();
        fs::write(drop_ins.join("override.conf"), text).unwrap();
    }
    let mut verify = Command::new(program);
    verify.args(["verify", "--man=no", unit]);
    let output = verify.current_dir(&units).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    // What is wrong with other units of this system is told, too.
    let is_ours = |line: &str| line.contains("ws.service") || line.contains("ws.socket");
    assert!(
        output.status.success() && !said.lines().any(is_ours),
        "{place}: {said}"
    );
    fs::remove_dir_all(&units).unwrap();
}
