//! Connections that end where nothing ends.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::chaos::Context;
use crate::chaos::client::{self, Client};
use crate::chaos::figures::Report;
use crate::chaos::link::{Cut, Link, Plan};
use crate::chaos::status::Status;
use crate::chaos::subject::{Subject, poll_until};
use crate::chaos::wire;
use crate::server::Launch;
use crate::workspace;

const PATIENCE: Duration = Duration::from_secs(15);
const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];

pub(super) fn cut_frames(context: &Context, report: &mut Report) -> Result<()> {
    let subject = Subject::launch(
        &context.ws,
        &Launch {
            listen: &["127.0.0.1:0", "wss://127.0.0.1:0"],
            arguments: &["--", "/bin/cat"],
            variables: &[("WS__SERVER__TLS__SELF_SIGNED", "true")],
            ..Launch::default()
        },
    )?;
    let step = context.size(7, 1);
    for is_reset in [false, true] {
        let how = if is_reset { "RST" } else { "FIN" };
        within_handshakes(&subject, is_reset, how, step, report)?;
        within_messages(&subject, is_reset, how, step, report)?;
        within_tls(&subject, is_reset, how, report)?;
    }
    subject.finish(report)
}

fn within_handshakes(
    subject: &Subject,
    is_reset: bool,
    how: &str,
    step: usize,
    report: &mut Report,
) -> Result<()> {
    let before = subject.status()?;
    let head = wire::request_head(&subject.address().to_string(), false);
    let mut count = 0;
    for len in (0..head.len()).step_by(step) {
        let mut stream = TcpStream::connect(subject.address())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&head.as_bytes()[..len])?;
        match is_reset {
            true => client::reset(stream)?,
            false => client::hang_up(&stream)?,
        }
        count += 1;
    }
    let after = ended(subject, &before, "sockets.refused", count)?;
    let gone = after.since(&before, "sockets.refused_by.gone")?;
    report.exactly(
        format!("{how} in a handshake: counted as gone"),
        gone,
        "",
        f64::from(count),
    );
    report.exactly(
        format!("{how} in a handshake: connections opened"),
        after.since(&before, "connections.opened")?,
        "",
        0.0,
    );
    Ok(())
}

/// What stands before the frame that is cut.
struct Prelude {
    name: &'static str,
    /// Opcodes, and whether the frame is the last of its message.
    frames: &'static [(u8, bool)],
    /// Callbacks that run because of them.
    runs: u32,
}

const PRELUDES: [Prelude; 3] = [
    Prelude {
        name: "a message",
        frames: &[],
        runs: 0,
    },
    Prelude {
        name: "a second message",
        frames: &[(wire::TEXT, true)],
        runs: 1,
    },
    Prelude {
        name: "a message in parts",
        frames: &[(wire::TEXT, false), (0, false)],
        runs: 0,
    },
];

fn within_messages(
    subject: &Subject,
    is_reset: bool,
    how: &str,
    step: usize,
    report: &mut Report,
) -> Result<()> {
    for Prelude { name, frames, runs } in PRELUDES {
        let before = subject.status()?;
        let is_continued = frames.last().is_some_and(|(_, is_final)| !is_final);
        let opcode = if is_continued { 0 } else { wire::TEXT };
        let last = wire::frame(opcode, true, &[b'l'; 150], MASK);
        let mut count = 0;
        for len in (1..last.len()).step_by(step) {
            let mut client = Client::connect(subject.address())?;
            for (opcode, is_final) in frames {
                client.send_raw(&wire::frame(*opcode, *is_final, b"first", MASK))?;
            }
            // A reset drops what is under way, so what must arrive is waited for.
            for _ in 0..runs {
                client
                    .receive()?
                    .context("no answer to the first message")?;
            }
            client.send_raw(&last[..len])?;
            match is_reset {
                true => client.reset()?,
                false => client.hang_up()?,
            }
            count += 1;
        }
        let after = ended(subject, &before, "connections.closed", count)?;
        report.exactly(
            format!("{how} in {name}: counted as vanished"),
            after.since(&before, "connections.closed_by.vanished")?,
            "",
            f64::from(count),
        );
        report.exactly(
            format!("{how} in {name}: callbacks run"),
            after.since(&before, "callbacks.accepted")?,
            "",
            f64::from(runs * count),
        );
    }
    Ok(())
}

/// TLS is that of openssl, through a link that ends within a record.
fn within_tls(subject: &Subject, is_reset: bool, how: &str, report: &mut Report) -> Result<()> {
    let Some(openssl) = workspace::find("openssl") else {
        report.leave_out(format!("{how} in a TLS record: openssl is not installed"));
        return Ok(());
    };
    let to = subject.listener("wss://")?;
    let head = wire::request_head(&to.to_string(), false);
    let message = wire::frame(wire::TEXT, true, &[b't'; 200], MASK);
    let run = |cut: Option<usize>| -> Result<usize> {
        let plan = Plan {
            cut: cut.map(|after| Cut { after, is_reset }),
            ..Plan::default()
        };
        let link = Link::open(to, plan)?;
        let mut child = Command::new(&openssl)
            .args(["s_client", "-quiet", "-connect"])
            .arg(link.address().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let outcome = (|| {
            let mut input = child.stdin.take().context("stdin is piped")?;
            let mut output = child.stdout.take().context("stdout is piped")?;
            input.write_all(head.as_bytes())?;
            let mut answer = Vec::new();
            let mut part = [0; 4096];
            while wire::read_answer(&answer)?.is_none() {
                match output.read(&mut part)? {
                    // It was cut before.
                    0 => return Ok(link.carried()),
                    count => answer.extend_from_slice(&part[..count]),
                }
            }
            let carried = link.carried();
            if cut.is_some() {
                input.write_all(&message)?;
                // Until the server has hung up.
                while output.read(&mut part)? > 0 {}
            }
            Ok(carried)
        })();
        child.kill()?;
        child.wait()?;
        link.close()?;
        outcome
    };
    let before = subject.status()?;
    let opening = run(None)?;
    ended(subject, &before, "connections.closed", 1)?;

    let before = subject.status()?;
    // In the head of the first record, in its body, and in the record of the request.
    let cuts = [3, 100, opening - 10];
    for cut in cuts {
        run(Some(cut))?;
    }
    let after = ended(subject, &before, "sockets.refused", cuts.len() as u32)?;
    report.exactly(
        format!("{how} in the opening over TLS: refused"),
        after.since(&before, "sockets.refused")?,
        "",
        cuts.len() as f64,
    );
    let before = subject.status()?;
    let cuts = [opening + 3, opening + 5, opening + 100];
    for cut in cuts {
        run(Some(cut))?;
    }
    let after = ended(subject, &before, "connections.closed", cuts.len() as u32)?;
    report.exactly(
        format!("{how} in a TLS record: counted as vanished"),
        after.since(&before, "connections.closed_by.vanished")?,
        "",
        cuts.len() as f64,
    );
    report.exactly(
        format!("{how} in a TLS record: callbacks run"),
        after.since(&before, "callbacks.accepted")?,
        "",
        0.0,
    );
    Ok(())
}

/// Waits until so many have ended.
fn ended(subject: &Subject, before: &Status, figure: &str, count: u32) -> Result<Status> {
    let mut found = 0.0;
    let waited = poll_until("all of them are counted", PATIENCE, || {
        let status = subject.status()?;
        found = status.since(before, figure)?;
        Ok(found >= f64::from(count)
            && status.get_u64("connections.open")? == 0
            && status.broken_laws()?.is_empty())
    });
    match waited {
        Ok(()) => subject.status(),
        Err(error) => bail!("{error}: {figure} has grown by {found} instead of {count}"),
    }
}
