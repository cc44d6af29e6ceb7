//! A whole upgrade around arbitrary lists: never a panic, and what is accepted can be echoed.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ws_proto::handshake::{HeadLimits, HeadReader, Upgrade};

fuzz_target!(|data: &[u8]| {
    let (protocols, extensions) = data.split_at(data.len() / 3);
    let mut head = b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Protocol: "
        .to_vec();
    head.extend(protocols);
    head.extend(b"\r\nSec-WebSocket-Extensions: ");
    head.extend(extensions);
    head.extend(b"\r\n\r\n");
    let Ok(Some(head)) = HeadReader::new(HeadLimits::default()).read(&head) else {
        return;
    };
    let Ok(upgrade) = Upgrade::new(&head) else {
        return;
    };
    for protocol in upgrade.protocols() {
        let answer = upgrade
            .accept(Some(protocol), None, &[])
            .expect("it was offered");
        let lines = answer.windows(2).filter(|pair| pair == b"\r\n").count();
        assert_eq!(lines, 6, "{protocol:?} split the response");
    }
    for offer in upgrade.extensions() {
        assert!(offer.name().is_ascii() && !offer.name().is_empty());
    }
});
