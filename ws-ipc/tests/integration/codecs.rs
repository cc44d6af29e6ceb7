//! SCGI requests and CGI answers under any cut and any bytes.

use proptest::prelude::*;
use ws_ipc::cgi::{self, AnswerDecoder, CgiError};
use ws_ipc::scgi::{self, Request, RequestDecoder, ScgiError};
use ws_ipc::{Environment, EnvironmentError};

use crate::cut::{chunks, cuts};

fn decode_request(bytes: &[u8], cuts: &[usize]) -> Result<Option<Request>, ScgiError> {
    let mut decoder = RequestDecoder::new(MAX_SIZE);
    let mut request = None;
    for chunk in chunks(bytes, cuts) {
        if let Some(whole) = decoder.feed(chunk)? {
            assert!(
                request.replace(whole).is_none(),
                "a connection carries one request"
            );
        }
    }
    Ok(request)
}

fn decode_answer(bytes: &[u8], cuts: &[usize]) -> Result<(u16, Vec<u8>), CgiError> {
    let mut decoder = AnswerDecoder::new(MAX_SIZE);
    for chunk in chunks(bytes, cuts) {
        let whole = decoder.feed(chunk)?;
        assert!(!whole || decoder.finish().is_ok());
    }
    decoder
        .finish()
        .map(|answer| (answer.status(), answer.body().to_vec()))
}

/// Variables as the server may set them, so that encoding them cannot fail.
fn environment() -> impl Strategy<Value = Environment> {
    let value = prop::collection::vec(prop_oneof![0x20..=0x7eu8, 0x80..=0xffu8], 0..30);
    prop::collection::vec(("[A-Z_][A-Z0-9_]{0,8}", value), 0..12).prop_map(|variables| {
        let mut environment = Environment::new();
        for (name, value) in variables {
            match environment.set(&name, value) {
                Ok(()) | Err(EnvironmentError::InvalidName { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        environment
    })
}

/// Bytes that look enough like a request to get past its beginning.
fn like_a_request() -> impl Strategy<Value = Vec<u8>> {
    let request = b"33:CONTENT_LENGTH\x005\x00SCGI\x001\x00A_B\x00c d\x00,hello".to_vec();
    (
        Just(request),
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    )
        .prop_map(damage)
}

fn like_an_answer() -> impl Strategy<Value = Vec<u8>> {
    let answer = b"Status: 201 Made\r\nContent-Length: 5\nX-WS-User: 4\r\n\r\nhello".to_vec();
    let damaged = (
        Just(answer),
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    )
        .prop_map(damage);
    let pieces = prop::sample::select(vec![
        "Status:",
        "content-length:",
        "A",
        ":",
        " ",
        "\r",
        "\n",
        "\n\n",
        "\r\n\r\n",
        "0",
        "5",
        "9",
        "200",
        "x",
        "\0",
        "é",
    ]);
    prop_oneof![
        damaged,
        prop::collection::vec(pieces, 0..20).prop_map(|pieces| pieces.concat().into_bytes()),
    ]
}

fn damage((mut bytes, changes): (Vec<u8>, Vec<(prop::sample::Index, u8)>)) -> Vec<u8> {
    for (at, byte) in changes {
        let at = at.index(bytes.len());
        bytes[at] = byte;
    }
    bytes
}

proptest! {
    #[test]
    fn prop_scgi_request_survives_any_cut(
        environment in environment(),
        body in prop::collection::vec(any::<u8>(), 0..200),
        cuts in cuts(),
    ) {
        let mut bytes = scgi::encode_request(&environment, body.len());
        bytes.extend_from_slice(&body);
        let (received, received_body) = decode_request(&bytes, &cuts)?.unwrap().into_parts();
        prop_assert_eq!(received_body, body.clone());
        let length = body.len().to_string();
        prop_assert_eq!(received.get("CONTENT_LENGTH"), Some(length.as_bytes()));
        let own = |(name, _): &(&str, &[u8])| !["CONTENT_LENGTH", "SCGI"].contains(name);
        prop_assert!(received.iter().filter(own).eq(environment.iter().filter(own)));
    }

    #[test]
    fn prop_scgi_request_is_whole_only_with_its_last_byte(environment in environment()) {
        let mut bytes = scgi::encode_request(&environment, 1);
        prop_assert_eq!(decode_request(&bytes, &[])?, None);
        bytes.push(b'x');
        prop_assert!(decode_request(&bytes, &[])?.is_some());
    }

    #[test]
    fn prop_scgi_bytes_of_any_kind_mean_the_same_however_cut(
        bytes in prop_oneof![like_a_request(), prop::collection::vec(any::<u8>(), 0..100)],
        cuts in cuts(),
    ) {
        prop_assert_eq!(decode_request(&bytes, &cuts), decode_request(&bytes, &[]));
    }

    #[test]
    fn prop_cgi_answer_survives_any_cut(
        status in 100..=599u16,
        headers in prop::collection::vec(("X-[A-Za-z0-9-]{1,9}", "([!-~é]([ -~\t]{0,9}[!-~é])?)?"), 0..5),
        body in prop::collection::vec(any::<u8>(), 0..200),
        cuts in cuts(),
    ) {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (&name[..], &value[..])).collect();
        let bytes = cgi::encode_answer(status, &headers, &body)?;
        let answer = cgi::parse_answer(&bytes)?;
        prop_assert_eq!(answer.headers().skip(2).collect::<Vec<_>>(), headers);
        prop_assert_eq!(decode_answer(&bytes, &cuts), Ok((status, body)));
    }

    #[test]
    fn prop_cgi_bytes_of_any_kind_mean_the_same_however_cut(
        bytes in prop_oneof![like_an_answer(), prop::collection::vec(any::<u8>(), 0..100)],
        cuts in cuts(),
    ) {
        let whole =
            cgi::parse_answer(&bytes).map(|answer| (answer.status(), answer.body().to_vec()));
        let pieces = decode_answer(&bytes, &cuts);
        // What can never fit is refused before it has arrived.
        if pieces != Err(CgiError::TooLarge { max: MAX_SIZE }) {
            prop_assert_eq!(pieces, whole);
        }
    }

    #[test]
    fn prop_cgi_cut_off_answer_is_never_taken_for_whole(
        body in prop::collection::vec(any::<u8>(), 1..50),
        at in any::<prop::sample::Index>(),
    ) {
        let bytes = cgi::encode_answer(200, &[("X-WS-Type", "binary")], &body)?;
        prop_assert!(cgi::parse_answer(&bytes[..at.index(bytes.len())]).is_err());
    }
}

const MAX_SIZE: usize = 1 << 20;
