//! Runs the application for a message, and the validation for a visitor.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;
use tracing::info;
use ws_ipc::exec::{self, AnswerChannel, Exec};
use ws_ipc::fastcgi::FastCgi;
use ws_ipc::scgi::ScgiServer;
use ws_ipc::{Confinement, Environment, Failure, Identity as ProcessIdentity, Pool, Spawners};
use ws_proto::MessageKind;

use crate::config::{Account, Output, Trim};
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
#[derive(Debug)]
pub(crate) struct Callback {
    pub(crate) backend: Arc<Backend>,
    pub(crate) output: Output,
    pub(crate) timeout: Duration,
    pub(crate) max_output: usize,
    /// Runs at once in the whole server.
    pub(crate) turns: Semaphore,
    /// How long a run may wait for its turn among these; `None` for what was accepted.
    pub(crate) queue_timeout: Option<Duration>,
    /// Variables that are the same for every visitor.
    pub(crate) common: Environment,
    /// Variables that the configuration adds or replaces.
    pub(crate) added: BTreeMap<String, String>,
}

impl Callback {
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

    async fn run(
        &self,
        mut env: Environment,
        payload: Bytes,
        answer: AnswerChannel,
        stderr: &mut (dyn FnMut(&str) + Send),
    ) -> Result<Vec<u8>, RunFailure> {
        for (name, value) in &self.added {
            env.set_configured(name, value)?;
        }
        let _permit = self.turn().await?;
        let (timeout, max_output) = (self.timeout, self.max_output);
        let answer = match &*self.backend {
            Backend::Exec(program) => {
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
                exec::run(&program.spawners, exec, stderr).await
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

/// The application behind the server.
#[derive(Debug)]
pub(crate) struct Application {
    pub(crate) callback: Callback,
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
    ) -> Result<Answer, RunFailure> {
        let env = visitor.message_environment(&self.callback.common, id, question, trace)?;
        let mut stderr = |line: &str| {
            info!(
                conn.id = %visitor.connection, message.id = id,
                trace.id = trace.map(|trace| tracing::field::display(trace.id())),
                line, "stderr"
            );
        };
        let payload = question.payload.clone();
        let output = self
            .callback
            .run(env, payload, AnswerChannel::Pipe, &mut stderr)
            .await?;
        let mut answer = match self.callback.output {
            Output::Plain => answer::plain(output, self.trimming),
            Output::Cgi => answer::cgi(&output, self.trimming)?,
        };
        if answer.reply.is_none() && question.event.is_message() {
            answer.reply = self.empty_reply.clone().map(text);
        }
        Ok(answer)
    }

    /// What the browser gets for a failed callback, if anything.
    pub(crate) fn error_answer(&self) -> Answer {
        Answer {
            reply: self.error_reply.clone().map(text),
            close: None,
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
    pub(crate) async fn judge(&self, visitor: &Visitor) -> Verdict {
        let mut stderr = |line: &str| {
            info!(conn.id = %visitor.connection, line, "stderr of validation");
        };
        let trace = visitor.begin_trace();
        let end = match visitor.validation_environment(&self.callback.common, trace) {
            Ok(env) => {
                self.callback
                    .run(env, Bytes::new(), AnswerChannel::Socketpair, &mut stderr)
                    .await
            }
            Err(error) => Err(error.into()),
        };
        match self.callback.output {
            Output::Plain => answer::plain_verdict(end),
            Output::Cgi => answer::cgi_verdict(end),
        }
    }
}

fn text(payload: Bytes) -> Reply {
    Reply {
        kind: MessageKind::Text,
        payload,
    }
}
