//! Runs the application for a message, and the validation for a visitor.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;
use tracing::info;
use ws_ipc::exec::{self, AnswerChannel, Exec, Sink};
use ws_ipc::fastcgi::FastCgi;
use ws_ipc::scgi::ScgiServer;
use ws_ipc::stream::{self, Host, StreamCommand};
use ws_ipc::{
    Confinement, Environment, EnvironmentError, Failure, Identity as ProcessIdentity, Pool,
    Spawners,
};
use ws_proto::MessageKind;
use ws_session::SessionData;

use crate::config::{Account, Output, StreamOutput, Trim};
use crate::core::answer::{self, Answer, Reply, Verdict};
use crate::core::failure::RunFailure;
use crate::core::question::Question;
use crate::core::trace::Trace;
use crate::core::turns::MessageId;
use crate::visitor::Visitor;

/// What runs for a message or a visitor.
#[derive(Debug)]
pub(crate) enum Backend {
    /// The command, once for each.
    Exec(Program),
    /// Fork servers or workers: the application's own, or the demo's.
    Pool(Pool),
    /// A server that others run.
    Scgi(ScgiServer),
    /// The same.
    FastCgi(FastCgi),
    /// The command, once for each connection.
    Stream(Program),
}

/// A program with its arguments, whom it runs as, where, and confined to what.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) argv: Vec<OsString>,
    pub(crate) identity: Option<ProcessIdentity>,
    pub(crate) dir: Option<PathBuf>,
    pub(crate) confinement: Box<Confinement>,
    pub(crate) spawners: Spawners,
}

/// Whom a process runs as, as the configuration names it.
pub(crate) fn process_identity(account: Account) -> ProcessIdentity {
    ProcessIdentity {
        uid: account.uid(),
        gid: account.gid(),
    }
}

/// The settings that the application and the validation share.
#[derive(Clone, Debug)]
pub(crate) struct Callback {
    pub(crate) backend: Arc<Backend>,
    pub(crate) output: Output,
    pub(crate) timeout: Duration,
    pub(crate) max_output: usize,
    /// Runs at once in the whole server.
    pub(crate) at_once: usize,
    pub(crate) turns: Arc<Semaphore>,
    /// How long a run may wait for its turn among these; `None` for what was accepted.
    pub(crate) queue_timeout: Option<Duration>,
    /// Variables that are the same for every visitor.
    pub(crate) common: Environment,
    /// Variables that the configuration adds or replaces.
    pub(crate) added: BTreeMap<String, String>,
    /// How long runs took.
    pub(crate) durations: Histogram,
}

impl Callback {
    /// Runs at this moment.
    pub(crate) fn running(&self) -> usize {
        self.at_once.saturating_sub(self.turns.available_permits())
    }

    /// Waits for a turn.
    async fn turn(&self) -> Result<SemaphorePermit<'_>, Failure> {
        let turn = self.turns.acquire();
        let turn = match self.queue_timeout {
            Some(limit) => timeout(limit, turn).await.map_err(|_| Failure::TimedOut)?,
            None => turn.await,
        };
        // The semaphore is never closed.
        turn.map_err(|_| Failure::Cancelled)
    }

    /// Adds the variables that the configuration adds.
    fn add_to(&self, env: &mut Environment) -> Result<(), EnvironmentError> {
        self.added
            .iter()
            .try_for_each(|(name, value)| env.set_configured(name, value))
    }

    async fn run(
        &self,
        mut env: Environment,
        payload: Bytes,
        to: Destination<'_>,
        stderr: &mut (dyn FnMut(&str) + Send),
    ) -> Result<Vec<u8>, RunFailure> {
        self.add_to(&mut env)?;
        let _permit = self.turn().await?;
        let begun = Instant::now();
        let answer = self.run_now(env, payload, to, stderr).await;
        self.durations.observe(begun.elapsed().as_secs_f64());
        answer
    }

    async fn run_now(
        &self,
        env: Environment,
        payload: Bytes,
        to: Destination<'_>,
        stderr: &mut (dyn FnMut(&str) + Send),
    ) -> Result<Vec<u8>, RunFailure> {
        let (timeout, max_output) = (self.timeout, self.max_output);
        let answer = match &*self.backend {
            Backend::Exec(program) | Backend::Stream(program) => {
                let answer = match to {
                    Destination::Socketpair => AnswerChannel::Socketpair,
                    Destination::Pipe | Destination::Sink(_) => AnswerChannel::Pipe,
                };
                let exec = Exec {
                    argv: program.argv.clone(),
                    env: env.to_os(),
                    payload,
                    timeout,
                    max_output,
                    identity: program.identity,
                    confinement: Confinement::clone(&program.confinement),
                    dir: program.dir.clone(),
                    answer,
                };
                match to {
                    Destination::Sink(sink) => {
                        let run = exec::run_into(&program.spawners, exec, sink, stderr);
                        run.await.map(|()| Vec::new())
                    }
                    _ => exec::run(&program.spawners, exec, stderr).await,
                }
            }
            Backend::Pool(pool) => pool.call(&env, &payload, timeout, max_output).await,
            Backend::Scgi(server) => server.call(&env, &payload, timeout, max_output).await,
            Backend::FastCgi(server) => {
                let call = server.call(&env, &payload, timeout, max_output, stderr);
                call.await
            }
        };
        Ok(answer?)
    }
}

/// Where the output of a run goes.
enum Destination<'a> {
    /// To the end of the run, through a pipe or a socketpair.
    Pipe,
    Socketpair,
    /// On, as it is written. Only a command's does.
    Sink(&'a mut dyn Sink),
}

/// The settings of a program that runs as long as a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamSettings {
    pub(crate) output: StreamOutput,
    pub(crate) grace: Duration,
}

/// The application behind the server.
#[derive(Debug)]
pub(crate) struct Application {
    pub(crate) callback: Callback,
    pub(crate) stream: StreamSettings,
    pub(crate) trimming: Trim,
    pub(crate) empty_reply: Option<Bytes>,
    pub(crate) error_reply: Option<Bytes>,
}

impl Application {
    /// Answers one message of one connection, or what it has to say to another event.
    ///
    /// # Errors
    ///
    /// How the callback failed; nothing of its partial output is used.
    pub(crate) async fn answer(
        &self,
        visitor: &Visitor,
        id: MessageId,
        question: &Question,
        trace: Option<Trace>,
        data: Option<SessionData>,
    ) -> Result<Answer, RunFailure> {
        let mut env = visitor.message_environment(&self.callback.common, id, question, trace)?;
        set_session_data(&mut env, data)?;
        let mut stderr = stderr_log(visitor, id, trace);
        let payload = question.payload.clone();
        let output = self
            .callback
            .run(env, payload, Destination::Pipe, &mut stderr)
            .await?;
        let mut answer = match self.callback.output {
            Output::Plain | Output::Lines => answer::plain(output, self.trimming),
            Output::Cgi => answer::cgi(&output, self.trimming)?,
        };
        if answer.reply.is_none() && question.event.is_message() {
            answer.reply = self.empty_reply.clone().map(text);
        }
        Ok(answer)
    }

    /// Whether the answers are lines, which leave as they are written.
    pub(crate) fn answers_in_lines(&self) -> bool {
        self.callback.output == Output::Lines
    }

    /// Runs the callback for one message, and hands on what it writes. Nothing else is the answer.
    ///
    /// # Errors
    ///
    /// How the callback failed; what it has written by then is with the sink.
    pub(crate) async fn answer_into(
        &self,
        visitor: &Visitor,
        id: MessageId,
        question: &Question,
        trace: Option<Trace>,
        data: Option<SessionData>,
        sink: &mut dyn Sink,
    ) -> Result<(), RunFailure> {
        let mut env = visitor.message_environment(&self.callback.common, id, question, trace)?;
        set_session_data(&mut env, data)?;
        let mut stderr = stderr_log(visitor, id, trace);
        let payload = question.payload.clone();
        let to = Destination::Sink(sink);
        self.callback.run(env, payload, to, &mut stderr).await?;
        Ok(())
    }

    /// Whether each connection has a program of its own.
    pub(crate) fn is_stream(&self) -> bool {
        matches!(*self.callback.backend, Backend::Stream(_))
    }

    /// Runs the program of one connection until it has ended.
    ///
    /// # Errors
    ///
    /// How it failed, unless it was asked to end.
    pub(crate) async fn converse(
        &self,
        visitor: &Visitor,
        trace: Option<Trace>,
        data: Option<SessionData>,
        host: &mut dyn Host,
    ) -> Result<(), RunFailure> {
        let Backend::Stream(program) = &*self.callback.backend else {
            return Ok(());
        };
        let mut env = visitor.stream_environment(&self.callback.common, trace)?;
        set_session_data(&mut env, data)?;
        self.callback.add_to(&mut env)?;
        let command = StreamCommand {
            argv: program.argv.clone(),
            env: env.to_os(),
            dir: program.dir.clone(),
            identity: program.identity,
            confinement: Confinement::clone(&program.confinement),
            grace: self.stream.grace,
        };
        Ok(stream::run(&program.spawners, command, host).await?)
    }

    /// What the browser gets for an answer without anything in it, if anything.
    pub(crate) fn empty_answer(&self) -> Answer {
        Answer {
            reply: self.empty_reply.clone().map(text),
            ..Answer::default()
        }
    }

    /// What the browser gets for a failed callback, if anything.
    pub(crate) fn error_answer(&self) -> Answer {
        Answer {
            reply: self.error_reply.clone().map(text),
            ..Answer::default()
        }
    }
}

/// The callback that says who a visitor is.
#[derive(Debug)]
pub(crate) struct Validation {
    pub(crate) callback: Callback,
}

impl Validation {
    /// Asks who the visitor is. Whatever goes wrong refuses the visitor.
    pub(crate) async fn judge(
        &self,
        visitor: &Visitor,
        trace: Option<Trace>,
        data: Option<SessionData>,
    ) -> Verdict {
        let mut stderr = |line: &str| {
            info!(
                conn.id = %visitor.connection,
                trace.id = trace.map(|trace| tracing::field::display(trace.id())),
                line, "stderr of validation"
            );
        };
        let env = visitor.validation_environment(&self.callback.common, trace);
        let env = env.and_then(|mut env| {
            set_session_data(&mut env, data)?;
            Ok(env)
        });
        let end = match env {
            Ok(env) => {
                self.callback
                    .run(env, Bytes::new(), Destination::Socketpair, &mut stderr)
                    .await
            }
            Err(error) => Err(error.into()),
        };
        match self.callback.output {
            Output::Plain | Output::Lines => answer::plain_verdict(end),
            Output::Cgi => answer::cgi_verdict(end),
        }
    }
}

/// Puts what a run writes to its standard error into the log.
fn stderr_log(
    visitor: &Visitor,
    id: MessageId,
    trace: Option<Trace>,
) -> impl FnMut(&str) + Send + use<> {
    let connection = visitor.connection;
    move |line| {
        info!(
            conn.id = %connection, message.id = id,
            trace.id = trace.map(|trace| tracing::field::display(trace.id())),
            line, "stderr"
        );
    }
}

/// What the application has put into the visitor's session.
fn set_session_data(
    env: &mut Environment,
    data: Option<SessionData>,
) -> Result<(), EnvironmentError> {
    match data {
        Some(data) => env.set("WS_SESSION_DATA", data.as_str()),
        None => Ok(()),
    }
}

fn text(payload: Bytes) -> Reply {
    Reply {
        kind: MessageKind::Text,
        payload,
    }
}
