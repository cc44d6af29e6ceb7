use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;

/// Some moment; the tests count from it.
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs one real Instant to count from"
)]
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

const TTL: u64 = 60;

fn at(seconds: u64) -> Instant {
    *START + Duration::from_secs(seconds)
}

fn ip(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}

fn sessions(max_sessions: usize) -> Sessions {
    let ttl = Duration::from_secs(TTL);
    Sessions::new(SessionConfig {
        ttl,
        max_sessions,
        ..SessionConfig::default()
    })
}

/// Issues a session for nobody in particular.
fn issue(sessions: &mut Sessions, now: u64, fresh: u8) -> SessionToken {
    sessions
        .resume(None, None, at(now), [fresh; 32])
        .issued
        .unwrap()
}

#[test]
fn an_unknown_token_is_replaced_not_adopted() {
    let mut sessions = sessions(10);
    let chosen = SessionToken::from_random([9; 32]);
    let resumed = sessions.resume(Some(&chosen), None, at(0), [1; 32]);
    assert_ne!(resumed.id, chosen.id());
    assert_eq!(resumed.issued.unwrap().id(), resumed.id);
    assert!(!sessions.contains(chosen.id()));
}

#[test]
fn a_session_expires_after_its_ttl_without_use() {
    let mut sessions = sessions(10);
    let token = issue(&mut sessions, 0, 1);
    assert_eq!(sessions.poll_timeout(), Some(at(TTL)));
    assert!(
        sessions
            .resume(Some(&token), None, at(TTL - 1), [2; 32])
            .issued
            .is_none()
    );
    assert_eq!(sessions.poll_timeout(), Some(at(2 * TTL - 1)));
    assert_eq!(sessions.expire(at(2 * TTL - 2)), []);
    assert_eq!(sessions.expire(at(2 * TTL - 1)), [token.id()]);
    assert!(sessions.is_empty());
}

#[test]
fn a_session_that_is_due_is_not_resumed_though_it_is_still_stored() {
    let mut sessions = sessions(10);
    let token = issue(&mut sessions, 0, 1);
    assert!(
        sessions
            .resume(Some(&token), None, at(TTL), [2; 32])
            .issued
            .is_some()
    );
}

#[test]
fn a_held_session_neither_expires_nor_makes_room() {
    let mut sessions = sessions(2);
    let held = issue(&mut sessions, 0, 1);
    assert!(sessions.hold(held.id()));
    assert!(sessions.hold(held.id()));
    let other = issue(&mut sessions, 0, 2);
    let third = issue(&mut sessions, 1, 3);
    assert!(sessions.contains(held.id()) && sessions.contains(third.id()));
    assert!(!sessions.contains(other.id()));

    assert!(sessions.release(held.id(), at(1)));
    assert_eq!(sessions.expire(at(1000)), [third.id()]);
    assert!(sessions.release(held.id(), at(1000)));
    assert!(!sessions.release(held.id(), at(1000)));
    assert_eq!(sessions.poll_timeout(), Some(at(1000 + TTL)));
}

#[test]
fn a_session_beyond_the_bound_is_issued_but_not_remembered() {
    let mut sessions = sessions(1);
    let held = issue(&mut sessions, 0, 1);
    sessions.hold(held.id());
    let other = issue(&mut sessions, 0, 2);
    assert!(!sessions.contains(other.id()));
    assert!(!sessions.hold(other.id()));
    assert!(!sessions.release(other.id(), at(0)));
    assert_eq!(sessions.len(), 1);
}

#[test]
fn the_least_recently_used_session_makes_room() {
    let mut sessions = sessions(2);
    let first = issue(&mut sessions, 0, 1);
    let second = issue(&mut sessions, 1, 2);
    assert!(sessions.touch(first.id(), at(2)));
    issue(&mut sessions, 3, 3);
    assert!(sessions.contains(first.id()));
    assert!(!sessions.contains(second.id()));
    assert!(!sessions.touch(second.id(), at(3)));
}

#[test]
fn a_removed_session_is_unknown_even_if_it_was_held() {
    let mut sessions = sessions(10);
    let token = issue(&mut sessions, 0, 1);
    sessions.hold(token.id());
    assert!(sessions.remove(token.id()));
    assert!(!sessions.remove(token.id()));
    assert!(!sessions.release(token.id(), at(1)));
    assert!(
        sessions
            .resume(Some(&token), None, at(1), [2; 32])
            .issued
            .is_some()
    );
}

#[test]
fn a_session_is_bound_to_its_address() {
    for (made_for, used_from, is_same) in [
        (ip("192.0.2.1"), ip("192.0.2.1"), true),
        (ip("192.0.2.1"), ip("192.0.2.2"), false),
        (ip("192.0.2.1"), ip("::ffff:192.0.2.1"), true),
        (
            ip("2001:db8:0:1::1"),
            ip("2001:db8:0:1:ffff:ffff:ffff:ffff"),
            true,
        ),
        (ip("2001:db8:0:1::1"), ip("2001:db8:0:2::1"), false),
        (ip("192.0.2.1"), ip("2001:db8::1"), false),
        (ip("192.0.2.1"), None, false),
        (None, ip("192.0.2.1"), false),
        (None, None, true),
    ] {
        for verify_ip in [true, false] {
            let mut sessions = Sessions::new(SessionConfig {
                verify_ip,
                ..Default::default()
            });
            let first = sessions.resume(None, made_for, at(0), [1; 32]);
            let token = first.issued.unwrap();
            let second = sessions.resume(Some(&token), used_from, at(1), [2; 32]);
            let context = (made_for, used_from, verify_ip);
            assert_eq!(
                second.issued.is_none(),
                is_same || !verify_ip,
                "{context:?}"
            );
            assert_eq!(second.id == first.id, is_same || !verify_ip, "{context:?}");
            // The rightful owner's session is as it was.
            let third = sessions.resume(Some(&token), made_for, at(2), [3; 32]);
            assert_eq!(third.id, first.id, "{context:?}");
        }
    }
}

#[test]
fn time_that_runs_backwards_stands_still() {
    let mut sessions = sessions(10);
    let first = issue(&mut sessions, 100, 1);
    let second = issue(&mut sessions, 50, 2);
    assert_eq!(sessions.expire(at(100 + TTL)), [first.id(), second.id()]);
}

#[test]
fn a_ttl_beyond_all_time_never_ends() {
    let ttl = Duration::MAX;
    let mut sessions = Sessions::new(SessionConfig {
        ttl,
        ..SessionConfig::default()
    });
    issue(&mut sessions, 0, 1);
    assert_eq!(sessions.poll_timeout(), None);
    assert_eq!(sessions.expire(at(1_000_000)), []);
}

/// A session as a store has it, unused for a while.
fn stored(byte: u8, unused_for: u64) -> Remembered {
    Remembered {
        id: SessionToken::from_random([byte; 32]).id(),
        user: UserId::new("ann").ok(),
        data: SessionData::new("cart").ok(),
        addr: ip("192.0.2.1"),
        unused_for: Duration::from_secs(unused_for),
        left: None,
    }
}

#[test]
fn a_stored_session_is_remembered_as_it_was() {
    let mut sessions = sessions(10);
    let session = stored(1, TTL - 10);
    let id = session.id;
    assert_eq!(sessions.recall(id, ip("192.0.2.1"), at(0)), Recall::Unknown);
    assert!(sessions.restore(session.clone(), at(0), at(0)));
    assert_eq!(sessions.user(id), session.user.as_ref());
    assert_eq!(sessions.data(id), session.data.as_ref());
    assert_eq!(sessions.with_data(), 1);
    // From elsewhere it is not used.
    assert!(matches!(
        sessions.recall(id, ip("192.0.2.2"), at(0)),
        Recall::Elsewhere { .. }
    ));
    assert_eq!(
        sessions.recall(id, ip("192.0.2.1"), at(10)),
        Recall::Unknown
    );
    assert_eq!(sessions.expire(at(10)), [id]);
    assert_eq!(sessions.with_data(), 0);
    assert!(sessions.restore(stored(1, 0), at(11), at(11)));
    assert_eq!(sessions.recall(id, ip("192.0.2.1"), at(12)), Recall::Known);
}

#[test]
fn a_stored_session_that_is_over_is_not_remembered() {
    let mut sessions = sessions(10);
    assert!(!sessions.restore(stored(1, TTL), at(0), at(0)));
    let ended = Remembered {
        left: Some(Duration::ZERO),
        ..stored(1, 0)
    };
    assert!(!sessions.restore(ended, at(0), at(0)));
    assert!(sessions.is_empty());
}

#[test]
fn a_revocation_overtakes_an_answer_of_the_store() {
    let mut sessions = sessions(10);
    let id = stored(1, 0).id;
    // The store was asked at 5, and said that it has the session, which was revoked at 6.
    assert!(!sessions.revoke(id, at(6)));
    assert!(!sessions.restore(stored(1, 0), at(5), at(7)));
    assert!(sessions.is_revoked(id, at(5)) && !sessions.is_revoked(id, at(7)));
    // Asked afterwards, it knows.
    assert!(sessions.restore(stored(1, 0), at(8), at(8)));
    sessions.expire(at(8) + 2 * REVOCATION_MEMORY);
    assert!(!sessions.is_revoked(id, at(0)));
}

#[test]
fn a_session_ends_at_its_age_even_if_it_is_held() {
    let mut sessions = Sessions::new(SessionConfig {
        max_age: Some(Duration::from_secs(100)),
        ..SessionConfig::default()
    });
    let (id, _) = sessions.issue(None, at(0), [1; 32]);
    assert!(sessions.hold(id) && sessions.touch(id, at(90)));
    assert_eq!(sessions.next_end(), Some(at(100)));
    assert_eq!(sessions.end(at(99)), []);
    assert_eq!(sessions.recall(id, None, at(100)), Recall::Unknown);
    assert_eq!(sessions.end(at(100)), [id]);
    assert!(sessions.is_empty() && sessions.next_end().is_none());
    assert!(sessions.is_revoked(id, at(99)));
    // What a store says is left counts as well.
    let left = Some(Duration::from_secs(5));
    assert!(sessions.restore(
        Remembered {
            left,
            ..stored(2, 0)
        },
        at(100),
        at(100)
    ));
    assert_eq!(sessions.next_end(), Some(at(105)));
    assert!(sessions.remove(stored(2, 0).id));
    assert_eq!(sessions.next_end(), None);
}

#[test]
fn fewer_bits_make_neighbours_one_network() {
    let mut sessions = Sessions::new(SessionConfig {
        ip_prefix_v4: 24,
        ip_prefix_v6: 48,
        ..SessionConfig::default()
    });
    for (made_for, used_from, is_same) in [
        ("192.0.2.1", "192.0.2.200", true),
        ("192.0.2.1", "192.0.3.1", false),
        ("2001:db8:0:1::1", "2001:db8:0:ffff::1", true),
        ("2001:db8:0:1::1", "2001:db8:1:1::1", false),
    ] {
        let (id, _) = sessions.issue(ip(made_for), at(0), [1; 32]);
        let recalled = sessions.recall(id, ip(used_from), at(0));
        assert_eq!(recalled == Recall::Known, is_same, "{made_for} {used_from}");
        sessions.remove(id);
    }
}

#[test]
fn a_named_session_comes_from_anywhere() {
    let mut sessions = sessions(10);
    let id = SessionId::of_name("basket");
    assert!(sessions.adopt(id, at(0)));
    assert!(!sessions.adopt(id, at(TTL - 1)));
    assert!(sessions.hold(id));
    assert!(sessions.held().eq([id]));
    assert!(sessions.set_user(id, &UserId::new("ann").unwrap()));
    assert!(!sessions.set_user(id, &UserId::new("ann").unwrap()));
    assert!(sessions.set_data(id, SessionData::new("x").ok()));
    assert!(sessions.set_data(id, None));
    assert_eq!((sessions.data(id), sessions.with_data()), (None, 0));
    assert!(!sessions.set_data(SessionId::of_name("other"), None));
}

#[derive(Clone, Debug)]
enum Op {
    /// Which of the issued tokens, if any, and from which address.
    Resume(Option<prop::sample::Index>, u8),
    Touch(prop::sample::Index),
    Hold(prop::sample::Index),
    Release(prop::sample::Index),
    Remove(prop::sample::Index),
    Expire,
    Wait(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        4 => (prop::option::of(index()), 0u8..2).prop_map(|(token, ip)| Op::Resume(token, ip)),
        2 => index().prop_map(Op::Touch),
        3 => index().prop_map(Op::Hold),
        3 => index().prop_map(Op::Release),
        1 => index().prop_map(Op::Remove),
        1 => Just(Op::Expire),
        2 => (0u64..TTL).prop_map(Op::Wait),
    ]
}

/// A store that is obviously right: a list in the order of last use, searched from its front.
#[derive(Debug, Default)]
struct Model {
    /// Id, address, second of last use, connections.
    known: Vec<(SessionId, u8, u64, usize)>,
}

impl Model {
    fn position(&self, id: SessionId) -> Option<usize> {
        self.known.iter().position(|known| known.0 == id)
    }

    /// Moves a session to the end of the list.
    fn touch(&mut self, id: SessionId, now: u64) -> bool {
        let Some(at) = self.position(id) else {
            return false;
        };
        let (id, ip, _, holds) = self.known.remove(at);
        self.known.push((id, ip, now, holds));
        true
    }

    fn issue(&mut self, id: SessionId, ip: u8, now: u64, max: usize) {
        while self.known.len() >= max {
            let Some(at) = self.known.iter().position(|known| known.3 == 0) else {
                return;
            };
            self.known.remove(at);
        }
        self.known.push((id, ip, now, 0));
    }

    fn expire(&mut self, now: u64) -> Vec<SessionId> {
        let is_due = |known: &(SessionId, u8, u64, usize)| known.3 == 0 && now - known.2 >= TTL;
        let expired = self
            .known
            .iter()
            .filter(|known| is_due(known))
            .map(|known| known.0);
        let expired = expired.collect();
        self.known.retain(|known| !is_due(known));
        expired
    }
}

proptest! {
    #[test]
    fn prop_the_store_is_the_naive_one(
        max in 0usize..6,
        ops in prop::collection::vec(op(), 0..150),
    ) {
        let mut sessions = sessions(max);
        let mut model = Model::default();
        let mut tokens = vec![SessionToken::from_random([255; 32])];
        let mut now = 0;
        for (step, op) in ops.into_iter().enumerate() {
            match op {
                Op::Resume(token, ip) => {
                    let token = token.map(|index| index.get(&tokens).clone());
                    let fresh = [u8::try_from(step).unwrap(); 32];
                    let addr = IpAddr::from([192, 0, 2, ip]);
                    let resumed = sessions.resume(token.as_ref(), Some(addr), at(now), fresh);
                    let known = token.as_ref().and_then(|token| model.position(token.id()));
                    let is_good = known.is_some_and(|known| {
                        let (_, made_for, used, holds) = model.known[known];
                        made_for == ip && (holds > 0 || now - used < TTL)
                    });
                    prop_assert_eq!(resumed.issued.is_none(), is_good);
                    if let Some(token) = resumed.issued {
                        prop_assert_eq!(token.id(), resumed.id);
                        model.issue(resumed.id, ip, now, max);
                        tokens.push(token);
                    } else {
                        prop_assert_eq!(Some(resumed.id), token.map(|token| token.id()));
                        model.touch(resumed.id, now);
                    }
                }
                Op::Touch(index) => {
                    let id = index.get(&tokens).id();
                    prop_assert_eq!(sessions.touch(id, at(now)), model.touch(id, now));
                }
                Op::Hold(index) => {
                    let id = index.get(&tokens).id();
                    let known = model.position(id);
                    prop_assert_eq!(sessions.hold(id), known.is_some());
                    if let Some(known) = known {
                        model.known[known].3 += 1;
                    }
                }
                Op::Release(index) => {
                    let id = index.get(&tokens).id();
                    let known = model.position(id).filter(|known| model.known[*known].3 > 0);
                    prop_assert_eq!(sessions.release(id, at(now)), known.is_some());
                    if let Some(known) = known {
                        model.known[known].3 -= 1;
                        model.touch(id, now);
                    }
                }
                Op::Remove(index) => {
                    let id = index.get(&tokens).id();
                    let known = model.position(id);
                    prop_assert_eq!(sessions.remove(id), known.is_some());
                    known.map(|known| model.known.remove(known));
                }
                Op::Expire => prop_assert_eq!(sessions.expire(at(now)), model.expire(now)),
                Op::Wait(seconds) => now += seconds,
            }
            prop_assert!(sessions.len() <= max);
            prop_assert_eq!(sessions.len(), model.known.len());
            for token in &tokens {
                let id = token.id();
                prop_assert_eq!(sessions.contains(id), model.position(id).is_some());
            }
            let idle = model.known.iter().filter(|known| known.3 == 0);
            prop_assert_eq!(sessions.idle.len(), idle.clone().count());
            let next = idle.map(|known| at(known.2 + TTL)).min();
            prop_assert_eq!(sessions.poll_timeout(), next);
        }
    }
}
