use std::collections::HashSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::testing::{self, NaiveRegistry};

#[derive(Clone, Debug)]
enum Op {
    Insert(ConnectionId, Binding, u32),
    Remove(ConnectionId),
    Change(ConnectionId, u32),
    Select(Target),
    /// Time passes, so many seconds.
    Wait(u32),
}

// Few names, so that they meet.
fn op() -> impl Strategy<Value = Op> {
    let id = || (0u64..12).prop_map(ConnectionId::from);
    let binding = || testing::few_bindings(4, 4);
    prop_oneof![
        4 => (id(), binding(), any::<u32>()).prop_map(|(id, b, v)| Op::Insert(id, b, v)),
        3 => id().prop_map(Op::Remove),
        1 => (id(), any::<u32>()).prop_map(|(id, value)| Op::Change(id, value)),
        3 => testing::few_targets(4, 4, 12).prop_map(Op::Select),
        1 => (0_u32..1000).prop_map(Op::Wait),
    ]
}

/// What must hold after every operation.
fn validate<T>(registry: &Registry<T>) {
    for (place, entry) in registry.entries.iter() {
        assert_eq!(registry.entries.place(entry.id), Some(place as u32));
        for ring in [UserId::ring, SessionId::ring] {
            let Neighbours { next, previous } = ring(entry);
            assert_eq!(ring(registry.entries.at(next)).previous, place as u32);
            assert_eq!(ring(registry.entries.at(previous)).next, place as u32);
        }
    }
    let of_users = registry.by_user.iter().map(|group| {
        let user = &registry.entries.at(group.first).binding.user;
        let connections = registry.user(user);
        assert!(
            connections
                .clone()
                .all(|(id, _)| registry.binding(*id).unwrap().user == *user)
        );
        connections.count()
    });
    let of_sessions = registry.by_session.iter().map(|group| {
        let session = registry.entries.at(group.first).binding.session;
        let connections = registry.session(session);
        assert!(
            connections
                .clone()
                .all(|(id, _)| registry.binding(*id).unwrap().session == session)
        );
        connections.count()
    });
    let sums: (usize, usize) = (of_users.sum(), of_sessions.sum());
    assert_eq!(sums, (registry.count(), registry.count()));
    let counted: u32 = registry.by_user.iter().map(|group| group.count).sum();
    assert_eq!(counted as usize, registry.count());
}

/// All users with their presence, in order, gone through in parts of this length.
fn users<T>(registry: &Registry<T>, part: usize) -> Vec<(UserId, Presence)> {
    let mut users: Vec<(UserId, Presence)> = Vec::new();
    loop {
        let bound = match users.last() {
            Some((last, _)) => Bound::Excluded(last.as_str()),
            None => Bound::Unbounded,
        };
        let some: Vec<_> = registry
            .users_from(bound)
            .take(part)
            .map(|(user, presence)| (user.clone(), presence))
            .collect();
        users.extend(some.iter().cloned());
        if some.len() < part {
            return users;
        }
    }
}

fn at(seconds: u32) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.into())
}

fn selected(registry: &Registry<u32>, target: &Target) -> Vec<(ConnectionId, u32)> {
    let connections = registry.select(target);
    let len = connections.len();
    let mut selected: Vec<_> = connections.map(|(id, value)| (*id, *value)).collect();
    assert_eq!(selected.len(), len);
    selected.sort_unstable();
    selected
}

proptest! {
    #[test]
    fn prop_the_registry_is_the_naive_one(ops in prop::collection::vec(op(), 0..120)) {
        let mut registry = Registry::new();
        let mut naive = NaiveRegistry::default();
        let mut now = 1;
        for op in ops {
            match op {
                Op::Wait(seconds) => now += seconds,
                Op::Insert(id, binding, value) => prop_assert_eq!(
                    registry.insert_unique(id, binding.clone(), value, at(now)),
                    naive.insert_unique(id, binding, value, at(now))
                ),
                Op::Remove(id) => prop_assert_eq!(registry.remove(id), naive.remove(id)),
                Op::Change(id, value) => prop_assert_eq!(
                    registry.get_mut(id).map(|old| std::mem::replace(old, value)),
                    naive.change(id, value)
                ),
                Op::Select(target) => {
                    let expected = naive.select(&target);
                    prop_assert_eq!(selected(&registry, &target), expected.clone());
                    for (id, value) in &registry {
                        let binding = registry.binding(*id).unwrap();
                        prop_assert_eq!(
                            target.contains(*id, Some(&binding.user), binding.session),
                            expected.contains(&(*id, *value))
                        );
                    }
                }
            }
            validate(&registry);
            prop_assert_eq!(registry.count(), naive.count());
            prop_assert_eq!(registry.user_count(), naive.user_count());
            prop_assert_eq!(registry.session_count(), naive.session_count());
            prop_assert_eq!(selected(&registry, &Target::All), naive.select(&Target::All));
            prop_assert_eq!(users(&registry, 2), naive.users());
            prop_assert_eq!(registry.users.len(), registry.user_count());
        }
        let ids: Vec<_> = registry.iter().map(|(id, _)| *id).collect();
        for id in ids {
            prop_assert_eq!(registry.binding(id), naive.binding(id));
            registry.remove(id);
            validate(&registry);
        }
        prop_assert_eq!(
            (registry.count(), registry.user_count(), registry.session_count()),
            (0, 0, 0)
        );
    }

    /// Between the parts of one listing anything may happen to the registry.
    #[test]
    fn prop_a_listing_in_parts_has_who_stays_once_and_nobody_twice(
        before in prop::collection::vec(testing::few_bindings(4, 4), 0..40),
        steps in prop::collection::vec((0_usize..8, 0_u64..60, any::<bool>()), 0..60),
    ) {
        let mut registry = Registry::new();
        for (id, binding) in (0_u64..).zip(before) {
            registry.insert_unique(id.into(), binding, (), at(1)).unwrap();
        }
        let mut stayed: HashSet<_> = registry.iter().map(|(id, ())| *id).collect();
        let (mut met, mut place) = (Vec::new(), 0);
        for (size, id, inserts) in steps {
            met.extend(registry.part_of(place..place + size).map(|(id, _, ())| id));
            place += size;
            let id = ConnectionId::from(id);
            let binding = Binding {
                user: UserId::new("user").unwrap(),
                session: SessionId::from_bytes([0; 16]),
            };
            match inserts {
                // One that comes back is not one who stayed.
                true => drop(registry.insert_unique(id, binding, (), at(2))),
                false => drop(registry.remove(id).map(|_| stayed.remove(&id))),
            }
        }
        met.extend(registry.part_of(place..registry.place_count()).map(|(id, _, ())| id));
        for id in &stayed {
            prop_assert_eq!(met.iter().filter(|other| *other == id).count(), 1);
        }
    }
}

#[test]
fn a_user_is_there_since_the_first_connection_of_those_that_overlap() {
    let mut registry = Registry::new();
    let user = UserId::new("alice").unwrap();
    let insert = |registry: &mut Registry<()>, id: u64, now| {
        let session = SessionId::from_bytes([u8::try_from(id).unwrap(); 16]);
        let user = user.clone();
        let inserted = registry.insert_unique(id.into(), Binding { user, session }, (), at(now));
        inserted.unwrap();
    };
    insert(&mut registry, 1, 10);
    insert(&mut registry, 2, 20);
    registry.remove(1.into());
    insert(&mut registry, 3, 30);
    registry.remove(2.into());
    let there = |connections, since| {
        Some(Presence {
            connections,
            since: at(since),
        })
    };
    assert_eq!(registry.presence(&user), there(1, 10));
    registry.remove(3.into());
    assert_eq!(registry.presence(&user), None);
    insert(&mut registry, 4, 40);
    assert_eq!(registry.presence(&user), there(1, 40));
}
