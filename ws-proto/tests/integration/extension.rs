//! Negotiation of permessage-deflate (RFC 7692 §7.1).

use proptest::prelude::*;
use ws_proto::handshake::ExtensionOffer;
use ws_proto::testing::{agree, deflate_config};
use ws_proto::{DeflateConfig, Role};

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
