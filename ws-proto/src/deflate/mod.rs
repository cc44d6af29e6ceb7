//! permessage-deflate ([RFC 7692](https://www.rfc-editor.org/rfc/rfc7692)).
//!
//! `negotiation` finds what both ends agree upon; `compressor` and `inflater` are the two DEFLATE
//! streams. A stream that need not remember earlier messages is borrowed from a pool of the thread
//! for as long as a message takes, so that an idle connection holds none.

mod compressor;
mod inflater;
mod negotiation;
mod pool;
mod settings;

pub use self::negotiation::{DeflateParams, InvalidDeflateResponse};
pub use self::settings::{
    DeflateConfig, DeflateLevel, InvalidDeflateLevel, InvalidWindowBits, WindowBits,
};

pub(crate) use self::compressor::{deflated_frame, encode};
pub(crate) use self::inflater::Inflater;

use self::compressor::Compressor;
use self::negotiation::Direction;
use crate::{ProtocolError, Role};

/// The name of the extension ([RFC 7692 §7](https://www.rfc-editor.org/rfc/rfc7692#section-7)).
pub(crate) const EXTENSION_NAME: &str = "permessage-deflate";

/// The bit that marks the first frame of a compressed message, in its place in a frame's first byte
/// ([RFC 7692 §6](https://www.rfc-editor.org/rfc/rfc7692#section-6)).
pub(crate) const RSV1: u8 = 0b0100_0000;

/// What every compressed message ends with on the one side and is sent without (RFC 7692 §7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];

/// The compression of one connection.
#[derive(Debug)]
pub(crate) struct Deflate {
    params: DeflateParams,
    /// Here while it remembers earlier messages.
    compressor: Option<Box<Compressor>>,
    /// Here while it remembers earlier messages, or is in the middle of one.
    inflater: Option<Box<Inflater>>,
}

impl Deflate {
    pub(crate) fn new(params: DeflateParams) -> Self {
        Self {
            params,
            compressor: None,
            inflater: None,
        }
    }

    /// How the frames of `sender` are compressed.
    pub(crate) fn direction(&self, sender: Role) -> Direction {
        self.params.direction(sender)
    }

    /// Appends the compressed payload, which must not be empty, to `out`.
    pub(crate) fn compress(
        &mut self,
        sender: Role,
        level: DeflateLevel,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) {
        let Direction { bits, takeover } = self.direction(sender);
        let mut compressor = self
            .compressor
            .take()
            .unwrap_or_else(|| pool::compressor(bits, level));
        compressor.compress(payload, out);
        if takeover {
            self.compressor = Some(compressor);
        } else {
            pool::give_back_compressor(compressor);
        }
    }

    /// The stream that inflates the message that is arriving.
    pub(crate) fn inflater(&mut self) -> &mut Inflater {
        self.inflater.get_or_insert_with(pool::inflater)
    }

    /// The message that `sender` was sending has arrived: it must be complete.
    ///
    /// RFC 7692 §7.2.3.6 makes an empty message a byte; one without any is taken for empty as well,
    /// since that is what a compressor has that is flushed twice.
    pub(crate) fn message_ended(
        &mut self,
        sender: Role,
        is_blank: bool,
    ) -> Result<(), ProtocolError> {
        let takeover = self.direction(sender).takeover;
        if !is_blank {
            self.inflater().finish(!takeover)?;
        }
        if !takeover && let Some(inflater) = self.inflater.take() {
            pool::give_back_inflater(inflater);
        }
        Ok(())
    }

    /// Frees everything: nothing is received or sent any more.
    pub(crate) fn clear(&mut self) {
        self.compressor = None;
        self.inflater = None;
    }
}

impl From<inflater::InvalidData> for ProtocolError {
    fn from(_: inflater::InvalidData) -> Self {
        Self::InvalidDeflateData
    }
}
