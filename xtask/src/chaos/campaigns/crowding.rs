//! Clients that take what there is of: descriptors, and places of those who have not said what
//! they want.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::PAUSE;
use crate::chaos::Context;
use crate::chaos::client::{Client, Outcome};
use crate::chaos::figures::{LATENCY_FLOOR, Percentiles, Report, mib, millis};
use crate::chaos::subject::{Subject, poll_until};
use crate::chaos::wire;
use crate::chaos::witness::{Errand, Witnesses};
use crate::server::Launch;

/// The server's own limit, and who comes.
const DESCRIPTORS: usize = 256;
const VISITORS: usize = 300;

pub(super) fn descriptors(context: &Context, report: &mut Report) -> Result<()> {
    let limit = format!("ulimit -n {DESCRIPTORS} && exec \"$@\"");
    let subject = Subject::launch(
        &context.ws,
        &Launch {
            wrapper: &["/bin/sh", "-c", &limit, "sh"],
            arguments: &["--echo"],
            ..Launch::default()
        },
    )?;
    let witnesses = Witnesses::start(subject.address(), 2, Errand::Echo, PAUSE)?;
    let before = witnesses.over(Duration::from_secs(1))?;
    let span = context.size(Duration::from_secs(1), Duration::from_secs(5));
    let (mut open, refused, waiting) = crowd_in(subject.address())?;
    let start = Instant::now();
    subject.status()?;
    subject.broadcast("to all")?;
    let control = start.elapsed();
    let (during, cpu) = subject.cpu_while(|| witnesses.over(span))?;
    report.at_least("clients served", open.len() as f64, "", 50.0);
    report.note("clients refused with 503", refused as f64, "");
    report.note("clients left waiting", waiting.len() as f64, "");
    report.at_least(
        "clients refused or left waiting",
        (refused + waiting.len()) as f64,
        "",
        1.0,
    );
    report.at_most(
        "status and push answered after",
        millis(control),
        "ms",
        1000.0,
    );
    report.at_most("CPU with none left, load included", cpu, "%", 50.0);
    report.unaffected("echo", &before, &during);
    // Those who wait get the places of those who go.
    let start = Instant::now();
    drop(waiting);
    for client in open.drain(..) {
        client.reset()?;
    }
    poll_until("a new client is served", Duration::from_secs(5), || {
        let outcome = Client::request(subject.address(), false);
        Ok(matches!(outcome, Ok(Outcome::Open(_))))
    })?;
    report.at_most(
        "new clients served after",
        millis(start.elapsed()),
        "ms",
        500.0,
    );
    witnesses.stop()?;
    subject.finish(report)
}

/// Lets everybody come at once: those who were let in, the number of those who were refused, and
/// those who wait.
fn crowd_in(address: SocketAddr) -> Result<(Vec<Client>, usize, Vec<TcpStream>)> {
    let (mut open, mut refused, mut waiting) = (Vec::new(), 0, Vec::new());
    let patience = Duration::from_millis(300);
    for _ in 0..VISITORS {
        let stream = TcpStream::connect(address)?;
        // Whoever comes when nobody is accepted any more knows it after the first of them.
        if !waiting.is_empty() {
            waiting.push(stream);
            continue;
        }
        stream.set_read_timeout(Some(patience))?;
        (&stream).write_all(wire::request_head(&address.to_string(), false).as_bytes())?;
        let mut first = [0; 1];
        match stream.peek(&mut first) {
            Ok(_) => match Client::answer(stream)? {
                Outcome::Open(client) => open.push(*client),
                Outcome::Refused(503) => refused += 1,
                Outcome::Refused(status) => bail!("refused with {status}"),
            },
            Err(_) => waiting.push(stream),
        }
    }
    Ok((open, refused, waiting))
}

/// In MiB, whatever the number of those who are held; each may cost 8 KiB beyond it.
const MAX_FIXED_GROWTH: f64 = 2.0;

/// A closing handshake that nobody answers, and some more.
const COUNTED_LIMIT: Duration = Duration::from_secs(15);

/// Who is slow, at what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Slow {
    Head,
    Tls,
    Proxy,
    Frame,
}

impl Slow {
    const ALL: [Self; 4] = [Self::Head, Self::Tls, Self::Proxy, Self::Frame];

    fn name(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Tls => "TLS",
            Self::Proxy => "PROXY",
            Self::Frame => "frame",
        }
    }

    /// What it sends byte by byte, all of it good as far as it goes, and more than there is time
    /// for.
    fn bytes(self) -> Vec<u8> {
        match self {
            Self::Head => wire::request_head("localhost", false).into_bytes(),
            // The head of a record with a ClientHello of 508 bytes, and its first ones.
            Self::Tls => {
                let mut bytes = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
                bytes.extend([7; 64]);
                bytes
            }
            Self::Proxy => b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 443\r\n".to_vec(),
            Self::Frame => wire::frame(wire::TEXT, true, &[b'x'; 100], [1, 2, 3, 4]),
        }
    }
}

#[derive(Debug)]
struct Dripper {
    kind: Slow,
    stream: TcpStream,
    since: Instant,
    ended: Option<Duration>,
}

pub(super) fn slowloris(context: &Context, report: &mut Report) -> Result<()> {
    let count = context.size(400, 2000);
    let limit = context.size(Duration::from_secs(3), Duration::from_secs(10));
    let limit_text = format!("{}s", limit.as_secs());
    let subject = Subject::launch(
        &context.ws,
        &Launch {
            listen: &["127.0.0.1:0", "wss://127.0.0.1:0", "ws+proxy://127.0.0.1:0"],
            arguments: &["--echo"],
            variables: &[
                ("WS__SERVER__TLS__SELF_SIGNED", "true"),
                ("WS__SERVER__PROXY__TRUSTED", "127.0.0.1"),
                ("WS__LIMITS__HANDSHAKE_TIMEOUT", &limit_text),
                ("WS__LIMITS__MESSAGE_TIMEOUT", &limit_text),
            ],
            ..Launch::default()
        },
    )?;
    let baseline = subject.status()?;
    let witnesses = Witnesses::start(subject.address(), 2, Errand::Arrive, PAUSE)?;
    let connected = Witnesses::start(subject.address(), 2, Errand::Echo, PAUSE)?;
    let span = context.size(Duration::from_secs(1), Duration::from_secs(5));
    let both = || connected.during(|| witnesses.over(span));
    let (before, mut without) = both()?;
    let memory = subject.memory()?;
    let mut drippers = Vec::new();
    for index in 0..count {
        drippers.push(drip_from(&subject, Slow::ALL[index % 4])?);
    }
    let mut held = 0;
    let (((), during), with) = connected.during(|| {
        witnesses.during(|| {
            drip(&mut drippers, limit + Duration::from_secs(5), || {
                held = held.max(subject.memory()?.saturating_sub(memory));
                Ok(())
            })
        })
    })?;
    without.extend(both()?.1);
    connected.stop()?;
    witnesses.stop()?;
    let mut times: BTreeMap<Slow, Vec<Duration>> = BTreeMap::new();
    for dripper in &drippers {
        let times = times.entry(dripper.kind).or_default();
        times.extend(dripper.ended);
    }
    let seconds = limit.as_secs_f64();
    for (kind, times) in times {
        let name = kind.name();
        let found = Percentiles::of(&times);
        let first = times.iter().min().copied().unwrap_or_default();
        report.exactly(
            format!("{name}: ended"),
            times.len() as f64,
            "",
            (count / 4) as f64,
        );
        // Its clock starts at its own accept, a moment after ours.
        report.at_least(
            format!("{name}: first ended after"),
            first.as_secs_f64(),
            "s",
            seconds - 0.05,
        );
        report.at_most(
            format!("{name}: last ended after"),
            found.max.as_secs_f64(),
            "s",
            seconds + 1.0,
        );
    }
    // Those who had a connection are waited for once more, until they close it too.
    let after = subject.wait_for("the slow are counted", COUNTED_LIMIT, |it| {
        let refused = it.since(&baseline, "sockets.refused_by.timeout")?;
        let closed = it.since(&baseline, "connections.closed_by.message_timeout")?;
        Ok(refused + closed >= count as f64)
    })?;
    report.exactly(
        "refused for the time",
        after.since(&baseline, "sockets.refused_by.timeout")?,
        "",
        (count / 4 * 3) as f64,
    );
    report.exactly(
        "closed for the time of a message",
        after.since(&baseline, "connections.closed_by.message_timeout")?,
        "",
        (count / 4) as f64,
    );
    report.at_most(
        "memory while all were held",
        mib(held),
        "MiB",
        MAX_FIXED_GROWTH + (count * 8) as f64 / 1024.0,
    );
    report.note("memory for each of them", held as f64 / count as f64, "B");
    let (before, during) = (Percentiles::of(&before), Percentiles::of(&during));
    report.note("others connect: p99 before", millis(before.p99), "ms");
    report.note("others connect: p50 during", millis(during.p50), "ms");
    let bound = 50_f64
        .max(2.0 * millis(before.p99))
        .max(millis(LATENCY_FLOOR));
    report.at_least("others connect: samples", during.count as f64, "", 10.0);
    report.at_most(
        "others connect: p99 during",
        millis(during.p99),
        "ms",
        bound,
    );
    report.unaffected("echo of the connected", &without, &with);
    subject.finish(report)
}

fn drip_from(subject: &Subject, kind: Slow) -> Result<Dripper> {
    let address = match kind {
        Slow::Head | Slow::Frame => subject.address(),
        Slow::Tls => subject.listener("wss://")?,
        Slow::Proxy => subject.listener("ws+proxy://")?,
    };
    let stream = match kind {
        Slow::Frame => Client::connect(address)?.into_parts().0,
        Slow::Head | Slow::Tls | Slow::Proxy => TcpStream::connect(address)?,
    };
    stream.set_nonblocking(true)?;
    Ok(Dripper {
        kind,
        stream,
        since: Instant::now(),
        ended: None,
    })
}

/// Sends a byte of each a second until all have ended or `limit` is over; calls `look` each
/// second.
fn drip(
    drippers: &mut [Dripper],
    limit: Duration,
    mut look: impl FnMut() -> Result<()>,
) -> Result<()> {
    let start = Instant::now();
    let mut dripped = 0_u64;
    let mut buffer = [0; 1024];
    while start.elapsed() < limit {
        let is_due = start.elapsed().as_secs() >= dripped;
        for dripper in drippers.iter_mut().filter(|it| it.ended.is_none()) {
            if is_due {
                let bytes = dripper.kind.bytes();
                let at = usize::try_from(dripped)? % bytes.len();
                // The clock of a message starts with its first byte.
                if dripped == 0 && dripper.kind == Slow::Frame {
                    dripper.since = Instant::now();
                }
                // An end is seen by reading.
                let _ = dripper.stream.write(&bytes[at..=at]);
            }
            match dripper.stream.read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // What is said before the end, 408 or a close frame, or the end itself.
                Ok(_) | Err(_) => dripper.ended = Some(dripper.since.elapsed()),
            }
        }
        if is_due {
            dripped += 1;
            look()?;
        }
        if drippers.iter().all(|it| it.ended.is_some()) {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Between two who begin a handshake, if they do not come all at once.
const APART: Duration = Duration::from_millis(2);

pub(super) fn half_shaken(context: &Context, report: &mut Report) -> Result<()> {
    let count = context.size(200, 500);
    let limit = context.size(Duration::from_secs(3), Duration::from_secs(10));
    let limit_text = format!("{}s", limit.as_secs());
    let subject = Subject::launch(
        &context.ws,
        &Launch {
            listen: &["127.0.0.1:0", "wss://127.0.0.1:0"],
            arguments: &["--echo"],
            variables: &[
                ("WS__SERVER__TLS__SELF_SIGNED", "true"),
                // The signatures are made where the echoes are.
                ("WS__SERVER__THREADS", "1"),
                ("WS__LIMITS__HANDSHAKE_TIMEOUT", &limit_text),
            ],
            ..Launch::default()
        },
    )?;
    let witnesses = Witnesses::start(subject.address(), 4, Errand::Echo, PAUSE)?;
    let span = context.size(Duration::from_secs(1), Duration::from_secs(5));
    let mut without = witnesses.over(span)?;
    let hello = wire::client_hello();
    let address = subject.listener("wss://")?;
    let begin = |apart: Duration| -> Result<Vec<TcpStream>> {
        let begin_one = |_| {
            thread::sleep(apart);
            let mut stream = TcpStream::connect(address)?;
            stream.write_all(&hello)?;
            Ok(stream)
        };
        (0..count).map(begin_one).collect()
    };
    let refused = |wanted: usize| {
        subject.wait_for("they are refused", limit + COUNTED_LIMIT, |it| {
            Ok(it.get_u64("sockets.refused_by.timeout")? >= wanted as u64)
        })
    };
    let (memory, with) = witnesses.during(|| {
        let crowd = begin(APART)?;
        let answered = answered(&crowd)?;
        let memory = subject.memory_growth()?;
        report.exactly("handshakes answered", answered as f64, "", count as f64);
        refused(count)?;
        Ok(memory)
    })?;
    without.extend(witnesses.over(span)?);
    // What a core can sign in the time is the floor here, so there is no bound.
    let (crowd, at_once) = witnesses.during(|| {
        let crowd = begin(Duration::ZERO)?;
        answered(&crowd)?;
        Ok(crowd)
    })?;
    witnesses.stop()?;
    let after = refused(2 * count)?;
    drop(crowd);
    report.exactly(
        "refused for the time",
        after.get_u64("sockets.refused_by.timeout")? as f64,
        "",
        (2 * count) as f64,
    );
    report.at_most(
        "memory while all were held",
        mib(memory),
        "MiB",
        // The state of a handshake is larger than that of a connection.
        MAX_FIXED_GROWTH + (count * 32) as f64 / 1024.0,
    );
    report.unaffected("echo of the connected", &without, &with);
    let at_once = Percentiles::of(&at_once);
    report.note("all at once: longest echo", millis(at_once.max), "ms");
    subject.finish(report)
}

/// How many of them were sent a message of the handshake.
fn answered(crowd: &[TcpStream]) -> Result<usize> {
    let mut answered = 0;
    for mut stream in crowd {
        stream.set_read_timeout(Some(COUNTED_LIMIT))?;
        let mut head = [0; 3];
        stream.read_exact(&mut head)?;
        answered += usize::from(head == [22, 3, 3]);
    }
    Ok(answered)
}
