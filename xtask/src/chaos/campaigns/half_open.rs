//! Clients that are gone, and nobody has said so.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::chaos::Context;
use crate::chaos::client::Client;
use crate::chaos::crowd::connect_many;
use crate::chaos::figures::Report;
use crate::chaos::net::{self, Network};
use crate::chaos::subject::{Subject, poll_until};
use crate::chaos::wire;
use crate::server::Launch;
use crate::{NotHere, process};

const CLIENTS: usize = 5;
const CABLE: u8 = 1;
const PATIENCE: Duration = Duration::from_secs(10);
/// A program that hangs when asked to, and else gives back what it gets.
const APPLICATION: &str = "read -r line; [ \"$line\" != hang ] || exec sleep 600; echo \"$line\"";

pub(super) fn half_open(context: &Context, report: &mut Report) -> Result<()> {
    let networks = (|| {
        let (server, clients) = (Network::new()?, Network::new()?);
        clients.connect(&server, CABLE)?;
        anyhow::Ok((server, clients))
    })();
    match networks {
        Ok((server, clients)) => {
            let connect = |subject: &Subject| {
                let port = subject.address().port();
                let address = SocketAddr::new(net::far(CABLE).parse()?, port);
                clients.within(|| connect_many(address, CLIENTS))
            };
            let vanish = || clients.unplug(CABLE);
            server.within(|| watch(context, "0.0.0.0:0", connect, vanish, report))
        }
        Err(error) if error.is::<NotHere>() => {
            report.leave_out(format!(
                "pulling a cable ({error}): they fall silent instead"
            ));
            let connect = |subject: &Subject| connect_many(subject.address(), CLIENTS);
            watch(context, "127.0.0.1:0", connect, || Ok(()), report)
        }
        Err(error) => Err(error),
    }
}

fn watch(
    context: &Context,
    listen: &str,
    connect: impl FnOnce(&Subject) -> Result<Vec<Client>>,
    vanish: impl FnOnce() -> Result<()>,
    report: &mut Report,
) -> Result<()> {
    let (interval, timeout) = context.size((2, 1), (25, 8));
    let subject = Subject::launch(
        &context.ws,
        &Launch {
            listen: &[listen],
            arguments: &["--", "/bin/sh", "-c", APPLICATION],
            variables: &[
                ("WS__LIMITS__PING_INTERVAL", &format!("{interval}s")),
                ("WS__LIMITS__PONG_TIMEOUT", &format!("{timeout}s")),
                ("WS__APP__ON_DISCONNECT", "cancel"),
                ("WS__APP__TIMEOUT", "10m"),
            ],
            ..Launch::default()
        },
    )?;
    let baseline = subject.status()?;
    let mut clients = connect(&subject)?;
    for client in &mut clients {
        client.send(wire::TEXT, b"hang")?;
    }
    subject.wait_for("their callbacks run", PATIENCE, |it| {
        Ok(it.since(&baseline, "callbacks.started")? >= CLIENTS as f64)
    })?;
    // The shell has yet to become what hangs.
    poll_until("their callbacks hang", PATIENCE, || {
        Ok(sleepers(&subject) == CLIENTS)
    })?;
    vanish()?;
    let start = Instant::now();
    let bound = Duration::from_secs(interval + timeout + 1);
    let after = subject.wait_for("they are noticed", bound + PATIENCE, |it| {
        Ok(it.get_u64("connections.open")? == 0)
    })?;
    report.at_most(
        "noticed after",
        start.elapsed().as_secs_f64(),
        "s",
        bound.as_secs_f64(),
    );
    // The system may notice first that nobody is there whom to send the ping to.
    let late = after.since(&baseline, "connections.closed_by.pong_timeout")?;
    let lost = after.since(&baseline, "connections.closed_by.vanished")?;
    report.note("closed for want of a pong", late, "");
    report.exactly(
        "closed for that, or as vanished",
        late + lost,
        "",
        CLIENTS as f64,
    );
    let after = subject.wait_for("their callbacks are cancelled", PATIENCE, |it| {
        Ok(it.since(&baseline, "callbacks.failed_by.cancelled")? >= CLIENTS as f64)
    })?;
    report.exactly(
        "callbacks cancelled",
        after.since(&baseline, "callbacks.failed_by.cancelled")?,
        "",
        CLIENTS as f64,
    );
    // They are killed before they are counted, and reaped a moment later.
    let reaped = poll_until("none is left", PATIENCE, || Ok(sleepers(&subject) == 0));
    let left = if reaped.is_ok() {
        0
    } else {
        sleepers(&subject)
    };
    report.exactly("callbacks left", left as f64, "", 0.0);
    drop(clients);
    subject.finish(report)
}

/// The callbacks that hang.
fn sleepers(subject: &Subject) -> usize {
    let is_sleeper = |id: &u32| {
        let name = std::fs::read_to_string(format!("/proc/{id}/comm"));
        name.is_ok_and(|name| name.trim_end() == "sleep")
    };
    process::descendants(subject.id())
        .iter()
        .filter(|id| is_sleeper(id))
        .count()
}
