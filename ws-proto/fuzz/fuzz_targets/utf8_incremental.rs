//! Text fed in pieces: the verdict of `core::str` at each cut.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ws_proto::{InvalidUtf8, Utf8Validator};

fuzz_target!(|data: &[u8]| {
    let Some((&size, text)) = data.split_first() else {
        return;
    };
    let mut validator = Utf8Validator::new();
    let mut end = 0;
    for piece in text.chunks(usize::from(size % 70) + 1) {
        end += piece.len();
        let expected = match std::str::from_utf8(&text[..end]) {
            Ok(_) => Ok(true),
            Err(error) if error.error_len().is_none() => Ok(false),
            Err(_) => Err(InvalidUtf8),
        };
        let fed = validator.feed(piece).map(|()| validator.is_complete());
        assert_eq!(fed, expected);
        if fed.is_err() {
            return;
        }
    }
});
