//! Offers of permessage-deflate, and what comes of them (RFC 7692 §7.1).

use std::fmt;

use super::{DeflateConfig, EXTENSION_NAME, WindowBits};
use crate::Role;
use crate::handshake::ExtensionOffer;

const SERVER_NO_CONTEXT_TAKEOVER: &str = "server_no_context_takeover";
const CLIENT_NO_CONTEXT_TAKEOVER: &str = "client_no_context_takeover";
const SERVER_MAX_WINDOW_BITS: &str = "server_max_window_bits";
const CLIENT_MAX_WINDOW_BITS: &str = "client_max_window_bits";

/// What both ends agreed upon.
///
/// Its display is the value of the server's `Sec-WebSocket-Extensions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeflateParams {
    server: Direction,
    client: Direction,
    /// The response names the server's window.
    names_server_bits: bool,
    /// The response names the client's window: the offer allows it.
    names_client_bits: bool,
}

/// How one of the two ends compresses what it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Direction {
    /// The compressor remembers earlier messages.
    pub(crate) takeover: bool,
    pub(crate) bits: WindowBits,
}

impl DeflateParams {
    /// Tells whether the compressor of `sender` remembers earlier messages.
    #[must_use]
    pub fn context_takeover(&self, sender: Role) -> bool {
        self.direction(sender).takeover
    }

    /// Returns the largest window of the compressor of `sender`.
    #[must_use]
    pub fn max_window_bits(&self, sender: Role) -> WindowBits {
        self.direction(sender).bits
    }

    pub(super) fn direction(&self, sender: Role) -> Direction {
        match sender {
            Role::Server => self.server,
            Role::Client => self.client,
        }
    }
}

impl fmt::Display for DeflateParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXTENSION_NAME)?;
        if !self.server.takeover {
            write!(f, "; {SERVER_NO_CONTEXT_TAKEOVER}")?;
        }
        if !self.client.takeover {
            write!(f, "; {CLIENT_NO_CONTEXT_TAKEOVER}")?;
        }
        if self.names_server_bits {
            write!(f, "; {SERVER_MAX_WINDOW_BITS}={}", self.server.bits)?;
        }
        if self.names_client_bits {
            write!(f, "; {CLIENT_MAX_WINDOW_BITS}={}", self.client.bits)?;
        }
        Ok(())
    }
}

impl DeflateConfig {
    /// Takes up the first offer of permessage-deflate that follows the rules; `None` declines.
    ///
    /// An offer with a parameter that is unknown, comes twice or has an impossible value is passed
    /// over ([RFC 7692 §7](https://www.rfc-editor.org/rfc/rfc7692#section-7)).
    ///
    /// ```
    /// use ws_proto::DeflateConfig;
    /// use ws_proto::handshake::ExtensionOffer;
    ///
    /// let offers = ExtensionOffer::parse("permessage-deflate; client_max_window_bits").unwrap();
    /// let params = DeflateConfig::default().accept(&offers).unwrap();
    /// assert_eq!(
    ///     params.to_string(),
    ///     "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
    ///      client_max_window_bits=15",
    /// );
    /// ```
    #[must_use]
    pub fn accept(&self, offers: &[ExtensionOffer]) -> Option<DeflateParams> {
        let offer = offers
            .iter()
            .filter(|offer| offer.name() == EXTENSION_NAME)
            .find_map(Parameters::of_offer)?;
        let server_bits = self
            .server_max_window_bits()
            .min(offer.server_max_window_bits.unwrap_or_default());
        Some(DeflateParams {
            server: Direction {
                takeover: self.server_context_takeover() && !offer.server_no_context_takeover,
                bits: server_bits,
            },
            client: Direction {
                takeover: self.client_context_takeover() && !offer.client_no_context_takeover,
                // RFC 7692 §7.1.2.2: a client that does not say that it can be limited cannot.
                bits: match offer.client_max_window_bits {
                    Some(hint) => self.client_max_window_bits().min(hint.unwrap_or_default()),
                    None => WindowBits::MAX,
                },
            },
            // RFC 7692 §7.1.2.1: it may be named unasked; then the client can do with less memory.
            names_server_bits: offer.server_max_window_bits.is_some()
                || server_bits < WindowBits::MAX,
            names_client_bits: offer.client_max_window_bits.is_some(),
        })
    }

    /// Returns what a client of these settings offers, for its `Sec-WebSocket-Extensions`.
    #[must_use]
    pub fn offer(&self) -> String {
        let mut offer = EXTENSION_NAME.to_owned();
        if !self.server_context_takeover() {
            offer.push_str("; ");
            offer.push_str(SERVER_NO_CONTEXT_TAKEOVER);
        }
        if !self.client_context_takeover() {
            offer.push_str("; ");
            offer.push_str(CLIENT_NO_CONTEXT_TAKEOVER);
        }
        if self.server_max_window_bits() < WindowBits::MAX {
            let bits = self.server_max_window_bits();
            offer.push_str(&format!("; {SERVER_MAX_WINDOW_BITS}={bits}"));
        }
        offer.push_str("; ");
        offer.push_str(CLIENT_MAX_WINDOW_BITS);
        if self.client_max_window_bits() < WindowBits::MAX {
            offer.push_str(&format!("={}", self.client_max_window_bits()));
        }
        offer
    }

    /// Judges the server's answer to [`offer`](Self::offer); `None` if it declined.
    ///
    /// # Errors
    ///
    /// [`InvalidDeflateResponse`] if the answer is not one to that offer. The client must then fail
    /// the connection ([RFC 7692 §5.1](https://www.rfc-editor.org/rfc/rfc7692#section-5.1)).
    pub fn agree(
        &self,
        response: &[ExtensionOffer],
    ) -> Result<Option<DeflateParams>, InvalidDeflateResponse> {
        let answer = match response {
            [] => return Ok(None),
            [answer] if answer.name() == EXTENSION_NAME => answer,
            _ => return Err(InvalidDeflateResponse),
        };
        let answer = Parameters::of_response(answer).ok_or(InvalidDeflateResponse)?;
        // RFC 7692 §7.1.1.1, §7.1.2.1: what was demanded must be granted.
        let demanded = self.server_max_window_bits();
        let is_window_granted = match answer.server_max_window_bits {
            Some(bits) => bits <= demanded,
            None => demanded == WindowBits::MAX,
        };
        let is_takeover_granted =
            answer.server_no_context_takeover || self.server_context_takeover();
        if !is_window_granted || !is_takeover_granted {
            return Err(InvalidDeflateResponse);
        }
        let client_limit = answer.client_max_window_bits.flatten();
        Ok(Some(DeflateParams {
            server: Direction {
                takeover: !answer.server_no_context_takeover,
                bits: answer.server_max_window_bits.unwrap_or_default(),
            },
            client: Direction {
                takeover: self.client_context_takeover() && !answer.client_no_context_takeover,
                bits: self
                    .client_max_window_bits()
                    .min(client_limit.unwrap_or_default()),
            },
            names_server_bits: answer.server_max_window_bits.is_some(),
            names_client_bits: client_limit.is_some(),
        }))
    }
}

/// The server's choice of extensions does not fit what was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("extension response does not fit the offer")]
pub struct InvalidDeflateResponse;

/// The four parameters, as they were written.
#[derive(Default)]
struct Parameters {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    server_max_window_bits: Option<WindowBits>,
    /// An offer may name it without a value.
    client_max_window_bits: Option<Option<WindowBits>>,
}

impl Parameters {
    fn of_offer(offer: &ExtensionOffer) -> Option<Self> {
        let mut known = Self::default();
        for (name, value) in offer.parameters() {
            match (name, value) {
                (SERVER_NO_CONTEXT_TAKEOVER, None) => set(&mut known.server_no_context_takeover)?,
                (CLIENT_NO_CONTEXT_TAKEOVER, None) => set(&mut known.client_no_context_takeover)?,
                (SERVER_MAX_WINDOW_BITS, Some(bits)) => {
                    fill(&mut known.server_max_window_bits, parse_bits(bits)?)?;
                }
                (CLIENT_MAX_WINDOW_BITS, None) => fill(&mut known.client_max_window_bits, None)?,
                (CLIENT_MAX_WINDOW_BITS, Some(bits)) => {
                    fill(&mut known.client_max_window_bits, Some(parse_bits(bits)?))?;
                }
                _ => return None,
            }
        }
        Some(known)
    }

    fn of_response(response: &ExtensionOffer) -> Option<Self> {
        // RFC 7692 §7.1.2.2: a response names the client's window with its size.
        Self::of_offer(response).filter(|known| known.client_max_window_bits != Some(None))
    }
}

/// Sets a flag that may be set once.
fn set(flag: &mut bool) -> Option<()> {
    (!std::mem::replace(flag, true)).then_some(())
}

/// Fills a place that may be filled once.
fn fill<T>(place: &mut Option<T>, value: T) -> Option<()> {
    place.replace(value).is_none().then_some(())
}

/// RFC 7692 §7.1.2: a decimal integer without leading zeros, between 8 and 15.
fn parse_bits(value: &str) -> Option<WindowBits> {
    let is_plain = value.bytes().all(|byte| byte.is_ascii_digit()) && !value.starts_with('0');
    let bits = value.parse().ok().filter(|_| is_plain)?;
    WindowBits::new(bits).ok()
}
