//! `ws doctor`: what it finds on this host, behind proxies with one thing wrong, and at peers that
//! follow a script.

mod here;
mod proxies;
mod scripted;

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

pub(crate) use self::proxies::{Kind, Proxy};
use crate::support::Server;

/// What a run of the command has found.
#[derive(Debug)]
struct Found {
    code: Option<i32>,
    report: Value,
}

impl Found {
    /// The finding about one thing.
    fn about(&self, check: &str) -> &Value {
        let findings = self.report["findings"].as_array().unwrap();
        let found = findings.iter().find(|finding| finding["check"] == check);
        found.unwrap_or_else(|| panic!("nothing about {check}: {:#}", self.report))
    }

    /// Says what was found about one thing, and what to do.
    fn text(&self, check: &str) -> String {
        let finding = self.about(check);
        let text = |name| finding[name].as_str().unwrap_or_default();
        format!("{} {}", text("says"), text("advice"))
    }

    /// Checks the verdict on one thing, and a part of what is said.
    #[track_caller]
    fn check(&self, check: &str, verdict: &str, part: &str) {
        assert_eq!(self.about(check)["verdict"], verdict, "{:#}", self.report);
        let text = self.text(check);
        assert!(text.contains(part), "{text:?} lacks {part:?}");
    }

    /// Checks that a line of a proxy's configuration is shown.
    #[track_caller]
    fn shows(&self, check: &str, line: &str) {
        let lines = self.about(check)["lines"].as_array().unwrap();
        assert!(
            lines.iter().any(|it| it == line),
            "{lines:#?} lack {line:?}"
        );
    }
}

/// Runs the command in a directory. Everything that it asks for is of this test.
fn run(dir: &Path, args: &[&str]) -> Found {
    let output = Command::new(env!("CARGO_BIN_EXE_ws"))
        .args(["doctor", "--json"])
        .args(args)
        .current_dir(dir)
        .env_remove("WS_CONTROL_SOCKET")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        let said = String::from_utf8_lossy(&output.stderr);
        panic!("{error}: {said}")
    });
    Found {
        code: output.status.code(),
        report,
    }
}

/// Examines a server that runs with `--echo`, and with a URL the way to it.
fn examine(server: &Server, args: &[&str]) -> Found {
    let addr = server.addr.to_string();
    let args = [&["--echo", "--listen", &addr], args].concat();
    run(server.dir(), &args)
}
