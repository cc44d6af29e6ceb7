//! Validations that crash, hang, or say what is no answer.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

use super::PAUSE;
use crate::chaos::Context;
use crate::chaos::client::{Client, Outcome, PATIENCE};
use crate::chaos::figures::Report;
use crate::chaos::subject::Subject;
use crate::chaos::wire::{self, Dice, Event};
use crate::server::Launch;

/// What a validation may do instead of answering. All of it but "no" is a fault of its own.
const FAULTS: [&str; 9] = [
    "crash", "late", "hang", "drip", "garbage", "two", "binary", "long", "status",
];

/// Does what the path says.
const VALIDATION: &str = r#"who="${PATH_INFO##*/}"
case "$PATH_INFO" in
  /crash/*) kill -SEGV $$;;
  /late/*) echo "$who"; kill -9 $$;;
  /hang/*) printf "$who"; exec sleep 600;;
  /drip/*) while :; do printf x; sleep 0.2; done;;
  /garbage/*) head -c 300 /dev/urandom;;
  /two/*) echo "$who" other;;
  /binary/*) printf "$who\377";;
  /long/*) printf "%0300d" 7;;
  /status/*) echo "$who"; exit 3;;
  /no/*) exit 1;;
  *) echo "${who:-visitor}";;
esac"#;
/// Says who asks, or gives back what it gets.
const APPLICATION: &str =
    r#"read -r line; case "$line" in who) echo "$WS_USER_ID";; *) echo "$line";; esac"#;

pub(super) fn validation(context: &Context, report: &mut Report) -> Result<()> {
    let subject = Subject::launch(
        &context.ws,
        &Launch {
            arguments: &["--", "/bin/sh", "-c", APPLICATION],
            variables: &[
                ("WS__VALIDATE__BACKEND", "exec"),
                // It is split like shell words, and there is no quote in it.
                (
                    "WS__VALIDATE__COMMAND",
                    &format!("/bin/sh -c '{VALIDATION}'"),
                ),
                ("WS__VALIDATE__TIMEOUT", "2s"),
                // A drip ends at its time, and there is always room for the others.
                ("WS__VALIDATE__CONCURRENCY", "256"),
            ],
            ..Launch::default()
        },
    )?;
    let span = context.size(Duration::from_secs(4), Duration::from_secs(20));
    let visitors = context.size(4, 8);
    let before = visit(subject.address(), visitors, span, 0)?;
    let baseline = subject.status()?;
    let during = visit(subject.address(), visitors, span, 50)?;
    let after = subject.status()?;
    let since = |path: &str| after.since(&baseline, path);
    let faulty = during.faulty as f64;
    report.at_least("faults", faulty, "", 10.0);
    report.exactly("wrong identities", during.wrong as f64, "", 0.0);
    report.exactly("let in without an answer", during.let_in as f64, "", 0.0);
    report.exactly("refused with 503", during.refused as f64, "", faulty);
    report.exactly("refused otherwise", during.misjudged as f64, "", 0.0);
    let failed = since("sockets.refused_by.validation_failed")?;
    report.exactly("counted as failed", failed, "", faulty);
    let opened = since("connections.opened")?;
    report.exactly("opened", opened, "", during.welcome.len() as f64);
    report.unaffected("the others are let in", &before.welcome, &during.welcome);
    subject.finish(report)
}

/// What visitors have met with.
#[derive(Debug, Default, PartialEq, Eq)]
struct Met {
    /// What those who were to be let in waited for the 101.
    welcome: Vec<Duration>,
    /// Those whose validation went wrong.
    faulty: usize,
    /// Of these, those who were refused with 503.
    refused: usize,
    /// Of these, those who were let in.
    let_in: usize,
    /// Those who were let in as somebody else.
    wrong: usize,
    /// Those who were refused in another way, or for nothing.
    misjudged: usize,
}

impl Met {
    fn enter(&mut self, fault: Option<&str>, end: &Judgement, who: &str, took: Duration) {
        self.faulty += usize::from(fault.is_some());
        match (fault, end) {
            (None, Judgement::Open(user)) => {
                self.welcome.push(took);
                self.wrong += usize::from(user != who);
            }
            (Some(_), Judgement::Open(_)) => self.let_in += 1,
            (Some(_), Judgement::Refused(503)) => self.refused += 1,
            (_, Judgement::Refused(_)) => self.misjudged += 1,
        }
    }

    fn add(&mut self, other: Self) {
        self.welcome.extend(other.welcome);
        self.faulty += other.faulty;
        self.refused += other.refused;
        self.let_in += other.let_in;
        self.wrong += other.wrong;
        self.misjudged += other.misjudged;
    }
}

/// The server's word on a visitor.
#[derive(Debug)]
enum Judgement {
    /// Let in as this user.
    Open(String),
    Refused(u16),
}

/// Visitors come one after the other, `count` at a time, for `span`. The validation of so many
/// percent of them goes wrong.
///
/// Those wait for their end while the next ones come, as they are not in anybody's way.
fn visit(address: SocketAddr, count: usize, span: Duration, percent: u64) -> Result<Met> {
    let end = Instant::now() + span;
    let mut met = Met::default();
    thread::scope(|scope| {
        let visitors: Vec<_> = (0..count)
            .map(|index| {
                scope.spawn(move || {
                    let mut dice = Dice::new(index as u64);
                    let mut met = Met::default();
                    let mut waiting = Vec::new();
                    for turn in 0.. {
                        if Instant::now() >= end {
                            break;
                        }
                        let who = format!("visitor{index}-{turn}");
                        let is_faulty = dice.below(100) < percent;
                        let fault = is_faulty.then(|| dice.pick(&FAULTS));
                        let visit = move || {
                            let start = Instant::now();
                            let path = format!("/{}/{who}", fault.unwrap_or("yes"));
                            let (end, took) = ring(address, &path, start)?;
                            anyhow::Ok((fault, end, who, took))
                        };
                        if is_faulty {
                            waiting.push(scope.spawn(visit));
                        } else {
                            let (fault, end, who, took) = visit()?;
                            met.enter(fault, &end, &who, took);
                        }
                        thread::sleep(PAUSE);
                    }
                    for visit in waiting {
                        let visit = visit.join().map_err(|_| anyhow!("a visitor panicked"))?;
                        let (fault, end, who, took) = visit?;
                        met.enter(fault, &end, &who, took);
                    }
                    anyhow::Ok(met)
                })
            })
            .collect();
        for visitor in visitors {
            let visitor = visitor.join().map_err(|_| anyhow!("a visitor panicked"))?;
            met.add(visitor?);
        }
        anyhow::Ok(())
    })?;
    Ok(met)
}

/// Asks to be let in; who is let in asks who it is taken for.
fn ring(address: SocketAddr, path: &str, start: Instant) -> Result<(Judgement, Duration)> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let head = wire::request_head(&address.to_string(), false);
    let head = head.replacen("GET / ", &format!("GET {path} "), 1);
    (&stream).write_all(head.as_bytes())?;
    let outcome = Client::answer(stream)?;
    let took = start.elapsed();
    let judgement = match outcome {
        Outcome::Refused(status) => Judgement::Refused(status),
        Outcome::Open(mut client) => {
            client.send(wire::TEXT, b"who")?;
            let Some(Event::Message(user)) = client.receive()? else {
                bail!("no answer to the question who it is");
            };
            client.close()?;
            Judgement::Open(String::from_utf8(user)?)
        }
    };
    Ok((judgement, took))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visitor_is_right_wrong_or_misjudged() {
        let open = |user: &str| Judgement::Open(user.to_owned());
        let mut met = Met::default();
        for (fault, end) in [
            (None, open("me")),
            (None, open("you")),
            (None, Judgement::Refused(503)),
            (Some("crash"), open("me")),
            (Some("crash"), Judgement::Refused(503)),
            (Some("crash"), Judgement::Refused(401)),
        ] {
            met.enter(fault, &end, "me", Duration::ZERO);
        }
        let expected = Met {
            welcome: vec![Duration::ZERO; 2],
            faulty: 3,
            refused: 1,
            let_in: 1,
            wrong: 1,
            misjudged: 2,
        };
        assert_eq!(met, expected);
    }
}
