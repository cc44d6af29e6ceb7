//! Offers and answers of permessage-deflate: no agreement violates what was offered, and a client
//! takes whatever a server makes of its offer.
//!
//! Two bytes for each end's settings; the rest is a header's value.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ws_proto::handshake::ExtensionOffer;
use ws_proto::testing::agree;
use ws_proto::{DeflateConfig, DeflateParams, Role, WindowBits};

const NAMES: [&str; 4] = [
    "server_no_context_takeover",
    "client_no_context_takeover",
    "server_max_window_bits",
    "client_max_window_bits",
];

fn settings([flags, bits]: [u8; 2]) -> DeflateConfig {
    let window = |bits| WindowBits::new(8 + bits % 8).expect("8 to 15 exist");
    DeflateConfig::default()
        .with_server_context_takeover(flags & 1 != 0)
        .with_client_context_takeover(flags & 2 != 0)
        .with_server_max_window_bits(window(bits))
        .with_client_max_window_bits(window(bits >> 4))
}

/// RFC 7692 §7: each parameter is known, comes once, and has a value that it may have.
fn is_valid(offer: &ExtensionOffer) -> bool {
    let is_window = |value: &str| (8..=15).any(|bits: u8| value == bits.to_string());
    offer.name() == "permessage-deflate"
        && offer.parameters().all(|(name, value)| match name {
            "server_no_context_takeover" | "client_no_context_takeover" => value.is_none(),
            "server_max_window_bits" => value.is_some_and(is_window),
            "client_max_window_bits" => value.is_none_or(is_window),
            _ => false,
        })
        && NAMES.iter().all(|known| {
            let same = offer.parameters().filter(|(name, _)| name == known);
            same.count() <= 1
        })
}

/// The value of a parameter, if it is there.
fn parameter<'a>(offer: &'a ExtensionOffer, name: &str) -> Option<Option<&'a str>> {
    let mut same = offer.parameters().filter(|(other, _)| *other == name);
    same.next().map(|(_, value)| value)
}

fn bits(value: &str) -> u8 {
    value.parse().expect("a window is a number")
}

/// RFC 7692 §7.1: what a server may answer to `offer`.
fn check_answer(offer: &ExtensionOffer, config: &DeflateConfig, params: &DeflateParams) {
    let answer = ExtensionOffer::parse(&params.to_string()).expect("an answer has the grammar");
    let [answer] = &answer[..] else {
        panic!("{params} is not one extension");
    };
    assert!(is_valid(answer));
    let server = params.max_window_bits(Role::Server).get();
    let client = params.max_window_bits(Role::Client).get();

    // §7.1.1.1: a server that accepts a demand repeats it; it may also be the first to say so.
    let has_takeover = parameter(answer, NAMES[0]).is_none();
    assert_eq!(has_takeover, params.context_takeover(Role::Server));
    assert!(!has_takeover || parameter(offer, NAMES[0]).is_none());
    assert!(!has_takeover || config.server_context_takeover());
    // §7.1.1.2
    let has_takeover = parameter(answer, NAMES[1]).is_none();
    assert_eq!(has_takeover, params.context_takeover(Role::Client));
    assert!(!has_takeover || config.client_context_takeover());
    // §7.1.2.1: a demand is granted with the same window or a smaller one.
    assert!(server <= config.server_max_window_bits().get());
    if let Some(Some(demanded)) = parameter(offer, NAMES[2]) {
        assert!(parameter(answer, NAMES[2]).is_some());
        assert!(server <= bits(demanded));
    }
    let named = parameter(answer, NAMES[2]).flatten().map_or(15, bits);
    assert_eq!(named, server);
    // §7.1.2.2: a client that does not say that it can be limited must not be.
    let named = parameter(answer, NAMES[3]).flatten().map_or(15, bits);
    match parameter(offer, NAMES[3]) {
        None => assert!(parameter(answer, NAMES[3]).is_none()),
        Some(hint) => assert!(named <= hint.map_or(15, bits)),
    }
    // What is inflated with must hold what the other may refer back to.
    assert_eq!(named, client);
}

fuzz_target!(|data: &[u8]| {
    let Some((&[a, b, c, d], value)) = data.split_first_chunk::<4>() else {
        return;
    };
    let (client, server) = (settings([a, b]), settings([c, d]));

    // Two of ours always agree, and on what each may do.
    let (clients, servers) = agree(&client, &server);
    for role in [Role::Client, Role::Server] {
        let (sender, receiver) = match role {
            Role::Client => (clients, servers),
            Role::Server => (servers, clients),
        };
        assert!(sender.max_window_bits(role) <= receiver.max_window_bits(role));
        assert!(!sender.context_takeover(role) || receiver.context_takeover(role));
    }

    let Ok(value) = std::str::from_utf8(value) else {
        return;
    };
    let Ok(extensions) = ExtensionOffer::parse(value) else {
        return;
    };
    // As an offer: the first that follows the rules is taken up.
    let accepted = server.accept(&extensions);
    let offer = extensions.iter().find(|offer| is_valid(offer));
    assert_eq!(accepted.is_some(), offer.is_some());
    if let (Some(params), Some(offer)) = (accepted, offer) {
        check_answer(offer, &server, &params);
    }
    // As an answer: the client goes along only with what it has asked for.
    match client.agree(&extensions) {
        Ok(None) => assert!(extensions.is_empty()),
        Ok(Some(params)) => {
            let [answer] = &extensions[..] else {
                panic!("{value:?} is not one extension");
            };
            assert!(is_valid(answer));
            let (servers, clients) = (Role::Server, Role::Client);
            assert!(params.max_window_bits(servers) <= client.server_max_window_bits());
            assert!(params.max_window_bits(clients) <= client.client_max_window_bits());
            assert!(!params.context_takeover(servers) || client.server_context_takeover());
            assert!(!params.context_takeover(clients) || client.client_context_takeover());
            let limit = parameter(answer, NAMES[3]).flatten().map_or(15, bits);
            assert!(params.max_window_bits(clients).get() <= limit);
            let no_takeover = parameter(answer, NAMES[1]).is_some();
            assert!(!params.context_takeover(clients) || !no_takeover);
        }
        Err(_) => {}
    }
});
