//! Runs of the callback: each answers one message, or hears of an event.

use std::rc::Rc;
use std::sync::Arc;

use tracing::{debug, warn};
use ws_session::SessionData;

use super::Connection;
use super::lines::AnswerLines;
use super::work::Started;
use crate::application::Application;
use crate::core::answer::Answer;
use crate::core::failure::RunFailure;
use crate::core::question::{Occasion, Question};
use crate::core::turns::MessageId;
use crate::shard::Shard;
use crate::shared::Shared;
use crate::spans::{MessageSpan, RunSpan};

/// The number of the run that hears of the connection's end; no message has it.
pub(super) const CLOSE_ID: MessageId = MessageId::MAX;

impl Connection {
    pub(super) fn start_run(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        id: MessageId,
        question: Question,
    ) -> Started {
        let connection = Rc::clone(self);
        let server = Arc::clone(&shard.server);
        let (run, span) = MessageSpan::begin(&server, &self.visitor, id, &question);
        server.hub.counters.callbacks_started.increment();
        let guard = RunGuard {
            server: Arc::clone(&server),
            is_counted: false,
        };
        let handle = shard.spawn(async move {
            let mut run = run;
            let data = server.hub.keeper.data(connection.visitor.session);
            let current = Arc::clone(&server.current());
            let end = match &current.application {
                Some(application) if application.answers_in_lines() => {
                    connection
                        .answer_in_lines(&server, application, id, &question, &mut run, data)
                        .await
                }
                Some(application) => {
                    let visitor = &connection.visitor;
                    application
                        .answer(visitor, id, &question, run.trace(), data)
                        .await
                }
                None => Ok(Answer::default()),
            };
            guard.ended();
            connection.finish_run(&server, id, question.event, run, end);
        });
        Started { handle, span }
    }

    /// Sends what the callback writes, line by line; what is left to be said is returned.
    async fn answer_in_lines(
        self: &Rc<Self>,
        server: &Arc<Shared>,
        application: &Application,
        id: MessageId,
        question: &Question,
        span: &mut RunSpan,
        data: Option<SessionData>,
    ) -> Result<Answer, RunFailure> {
        let trace = span.trace();
        let mut lines = AnswerLines::new(Rc::clone(self), Arc::clone(server), id);
        let run = application.answer_into(&self.visitor, id, question, trace, data, &mut lines);
        let end = run.await;
        lines.finish();
        span.set_lines(lines.count, lines.size);
        end?;
        Ok(match lines.count > 0 || !question.event.is_message() {
            true => Answer::default(),
            false => application.empty_answer(),
        })
    }

    fn finish_run(
        &self,
        server: &Shared,
        id: MessageId,
        event: Occasion,
        run: RunSpan,
        end: Result<Answer, RunFailure>,
    ) {
        let counters = &server.hub.counters;
        let failure = end.as_ref().err();
        let failure = failure.map(|failure| failure.cause().as_str());
        if let Some(failure) = failure {
            self.state.borrow_mut().work.note_failure(id, failure);
        }
        let trace_id = run.trace().map(|trace| tracing::field::display(trace.id()));
        let message_id = event.is_message().then_some(id);
        let mut answer = match end {
            Ok(answer) => {
                counters.callbacks_finished.increment();
                debug!(
                    conn.id = %self.id(), event = event.as_str(), message.id = message_id,
                    trace.id = trace_id,
                    payload.len = answer.reply.as_ref().map_or(0, |reply| reply.payload.len()),
                    "callback finished"
                );
                answer
            }
            Err(failure) => {
                let cause = failure.cause();
                counters.callback_failed(cause);
                warn!(
                    parent: &self.visitor.span(),
                    event = event.as_str(), message.id = message_id, trace.id = trace_id,
                    cause = cause.as_str(), error = %failure, "callback failed"
                );
                let current = server.current();
                let application = current.application.as_ref();
                application
                    .filter(|_| event.is_message())
                    .map(|app| app.error_answer())
                    .unwrap_or_default()
            }
        };
        run.end(failure);
        if let Some(data) = answer.data.take() {
            server.hub.keeper.set_data(self.visitor.session, data);
        }
        // After the last message the seat may be another's.
        if id != CLOSE_ID {
            self.state.borrow_mut().turns.finish(id, answer);
            self.seat.ask();
        }
    }
}

/// Counts a run that is aborted: it has no other end.
struct RunGuard {
    server: Arc<Shared>,
    is_counted: bool,
}

impl RunGuard {
    /// The run has an end of its own.
    fn ended(mut self) {
        self.is_counted = true;
    }
}

impl Drop for RunGuard {
    fn drop(&mut self) {
        if !self.is_counted {
            self.server
                .hub
                .counters
                .callback_failed(crate::counters::CallbackFailure::Cancelled);
        }
    }
}
