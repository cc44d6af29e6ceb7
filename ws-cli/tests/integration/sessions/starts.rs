//! Stores that cannot be used: what is said at the start.

use tempfile::TempDir;
use ws_server::testing::{DatabaseServer, PASSWORD, TestDatabase};

use crate::support::*;

/// Starts a server in vain; returns its exit code and what it said.
fn fail(store: &str) -> (Option<i32>, String) {
    let output = Setup::new()
        .arg("--echo")
        .set("identity.store", store)
        .fail();
    assert!(output.stdout.is_empty());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!said.contains("canary"), "{said}");
    (output.status.code(), said)
}

#[test]
fn t70_an_address_that_is_none_is_not_repeated() {
    for store in [
        "mysql://ws:canary@",
        "http://ws:canary@host/db",
        "canary",
        "postgres://ws:canary@host:port/db",
        "sqlite:",
    ] {
        let (code, said) = fail(store);
        assert_eq!(code, Some(78), "{said}");
        assert!(said.contains("identity.store"), "{said}");
    }
}

#[test]
fn t70_a_server_that_is_not_there_is_named_without_its_password() {
    for store in [
        "mysql://ws:canary@127.0.0.1:1/db",
        "postgres://ws:canary@127.0.0.1:1/db",
        "redis://:canary@127.0.0.1:1",
    ] {
        let (code, said) = fail(store);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("127.0.0.1:1"), "{said}");
    }
}

#[test]
fn t70_wrong_credentials_are_told_at_the_start() {
    for database in TestDatabase::ALL {
        let Some(process) = DatabaseServer::start(database) else {
            continue;
        };
        let wrong = format!("{PASSWORD}-of-another");
        let (code, said) = fail(&process.url_as("ws", &wrong, "ws"));
        assert_eq!(code, Some(78), "{database:?}: {said}");
        assert!(said.contains("credentials"), "{database:?}: {said}");
    }
}

#[test]
fn a_file_that_cannot_be_used_is_told_at_the_start() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| format!("sqlite:{}/{name}", dir.path().display());
    std::fs::write(dir.path().join("other.db"), "x".repeat(5000)).unwrap();
    for name in ["other.db", "none/s.db", ""] {
        let (code, said) = fail(&at(name));
        assert_eq!(code, Some(78), "{said}");
        assert!(said.contains(&*dir.path().to_string_lossy()), "{said}");
    }
}

#[test]
fn t70_the_password_is_not_printed_with_the_configuration() {
    let server = Setup::new().arg("--echo").start();
    let file = server.dir().join("ws.toml");
    std::fs::write(&file, "identity.store = \"mysql://ws:canary@host/db\"\n").unwrap();
    for args in [&["config", "print"][..], &["config", "print", "--json"]] {
        let output = server.ws(args);
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains("mysql://ws:***@host/db"), "{said}");
        assert!(!said.contains("canary"), "{said}");
    }
    server.finish();
}
