//! A connection from its opening to its end.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::time::{Instant, Interval, sleep_until};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::command::{Command, HELP};
use super::opening::{Bytes, Opened};
use super::output::Output;
use super::show::Look;
use super::typing::{Lines, Typed};
use super::words;
use crate::args::ConnectArgs;
use crate::failure::{Code, Failure};
use crate::human;
use crate::output::printable;

/// Pings of which the time is kept: a server that answers none must not fill the memory.
const MAX_PINGS: usize = 64;

/// One connection, and how its messages are shown.
pub(super) struct Session<'a> {
    stream: WebSocketStream<Box<dyn Bytes>>,
    lines: Lines,
    output: Output,
    args: &'a ConnectArgs,
    wait: Duration,
    /// Messages sent less messages received: answers that may still come.
    unanswered: u64,
    has_received: bool,
    is_closing: bool,
    pings: Pings,
}

/// Pings that have no pong yet, the oldest first.
#[derive(Debug, Default)]
struct Pings {
    last: u64,
    sent: Vec<(u64, Instant)>,
}

impl Pings {
    /// The payload of a ping that is sent now.
    fn next(&mut self, now: Instant) -> Vec<u8> {
        self.last += 1;
        if self.sent.len() == MAX_PINGS {
            self.sent.remove(0);
        }
        self.sent.push((self.last, now));
        self.last.to_be_bytes().to_vec()
    }

    /// How long the pong with this payload took, if it answers one of our pings.
    fn answered(&mut self, payload: &[u8], now: Instant) -> Option<Duration> {
        let number = u64::from_be_bytes(payload.try_into().ok()?);
        let at = self.sent.iter().position(|(sent, _)| *sent == number)?;
        // RFC 6455 §5.5.3: a pong may answer the latest of several pings alone.
        let sent = self.sent.drain(..=at).next_back();
        sent.map(|(_, at)| now.duration_since(at))
    }
}

impl<'a> Session<'a> {
    pub(super) fn new(
        opened: Opened,
        lines: Lines,
        mut output: Output,
        args: &'a ConnectArgs,
    ) -> Self {
        if args.verbose {
            opened.facts.iter().for_each(|fact| output.notice(fact));
        } else if output.is_talk() {
            let subprotocol = opened.subprotocol.as_deref();
            let subprotocol = subprotocol.map(|name| format!(", subprotocol {name}"));
            let help = if args.raw {
                "Ctrl-D closes"
            } else {
                "Ctrl-D closes, /help tells more"
            };
            output.notice(&format!(
                "connected to {}{}; {help}",
                printable(&args.url),
                subprotocol.unwrap_or_default()
            ));
        }
        Self {
            stream: opened.stream,
            lines,
            output,
            args,
            wait: Duration::from_secs(args.wait),
            unanswered: 0,
            has_received: false,
            is_closing: false,
            pings: Pings::default(),
        }
    }

    pub(super) async fn run(mut self) -> Result<(), Failure> {
        // When it is not waited any longer; `None` while lines may come.
        let mut deadline = None;
        let mut pings = self
            .args
            .ping_interval
            .map(|it| tokio::time::interval_at(Instant::now() + it, it));
        loop {
            if !self.is_closing && self.is_done(deadline.is_some()) {
                self.close(None).await?;
                deadline = Some(self.closing_deadline());
            }
            let until = deadline.unwrap_or_else(Instant::now);
            tokio::select! {
                message = self.stream.next() => match message {
                    Some(Ok(Message::Close(frame))) => return self.closed(frame),
                    Some(Ok(message)) => self.take(&message)?,
                    Some(Err(Error::ConnectionClosed)) | None if self.is_closing => return Ok(()),
                    Some(Err(error)) => return Err(broken(&error)),
                    None => return Err(vanished()),
                },
                line = self.lines.next(), if deadline.is_none() => match line {
                    Some(Ok(Typed::Line(line))) => {
                        if let Some(closing) = self.act(&line).await? {
                            deadline = Some(closing);
                        }
                    }
                    Some(Ok(Typed::Notice(notice))) => self.output.notice(&notice),
                    Some(Err(error)) => {
                        let error = anyhow::Error::new(error).context("cannot read stdin");
                        return Err(error.into());
                    }
                    None => {
                        // Nobody looks any more, unless it is a script.
                        if self.output.is_talk() {
                            self.unanswered = 0;
                            self.has_received = true;
                        }
                        deadline = Some(Instant::now() + self.wait);
                    }
                },
                () = tick(&mut pings), if !self.is_closing => self.ping().await?,
                () = sleep_until(until), if deadline.is_some() => {
                    if self.is_closing {
                        return Ok(());
                    }
                    if self.args.once {
                        // Politely; but that nothing came is what is told.
                        let _ = self.close(None).await;
                        let text = format!("no message came within {} s", self.args.wait);
                        return Err(Failure::new(Code::TryLater, text));
                    }
                    // The answers are late. Whoever waited for nothing is not left to wonder.
                    if !self.wait.is_zero() {
                        self.output.notice(&format!(
                            "messages without an answer: {}, after {} s; the server's log may say why",
                            self.unanswered, self.args.wait
                        ));
                    }
                    self.unanswered = 0;
                }
            }
        }
    }

    /// Whether there is nothing left to wait for.
    fn is_done(&self, is_input_over: bool) -> bool {
        match self.args.once {
            true => self.has_received,
            false => is_input_over && self.unanswered == 0,
        }
    }

    /// The closing handshake gets as long as the answers did.
    fn closing_deadline(&self) -> Instant {
        Instant::now() + self.wait.max(Duration::from_secs(1))
    }

    /// Does what a line asks for. Returns until when to wait if that was to close.
    async fn act(&mut self, line: &str) -> Result<Option<Instant>, Failure> {
        let has_commands = self.output.is_talk() && !self.args.raw;
        let command = match has_commands {
            true => Command::of(line),
            false => Command::Send(line),
        };
        match command {
            Command::Send(text) => {
                let sent = self.stream.send(Message::text(text)).await;
                sent.map_err(|error| broken(&error))?;
                self.unanswered += 1;
            }
            Command::Ping => self.ping().await?,
            Command::Close { code, reason } => {
                let frame = CloseFrame {
                    code: code.into(),
                    reason: reason.into(),
                };
                self.close(Some(frame)).await?;
                return Ok(Some(self.closing_deadline()));
            }
            Command::Help => self.output.notice(HELP),
            Command::Wrong(how) => self.output.notice(how),
        }
        Ok(None)
    }

    async fn ping(&mut self) -> Result<(), Failure> {
        let payload = self.pings.next(Instant::now());
        let sent = self.stream.send(Message::Ping(payload.into())).await;
        sent.map_err(|error| broken(&error))
    }

    async fn close(&mut self, frame: Option<CloseFrame>) -> Result<(), Failure> {
        self.is_closing = true;
        match self.stream.close(frame).await {
            Ok(()) | Err(Error::ConnectionClosed) => Ok(()),
            Err(error) => Err(broken(&error)),
        }
    }

    fn take(&mut self, message: &Message) -> Result<(), Failure> {
        match message {
            Message::Pong(payload) => {
                if let Some(time) = self.pings.answered(payload, Instant::now()) {
                    self.tell_pong(time)?;
                }
                Ok(())
            }
            Message::Ping(_) => {
                if self.args.verbose {
                    self.output.notice("ping from the server, answered");
                }
                Ok(())
            }
            message => {
                let Some(shown) = self.output.look.message(message) else {
                    return Ok(());
                };
                self.unanswered = self.unanswered.saturating_sub(1);
                // What is on its way while it is closing was not asked for.
                if self.args.once && self.has_received {
                    return Ok(());
                }
                self.has_received = true;
                self.output.message(&shown)
            }
        }
    }

    fn tell_pong(&mut self, time: Duration) -> Result<(), Failure> {
        if self.output.look == Look::Json {
            let event = json!({ "type": "pong", "milliseconds": time.as_secs_f64() * 1000.0 });
            return self.output.message(&event.to_string());
        }
        self.output
            .notice(&format!("pong after {}", human::duration(time)));
        Ok(())
    }

    fn closed(&mut self, frame: Option<CloseFrame>) -> Result<(), Failure> {
        let (code, reason) = frame.map_or((1005, String::new()), |frame| {
            (frame.code.into(), frame.reason.to_string())
        });
        if self.output.look == Look::Json {
            let event = json!({
                "type": "close", "code": code, "reason": reason, "meaning": words::close(code),
            });
            self.output.message(&event.to_string())?;
        }
        let reason = match &*reason {
            "" => String::new(),
            reason => format!(": {}", printable(reason)),
        };
        let text = format!("{code} ({}){reason}", words::close(code));
        if self.is_closing || matches!(code, 1000 | 1005) {
            if self.output.is_talk() || self.args.verbose {
                let by = if self.is_closing {
                    "closed"
                } else {
                    "closed by the server"
                };
                self.output.notice(&format!("{by} with {text}"));
            }
            return Ok(());
        }
        Err(Failure::new(
            Code::Failed,
            format!("closed by the server with {text}"),
        ))
    }
}

/// Resolves when the next ping is due; never if none is asked for.
async fn tick(pings: &mut Option<Interval>) {
    match pings {
        Some(pings) => {
            pings.tick().await;
        }
        None => std::future::pending().await,
    }
}

fn broken(error: &Error) -> Failure {
    match error {
        Error::Io(_) | Error::ConnectionClosed | Error::AlreadyClosed => vanished(),
        Error::Protocol(
            tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
        ) => vanished(),
        error => Failure::new(Code::Failed, format!("the connection broke: {error}")),
    }
}

fn vanished() -> Failure {
    let text = format!("the connection ended with 1006 ({})", words::close(1006));
    Failure::new(Code::Failed, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pong_answers_its_ping_and_those_before() {
        let begin = Instant::now();
        let at = |millis| begin + Duration::from_millis(millis);
        let mut pings = Pings::default();
        let first = pings.next(at(0));
        let second = pings.next(at(10));
        assert_eq!(
            pings.answered(&second, at(15)),
            Some(Duration::from_millis(5))
        );
        assert_eq!(pings.answered(&first, at(20)), None);
        assert_eq!(pings.answered(b"unasked", at(20)), None);
    }

    #[test]
    fn a_server_that_answers_no_ping_costs_no_memory() {
        let mut pings = Pings::default();
        for _ in 0..10 * MAX_PINGS {
            pings.next(Instant::now());
        }
        assert_eq!(pings.sent.len(), MAX_PINGS);
    }
}
