//! Bytes that came from the stream.

use std::ops::Range;

/// Bytes received from the peer, consumed piece by piece by
/// [`Connection::receive`](crate::Connection::receive).
///
/// It borrows them mutably, because payloads are unmasked where they lie.
#[derive(Debug)]
pub struct Input<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl<'a> Input<'a> {
    /// Wraps bytes that have just been read.
    #[must_use]
    pub fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Returns the number of bytes not yet consumed.
    #[inline]
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Tells whether everything is consumed.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remaining() == 0
    }

    /// Returns the bytes not yet consumed, as they came: what to keep if reading must stop halfway.
    #[inline]
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    /// Says where the `len` bytes lie that come after `skipped` more, without consuming them.
    #[inline]
    pub(crate) fn ahead(&self, skipped: usize, len: usize) -> Range<usize> {
        let start = self.at + skipped;
        start..start + len
    }

    /// Consumes up to `max` bytes and says where they lie.
    #[inline]
    pub(crate) fn take(&mut self, max: usize) -> Range<usize> {
        let start = self.at;
        self.at += max.min(self.remaining());
        start..self.at
    }

    pub(crate) fn discard(&mut self) {
        self.at = self.bytes.len();
    }

    #[inline]
    pub(crate) fn slice(&self, range: Range<usize>) -> &[u8] {
        &self.bytes[range]
    }

    #[inline]
    pub(crate) fn slice_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        &mut self.bytes[range]
    }
}
