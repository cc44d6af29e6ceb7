//! Negotiation of permessage-deflate (RFC 7692 §7.1).

use proptest::prelude::*;
use ws_proto::handshake::ExtensionOffer;
use ws_proto::testing::{agree, deflate_config};
use ws_proto::{DeflateConfig, InvalidDeflateResponse, Role, WindowBits};

proptest! {
    /// Whatever the two want, they agree, both understand the same, and neither gets more than it
    /// asked for.
    #[test]
    fn prop_any_two_endpoints_agree(client in deflate_config(), server in deflate_config()) {
        let (seen_by_client, seen_by_server) = agree(&client, &server);
        for sender in [Role::Server, Role::Client] {
            let (clients, servers) = (
                (seen_by_client.context_takeover(sender), seen_by_client.max_window_bits(sender)),
                (seen_by_server.context_takeover(sender), seen_by_server.max_window_bits(sender)),
            );
            prop_assert_eq!(clients, servers);
            let (takeover, bits) = servers;
            let (allowed, most) = match sender {
                Role::Server => (
                    client.server_context_takeover() && server.server_context_takeover(),
                    client.server_max_window_bits().min(server.server_max_window_bits()),
                ),
                Role::Client => (
                    client.client_context_takeover() && server.client_context_takeover(),
                    client.client_max_window_bits().min(server.client_max_window_bits()),
                ),
            };
            prop_assert_eq!(takeover, allowed);
            prop_assert_eq!(bits, most);
        }
    }

    #[test]
    fn prop_arbitrary_offers_never_panic(value in "[a-z_=;, 0-9\"]{0,80}", config in deflate_config()) {
        if let Ok(offers) = ExtensionOffer::parse(&value) {
            let _ = (config.accept(&offers), config.agree(&offers));
        }
    }
}

#[test]
fn first_acceptable_offer_is_taken() {
    let value = "x-other, permessage-deflate; server_max_window_bits=16, \
        permessage-deflate; server_max_window_bits=10, permessage-deflate";
    let offers = ExtensionOffer::parse(value).unwrap();
    let params = DeflateConfig::default().accept(&offers).unwrap();
    assert_eq!(
        params.to_string(),
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
         server_max_window_bits=10"
    );
}

fn bits(bits: u8) -> WindowBits {
    WindowBits::new(bits).expect("8 to 15 exist")
}

/// Demands nothing and allows everything.
fn permissive() -> DeflateConfig {
    DeflateConfig::default()
        .with_server_context_takeover(true)
        .with_client_context_takeover(true)
}

/// What the server answers to an offer.
fn answer(config: &DeflateConfig, offer: &str) -> Option<String> {
    let offers = ExtensionOffer::parse(offer).expect("the offer follows the grammar");
    config.accept(&offers).map(|params| params.to_string())
}

#[test]
fn legal_offers_are_accepted_with_what_they_demand() {
    for (offered, granted) in [
        ("", ""),
        (
            "; server_no_context_takeover",
            "; server_no_context_takeover",
        ),
        (
            "; client_no_context_takeover",
            "; client_no_context_takeover",
        ),
        ("; server_max_window_bits=8", "; server_max_window_bits=8"),
        ("; server_max_window_bits=9", "; server_max_window_bits=9"),
        ("; server_max_window_bits=15", "; server_max_window_bits=15"),
        (
            "; server_max_window_bits=\"10\"",
            "; server_max_window_bits=10",
        ),
        ("; client_max_window_bits", "; client_max_window_bits=15"),
        ("; client_max_window_bits=8", "; client_max_window_bits=8"),
        ("; client_max_window_bits=15", "; client_max_window_bits=15"),
        (
            "; client_max_window_bits=\"1\\0\"",
            "; client_max_window_bits=10",
        ),
        (
            " ;client_max_window_bits ; server_max_window_bits = 12;\
             client_no_context_takeover;server_no_context_takeover",
            "; server_no_context_takeover; client_no_context_takeover; \
             server_max_window_bits=12; client_max_window_bits=15",
        ),
    ] {
        let offer = format!("permessage-deflate{offered}");
        let expected = format!("permessage-deflate{granted}");
        assert_eq!(answer(&permissive(), &offer), Some(expected), "{offer}");
    }
}

#[test]
fn server_grants_no_more_than_it_wants_itself() {
    let config = DeflateConfig::default()
        .with_server_max_window_bits(bits(10))
        .with_client_max_window_bits(bits(11));
    let takeover = "; server_no_context_takeover; client_no_context_takeover";
    for (offered, granted) in [
        // A client that does not say that its window can be limited is not told to limit it.
        ("", "; server_max_window_bits=10"),
        ("; server_max_window_bits=12", "; server_max_window_bits=10"),
        ("; server_max_window_bits=9", "; server_max_window_bits=9"),
        (
            "; client_max_window_bits",
            "; server_max_window_bits=10; client_max_window_bits=11",
        ),
        (
            "; client_max_window_bits=15",
            "; server_max_window_bits=10; client_max_window_bits=11",
        ),
        (
            "; client_max_window_bits=9",
            "; server_max_window_bits=10; client_max_window_bits=9",
        ),
    ] {
        let offer = format!("permessage-deflate{offered}");
        let expected = format!("permessage-deflate{takeover}{granted}");
        assert_eq!(answer(&config, &offer), Some(expected), "{offer}");
    }
}

/// Parameters that no offer may have.
const ILLEGAL: &[&str] = &[
    // Not known, or not by that name.
    "x",
    "x=1",
    "Server_no_context_takeover",
    "max_window_bits=10",
    // A value where none belongs.
    "server_no_context_takeover=1",
    "client_no_context_takeover=true",
    "server_no_context_takeover=\"server_no_context_takeover\"",
    // None where one belongs.
    "server_max_window_bits",
    // Not a decimal integer from 8 to 15 without leading zeros.
    "server_max_window_bits=7",
    "server_max_window_bits=16",
    "server_max_window_bits=0",
    "server_max_window_bits=08",
    "server_max_window_bits=010",
    "server_max_window_bits=+9",
    "server_max_window_bits=\"+9\"",
    "server_max_window_bits=-9",
    "server_max_window_bits=9.0",
    "server_max_window_bits=9a",
    "server_max_window_bits=0x9",
    "server_max_window_bits=1e1",
    "server_max_window_bits=\"07\"",
    "server_max_window_bits=264",
    "server_max_window_bits=18446744073709551625",
    "client_max_window_bits=7",
    "client_max_window_bits=16",
    "client_max_window_bits=0",
    "client_max_window_bits=08",
    "client_max_window_bits=+9",
    "client_max_window_bits=9a",
    "client_max_window_bits=264",
    // Twice, alike or not.
    "server_no_context_takeover; server_no_context_takeover",
    "client_no_context_takeover; client_no_context_takeover",
    "server_max_window_bits=10; server_max_window_bits=10",
    "server_max_window_bits=10; server_max_window_bits=11",
    "client_max_window_bits=10; client_max_window_bits=10",
    "client_max_window_bits=10; client_max_window_bits",
    "client_max_window_bits; client_max_window_bits",
];

#[test]
fn illegal_offers_are_declined() {
    for parameters in ILLEGAL {
        for offer in [
            format!("permessage-deflate; {parameters}"),
            format!("permessage-deflate; {parameters}; client_no_context_takeover"),
            format!("x-webkit-deflate-frame, permessage-deflate; {parameters}"),
        ] {
            assert_eq!(answer(&permissive(), &offer), None, "{offer}");
        }
    }
    for offer in ["x-webkit-deflate-frame", "Permessage-Deflate", "deflate"] {
        assert_eq!(answer(&permissive(), offer), None, "{offer}");
    }
}

#[test]
fn values_that_are_missing_or_empty_break_the_grammar() {
    for parameter in [
        "server_max_window_bits=",
        "server_max_window_bits=\"\"",
        "server_max_window_bits=\"10",
        "client_max_window_bits=",
        "client_max_window_bits=\"\"",
        "client_max_window_bits=9 9",
        "server_no_context_takeover=",
        "=10",
        "",
    ] {
        let offer = format!("permessage-deflate; {parameter}");
        assert!(ExtensionOffer::parse(&offer).is_err(), "{offer}");
    }
}

#[test]
fn first_acceptable_offer_wins_whatever_is_wrong_with_those_before() {
    for parameters in ILLEGAL {
        let offer = format!(
            "permessage-deflate; {parameters}, permessage-deflate; server_max_window_bits=9, \
             permessage-deflate"
        );
        let expected = "permessage-deflate; server_max_window_bits=9";
        assert_eq!(answer(&permissive(), &offer).as_deref(), Some(expected));
    }
    let offer = "permessage-deflate; client_max_window_bits, permessage-deflate";
    let expected = "permessage-deflate; client_max_window_bits=15";
    assert_eq!(answer(&permissive(), offer).as_deref(), Some(expected));
}

/// The client's verdict: the compression of the server, then its own, each as takeover and bits.
type Verdict = Result<Option<[(bool, u8); 2]>, InvalidDeflateResponse>;

fn verdict(config: &DeflateConfig, response: &str) -> Verdict {
    let response = ExtensionOffer::parse(response).expect("the response follows the grammar");
    let agreed = config.agree(&response)?;
    Ok(agreed.map(|params| {
        [Role::Server, Role::Client].map(|role| {
            (
                params.context_takeover(role),
                params.max_window_bits(role).get(),
            )
        })
    }))
}

#[test]
fn client_offers_what_it_demands() {
    let offer = DeflateConfig::default()
        .with_server_max_window_bits(bits(9))
        .with_client_max_window_bits(bits(10))
        .offer();
    let expected = "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
                    server_max_window_bits=9; client_max_window_bits=10";
    assert_eq!(offer, expected);
    let expected = "permessage-deflate; client_max_window_bits";
    assert_eq!(permissive().offer(), expected);
}

#[test]
fn client_abides_by_legal_responses() {
    for (parameters, server, client) in [
        ("", (true, 15), (true, 15)),
        ("; server_no_context_takeover", (false, 15), (true, 15)),
        // Neither of the two was in the offer.
        ("; client_no_context_takeover", (true, 15), (false, 15)),
        ("; server_max_window_bits=8", (true, 8), (true, 15)),
        ("; server_max_window_bits=\"15\"", (true, 15), (true, 15)),
        ("; client_max_window_bits=8", (true, 15), (true, 8)),
        (
            "; client_max_window_bits=9; server_max_window_bits=10; client_no_context_takeover; \
             server_no_context_takeover",
            (false, 10),
            (false, 9),
        ),
    ] {
        let response = format!("permessage-deflate{parameters}");
        let expected = Ok(Some([server, client]));
        assert_eq!(verdict(&permissive(), &response), expected, "{response}");
    }
    assert_eq!(verdict(&permissive(), ""), Ok(None));
}

#[test]
fn client_keeps_to_the_window_that_it_hinted_at() {
    // RFC 7692 §7.1.2.2: the value of the offer is a hint; more may be answered, or nothing.
    let config = permissive().with_client_max_window_bits(bits(10));
    for (parameters, own) in [
        ("", 10),
        ("; client_max_window_bits=15", 10),
        ("; client_max_window_bits=10", 10),
        ("; client_max_window_bits=9", 9),
    ] {
        let response = format!("permessage-deflate{parameters}");
        let expected = Ok(Some([(true, 15), (true, own)]));
        assert_eq!(verdict(&config, &response), expected, "{response}");
    }
}

#[test]
fn client_refuses_illegal_responses() {
    for parameters in ILLEGAL {
        let response = format!("permessage-deflate; {parameters}");
        let refused = verdict(&permissive(), &response);
        assert_eq!(refused, Err(InvalidDeflateResponse), "{response}");
    }
    for response in [
        // In a response it has a value.
        "permessage-deflate; client_max_window_bits",
        // Another extension, or more than one.
        "x-webkit-deflate-frame",
        "Permessage-Deflate",
        "permessage-deflate, permessage-deflate",
        "permessage-deflate, x",
        "x, permessage-deflate",
    ] {
        let refused = verdict(&permissive(), response);
        assert_eq!(refused, Err(InvalidDeflateResponse), "{response}");
    }
}

#[test]
fn client_refuses_responses_that_do_not_grant_what_it_demands() {
    let takeover = permissive().with_server_context_takeover(false);
    let window = permissive().with_server_max_window_bits(bits(10));
    for (config, parameters, is_granted) in [
        (&takeover, "", false),
        (&takeover, "; client_no_context_takeover", false),
        (&takeover, "; server_no_context_takeover", true),
        (&window, "", false),
        (&window, "; client_max_window_bits=10", false),
        (&window, "; server_max_window_bits=11", false),
        (&window, "; server_max_window_bits=15", false),
        (&window, "; server_max_window_bits=10", true),
        (&window, "; server_max_window_bits=8", true),
    ] {
        let response = format!("permessage-deflate{parameters}");
        assert_eq!(verdict(config, &response).is_ok(), is_granted, "{response}");
    }
}
