//! A server's frames, read piece by piece.
//!
//! The load generator knows what must come, so it compares payloads where they lie and collects
//! none. That is why it reads frames itself, with the header of `ws-proto`, instead of asking
//! `ws_proto::Connection` for whole messages: a message of 64 KiB seldom comes in one read.

use ws_proto::frame::Header;
use ws_proto::{Opcode, ProtocolError, Role, mask};

/// What lies next in the input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// A part of a message's payload.
    Payload(&'a [u8]),
    /// The message is complete.
    End,
    /// A control frame and its payload.
    Control(Opcode, Vec<u8>),
}

/// Reads frames from bytes that may be cut anywhere.
#[derive(Debug, Default)]
pub(super) struct FrameReader {
    partial: [u8; Header::MAX_SIZE],
    partial_len: u8,
    frame: Option<Arriving>,
    is_in_message: bool,
    control: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Arriving {
    opcode: Opcode,
    fin: bool,
    remaining: u64,
}

impl FrameReader {
    /// Takes the next piece off `input`; `None` if more bytes are needed.
    #[inline]
    pub(super) fn next<'a>(
        &mut self,
        input: &mut &'a [u8],
    ) -> Result<Option<Piece<'a>>, ProtocolError> {
        loop {
            let frame = match self.frame {
                Some(frame) => frame,
                None => match self.header(input)? {
                    Some(header) => self.begin(&header)?,
                    None => return Ok(None),
                },
            };
            let len = usize::try_from(frame.remaining).unwrap_or(usize::MAX);
            let (piece, rest) = input.split_at(len.min(input.len()));
            *input = rest;
            let remaining = frame.remaining - piece.len() as u64;
            self.frame = Some(Arriving { remaining, ..frame });
            if frame.opcode.is_control() {
                self.control.extend_from_slice(piece);
                if remaining > 0 {
                    return Ok(None);
                }
                self.frame = None;
                let payload = std::mem::take(&mut self.control);
                return Ok(Some(Piece::Control(frame.opcode, payload)));
            }
            if !piece.is_empty() {
                return Ok(Some(Piece::Payload(piece)));
            }
            if remaining > 0 {
                return Ok(None);
            }
            self.frame = None;
            if frame.fin {
                self.is_in_message = false;
                return Ok(Some(Piece::End));
            }
        }
    }

    #[inline]
    fn header(&mut self, input: &mut &[u8]) -> Result<Option<Header>, ProtocolError> {
        if self.partial_len == 0
            && let Some((header, size)) = Header::decode(input, Role::Server, 0)?
        {
            *input = &input[size..];
            return Ok(Some(header));
        }
        while let Some((&byte, rest)) = input.split_first() {
            *input = rest;
            self.partial[usize::from(self.partial_len)] = byte;
            self.partial_len += 1;
            let known = &self.partial[..usize::from(self.partial_len)];
            if let Some((header, _)) = Header::decode(known, Role::Server, 0)? {
                self.partial_len = 0;
                return Ok(Some(header));
            }
        }
        Ok(None)
    }

    #[inline]
    fn begin(&mut self, header: &Header) -> Result<Arriving, ProtocolError> {
        // RFC 6455 §5.4: fragments of one message are not interleaved with another.
        match header.opcode {
            Opcode::Continuation if !self.is_in_message => {
                return Err(ProtocolError::UnexpectedContinuation);
            }
            Opcode::Text | Opcode::Binary if self.is_in_message => {
                return Err(ProtocolError::ExpectedContinuation);
            }
            Opcode::Text | Opcode::Binary => self.is_in_message = true,
            Opcode::Continuation | Opcode::Close | Opcode::Ping | Opcode::Pong => {}
        }
        Ok(Arriving {
            opcode: header.opcode,
            fin: header.fin,
            remaining: header.payload_len,
        })
    }
}

/// Appends an unfragmented frame of a client.
pub(super) fn encode(opcode: Opcode, payload: &[u8], key: [u8; 4], out: &mut Vec<u8>) {
    let header = Header {
        fin: true,
        rsv: 0,
        opcode,
        mask: Some(key),
        payload_len: payload.len() as u64,
    };
    header.encode(out);
    let start = out.len();
    out.extend_from_slice(payload);
    mask(&mut out[start..], key);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A message, or a control frame with its opcode.
    type Heard = (Option<Opcode>, Vec<u8>);

    /// The messages and control frames in `bytes`, which come in pieces.
    fn read(bytes: &[u8], cuts: &[usize]) -> Result<Vec<Heard>, ProtocolError> {
        let (mut reader, mut events, mut message) =
            (FrameReader::default(), Vec::new(), Vec::new());
        let mut start = 0;
        for end in cuts.iter().copied().chain([bytes.len()]) {
            let end = end.clamp(start, bytes.len());
            let mut input = &bytes[start..end];
            while let Some(piece) = reader.next(&mut input)? {
                match piece {
                    Piece::Payload(piece) => message.extend_from_slice(piece),
                    Piece::End => events.push((None, std::mem::take(&mut message))),
                    Piece::Control(opcode, payload) => events.push((Some(opcode), payload)),
                }
            }
            assert!(input.is_empty(), "everything is taken");
            start = end;
        }
        Ok(events)
    }

    fn frame(fin: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let payload_len = payload.len() as u64;
        Header {
            fin,
            rsv: 0,
            opcode,
            mask: None,
            payload_len,
        }
        .encode(&mut out);
        out.extend_from_slice(payload);
        out
    }

    #[test]
    fn fragments_are_one_message_and_control_frames_come_between() {
        let wire = [
            frame(false, Opcode::Text, b"He"),
            frame(true, Opcode::Ping, b"?"),
            frame(false, Opcode::Continuation, b""),
            frame(true, Opcode::Continuation, b"llo"),
            frame(true, Opcode::Binary, b""),
        ]
        .concat();
        let expected = [
            (Some(Opcode::Ping), b"?".to_vec()),
            (None, b"Hello".to_vec()),
            (None, Vec::new()),
        ];
        for cut in 0..wire.len() {
            assert_eq!(read(&wire, &[cut]).unwrap(), expected, "cut at {cut}");
        }
    }

    #[test]
    fn broken_rules_are_errors() {
        let lone = frame(true, Opcode::Continuation, b"");
        assert_eq!(read(&lone, &[]), Err(ProtocolError::UnexpectedContinuation));
        let twice = [
            frame(false, Opcode::Text, b"a"),
            frame(true, Opcode::Text, b"b"),
        ]
        .concat();
        assert_eq!(read(&twice, &[]), Err(ProtocolError::ExpectedContinuation));
        let mut masked = Vec::new();
        encode(Opcode::Text, b"x", [1, 2, 3, 4], &mut masked);
        assert_eq!(read(&masked, &[]), Err(ProtocolError::MaskedFrame));
    }

    proptest! {
        #[test]
        fn prop_cuts_change_nothing(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..6),
            mut cuts in prop::collection::vec(0_usize..1200, 0..8),
        ) {
            cuts.sort_unstable();
            let wire: Vec<u8> =
                payloads.iter().flat_map(|it| frame(true, Opcode::Binary, it)).collect();
            let expected: Vec<_> = payloads.into_iter().map(|it| (None, it)).collect();
            prop_assert_eq!(read(&wire, &cuts).unwrap(), expected);
        }
    }
}
