//! Turns a visitor away.

use std::fmt::Display;
use std::io;
use std::time::Duration;

use tokio::time::timeout;
use ws_ipc::EnvironmentError;
use ws_proto::handshake::{Rejection, response};
use ws_transport::Stream;

use crate::counters::Refusal;
use crate::places::Full;
use crate::store::NoAnswer;

/// How long a refused peer may take to close its side, so that no reset overtakes the refusal.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);
/// What a visitor who is turned away for want of room is told to wait, in seconds.
const RETRY_AFTER: &str = "1";
const NO_STORE: &str = "sessions cannot be looked up now";

/// A handshake that does not become a connection.
pub(super) struct Refused {
    pub(super) refusal: Refusal,
    /// The whole HTTP response; empty if nobody is there to read it.
    pub(super) response: Vec<u8>,
    pub(super) cause: String,
}

impl Refused {
    /// The status of the response, if there is one.
    pub(super) fn status(&self) -> Option<u16> {
        // RFC 9112 §4: "HTTP/1.1", a space, three digits.
        let digits = self.response.get(9..12)?;
        str::from_utf8(digits).ok()?.parse().ok()
    }
}

/// Writes a whole response, shuts our side down and waits for the peer's.
pub(super) async fn answer_and_close(stream: &Stream, mut response: &[u8]) {
    if response.is_empty() {
        return;
    }
    let answer = async {
        while !response.is_empty() {
            stream.writable().await?;
            match stream.try_write(response) {
                Ok(written) => response = &response[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        stream.shutdown_write()?;
        let mut discarded = [0; 1024];
        loop {
            stream.readable().await?;
            // Whoever goes on sending does not hold up the others, nor the end of this.
            tokio::task::coop::consume_budget().await;
            match stream.try_read(&mut discarded) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    };
    // The peer is refused already; whether it heard so is its own affair.
    let _ = timeout(REFUSAL_TIMEOUT, answer).await;
}

pub(super) fn refused(refusal: Refusal, status: u16, text: &str) -> Refused {
    Refused {
        refusal,
        response: response(status, &[], text),
        cause: text.to_owned(),
    }
}

pub(super) fn busy(refusal: Refusal, text: &str) -> Refused {
    Refused {
        refusal,
        response: response(503, &[("Retry-After", RETRY_AFTER)], text),
        cause: text.to_owned(),
    }
}

impl From<NoAnswer> for Refused {
    fn from(_: NoAnswer) -> Self {
        busy(Refusal::Store, NO_STORE)
    }
}

impl From<Full> for Refused {
    fn from(full: Full) -> Self {
        // RFC 6585 §4: 429 is for one who asks too often, 503 (RFC 9110 §15.6.4) is for everybody.
        let (refusal, status, text) = match full {
            Full::Total => (
                Refusal::MaxConnections,
                503,
                "limits.max_connections is reached",
            ),
            Full::Descriptors => (
                Refusal::Descriptors,
                503,
                "no room: only limits.reserved_descriptors are left",
            ),
            Full::Addr => (
                Refusal::MaxConnectionsPerIp,
                429,
                "limits.max_connections_per_ip is reached",
            ),
            Full::User => (
                Refusal::MaxConnectionsPerUser,
                429,
                "limits.max_connections_per_user is reached",
            ),
        };
        Self {
            refusal,
            response: response(status, &[("Retry-After", RETRY_AFTER)], text),
            cause: text.to_owned(),
        }
    }
}

/// The cause goes to the log, not to the peer.
pub(super) fn internal(error: &dyn Display) -> Refused {
    let mut refused = refused(Refusal::Internal, 503, "not possible now");
    refused.cause = error.to_string();
    refused
}

pub(super) fn gone(error: io::Error) -> Refused {
    Refused {
        refusal: Refusal::Gone,
        response: Vec::new(),
        cause: error.to_string(),
    }
}

impl From<Rejection> for Refused {
    fn from(rejection: Rejection) -> Self {
        let refusal = match rejection {
            Rejection::HeadTooLarge { .. } => Refusal::MaxHeadSize,
            Rejection::TooManyHeaders { .. } => Refusal::MaxHeaderCount,
            Rejection::TargetTooLong { .. } => Refusal::MaxTargetSize,
            _ => Refusal::Malformed,
        };
        Self {
            refusal,
            response: rejection.response(),
            cause: rejection.to_string(),
        }
    }
}

impl From<EnvironmentError> for Refused {
    fn from(error: EnvironmentError) -> Self {
        let status = match error {
            EnvironmentError::TooLarge { .. } | EnvironmentError::TooMany { .. } => 431,
            _ => 400,
        };
        let mut refused = refused(
            Refusal::Malformed,
            status,
            "the request headers cannot be passed on",
        );
        refused.cause = error.to_string();
        refused
    }
}
