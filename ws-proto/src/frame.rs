//! Frames on the wire: their headers, and the shortest way to encode a server's message.

use crate::utf8::is_utf8;
use crate::{MessageKind, Opcode, ProtocolError, Role};

/// The reserved bits of a frame's first byte, as they stand in it.
///
/// RSV1 belongs to permessage-deflate once that is negotiated
/// ([RFC 7692 §6](https://www.rfc-editor.org/rfc/rfc7692#section-6)).
pub const RSV_BITS: u8 = 0b0111_0000;

/// A frame header ([RFC 6455 §5.2](https://www.rfc-editor.org/rfc/rfc6455#section-5.2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whether this frame ends its message.
    pub fin: bool,
    /// The reserved bits, in their place in the first byte; zero without extensions.
    pub rsv: u8,
    /// What the frame is.
    pub opcode: Opcode,
    /// The masking key: a client's frames have one, a server's have none.
    pub mask: Option<[u8; 4]>,
    /// The size of the payload in bytes, below 2^63.
    pub payload_len: u64,
}

impl Header {
    /// The size of the longest header in bytes.
    pub const MAX_SIZE: usize = 14;

    /// Decodes the header at the beginning of `bytes` and returns it with its size, or `None` if
    /// more bytes are needed.
    ///
    /// Each rule is applied as soon as the byte it speaks of is there, so an unmasked frame of a
    /// client is refused at its second byte. `sender` is who sent the frame; `rsv_allowed` holds
    /// the reserved bits that a negotiated extension uses.
    ///
    /// # Errors
    ///
    /// [`ProtocolError`] if the header breaks a rule that can be judged from the header alone.
    #[inline]
    pub fn decode(
        bytes: &[u8],
        sender: Role,
        rsv_allowed: u8,
    ) -> Result<Option<(Self, usize)>, ProtocolError> {
        let Some(&first) = bytes.first() else {
            return Ok(None);
        };
        let (fin, rsv) = (first & 0x80 != 0, first & RSV_BITS);
        // RFC 6455 §5.2: reserved bits must be 0 unless an extension defines them.
        if rsv & !rsv_allowed != 0 {
            return Err(ProtocolError::ReservedBits);
        }
        // RFC 6455 §5.2: an unknown opcode fails the connection.
        let opcode = Opcode::from_bits(first & 0x0F).ok_or(ProtocolError::ReservedOpcode {
            opcode: first & 0x0F,
        })?;
        // RFC 6455 §5.5: control frames must not be fragmented. RFC 7692 §6.1: nor compressed.
        if opcode.is_control() && !fin {
            return Err(ProtocolError::FragmentedControlFrame);
        }
        if opcode.is_control() && rsv != 0 {
            return Err(ProtocolError::ReservedBits);
        }

        let Some(&second) = bytes.get(1) else {
            return Ok(None);
        };
        // RFC 6455 §5.1: a server must close upon an unmasked frame, a client upon a masked one.
        match (sender, second & 0x80 != 0) {
            (Role::Client, false) => return Err(ProtocolError::UnmaskedFrame),
            (Role::Server, true) => return Err(ProtocolError::MaskedFrame),
            (Role::Client, true) | (Role::Server, false) => {}
        }
        let short_len = second & 0x7F;
        // RFC 6455 §5.5: control frames have at most 125 bytes of payload.
        if opcode.is_control() && short_len > 125 {
            return Err(ProtocolError::ControlFrameTooLong);
        }
        let (payload_len, mut size) = match short_len {
            126 => {
                let Some(len) = array::<2>(bytes, 2) else {
                    return Ok(None);
                };
                (u64::from(u16::from_be_bytes(len)), 4)
            }
            127 => {
                let Some(len) = array::<8>(bytes, 2) else {
                    return Ok(None);
                };
                (u64::from_be_bytes(len), 10)
            }
            len => (u64::from(len), 2),
        };
        // RFC 6455 §5.2: the most significant bit of a 64-bit length must be 0.
        if payload_len >> 63 != 0 {
            return Err(ProtocolError::LengthOverflow);
        }
        // RFC 6455 §5.2: the minimal number of bytes must be used to encode the length.
        if (size == 4 && payload_len < 126) || (size == 10 && payload_len <= 0xFFFF) {
            return Err(ProtocolError::NonMinimalLength);
        }
        let mask = if sender == Role::Client {
            let Some(key) = array::<4>(bytes, size) else {
                return Ok(None);
            };
            size += 4;
            Some(key)
        } else {
            None
        };
        Ok(Some((
            Self {
                fin,
                rsv,
                opcode,
                mask,
                payload_len,
            },
            size,
        )))
    }

    /// Appends the header to `out`, its length in the shortest form.
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mask_bit = if self.mask.is_some() { 0x80 } else { 0 };
        let first = u8::from(self.fin) << 7 | self.rsv & RSV_BITS | self.opcode.bits();
        if self.payload_len < 126 {
            // The cast keeps the value: it is below 126.
            out.extend_from_slice(&[first, mask_bit | self.payload_len as u8]);
        } else if let Ok(len) = u16::try_from(self.payload_len) {
            let [high, low] = len.to_be_bytes();
            out.extend_from_slice(&[first, mask_bit | 126, high, low]);
        } else {
            out.extend_from_slice(&[first, mask_bit | 127]);
            out.extend_from_slice(&self.payload_len.to_be_bytes());
        }
        if let Some(key) = self.mask {
            out.extend_from_slice(&key);
        }
    }
}

/// Appends a message as one unfragmented frame of a server to `out`.
///
/// It allocates nothing if `out` has room for the payload and [`Header::MAX_SIZE`] bytes. A text
/// must be valid UTF-8; debug builds assert it.
///
/// ```
/// use ws_proto::{MessageKind, frame};
///
/// let mut out = Vec::new();
/// frame::encode_server(MessageKind::Text, b"Hello", &mut out);
/// assert_eq!(out, b"\x81\x05Hello");
/// ```
pub fn encode_server(kind: MessageKind, payload: &[u8], out: &mut Vec<u8>) {
    debug_assert!(
        kind == MessageKind::Binary || is_utf8(payload),
        "a text message must be UTF-8"
    );
    encode(kind.into(), payload, None, out);
}

/// Appends the header of a server's unfragmented frame to `out`, for a payload that is written
/// from where it lies.
///
/// ```
/// use ws_proto::{MessageKind, frame};
///
/// let mut out = Vec::new();
/// frame::encode_server_header(MessageKind::Binary, 300, &mut out);
/// assert_eq!(out, [0x82, 126, 1, 44]);
/// ```
pub fn encode_server_header(kind: MessageKind, payload_len: usize, out: &mut Vec<u8>) {
    Header {
        fin: true,
        rsv: 0,
        opcode: kind.into(),
        mask: None,
        payload_len: payload_len as u64,
    }
    .encode(out);
}

/// Appends an unfragmented frame to `out`, masked if there is a key.
#[inline]
pub(crate) fn encode(opcode: Opcode, payload: &[u8], mask: Option<[u8; 4]>, out: &mut Vec<u8>) {
    out.reserve(payload.len() + Header::MAX_SIZE);
    let payload_len = payload.len() as u64;
    Header {
        fin: true,
        rsv: 0,
        opcode,
        mask,
        payload_len,
    }
    .encode(out);
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(key) = mask {
        crate::mask::mask(&mut out[start..], key);
    }
}

/// Returns the `N` bytes at `at`, if they have arrived.
#[inline]
fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}
