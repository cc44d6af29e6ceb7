//! What a callback's output means.

use std::time::Duration;

use bytes::Bytes;
use ws_ipc::Failure;
use ws_ipc::cgi::{CgiAnswer, parse_answer};
use ws_proto::{CloseCode, CloseFrame, MessageKind};
use ws_session::{SessionData, SessionId, UserId};

use super::failure::RunFailure;
use crate::config::Trim;

/// One message to the browser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) kind: MessageKind,
    pub(crate) payload: Bytes,
}

/// What the application answers to one message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Nothing written, nothing sent.
    pub(crate) reply: Option<Reply>,
    /// The connection is closed behind the reply.
    pub(crate) close: Option<CloseFrame>,
    /// What the session holds from now on; nothing if it is empty.
    pub(crate) data: Option<SessionData>,
}

/// All of the output is one message: text, or binary if it is not UTF-8.
pub(crate) fn plain(output: Vec<u8>, trimming: Trim) -> Answer {
    let payload = trim(Bytes::from(output), trimming);
    Answer {
        reply: reply(payload, None),
        ..Answer::default()
    }
}

/// The output is an answer of CGI (RFC 3875 §6): header lines, an empty line, the body.
///
/// # Errors
///
/// [`RunFailure::Answer`] if it is malformed, shorter than its `Content-Length`, or reports a
/// failure by a `Status` of 400 or above.
pub(crate) fn cgi(output: &[u8], trimming: Trim) -> Result<Answer, RunFailure> {
    let answer = accepted(output)?;
    let kind = match answer.header("X-WS-Type") {
        Some("binary") => Some(MessageKind::Binary),
        Some("text") => Some(MessageKind::Text),
        Some(other) => {
            return Err(bad(format!(
                "X-WS-Type: {} is neither text nor binary",
                shown(other)
            )));
        }
        None => None,
    };
    let is_utf8 = std::str::from_utf8(answer.body()).is_ok();
    if kind == Some(MessageKind::Text) && !is_utf8 {
        return Err(bad("X-WS-Type: text, but the body is not UTF-8".to_owned()));
    }
    let close = answer.header("X-WS-Close").map(close_frame).transpose()?;
    let data = session_data(&answer).map_err(bad)?;
    let body = Bytes::copy_from_slice(answer.body());
    let body = if kind == Some(MessageKind::Binary) {
        body
    } else {
        trim(body, trimming)
    };
    Ok(Answer {
        reply: reply(body, kind),
        close,
        data,
    })
}

/// Who the validation callback says the visitor is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accepted(Identity),
    /// The status of the refusal: 401 or 403 as the callback says, 503 if it could not say.
    Refused {
        status: u16,
        cause: String,
    },
}

/// A user, and what else the validation wants the browser to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) user: UserId,
    /// The application's session, if it has a name for it.
    pub(crate) session: Option<SessionId>,
    /// How long the answer holds until it is asked for again; without one, as long as the
    /// connection.
    pub(crate) ttl: Option<Duration>,
    /// Who is asked then, unless it is the validation callback.
    pub(crate) witness: Option<Box<Witness>>,
    /// How long the connection may last.
    pub(crate) expires_in: Option<Duration>,
    /// What the session holds from now on; nothing if it is empty.
    pub(crate) data: Option<SessionData>,
    /// Values of `Set-Cookie` headers for the 101.
    pub(crate) cookies: Vec<String>,
}

/// Whose session of another application names a user, and by what name that knows it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Witness {
    pub(crate) source: Source,
    /// Whoever has it has the session.
    pub(crate) credential: Box<str>,
}

/// Without the credential.
impl std::fmt::Debug for Witness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Witness")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

/// Where the sessions of another application are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// In PHP's files.
    Php,
    /// In a database.
    Lookup,
}

impl Identity {
    pub(crate) fn of(user: UserId) -> Self {
        Self {
            user,
            session: None,
            ttl: None,
            witness: None,
            expires_in: None,
            data: None,
            cookies: Vec::new(),
        }
    }
}

/// Reads the end of a validation run whose answer is one token, the user id.
///
/// It fails closed: whatever is not a complete, valid answer refuses the visitor.
pub(crate) fn plain_verdict(end: Result<Vec<u8>, RunFailure>) -> Verdict {
    let output = match end {
        Ok(output) => output,
        Err(failure) => return refusal_of(&failure),
    };
    if output.is_empty() {
        return refused(401, "nothing was written");
    }
    let token = output.strip_suffix(b"\n").unwrap_or(&output);
    let token = token.strip_suffix(b"\r").unwrap_or(token);
    match std::str::from_utf8(token)
        .ok()
        .and_then(|token| UserId::new(token).ok())
    {
        Some(user) => Verdict::Accepted(Identity::of(user)),
        None => refused(503, "the answer is not one user id"),
    }
}

/// Reads the end of a validation run whose answer is of CGI: `X-WS-User` names the user.
pub(crate) fn cgi_verdict(end: Result<Vec<u8>, RunFailure>) -> Verdict {
    let output = match end {
        Ok(output) => output,
        Err(failure) => return refusal_of(&failure),
    };
    if output.is_empty() {
        return refused(401, "nothing was written");
    }
    let answer = match parse_answer(&output) {
        Ok(answer) => answer,
        Err(error) => return refused(503, error.to_string()),
    };
    match answer.status() {
        status @ (401 | 403) => refused(status, "refused by the callback"),
        status if status >= 400 => {
            refused(503, format!("the callback answered with status {status}"))
        }
        _ => identity(&answer).map_or_else(|cause| refused(503, cause), Verdict::Accepted),
    }
}

/// Reads who the headers of an answer say that the visitor is.
fn identity(answer: &CgiAnswer<'_>) -> Result<Identity, String> {
    let user = answer.header("X-WS-User");
    let user = user.ok_or_else(|| "the answer has no X-WS-User".to_owned())?;
    let user = UserId::new(user).map_err(|error| format!("X-WS-User: {error}"))?;
    let ttl = answer.header("X-WS-TTL").map(ttl).transpose()?;
    let session = answer.header("X-WS-Session");
    if session.is_some_and(str::is_empty) {
        return Err("X-WS-Session is empty".to_owned());
    }
    let cookies = answer
        .headers()
        .filter(|(name, _)| name.eq_ignore_ascii_case("Set-Cookie"));
    Ok(Identity {
        user,
        session: session.map(SessionId::of_name),
        ttl,
        witness: None,
        expires_in: None,
        data: session_data(answer)?,
        cookies: cookies.map(|(_, value)| value.to_owned()).collect(),
    })
}

/// `X-WS-Data: TEXT`, at most 4 KiB; what it holds is not repeated.
fn session_data(answer: &CgiAnswer<'_>) -> Result<Option<SessionData>, String> {
    let data = answer.header("X-WS-Data").map(SessionData::new);
    data.transpose()
        .map_err(|error| format!("X-WS-Data: {error}"))
}

/// `X-WS-TTL: SECONDS`, at least one.
fn ttl(value: &str) -> Result<Duration, String> {
    let seconds = value
        .trim()
        .parse::<u32>()
        .ok()
        .filter(|seconds| *seconds > 0);
    let seconds =
        seconds.ok_or_else(|| format!("X-WS-TTL: {} is no number of seconds", shown(value)))?;
    Ok(Duration::from_secs(seconds.into()))
}

fn refusal_of(failure: &RunFailure) -> Verdict {
    match failure {
        RunFailure::Process(Failure::Exited(1)) => refused(401, "refused by the callback"),
        other => refused(503, other.to_string()),
    }
}

fn refused(status: u16, cause: impl Into<String>) -> Verdict {
    Verdict::Refused {
        status,
        cause: cause.into(),
    }
}

fn accepted(output: &[u8]) -> Result<CgiAnswer<'_>, RunFailure> {
    let answer = parse_answer(output).map_err(|error| bad(error.to_string()))?;
    if answer.status() >= 400 {
        return Err(bad(format!("status {}", answer.status())));
    }
    Ok(answer)
}

/// `X-WS-Close: CODE REASON`.
fn close_frame(value: &str) -> Result<CloseFrame, RunFailure> {
    let value = value.trim();
    let (code, reason) = value.split_once(' ').unwrap_or((value, ""));
    let code = code.parse().ok().and_then(|code| CloseCode::new(code).ok());
    let code =
        code.ok_or_else(|| bad(format!("X-WS-Close: {} is not a close code", shown(value))))?;
    Ok(CloseFrame::new(code, reason))
}

fn reply(payload: Bytes, kind: Option<MessageKind>) -> Option<Reply> {
    if payload.is_empty() {
        return None;
    }
    let kind = kind.unwrap_or_else(|| kind_of(&payload));
    Some(Reply { kind, payload })
}

/// What a message is whose kind nobody says: text if it can be.
pub(crate) fn kind_of(payload: &[u8]) -> MessageKind {
    match std::str::from_utf8(payload) {
        Ok(_) => MessageKind::Text,
        Err(_) => MessageKind::Binary,
    }
}

fn trim(payload: Bytes, trimming: Trim) -> Bytes {
    let kept: &[u8] = match trimming {
        Trim::None => &payload,
        Trim::All => payload.trim_ascii(),
        Trim::Newlines => {
            let end = payload
                .iter()
                .rposition(|byte| !matches!(byte, b'\n' | b'\r'));
            &payload[..end.map_or(0, |last| last + 1)]
        }
    };
    payload.slice_ref(kept)
}

fn bad(what: String) -> RunFailure {
    RunFailure::Answer(what)
}

/// A short, printable form of what a callback wrote.
fn shown(text: &str) -> String {
    text.chars().take(40).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(payload: &str) -> Option<Reply> {
        Some(Reply {
            kind: MessageKind::Text,
            payload: Bytes::copy_from_slice(payload.as_bytes()),
        })
    }

    #[test]
    fn trailing_newlines_are_cut_and_nothing_else() {
        let answer = plain(b" a \nb \r\n\n".to_vec(), Trim::Newlines);
        assert_eq!(answer.reply, text(" a \nb "));
    }

    #[test]
    fn nothing_written_is_nothing_sent() {
        assert_eq!(plain(Vec::new(), Trim::Newlines).reply, None);
        assert_eq!(plain(b"\n\n".to_vec(), Trim::Newlines).reply, None);
    }

    #[test]
    fn output_that_is_not_utf8_is_binary() {
        let answer = plain(b"\xff\n".to_vec(), Trim::Newlines);
        assert_eq!(answer.reply.unwrap().kind, MessageKind::Binary);
    }

    #[test]
    fn cgi_names_type_and_close() {
        let output = b"X-WS-Type: binary\r\nX-WS-Close: 4001 bye now\r\n\r\nabc\n";
        let answer = cgi(output, Trim::Newlines).unwrap();
        assert_eq!(answer.reply.unwrap().payload, "abc\n");
        let close = answer.close.unwrap();
        assert_eq!(
            (close.code.as_u16(), close.reason.as_str()),
            (4001, "bye now")
        );
    }

    #[test]
    fn cgi_status_of_400_is_a_failure() {
        assert!(matches!(
            cgi(b"Status: 500 x\n\nabc", Trim::None),
            Err(RunFailure::Answer(_))
        ));
        assert!(matches!(
            cgi(b"X-WS-Close: 1005\n\n", Trim::None),
            Err(RunFailure::Answer(_))
        ));
    }

    #[test]
    fn session_data_is_one_line_of_up_to_4_kib() {
        let data = |output: &[u8]| cgi(output, Trim::Newlines).map(|answer| answer.data);
        let text = |text: &str| Some(SessionData::new(text).unwrap());
        assert_eq!(data(b"\nabc"), Ok(None));
        assert_eq!(data(b"X-WS-Data: a=b; c\n\nabc"), Ok(text("a=b; c")));
        assert_eq!(data(b"X-WS-Data:\n\nabc"), Ok(text("")));
        let long = format!("X-WS-Data: {}\n\n", "x".repeat(4097));
        let failure = data(long.as_bytes()).unwrap_err().to_string();
        assert!(!failure.contains("xxx"), "{failure}");
        assert_eq!(status(&cgi_verdict(Ok(long.into_bytes()))), 503);
        let verdict = cgi_verdict(Ok(b"X-WS-User: 7\nX-WS-Data: abc\n\n".to_vec()));
        let Verdict::Accepted(identity) = verdict else {
            panic!("{verdict:?}");
        };
        assert_eq!(identity.data, text("abc"));
    }

    fn status(verdict: &Verdict) -> u16 {
        match verdict {
            Verdict::Accepted(_) => 101,
            Verdict::Refused { status, .. } => *status,
        }
    }

    #[test]
    fn t49_only_one_complete_token_is_an_identity() {
        let long = "u".repeat(255);
        for (output, expected) in [
            (&b"42\n"[..], 101),
            (b"42", 101),
            (b"b\xc3\xb6b\n", 101),
            (long.as_bytes(), 101),
            (b"", 401),
            (b"\n", 503),
            (b"two tokens\n", 503),
            (b"a\nb\n", 503),
            (b"tab\there", 503),
            (b"\xff\n", 503),
            (b"nul\0", 503),
            (&[b'u'; 256], 503),
        ] {
            assert_eq!(
                status(&plain_verdict(Ok(output.to_vec()))),
                expected,
                "{output:?}"
            );
        }
    }

    #[test]
    fn t49_a_failed_run_is_never_an_identity() {
        assert_eq!(status(&plain_verdict(Err(Failure::Exited(1).into()))), 401);
        for failure in [
            Failure::Exited(3),
            Failure::Signaled(9),
            Failure::TimedOut,
            Failure::Lost,
        ] {
            assert_eq!(status(&plain_verdict(Err(failure.into()))), 503);
        }
    }

    #[test]
    fn t49_cgi_verdicts() {
        for (output, expected) in [
            (&b"X-WS-User: 7\n\n"[..], 101),
            (b"Status: 403 no\n\n", 403),
            (b"Status: 401 no\nX-WS-User: 7\n\n", 401),
            (b"Status: 500 no\nX-WS-User: 7\n\n", 503),
            (b"X-WS-User: a b\n\n", 503),
            (b"X-Other: 7\n\n", 503),
            (b"7\n", 503),
        ] {
            assert_eq!(
                status(&cgi_verdict(Ok(output.to_vec()))),
                expected,
                "{output:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn prop_t49_an_accepted_user_id_is_the_whole_answer(output in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Verdict::Accepted(identity) = plain_verdict(Ok(output.clone())) {
                let answer = String::from_utf8(output).unwrap();
                prop_assert_eq!(identity.user.as_str(), answer.trim_end_matches(['\r', '\n']));
            }
        }

        #[test]
        fn prop_any_output_is_an_answer_or_a_failure(output in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = cgi(&output, Trim::Newlines);
            let _ = cgi_verdict(Ok(output.clone()));
            if let Some(reply) = plain(output, Trim::Newlines).reply {
                let is_utf8 = std::str::from_utf8(&reply.payload).is_ok();
                prop_assert_eq!(reply.kind == MessageKind::Text, is_utf8);
            }
        }
    }
}
