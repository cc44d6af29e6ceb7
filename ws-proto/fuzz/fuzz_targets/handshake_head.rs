//! The head of a request: no panic, and the same result byte by byte as at once.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ws_proto::handshake::{HeadLimits, HeadReader, Rejection, RequestHead, Upgrade};

fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Result<Option<RequestHead>, Rejection> {
    let limits = HeadLimits {
        max_head_size: 512,
        max_target_size: 64,
        max_header_count: 12,
    };
    let mut reader = HeadReader::new(limits);
    let mut head = None;
    for piece in pieces {
        head = head.or(reader.read(piece)?);
    }
    Ok(head)
}

fuzz_target!(|data: &[u8]| {
    let at_once = read(std::iter::once(data));
    let bytewise = read(data.chunks(1));
    // A body of another method's is told by where it is cut; both ways it is refused.
    if at_once == Err(Rejection::MethodNotAllowed) {
        assert_eq!(bytewise, Err(Rejection::EarlyData));
    } else {
        assert_eq!(at_once, bytewise);
    }
    let rejection = match at_once {
        Ok(None) => return,
        Ok(Some(head)) => match Upgrade::new(&head) {
            Ok(upgrade) => {
                upgrade.accept(None, None, &[]).expect("nothing is added");
                return;
            }
            Err(rejection) => rejection,
        },
        Err(rejection) => rejection,
    };
    let answer = rejection.response();
    assert!(answer.starts_with(b"HTTP/1.1 4") || answer.starts_with(b"HTTP/1.1 505 "));
});
