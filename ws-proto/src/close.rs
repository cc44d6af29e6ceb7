//! Close codes and the payload of close frames.

use std::fmt;

use crate::ProtocolError;

/// A close code that may be sent in a close frame.
///
/// Holds 1000-1003, 1007-1014 or 3000-4999. The codes 1005, 1006 and 1015 describe what happened
/// and never travel ([RFC 6455 §7.4.1](https://www.rfc-editor.org/rfc/rfc6455#section-7.4.1));
/// 1012-1014 were registered after the RFC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CloseCode(u16);

impl CloseCode {
    /// The purpose of the connection is fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// The endpoint goes away: a server shuts down, a page is left.
    pub const AWAY: Self = Self(1001);
    /// The peer broke the protocol.
    pub const PROTOCOL: Self = Self(1002);
    /// The endpoint cannot accept this kind of data.
    pub const UNSUPPORTED: Self = Self(1003);
    /// A message held data that its kind forbids, such as text that is not UTF-8.
    pub const INVALID_PAYLOAD: Self = Self(1007);
    /// A message, or the flow of them, violates the endpoint's policy.
    pub const POLICY: Self = Self(1008);
    /// A message is too big to be processed.
    pub const TOO_BIG: Self = Self(1009);
    /// The server met an unexpected condition.
    pub const INTERNAL: Self = Self(1011);
    /// The service restarts; the peer may reconnect after a while.
    pub const RESTART: Self = Self(1012);
    /// The service is overloaded; the peer should try again later.
    pub const TRY_LATER: Self = Self(1013);

    /// Checks a code received from the peer or chosen by the application.
    ///
    /// # Errors
    ///
    /// [`InvalidCloseCode`] if the code is reserved or out of range.
    pub fn new(code: u16) -> Result<Self, InvalidCloseCode> {
        // RFC 6455 §7.4.2: 3000-3999 are for libraries and frameworks, 4000-4999 for private use.
        // 1004-1006, 1015 and the unassigned 1016-2999 must not appear in a close frame.
        match code {
            1000..=1003 | 1007..=1014 | 3000..=4999 => Ok(Self(code)),
            _ => Err(InvalidCloseCode { code }),
        }
    }

    /// Returns the number.
    #[must_use]
    pub fn as_u16(self) -> u16 {
        self.0
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A close code that must not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code} is not a close code that may be sent")]
pub struct InvalidCloseCode {
    /// The refused number.
    pub code: u16,
}

/// The payload of a close frame that has one: a code and a reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseFrame {
    /// Why the connection ends.
    pub code: CloseCode,
    /// The same for humans; at most 123 bytes of it are sent.
    pub reason: String,
}

impl CloseFrame {
    /// The longest reason in bytes: a control frame's 125 less the code's two.
    pub const MAX_REASON_SIZE: usize = 123;

    /// Makes a close frame; a reason over 123 bytes is cut at the last character that fits.
    #[must_use]
    pub fn new(code: CloseCode, reason: impl Into<String>) -> Self {
        let mut reason = reason.into();
        reason.truncate(fitting(&reason).len());
        Self { code, reason }
    }

    /// Decodes the payload of a close frame; an empty payload has neither code nor reason.
    ///
    /// # Errors
    ///
    /// [`ProtocolError`] if the payload is one byte long, its code must not be sent, or its reason
    /// is not UTF-8.
    pub fn decode(payload: &[u8]) -> Result<Option<Self>, ProtocolError> {
        let (code, reason) = match payload {
            [] => return Ok(None),
            // RFC 6455 §5.5.1: if there is a body, its first two bytes must be the code.
            [_] => return Err(ProtocolError::TruncatedClosePayload),
            [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
        };
        let code =
            CloseCode::new(code).map_err(|_| ProtocolError::InvalidReceivedCloseCode { code })?;
        // RFC 6455 §8.1: the reason is UTF-8 as much as a text message.
        let reason = std::str::from_utf8(reason)
            .map_err(|_| ProtocolError::CloseReasonNotUtf8)?
            .to_owned();
        Ok(Some(Self { code, reason }))
    }

    /// Appends the payload, at most 125 bytes, to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.code.as_u16().to_be_bytes());
        out.extend_from_slice(fitting(&self.reason).as_bytes());
    }
}

/// Returns the longest prefix of `reason` that fits a close frame and ends between characters.
fn fitting(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(CloseFrame::MAX_REASON_SIZE)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "an interpreter takes minutes")]
    fn t27_every_code_is_judged() {
        for code in 0..=u16::MAX {
            let allowed = (1000..=1003).contains(&code)
                || (1007..=1014).contains(&code)
                || (3000..=4999).contains(&code);
            assert_eq!(CloseCode::new(code).is_ok(), allowed, "{code}");
            let decoded = CloseFrame::decode(&code.to_be_bytes());
            if allowed {
                assert_eq!(decoded.unwrap().unwrap().code.as_u16(), code);
            } else {
                assert_eq!(
                    decoded,
                    Err(ProtocolError::InvalidReceivedCloseCode { code })
                );
            }
        }
    }

    #[test]
    fn t27_one_byte_payload_is_refused() {
        assert_eq!(
            CloseFrame::decode(&[3]),
            Err(ProtocolError::TruncatedClosePayload)
        );
        assert_eq!(CloseFrame::decode(&[]), Ok(None));
    }

    #[test]
    fn t25_close_reason_must_be_utf8() {
        let refused = CloseFrame::decode(&[3, 232, 0xED, 0xA0, 0x80]);
        assert_eq!(refused, Err(ProtocolError::CloseReasonNotUtf8));
    }

    #[test]
    fn long_reason_is_cut_between_characters() {
        let frame = CloseFrame::new(CloseCode::NORMAL, "ä".repeat(100));
        assert_eq!(frame.reason.len(), 122);
        let unchecked = CloseFrame {
            code: CloseCode::NORMAL,
            reason: "x".repeat(500),
        };
        let mut payload = Vec::new();
        unchecked.encode(&mut payload);
        assert_eq!(payload.len(), 125);
    }

    #[test]
    fn payload_round_trips() {
        let frame = CloseFrame::new(CloseCode::AWAY, "tschüß");
        let mut payload = Vec::new();
        frame.encode(&mut payload);
        assert_eq!(CloseFrame::decode(&payload), Ok(Some(frame)));
    }
}
