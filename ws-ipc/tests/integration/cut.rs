//! Bytes arrive cut anywhere.

use proptest::prelude::*;

/// Where to cut; [`chunks`] wraps what lies behind the end.
pub(crate) fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![Just(vec![1]), prop::collection::vec(0..40usize, 0..20)]
}

/// Cuts `bytes` into pieces of the given lengths, again and again until all is cut.
pub(crate) fn chunks<'a>(bytes: &'a [u8], cuts: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let lengths = cuts.iter().copied().cycle();
    let endless = cuts.iter().any(|&length| length > 0);
    let mut lengths = if endless { Some(lengths) } else { None };
    let mut rest = Some(bytes);
    std::iter::from_fn(move || {
        let bytes = rest?;
        let length = lengths
            .as_mut()
            .and_then(Iterator::next)
            .unwrap_or(bytes.len());
        let (chunk, tail) = bytes.split_at(length.min(bytes.len()));
        rest = (!tail.is_empty()).then_some(tail);
        Some(chunk)
    })
}
