//! What several benches share: sizes and texts.

/// Sizes of payloads in bytes: 125 is the longest behind the shortest header.
pub(crate) const SIZES: [usize; 7] = [16, 64, 125, 1024, 16 * 1024, 64 * 1024, 1024 * 1024];

/// A text like those that applications send: JSON, nearly all of it ASCII.
pub(crate) fn text(size: usize) -> Vec<u8> {
    repeated(
        b"{\"id\":4711,\"from\":\"alice\",\"text\":\"good morning\"},",
        size,
    )
}

/// The beginning of `unit` over and over, filled up with spaces where a character would be cut.
pub(crate) fn repeated(unit: &[u8], size: usize) -> Vec<u8> {
    let mut text = unit.repeat(size / unit.len() + 1);
    text.truncate(size);
    while std::str::from_utf8(&text).is_err() {
        text.pop();
    }
    text.resize(size, b' ');
    text
}
