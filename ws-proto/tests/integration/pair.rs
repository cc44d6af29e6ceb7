//! Two endpoints over a wire that cuts bytes anywhere: they always reach Closed and agree.

use std::time::Duration;

use proptest::prelude::*;
use ws_proto::testing::{OwnedEvent, close_frame, message};
use ws_proto::{CloseFrame, MessageKind, State};

use crate::support::End;

/// What the application or the wire does next.
#[derive(Clone, Debug)]
enum Op {
    Send {
        by_client: bool,
        kind: MessageKind,
        payload: Vec<u8>,
    },
    Close {
        by_client: bool,
        frame: Option<CloseFrame>,
    },
    /// Up to so many bytes travel.
    Deliver {
        to_client: bool,
        size: usize,
    },
    Wait(Duration),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (any::<bool>(), message())
            .prop_map(|(by_client, (kind, payload))| Op::Send { by_client, kind, payload }),
        1 => (any::<bool>(), close_frame())
            .prop_map(|(by_client, frame)| Op::Close { by_client, frame }),
        8 => (any::<bool>(), prop_oneof![1_usize..10, 1_usize..100_000])
            .prop_map(|(to_client, size)| Op::Deliver { to_client, size }),
        1 => (0_u64..2_000).prop_map(|millis| Op::Wait(Duration::from_millis(millis))),
    ]
}

/// One endpoint with what travels towards its peer, what it sent and what it saw.
struct Side {
    end: End,
    accepted: Vec<(MessageKind, Vec<u8>)>,
    events: Vec<OwnedEvent>,
    closed_with: Option<Option<CloseFrame>>,
}

impl Side {
    fn new(end: End) -> Self {
        Self {
            end,
            accepted: Vec::new(),
            events: Vec::new(),
            closed_with: None,
        }
    }

    fn send(&mut self, kind: MessageKind, payload: &[u8]) {
        if self
            .end
            .connection
            .send(kind, payload, &mut self.end.out)
            .is_ok()
        {
            self.accepted.push((kind, payload.to_vec()));
        } else {
            assert_ne!(self.end.connection.state(), State::Open);
        }
    }

    fn close(&mut self, frame: Option<CloseFrame>) {
        if self.end.connection.state() == State::Open {
            self.closed_with = Some(frame.clone());
        }
        self.end.connection.close(frame, self.end.now);
        self.end.connection.poll_transmit(&mut self.end.out);
    }

    fn messages(&self) -> Vec<(MessageKind, Vec<u8>)> {
        let messages = self.events.iter().filter_map(|event| match event {
            OwnedEvent::Message(kind, payload) => Some((*kind, payload.clone())),
            _ => None,
        });
        messages.collect()
    }

    fn closes(&self) -> Vec<&Option<CloseFrame>> {
        let closes = self.events.iter().filter_map(|event| match event {
            OwnedEvent::Close(frame) => Some(frame),
            _ => None,
        });
        closes.collect()
    }
}

/// Moves up to `size` bytes from one side to the other.
fn deliver(from: &mut Side, to: &mut Side, size: usize) {
    let size = size.min(from.end.out.len());
    let bytes: Vec<u8> = from.end.out.drain(..size).collect();
    to.events.extend(to.end.receive(&bytes));
}

/// What a side that saw the peer close first may have been told: the peer's frame, or the echo of
/// its own code.
fn agrees(seen: &Option<CloseFrame>, peer: &Side, own: &Side) -> bool {
    match &peer.closed_with {
        Some(sent) => seen == sent,
        None => {
            let own = own.closed_with.as_ref().expect("somebody closed");
            seen.as_ref().map(|frame| frame.code) == own.as_ref().map(|frame| frame.code)
        }
    }
}

proptest! {
    #[test]
    fn prop_two_endpoints_always_reach_closed_and_agree(
        ops in prop::collection::vec(op(), 0..40), last in close_frame(), last_by_client: bool,
    ) {
        let (mut client, mut server) = (Side::new(End::client()), Side::new(End::server()));
        server.end.now = client.end.now;
        for op in ops {
            match op {
                Op::Send { by_client: true, kind, payload } => client.send(kind, &payload),
                Op::Send { by_client: false, kind, payload } => server.send(kind, &payload),
                Op::Close { by_client: true, frame } => client.close(frame),
                Op::Close { by_client: false, frame } => server.close(frame),
                Op::Deliver { to_client: true, size } => deliver(&mut server, &mut client, size),
                Op::Deliver { to_client: false, size } => deliver(&mut client, &mut server, size),
                Op::Wait(time) => {
                    // Everything on its way arrives before time passes, so no deadline strikes.
                    for _ in 0..3 {
                        deliver(&mut server, &mut client, usize::MAX);
                        deliver(&mut client, &mut server, usize::MAX);
                    }
                    for side in [&mut client, &mut server] {
                        let events = side.end.pass(time);
                        prop_assert_eq!(events, []);
                    }
                }
            }
        }
        if last_by_client { client.close(last) } else { server.close(last) }
        for _ in 0..3 {
            deliver(&mut server, &mut client, usize::MAX);
            deliver(&mut client, &mut server, usize::MAX);
        }

        for (side, peer) in [(&client, &server), (&server, &client)] {
            prop_assert_eq!(side.end.connection.state(), State::Closed);
            prop_assert_eq!(side.end.connection.poll_timeout(), None);
            let closes = side.closes();
            prop_assert_eq!(closes.len(), 1);
            prop_assert!(agrees(closes[0], peer, side));
            prop_assert!(matches!(side.events.last(), Some(OwnedEvent::Close(_))));
            // Messages arrive unchanged and in order; those that follow our close are dropped.
            let seen = side.messages();
            prop_assert_eq!(&peer.accepted[..seen.len()], &seen[..]);
            if side.closed_with.is_none() {
                prop_assert_eq!(peer.accepted.len(), seen.len());
            }
        }
    }
}
