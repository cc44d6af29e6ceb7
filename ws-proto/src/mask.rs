//! Masking of payloads and the keys for it.

use chacha20::ChaCha20Rng;
use chacha20::rand_core::{Rng as _, SeedableRng as _};

/// Masks or unmasks `payload` in place; `key[0]` belongs to its first byte.
///
/// Masking twice with the same key is the identity
/// ([RFC 6455 §5.3](https://www.rfc-editor.org/rfc/rfc6455#section-5.3)).
///
/// ```
/// let mut payload = *b"\x7f\x9f\x4d\x51\x58";
/// ws_proto::mask(&mut payload, [0x37, 0xfa, 0x21, 0x3d]);
/// assert_eq!(&payload, b"Hello");
/// ```
pub fn mask(payload: &mut [u8], key: [u8; 4]) {
    mask_and_judge(payload, key);
}

/// Masks or unmasks `payload` and tells whether the result is ASCII.
///
/// Most texts are, and whoever knows it need not look at them a second time.
#[inline]
pub(crate) fn mask_and_judge(payload: &mut [u8], key: [u8; 4]) -> bool {
    let half = u32::from_ne_bytes(key);
    let [a, b, c, d] = key;
    let word = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut seen = 0;
    // The compiler turns the loop over words into vector instructions, whatever the alignment.
    let (words, tail) = payload.as_chunks_mut::<8>();
    for bytes in words {
        let masked = u64::from_ne_bytes(*bytes) ^ word;
        seen |= masked;
        *bytes = masked.to_ne_bytes();
    }
    // Up to 7 bytes are left: in a small message, single bytes would cost as much as all before.
    let (halves, tail) = tail.as_chunks_mut::<4>();
    for bytes in halves {
        let masked = u32::from_ne_bytes(*bytes) ^ half;
        seen |= u64::from(masked);
        *bytes = masked.to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(key) {
        *byte ^= key;
        seen |= u64::from(*byte);
    }
    seen & 0x8080_8080_8080_8080 == 0
}

/// Returns the key for the bytes that follow `len` masked ones.
pub(crate) fn advance_key(key: [u8; 4], len: usize) -> [u8; 4] {
    // The cast keeps the value: it is below 4.
    let bits = (len % 4) as u32 * 8;
    u32::from_le_bytes(key).rotate_right(bits).to_le_bytes()
}

/// The masking keys of a client, drawn from a secret seed.
///
/// RFC 6455 §5.3 wants keys that the author of a page cannot predict, even after having seen
/// others: they are words of a ChaCha20 stream.
pub(crate) struct MaskingKeys(ChaCha20Rng);

impl MaskingKeys {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Self(ChaCha20Rng::from_seed(seed))
    }

    #[inline]
    pub(crate) fn next_key(&mut self) -> [u8; 4] {
        self.0.next_u32().to_ne_bytes()
    }
}

impl std::fmt::Debug for MaskingKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The stream is a secret.
        f.debug_struct("MaskingKeys").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naive(payload: &mut [u8], key: [u8; 4]) {
        for (index, byte) in payload.iter_mut().enumerate() {
            *byte ^= key[index % 4];
        }
    }

    proptest! {
        #[test]
        fn prop_mask_equals_the_naive_loop(
            payload in prop::collection::vec(any::<u8>(), 0..300),
            key: [u8; 4],
            start in 0_usize..8,
        ) {
            // Every alignment: the masked part begins anywhere in the allocation.
            let start = start.min(payload.len());
            let (mut fast, mut slow) = (payload.clone(), payload.clone());
            mask(&mut fast[start..], key);
            naive(&mut slow[start..], key);
            prop_assert_eq!(&fast, &slow);
            mask(&mut fast[start..], key);
            prop_assert_eq!(fast, payload);
        }

        #[test]
        fn prop_mask_in_parts_equals_mask_at_once(
            payload in prop::collection::vec(any::<u8>(), 0..100),
            key: [u8; 4],
            cut in 0_usize..100,
        ) {
            let cut = cut.min(payload.len());
            let (mut parts, mut whole) = (payload.clone(), payload);
            mask(&mut parts[..cut], key);
            mask(&mut parts[cut..], advance_key(key, cut));
            mask(&mut whole, key);
            prop_assert_eq!(parts, whole);
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "an interpreter takes minutes")]
    fn t28_keys_spread_evenly() {
        let mut keys = MaskingKeys::new([7; 32]);
        let mut counts = [0_f64; 256];
        let mut distinct = std::collections::HashSet::new();
        for _ in 0..10_000 {
            let key = keys.next_key();
            distinct.insert(key);
            for byte in key {
                counts[usize::from(byte)] += 1.0;
            }
        }
        assert!(distinct.len() > 9_990);
        let expected = 40_000.0 / 256.0;
        let chi_square: f64 = counts
            .iter()
            .map(|n| (n - expected).powi(2) / expected)
            .sum();
        // 255 degrees of freedom: 330.5 is passed once in a thousand.
        assert!(chi_square < 330.5, "{chi_square}");
    }
}
