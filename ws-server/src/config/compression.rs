//! `[compression]`: permessage-deflate, if a client offers it.

use ws_proto::{DeflateConfig, DeflateLevel, WindowBits};

use super::fault::Problem;
use super::parse;
use super::raw::RawValue;
use super::reader::Reader;
use super::units::GIB;

/// `[compression]`: permessage-deflate, if a client offers it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CompressionConfig {
    /// Whether offers are accepted.
    pub enabled: bool,
    /// How hard to try.
    pub level: DeflateLevel,
    /// Bytes of the smallest message that is compressed.
    pub min_size: usize,
    /// Whether what the server sends refers back to earlier messages.
    pub server_context_takeover: bool,
    /// Whether what a client sends may refer back to earlier messages.
    pub client_context_takeover: bool,
    /// How far back the server refers.
    pub server_max_window_bits: WindowBits,
    /// How far back a client may refer.
    pub client_max_window_bits: WindowBits,
}

impl CompressionConfig {
    /// Returns the settings as the protocol takes them, `None` if it is disabled.
    pub(crate) fn deflate(&self) -> Option<DeflateConfig> {
        let deflate = DeflateConfig::default()
            .with_level(self.level)
            .with_min_size(self.min_size)
            .with_server_context_takeover(self.server_context_takeover)
            .with_client_context_takeover(self.client_context_takeover)
            .with_server_max_window_bits(self.server_max_window_bits)
            .with_client_max_window_bits(self.client_max_window_bits);
        self.enabled.then_some(deflate)
    }
}

pub(super) fn read(reader: &mut Reader<'_>) -> CompressionConfig {
    CompressionConfig {
        enabled: reader.flag("compression.enabled"),
        level: reader.read("compression.level", |value| {
            let level = byte(value, 1, 9)?;
            Ok(DeflateLevel::new(level).expect("the range is that of the levels"))
        }),
        min_size: reader.size("compression.min_size", 0, GIB),
        server_context_takeover: reader.flag("compression.server_context_takeover"),
        client_context_takeover: reader.flag("compression.client_context_takeover"),
        server_max_window_bits: reader.read("compression.server_max_window_bits", window_bits),
        client_max_window_bits: reader.read("compression.client_max_window_bits", window_bits),
    }
}

fn window_bits(value: &RawValue) -> Result<WindowBits, Problem> {
    let bits = byte(value, WindowBits::MIN.get(), WindowBits::MAX.get())?;
    Ok(WindowBits::new(bits).expect("the range is that of the windows"))
}

fn byte(value: &RawValue, min: u8, max: u8) -> Result<u8, Problem> {
    let number = parse::number(value, min.into(), max.into())?;
    Ok(u8::try_from(number).expect("it is at most a byte"))
}
