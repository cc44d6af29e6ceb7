//! Requests and responses under any cut and any bytes.

use proptest::prelude::*;
use ws_ipc::fastcgi::{Event, FastCgiError, ProtocolStatus, ResponseDecoder, encode_request};
use ws_ipc::{Environment, EnvironmentError};

use super::peer::{self, Received, STDERR, STDOUT};
use crate::cut::{chunks, cuts};

/// What a response came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Response {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    end: Option<(u32, ProtocolStatus)>,
    /// How many bytes were left behind the end.
    rest: usize,
}

fn decode(bytes: &[u8], cuts: &[usize]) -> Result<Response, FastCgiError> {
    let mut decoder = ResponseDecoder::new(ID);
    let mut response = Response::default();
    for mut chunk in chunks(bytes, cuts) {
        while let Some(event) = decoder.decode(&mut chunk)? {
            assert_eq!(response.end, None, "nothing follows the end");
            match event {
                Event::Stdout([]) | Event::Stderr([]) => panic!("empty"),
                Event::Stdout(bytes) => response.stdout.extend_from_slice(bytes),
                Event::Stderr(bytes) => response.stderr.extend_from_slice(bytes),
                Event::End {
                    app_status,
                    protocol_status,
                } => response.end = Some((app_status, protocol_status)),
            }
        }
        assert!(chunk.is_empty() || response.end.is_some());
        response.rest += chunk.len();
    }
    Ok(response)
}

/// Pieces of standard output (`true`) and standard error, each with its padding.
fn pieces() -> impl Strategy<Value = Vec<(bool, Vec<u8>, u8)>> {
    let content = prop::collection::vec(any::<u8>(), 0..40);
    prop::collection::vec((any::<bool>(), content, any::<u8>()), 0..8)
}

fn response(pieces: &[(bool, Vec<u8>, u8)], app_status: u32, protocol_status: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (is_stdout, content, padding) in pieces {
        let kind = if *is_stdout { STDOUT } else { STDERR };
        bytes.extend(peer::record(kind, ID, content, *padding));
    }
    bytes.extend(peer::end(ID, app_status, protocol_status));
    bytes
}

/// Bytes that look enough like a response to get past its beginning.
fn like_a_response() -> impl Strategy<Value = Vec<u8>> {
    let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (pieces(), damage).prop_map(|(pieces, damage)| {
        let mut bytes = response(&pieces, 0, 0);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    })
}

/// Variables whose sizes lie on both sides of what one byte can say, sometimes in several records.
fn environment() -> impl Strategy<Value = Environment> {
    let value = prop_oneof![
        8 => prop::collection::vec(0x20..=0x7eu8, 0..40),
        4 => (120_usize..140).prop_map(|len| vec![b'v'; len]),
        1 => (30_000_usize..34_000).prop_map(|len| vec![b'V'; len]),
    ];
    prop::collection::vec(("[A-Z_][A-Z0-9_]{0,8}|N{126,130}", value), 0..12).prop_map(|variables| {
        let mut environment = Environment::new();
        for (name, value) in variables {
            match environment.set(&name, value) {
                Ok(())
                | Err(EnvironmentError::InvalidName { .. } | EnvironmentError::TooLarge { .. }) => {
                }
                Err(error) => panic!("{error}"),
            }
        }
        environment
    })
}

fn read(bytes: &[u8]) -> Received {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut bytes = bytes;
        let received = peer::read_request(&mut bytes, false).await;
        assert_eq!(bytes, b"", "a request ends with its payload");
        received
    })
}

proptest! {
    #[test]
    fn prop_request_is_received_as_it_was_encoded(
        environment in environment(),
        id in any::<u16>(),
        keep in any::<bool>(),
        payload in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            (65_500_usize..65_600).prop_map(|len| vec![b'p'; len]),
            (131_000_usize..131_100).prop_map(|len| vec![b'p'; len]),
        ],
    ) {
        let mut bytes = Vec::new();
        encode_request(&mut bytes, id, keep, &environment, &payload);
        prop_assert_eq!(bytes.len() % 8, 0);
        let received = read(&bytes);
        prop_assert_eq!((received.id, received.keep), (id, keep));
        let length = payload.len().to_string();
        prop_assert_eq!(received.param("CONTENT_LENGTH"), Some(length.as_bytes()));
        prop_assert_eq!(received.stdin, payload);
        let others = environment.iter().filter(|(name, _)| *name != "CONTENT_LENGTH");
        let others: Vec<_> = others
            .map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec()))
            .collect();
        prop_assert_eq!(&received.params[1..], &others[..]);
    }

    #[test]
    fn prop_response_survives_any_cut(
        pieces in pieces(),
        app_status in any::<u32>(),
        cuts in cuts(),
    ) {
        let stream = |wanted: bool| -> Vec<u8> {
            let own = pieces.iter().filter(|(is_stdout, ..)| *is_stdout == wanted);
            own.flat_map(|(_, content, _)| content.clone()).collect()
        };
        let bytes = response(&pieces, app_status, 0);
        let expected = Response {
            stdout: stream(true),
            stderr: stream(false),
            end: Some((app_status, ProtocolStatus::RequestComplete)),
            rest: 0,
        };
        prop_assert_eq!(decode(&bytes, &cuts), Ok(expected));
    }

    #[test]
    fn prop_response_is_over_only_with_its_last_byte(
        pieces in pieces(),
        at in any::<prop::sample::Index>(),
        cuts in cuts(),
    ) {
        let bytes = response(&pieces, 0, 0);
        let part = decode(&bytes[..at.index(bytes.len())], &cuts)?;
        prop_assert_eq!(part.end, None);
    }

    #[test]
    fn prop_bytes_of_any_kind_mean_the_same_however_cut(
        bytes in prop_oneof![like_a_response(), prop::collection::vec(any::<u8>(), 0..100)],
        cuts in cuts(),
    ) {
        let whole = decode(&bytes, &[]);
        prop_assert_eq!(&decode(&bytes, &cuts), &whole);
        // What is handed out was there.
        let size = whole.map_or(0, |it| it.stdout.len() + it.stderr.len() + it.rest);
        prop_assert!(size <= bytes.len());
    }
}

const ID: u16 = 1;
