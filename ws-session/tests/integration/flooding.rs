//! Keys that a remote peer chooses do not decide where they are stored.

use ws_session::{Binding, ConnectionId, Registry, SessionToken, UserId};

#[test]
fn t35_each_registry_hashes_with_a_key_of_its_own() {
    let order = || {
        let mut registry = Registry::new();
        for number in 0..200 {
            let user = UserId::new("user").unwrap();
            let session = SessionToken::from_random([0; 32]).id();
            let id = ConnectionId::from(number);
            registry
                .insert_unique(id, Binding { user, session }, ())
                .unwrap();
        }
        registry.iter().map(|(id, ())| *id).collect::<Vec<_>>()
    };
    assert_ne!(order(), order());
}
