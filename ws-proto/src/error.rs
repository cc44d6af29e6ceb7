//! Why a connection fails, and what the peer is told.

use crate::CloseCode;

/// Why a connection was failed ([RFC 6455 §7.1.7](https://www.rfc-editor.org/rfc/rfc6455#section-7.1.7)).
///
/// The first group is the peer's breach of the protocol, the second a limit that was passed, the
/// third a deadline.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// A reserved bit was set that no extension has given a meaning.
    #[error("reserved bit set")]
    ReservedBits,
    /// The opcode is not defined.
    #[error("reserved opcode {opcode:#x}")]
    ReservedOpcode {
        /// The four bits.
        opcode: u8,
    },
    /// A control frame came without the FIN bit.
    #[error("fragmented control frame")]
    FragmentedControlFrame,
    /// A control frame declared more than 125 bytes.
    #[error("control frame over 125 bytes")]
    ControlFrameTooLong,
    /// A client's frame was not masked.
    #[error("frame is not masked")]
    UnmaskedFrame,
    /// A server's frame was masked.
    #[error("frame is masked")]
    MaskedFrame,
    /// The payload length was not encoded in the shortest form.
    #[error("payload length not in its shortest form")]
    NonMinimalLength,
    /// The most significant bit of a 64-bit payload length was set.
    #[error("payload length over 63 bits")]
    LengthOverflow,
    /// A continuation came while no message was begun.
    #[error("continuation without a message")]
    UnexpectedContinuation,
    /// A new message began inside a fragmented one.
    #[error("new message inside a fragmented one")]
    ExpectedContinuation,
    /// A text message is not UTF-8.
    #[error("text is not UTF-8")]
    TextNotUtf8,
    /// A compressed message is not a DEFLATE stream.
    #[error("compressed message cannot be inflated")]
    InvalidDeflateData,
    /// The payload of a close frame is a single byte.
    #[error("close payload of one byte")]
    TruncatedClosePayload,
    /// The code of a close frame must not be sent.
    #[error("close code {code} must not be sent")]
    InvalidReceivedCloseCode {
        /// The code received.
        code: u16,
    },
    /// The reason of a close frame is not UTF-8.
    #[error("close reason is not UTF-8")]
    CloseReasonNotUtf8,

    /// A message is, or would become, bigger than [`Config::max_message_size`](crate::Config::max_message_size).
    #[error("message of {size} bytes or more (max_message_size is {max})")]
    MessageTooBig {
        /// What the frames declared so far add up to, or what came out of a compressed message.
        size: u64,
        /// The limit.
        max: usize,
    },
    /// A message has more than [`Config::max_fragment_count`](crate::Config::max_fragment_count) fragments.
    #[error("message of more than {max} fragments (max_fragment_count)")]
    TooManyFragments {
        /// The limit.
        max: u32,
    },
    /// A message has more than [`Config::max_empty_fragment_count`](crate::Config::max_empty_fragment_count)
    /// empty fragments.
    #[error("message of more than {max} empty fragments (max_empty_fragment_count)")]
    TooManyEmptyFragments {
        /// The limit.
        max: u32,
    },
    /// Pings and pongs came faster than [`Config::control_rate`](crate::Config::control_rate).
    #[error("too many control frames (control_rate)")]
    TooManyControlFrames,

    /// A message was not complete within [`Config::message_timeout`](crate::Config::message_timeout).
    #[error("message not complete in time (message_timeout)")]
    MessageTimeout,
    /// No pong came within [`Config::pong_timeout`](crate::Config::pong_timeout).
    #[error("no pong in time (pong_timeout)")]
    PongTimeout,
    /// The closing handshake was not complete within [`Config::close_timeout`](crate::Config::close_timeout).
    #[error("closing handshake not complete in time (close_timeout)")]
    CloseTimeout,
}

impl ProtocolError {
    /// Returns the close code that tells the peer.
    ///
    /// After a [`CloseTimeout`](Self::CloseTimeout) nothing is sent any more; its code is for logs.
    #[must_use]
    pub fn close_code(&self) -> CloseCode {
        match self {
            Self::ReservedBits
            | Self::ReservedOpcode { .. }
            | Self::FragmentedControlFrame
            | Self::ControlFrameTooLong
            | Self::UnmaskedFrame
            | Self::MaskedFrame
            | Self::NonMinimalLength
            | Self::LengthOverflow
            | Self::UnexpectedContinuation
            | Self::ExpectedContinuation
            | Self::TruncatedClosePayload
            | Self::InvalidReceivedCloseCode { .. }
            | Self::CloseReasonNotUtf8 => CloseCode::PROTOCOL,
            Self::TextNotUtf8 | Self::InvalidDeflateData => CloseCode::INVALID_PAYLOAD,
            Self::MessageTooBig { .. } => CloseCode::TOO_BIG,
            Self::TooManyFragments { .. }
            | Self::TooManyEmptyFragments { .. }
            | Self::TooManyControlFrames
            | Self::MessageTimeout
            | Self::CloseTimeout => CloseCode::POLICY,
            Self::PongTimeout => CloseCode::INTERNAL,
        }
    }
}

/// Why a message was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The closing handshake has begun, so no more data may follow.
    #[error("connection is closing")]
    Closing,
    /// The text is not UTF-8.
    #[error("text is not UTF-8")]
    NotUtf8,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CloseFrame;

    /// Makes a match without a wildcard and an example of each row, so that a variant without a row
    /// does not compile.
    macro_rules! table {
        ($($variant:ident { $($field:ident: $value:expr),* } => $code:literal,)*) => {
            fn code_in_table(error: &ProtocolError) -> u16 {
                match error {
                    $(ProtocolError::$variant { .. } => $code,)*
                }
            }

            fn examples() -> Vec<ProtocolError> {
                vec![$(ProtocolError::$variant { $($field: $value),* },)*]
            }
        };
    }

    // RFC 6455 §7.4.1: 1002 for a breach of the protocol, 1007 for data that its kind forbids, 1008
    // for policy, 1009 for size, 1011 for what only we could not go on with.
    table! {
        ReservedBits {} => 1002,
        ReservedOpcode { opcode: 0xF } => 1002,
        FragmentedControlFrame {} => 1002,
        ControlFrameTooLong {} => 1002,
        UnmaskedFrame {} => 1002,
        MaskedFrame {} => 1002,
        NonMinimalLength {} => 1002,
        LengthOverflow {} => 1002,
        UnexpectedContinuation {} => 1002,
        ExpectedContinuation {} => 1002,
        TextNotUtf8 {} => 1007,
        InvalidDeflateData {} => 1007,
        TruncatedClosePayload {} => 1002,
        InvalidReceivedCloseCode { code: u16::MAX } => 1002,
        CloseReasonNotUtf8 {} => 1002,
        MessageTooBig { size: u64::MAX, max: usize::MAX } => 1009,
        TooManyFragments { max: u32::MAX } => 1008,
        TooManyEmptyFragments { max: u32::MAX } => 1008,
        TooManyControlFrames {} => 1008,
        MessageTimeout {} => 1008,
        PongTimeout {} => 1011,
        CloseTimeout {} => 1008,
    }

    #[test]
    fn every_failure_has_its_close_code() {
        for error in examples() {
            assert_eq!(
                error.close_code().as_u16(),
                code_in_table(&error),
                "{error}"
            );
            // The reason is the error, uncut.
            let reason = error.to_string();
            assert!(
                (1..=CloseFrame::MAX_REASON_SIZE).contains(&reason.len()),
                "{reason}"
            );
        }
    }
}
