//! The payload of a close frame: what is accepted encodes to the same bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ws_proto::CloseFrame;

fuzz_target!(|payload: &[u8]| {
    // A control frame has no more.
    let payload = &payload[..payload.len().min(125)];
    match CloseFrame::decode(payload) {
        Ok(None) => assert!(payload.is_empty()),
        Ok(Some(frame)) => {
            let mut encoded = Vec::new();
            frame.encode(&mut encoded);
            assert_eq!(encoded, payload);
        }
        Err(error) => assert_eq!(error.close_code().as_u16(), 1002),
    }
});
