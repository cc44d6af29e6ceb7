//! A server that a service manager has started (sd_notify(3)): what it is told.

use std::os::unix::net::UnixDatagram;

use nix::sys::signal::Signal;

use crate::support::*;

/// What a service manager hears.
struct Manager {
    socket: UnixDatagram,
    /// What it has heard, and was not asked for yet.
    heard: Vec<String>,
}

impl Manager {
    /// A manager, and a setup whose server tells it.
    fn of(setup: Setup) -> (Self, Setup) {
        let path = setup.dir().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let setup = setup.env("NOTIFY_SOCKET", path.to_str().unwrap());
        let heard = Vec::new();
        (Self { socket, heard }, setup)
    }

    /// Waits until a variable is set, and returns its value.
    fn hears(&mut self, name: &str) -> String {
        loop {
            for (index, line) in self.heard.iter().enumerate() {
                if let Some(value) = line
                    .strip_prefix(name)
                    .and_then(|rest| rest.strip_prefix('='))
                {
                    let value = value.to_owned();
                    self.heard.drain(..=index);
                    return value;
                }
            }
            let mut datagram = [0; 4096];
            let length = self.socket.recv(&mut datagram).unwrap();
            let text = std::str::from_utf8(&datagram[..length]).unwrap();
            self.heard.extend(text.lines().map(str::to_owned));
        }
    }
}

#[tokio::test]
async fn the_service_manager_hears_of_start_reload_and_end() {
    let (mut manager, setup) = Manager::of(Setup::new().arg("--echo"));
    let server = setup.start();
    assert_eq!(manager.hears("READY"), "1");
    assert_eq!(manager.hears("STATUS"), "serving 0 connections of 0 users");
    server.signal(Signal::SIGHUP);
    assert_eq!(manager.hears("RELOADING"), "1");
    // systemd 253 and later want it (systemd.service(5), Type=notify-reload).
    assert!(manager.hears("MONOTONIC_USEC").parse::<u64>().unwrap() > 0);
    assert_eq!(manager.hears("READY"), "1");
    server.finish();
    assert_eq!(manager.hears("STOPPING"), "1");
}

#[tokio::test]
async fn the_watchdog_is_fed_while_the_workers_answer() {
    let (mut manager, setup) = Manager::of(Setup::new().arg("--echo"));
    let server = setup.env("WATCHDOG_USEC", "300000").start();
    let client = server.connect().await;
    for _ in 0..3 {
        assert_eq!(manager.hears("WATCHDOG"), "1");
    }
    while manager.hears("STATUS") != "serving 1 connections of 1 users" {}
    bye(client).await;
    server.finish();
}

#[test]
fn a_watchdog_of_another_process_is_not_fed() {
    let (mut manager, setup) = Manager::of(Setup::new().arg("--echo"));
    // Not that of the server, whatever its own is.
    let setup = setup.env("WATCHDOG_USEC", "1").env("WATCHDOG_PID", "1");
    let server = setup.start();
    assert_eq!(manager.hears("READY"), "1");
    server.finish();
    assert_eq!(manager.hears("STOPPING"), "1");
}

#[test]
fn a_manager_that_is_gone_is_no_reason_to_end() {
    let (manager, setup) = Manager::of(Setup::new().arg("--echo"));
    drop(manager);
    let server = setup.start();
    assert_eq!(server.control("GET", "/ready", "").0, 200);
    let log = server.finish();
    assert!(
        log.contains("the service manager cannot be notified"),
        "{log}"
    );
}
