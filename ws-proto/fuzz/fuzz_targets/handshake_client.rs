//! The response to a client's request: no panic, and the same verdict byte by byte as at once.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ws_proto::DeflateConfig;
use ws_proto::handshake::{Accepted, ClientHandshake, HandshakeError, HeadLimits};

/// The verdict on `response` cut at `sizes`, and how many bytes were passed on until it was there.
fn read(
    handshake: &ClientHandshake,
    pieces: impl Iterator<Item = usize>,
    response: &[u8],
) -> (Result<Option<Accepted>, HandshakeError>, usize) {
    let limits = HeadLimits {
        max_head_size: 512,
        max_target_size: 64,
        max_header_count: 12,
    };
    let mut reader = handshake.response_reader(limits);
    let mut end = 0;
    for size in pieces {
        let piece = &response[end..response.len().min(end + size)];
        end += piece.len();
        let result = reader.read(piece);
        if result != Ok(None) {
            // It has said what it had to say.
            assert_eq!(reader.read(b"x"), Err(HandshakeError::Malformed));
            return (result, end);
        }
        if end == response.len() {
            break;
        }
    }
    (Ok(None), end)
}

fuzz_target!(|data: &[u8]| {
    let Some((&[offers, a, b], response)) = data.split_first_chunk::<3>() else {
        return;
    };
    let mut handshake = ClientHandshake::new("h", "/", *b"the sample nonce").expect("it can be");
    if offers & 1 != 0 {
        for protocol in ["chat", "superchat"] {
            handshake = handshake.with_protocol(protocol).expect("a token");
        }
    }
    if offers & 2 != 0 {
        let config = DeflateConfig::default().with_server_context_takeover(offers & 4 != 0);
        handshake = handshake.with_deflate(config);
    }
    let (whole, _) = read(&handshake, std::iter::once(response.len()), response);
    let sizes = [a, b].map(|size| usize::from(size).max(1));
    let (parts, end) = read(&handshake, sizes.into_iter().cycle(), response);
    match (whole, parts) {
        (Ok(Some(mut whole)), Ok(Some(mut parts))) => {
            // Together, what came with the head and what comes later is what follows the head.
            let (rest, first) = (
                std::mem::take(&mut whole.rest),
                std::mem::take(&mut parts.rest),
            );
            assert_eq!(rest, [&first[..], &response[end..]].concat());
            assert_eq!(whole, parts);
            assert!(whole.protocol.is_none() || offers & 1 != 0);
            assert!(whole.deflate.is_none() || offers & 2 != 0);
        }
        (whole, parts) => assert_eq!(whole, parts),
    }
});
