//! `[control]`: the control API, at its socket and on TCP.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use ws_transport::ListenAddr;

use super::account;
use super::host::{self, HostRule};
use super::listen::{is_local, plain_tcp};
use super::parse;
use super::reader::Reader;
use super::units::{DAY, GIB, HOUR, SECOND, SHORTEST};

/// `[control]`: the control socket.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ControlConfig {
    /// Permissions of the socket.
    pub mode: u32,
    /// Group of the socket; `None` is that of the server.
    pub group: Option<u32>,
    /// Clients that may listen to events at once.
    pub max_listeners: usize,
    /// The door for other hosts and users; `None` is no such door.
    pub tcp: Option<ControlTcpConfig>,
    /// Requests a second at each door; `None` is any number.
    pub rate: Option<NonZeroU32>,
    /// Bytes of the body of a request; `None` is what the largest message may need.
    pub max_body_size: Option<usize>,
    /// Messages in one request.
    pub max_batch: NonZeroUsize,
    /// Ids in one target.
    pub max_targets: NonZeroUsize,
    /// How long the receipt of a request with a key is kept.
    pub idempotency_ttl: Duration,
    /// Receipts that are kept.
    pub idempotency_receipts: NonZeroUsize,
}

/// The control API on TCP.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ControlTcpConfig {
    /// Where to listen.
    pub listen: ListenAddr,
    /// The tokens that are accepted, one a line.
    pub token_file: PathBuf,
    /// What the `Host` header may say; none is a loopback name or address, or that of `listen`.
    pub allowed_hosts: Vec<HostRule>,
    /// Open connections.
    pub max_connections: NonZeroUsize,
    /// How long a request may take to come.
    pub timeout: Duration,
}

pub(super) fn read(reader: &mut Reader<'_>) -> ControlConfig {
    let mode = reader.read("control.mode", parse::mode);
    if mode & 0o007 != 0 {
        reader.conflict(
            "control.mode",
            "gives every user of the host control of the server",
        );
    }
    let max_batch = reader.count("control.max_batch", 100_000);
    let idempotency_receipts = reader.count("control.idempotency_receipts", 10_000_000);
    if idempotency_receipts < max_batch {
        reader.conflict(
            "control.idempotency_receipts",
            "must be at least control.max_batch, or a whole batch could not be repeated safely",
        );
    }
    ControlConfig {
        mode,
        group: reader.read_optional("control.group", account::group),
        tcp: control_tcp(reader),
        rate: reader.rate("control.rate"),
        max_body_size: reader.read_optional("control.max_body_size", |value| {
            parse::size(value, 1024, 8 * GIB)
        }),
        max_batch,
        max_targets: reader.count("control.max_targets", 1_000_000),
        idempotency_ttl: reader.duration("control.idempotency_ttl", SECOND, DAY),
        idempotency_receipts,
        max_listeners: reader.read("control.max_listeners", |value| {
            parse::number(value, 0, 10_000)
        }),
    }
}

fn control_tcp(reader: &mut Reader<'_>) -> Option<ControlTcpConfig> {
    let listen = reader.read_optional("control.listen", plain_tcp);
    let token_file = reader.optional_path("control.token_file");
    let allowed_hosts = host::rules(reader, "control.allowed_hosts");
    let is_exposed = reader.flag("control.insecure_listen");
    let max_connections = reader.count("control.max_connections", 100_000);
    let timeout = reader.duration("control.timeout", SHORTEST, HOUR);
    if !reader.is_given("control.listen") {
        for path in [
            "control.token_file",
            "control.allowed_hosts",
            "control.max_connections",
            "control.timeout",
        ] {
            if reader.is_changed(path) {
                reader.conflict(path, "has no effect without control.listen");
            }
        }
    } else if !reader.is_given("control.token_file") {
        reader.conflict(
            "control.listen",
            "needs control.token_file: without a token whoever reaches it controls the server",
        );
    }
    let listen = listen?;
    if !is_local(&listen) && !is_exposed {
        reader.conflict(
            "control.listen",
            "sends the token in clear text over a network; put TLS in front of a loopback address, \
             or, if that is meant, set insecure_listen = true",
        );
    }
    Some(ControlTcpConfig {
        listen,
        token_file: token_file?,
        allowed_hosts,
        max_connections,
        timeout,
    })
}
