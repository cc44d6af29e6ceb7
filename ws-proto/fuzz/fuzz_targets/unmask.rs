//! Unmasking by words equals the naive loop, at any alignment.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ws_proto::mask;

fuzz_target!(|data: &[u8]| {
    let Some((&[a, b, c, d, start], payload)) = data.split_first_chunk::<5>() else {
        return;
    };
    let key = [a, b, c, d];
    let start = usize::from(start % 16).min(payload.len());
    let (mut fast, mut slow) = (payload.to_vec(), payload.to_vec());
    mask(&mut fast[start..], key);
    for (index, byte) in slow[start..].iter_mut().enumerate() {
        *byte ^= key[index % 4];
    }
    assert_eq!(fast, slow);
});
