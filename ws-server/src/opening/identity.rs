//! Finds out who a visitor is.

use std::io;
use std::net::IpAddr;
use std::time::Instant;

use tracing::{debug, info, warn};
use ws_proto::handshake::{Rejection, RequestHead, Upgrade, response};
use ws_session::{Recall, SessionId, SessionToken};

use super::admission::{Admitted, Claim};
use super::refusal::{Refused, busy, gone, internal, refused};
use super::{GOING_DOWN, Opening};
use crate::application::Validation;
use crate::core::answer::{Identity, Verdict};
use crate::core::cookie;
use crate::counters::{IdentifiedBy, IdentityRefusal, Refusal};
use crate::identify::{Identifier, Unproved};
use crate::spans::{RunSpan, VALIDATE};
use crate::store::NoAnswer;
use crate::visitor::Visitor;

impl<'a> Opening<'_, 'a> {
    /// Asks those who know visitors by what these bring.
    pub(super) fn recognise(
        &self,
        head: &RequestHead,
        upgrade: &Upgrade,
    ) -> Result<Option<Identity>, Refused> {
        let server = &self.shard.server;
        let Some(identifier) = &server.identifier else {
            return Ok(None);
        };
        let counters = &server.hub.counters;
        let known = identifier.recognise(head, upgrade, counters);
        if let Ok(Some(known)) = &known {
            let by = IdentifiedBy::Token.as_str();
            debug!(conn.id = %self.id, user.id = %known.user, by, "visitor recognised");
        }
        known.map_err(|unproved| self.unproved(unproved))
    }

    /// Asks those who know the sessions of other applications, unless the peer leaves or speaks
    /// before they answer.
    pub(super) async fn look_up(
        &self,
        identifier: &Identifier,
        head: &RequestHead,
    ) -> Result<Option<Identity>, Refused> {
        let counters = &self.shard.server.hub.counters;
        let known = self
            .unless_early(identifier.look_up(head, counters))
            .await?;
        if let Ok(Some(known)) = &known {
            debug!(conn.id = %self.id, user.id = %known.user, "visitor recognised by a session");
        }
        known.map_err(|unproved| self.unproved(unproved))
    }

    pub(super) fn unproved(&self, unproved: Unproved) -> Refused {
        let counters = &self.shard.server.hub.counters;
        counters.identity_refused(unproved.refusal);
        let reason = unproved.refusal.as_str();
        debug!(conn.id = %self.id, reason, "visitor not recognised");
        if unproved.is_failure() {
            let mut refused = busy(
                Refusal::IdentityFailed,
                "the visitor could not be recognised",
            );
            refused.cause = unproved.cause;
            return refused;
        }
        // RFC 9110 §15.5.2: a 401 says what would be accepted, as far as there is a word for it. What
        // was wrong, only the log does.
        let takes_tokens = self
            .shard
            .server
            .current()
            .config
            .identity()
            .token
            .is_some();
        let challenge = takes_tokens.then_some(("WWW-Authenticate", "Bearer"));
        Refused {
            refusal: Refusal::Identity,
            response: response(401, challenge.as_slice(), "not recognised"),
            cause: unproved.cause,
        }
    }

    /// Refuses one who brings nothing where something is required.
    pub(super) fn unknown(&self) -> Refused {
        self.unproved(Unproved {
            refusal: IdentityRefusal::Missing,
            cause: "nothing says who it is, and identity.required is set".to_owned(),
        })
    }

    /// Reads the token that the visitor brings.
    pub(super) fn token(&self, head: &RequestHead) -> Result<Option<SessionToken>, Refused> {
        let current = self.shard.server.current();
        let identity = current.config.identity();
        if identity.require_cookie && head.header("Cookie").is_none() {
            return Err(refused(Refusal::Cookie, 401, "a cookie is required"));
        }
        let cookies = head
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case("Cookie"));
        let cookies = cookies.filter_map(|(_, value)| std::str::from_utf8(value).ok());
        Ok(cookie::session_token(cookies, &identity.cookie))
    }

    pub(super) fn resume(
        &self,
        token: Option<&SessionToken>,
        addr: Option<IpAddr>,
        now: Instant,
    ) -> Result<(SessionId, Option<SessionToken>), Refused> {
        let hub = &self.shard.server.hub;
        if let Some(id) = token.map(SessionToken::id) {
            let recalled = hub.sessions().recall(id, addr, now);
            match recalled {
                Recall::Known => return Ok((id, None)),
                Recall::Unknown => {}
                Recall::Elsewhere {
                    made_for,
                    comes_from,
                } => {
                    hub.counters.address_changed.increment();
                    info!(
                        conn.id = %self.id, session.id = %id,
                        made_for = made_for.map(tracing::field::display),
                        comes_from = comes_from.map(tracing::field::display),
                        "a session comes from another network and is not resumed"
                    );
                }
            }
        }
        let (id, token) = self.issue(addr, now)?;
        Ok((id, Some(token)))
    }

    /// Makes a session that nobody knows of.
    pub(super) fn issue(
        &self,
        addr: Option<IpAddr>,
        now: Instant,
    ) -> Result<(SessionId, SessionToken), Refused> {
        let hub = &self.shard.server.hub;
        // What could not be written down would be lost with the server.
        if hub.keeper.is_down() {
            return Err(NoAnswer.into());
        }
        let fresh = self.shard.randomness.borrow_mut().take();
        let fresh = fresh.map_err(|error| internal(&error))?;
        Ok(hub.sessions().issue(addr, now, fresh))
    }

    pub(super) async fn ask(
        &self,
        validation: &Validation,
        upgrade: &Upgrade,
        claim: Claim<'_>,
    ) -> Result<Admitted<'a>, Refused> {
        let identity = self.validate(validation, &claim.visitor).await?;
        self.admit_named(upgrade, claim, identity).await
    }

    /// Admits one whose session may have a name that only the store knows.
    pub(super) async fn admit_named(
        &self,
        upgrade: &Upgrade,
        claim: Claim<'_>,
        identity: Identity,
    ) -> Result<Admitted<'a>, Refused> {
        if let Some(named) = identity.session
            && !self.shard.server.hub.sessions().contains(named)
        {
            let asking = self.shard.server.hub.keeper.look_up(named);
            self.unless_early(asking).await??;
        }
        self.admit(upgrade, claim, identity)
    }

    /// Asks the validation callback, unless the peer leaves or speaks before it is answered.
    pub(super) async fn validate(
        &self,
        validation: &Validation,
        visitor: &Visitor,
    ) -> Result<Identity, Refused> {
        let counters = &self.shard.server.hub.counters;
        counters.validations_started.increment();
        let data = self.shard.server.hub.keeper.data(visitor.session);
        let backend = self.shard.server.current().config.validation_backend();
        let run = RunSpan::of_handshake(&self.shard.server, visitor, VALIDATE, backend);
        let asking = validation.judge(visitor, run.trace(), data);
        let verdict = self.unless_early(asking).await?;
        run.judged(&verdict);
        match verdict {
            Verdict::Accepted(identity) => {
                counters.validations_accepted.increment();
                Ok(identity)
            }
            Verdict::Refused { status, cause } => {
                let refusal = match status {
                    401 | 403 => Refusal::Validation,
                    _ => Refusal::ValidationFailed,
                };
                if refusal == Refusal::ValidationFailed {
                    warn!(conn.id = %self.id, cause, "validation failed");
                }
                let text = match status {
                    401 => "not recognised",
                    403 => "not permitted",
                    _ => "the visitor could not be validated",
                };
                let mut refused = refused(refusal, status, text);
                refused.cause = cause;
                Err(refused)
            }
        }
    }

    /// Waits for an answer about the visitor, unless the peer leaves or speaks before it comes, or the
    /// server goes down.
    pub(super) async fn unless_early<T>(
        &self,
        asking: impl Future<Output = T>,
    ) -> Result<T, Refused> {
        let mut draining = self.shard.server.draining.clone();
        tokio::select! {
            // Whoever speaks too early is refused even if the answer comes at the same moment.
            biased;
            early = self.early_data() => Err(early),
            answer = asking => Ok(answer),
            _ = draining.wait_for(|draining| *draining) => {
                Err(self.abandon(Refusal::Draining, GOING_DOWN))
            }
        }
    }

    /// Resolves when the peer leaves, or sends what it may not send before the 101.
    pub(super) async fn early_data(&self) -> Refused {
        loop {
            if let Err(error) = self.stream.readable().await {
                return gone(error);
            }
            match self.stream.try_read(&mut [0; 1]) {
                Ok(0) => return gone(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => return Rejection::EarlyData.into(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return gone(error),
            }
        }
    }
}
