//! A browser comes, opens two tabs, goes, and comes back.

use std::time::{Duration, Instant, SystemTime};

use ws_session::{
    Binding, ConnectionIds, Registry, SessionConfig, SessionToken, Sessions, Target, UserId,
};

#[test]
fn tabs_of_one_browser_share_a_session_and_outlive_each_other() {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs one real Instant to count from"
    )]
    let start = Instant::now();
    let ttl = Duration::from_secs(60);
    let mut sessions = Sessions::new(SessionConfig {
        ttl,
        ..SessionConfig::default()
    });
    let mut registry = Registry::new();
    let mut ids = ConnectionIds::new(1);
    let addr = "192.0.2.1".parse().ok();

    let first = sessions.resume(None, addr, start, [1; 32]);
    let cookie = first.issued.unwrap().encode();
    let token = SessionToken::parse(&cookie).unwrap();
    let second = sessions.resume(Some(&token), addr, start, [2; 32]);
    assert!(second.issued.is_none());
    assert_eq!(first.id, second.id);

    // No validation callback: the user id is the session id.
    let user = UserId::from(first.id);
    let tabs = [ids.next_id(), ids.next_id()];
    for tab in tabs {
        let binding = Binding {
            user: user.clone(),
            session: first.id,
        };
        registry
            .insert_unique(tab, binding, (), SystemTime::UNIX_EPOCH)
            .unwrap();
        assert!(sessions.hold(first.id));
    }
    assert_eq!(registry.select(&Target::Session(first.id)).len(), 2);

    // Both stay open for longer than the ttl; then they go, one after the other.
    let mut now = start + 10 * ttl;
    assert_eq!(sessions.expire(now), []);
    for tab in tabs {
        now += ttl / 2;
        let (binding, ()) = registry.remove(tab).unwrap();
        assert!(sessions.release(binding.session, now));
        assert_eq!(sessions.expire(now + ttl / 2), []);
    }
    assert_eq!(registry.select(&Target::User(user)).len(), 0);

    let back = sessions.resume(Some(&token), addr, now + ttl / 2, [3; 32]);
    assert_eq!(back.id, first.id);
    assert_eq!(sessions.expire(now + 2 * ttl), [first.id]);
}
