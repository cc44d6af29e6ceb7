//! One broadcast to many connections, of which some are slow.

use std::time::SystemTime;

use bytes::Bytes;
use ws_session::{
    Binding, ConnectionIds, Outbound, PushError, Registry, SessionToken, Target, UserId,
};

const LIMIT: usize = 1000;

fn registry_of(count: u8) -> Registry<Outbound> {
    let mut registry = Registry::new();
    let mut ids = ConnectionIds::new(1);
    for number in 0..count {
        let user =
            UserId::new(&format!("user{}", number % 3)).expect("one word is a valid user id");
        let session = SessionToken::from_random([number; 32]).id();
        let binding = Binding { user, session };
        registry
            .insert_unique(
                ids.next_id(),
                binding,
                Outbound::new(LIMIT),
                SystemTime::UNIX_EPOCH,
            )
            .expect("the ids differ");
    }
    registry
}

#[test]
fn a_push_is_written_queued_or_dropped_and_the_counts_add_up() {
    let mut registry = registry_of(9);
    let message = Bytes::from(vec![b'x'; 600]);
    let ids: Vec<_> = registry.iter().map(|(id, _)| *id).collect();
    // A third of the peers takes everything, a third a part, a third nothing and has a full queue.
    for (at, id) in ids.iter().enumerate() {
        if at % 3 == 2 {
            registry
                .get_mut(*id)
                .unwrap()
                .push(Bytes::from(vec![b'y'; 500]))
                .unwrap();
        }
    }

    let (mut written, mut queued, mut dropped) = (0, 0, 0);
    for (at, id) in ids.iter().enumerate() {
        let outbound = registry.get_mut(*id).unwrap();
        match outbound.push(message.clone()) {
            Ok(()) => {
                outbound.advance(if at % 3 == 0 { 600 } else { 1 });
                if outbound.is_empty() {
                    written += 1
                } else {
                    queued += 1
                }
            }
            Err(PushError::Overflow {
                size: 600,
                waiting: 500,
                limit: LIMIT,
            }) => {
                dropped += 1;
                outbound.drop_untouched();
                outbound.finish("close 1013".into());
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((written, queued, dropped), (3, 3, 3));
    assert_eq!(
        written + queued + dropped,
        registry.select(&Target::All).len()
    );

    // The slow ones read again: each sees the message whole, or a close frame.
    for id in ids {
        let (_, mut outbound) = registry.remove(id).unwrap();
        while let Some(piece) = outbound.front() {
            let size = piece.len().min(7);
            outbound.advance(size);
        }
        assert_eq!((outbound.len_bytes(), outbound.len_messages()), (0, 0));
    }
    assert_eq!(registry.user_count(), 0);
}

#[test]
fn t30_queues_share_one_copy_of_a_broadcast() {
    let mut registry = registry_of(100);
    let message = Bytes::from(vec![b'x'; 600]);
    let ids: Vec<_> = registry.iter().map(|(id, _)| *id).collect();
    for id in ids {
        registry.get_mut(id).unwrap().push(message.clone()).unwrap();
    }
    for (_, outbound) in &registry {
        assert_eq!(outbound.front().unwrap().as_ptr(), message.as_ptr());
    }
}
