use proptest::prelude::*;

use super::*;

fn frame(size: usize) -> Bytes {
    Bytes::from(vec![b'm'; size])
}

#[test]
fn a_message_of_any_size_is_admitted_to_an_empty_queue() {
    let mut outbound = Outbound::new(10);
    outbound.push(frame(1000)).unwrap();
    assert!(outbound.is_over_limit());
    let overflow = PushError::Overflow {
        size: 1,
        waiting: 1000,
        limit: 10,
    };
    assert_eq!(outbound.push(frame(1)), Err(overflow));
    assert_eq!(outbound.advance(1000), 1);
    assert!(outbound.push(frame(1)).is_ok());
}

#[test]
fn the_limit_itself_fits() {
    let mut outbound = Outbound::new(10);
    outbound.push(frame(4)).unwrap();
    outbound.push(frame(6)).unwrap();
    assert!(!outbound.is_over_limit());
    assert!(outbound.push(frame(1)).is_err());
    outbound.advance(1);
    assert!(outbound.push(frame(1)).is_ok());
}

#[test]
fn replies_pass_the_limit() {
    let mut outbound = Outbound::new(1);
    for _ in 0..3 {
        outbound.push_unbounded(frame(5)).unwrap();
    }
    assert!(outbound.is_over_limit());
    assert_eq!((outbound.len_bytes(), outbound.len_messages()), (15, 3));
}

#[test]
fn nothing_follows_the_close_frame() {
    let mut outbound = Outbound::new(100);
    outbound.push(frame(5)).unwrap();
    outbound.finish("close".into());
    outbound.finish("again".into());
    assert_eq!(outbound.push(frame(1)), Err(PushError::Finished));
    assert_eq!(outbound.push_unbounded(frame(1)), Err(PushError::Finished));
    assert_eq!(outbound.push_control(frame(1)), Err(PushError::Finished));
    assert_eq!(outbound.len_bytes(), 10);
    outbound.advance(10);
    assert!(outbound.is_empty() && outbound.is_finished());
    assert_eq!(outbound.push_rest(frame(1), 0), Err(PushError::Finished));
}

#[test]
fn inv_06_a_torn_frame_is_kept_when_a_slow_subscriber_is_closed() {
    let mut outbound = Outbound::new(100);
    outbound.push_rest("0123456789".into(), 4).unwrap();
    outbound.push(frame(10)).unwrap();
    outbound.push_control(frame(2)).unwrap();
    assert_eq!((outbound.len_messages(), outbound.len_untouched()), (2, 1));
    assert_eq!(outbound.drop_untouched(), 1);
    outbound.finish("close".into());
    let mut slices = [IoSlice::new(&[]); 8];
    let count = outbound.slices(&mut slices);
    let pieces: Vec<&[u8]> = slices[..count].iter().map(|slice| &**slice).collect();
    assert_eq!(pieces, [b"456789".as_slice(), b"close"]);
}

#[test]
fn the_close_frame_is_kept_when_the_rest_is_dropped() {
    let mut outbound = Outbound::new(100);
    outbound.push(frame(10)).unwrap();
    outbound.finish("close".into());
    assert_eq!(outbound.drop_untouched(), 1);
    assert_eq!(outbound.front(), Some(b"close".as_slice()));
    outbound.advance(2);
    assert_eq!(outbound.drop_untouched(), 0);
    assert_eq!(outbound.front(), Some(b"ose".as_slice()));
}

#[test]
fn a_message_that_was_written_directly_is_not_queued() {
    let mut outbound = Outbound::new(100);
    outbound.push_rest(frame(10), 10).unwrap();
    assert!(outbound.is_empty() && !outbound.is_torn());
}

#[test]
fn fewer_slices_than_pieces_are_filled_from_the_front() {
    let mut outbound = Outbound::new(100);
    for text in ["a", "b", "c"] {
        outbound.push(text.into()).unwrap();
    }
    let mut slices = [IoSlice::new(&[]); 2];
    assert_eq!(outbound.slices(&mut slices), 2);
    assert_eq!(
        (&*slices[0], &*slices[1]),
        (b"a".as_slice(), b"b".as_slice())
    );
}

#[test]
fn an_emptied_queue_holds_no_memory() {
    let mut outbound = Outbound::new(100);
    assert!(outbound.queue.is_none());
    outbound.push(frame(10)).unwrap();
    outbound.advance(10);
    assert!(outbound.queue.is_none());
}

#[test]
#[should_panic(expected = "more bytes were written than there are")]
fn more_bytes_than_there_are_cannot_have_been_written() {
    let mut outbound = Outbound::new(100);
    outbound.push(frame(10)).unwrap();
    outbound.advance(11);
}

#[derive(Clone, Debug)]
enum Op {
    Push(usize),
    PushUnbounded(usize),
    PushControl(usize),
    /// A size, and how much of it was written directly, in 255ths.
    /// Whether it came from elsewhere.
    PushRest(usize, u8, bool),
    /// How many slices to offer, and how much of them is taken, in 255ths.
    Write(usize, u8),
    DropUntouched,
    Finish,
    Clear,
}

fn op() -> impl Strategy<Value = Op> {
    let size = || prop_oneof![9 => 1usize..40, 1 => 40usize..200, 1 => Just(0)];
    prop_oneof![
        6 => size().prop_map(Op::Push),
        3 => size().prop_map(Op::PushUnbounded),
        3 => (0usize..10).prop_map(Op::PushControl),
        3 => (size(), any::<u8>(), any::<bool>())
            .prop_map(|(size, share, is_pushed)| Op::PushRest(size, share, is_pushed)),
        9 => (0usize..6, any::<u8>()).prop_map(|(slices, share)| Op::Write(slices, share)),
        1 => Just(Op::DropUntouched),
        1 => Just(Op::Finish),
        1 => Just(Op::Clear),
    ]
}

/// A queue that is obviously right: whole frames, each with the number of its bytes that are out.
#[derive(Debug, Default)]
struct Model {
    frames: Vec<(Vec<u8>, Kind, usize)>,
    is_finished: bool,
}

impl Model {
    fn rest(&self) -> Vec<u8> {
        self.frames
            .iter()
            .flat_map(|(bytes, _, written)| bytes[*written..].to_vec())
            .collect()
    }

    fn messages(&self) -> usize {
        self.frames
            .iter()
            .filter(|(_, kind, _)| kind.is_message())
            .count()
    }

    fn pushed(&self) -> usize {
        let is_pushed = |(_, kind, _): &&(Vec<u8>, Kind, usize)| *kind == Kind::Pushed;
        self.frames.iter().filter(is_pushed).count()
    }

    fn add(&mut self, bytes: &Bytes, kind: Kind, written: usize) {
        if written < bytes.len() {
            self.frames.push((bytes.to_vec(), kind, written));
        }
    }

    /// Moves `count` bytes out, one by one.
    fn write(&mut self, count: usize) -> (Vec<u8>, usize) {
        let before = self.messages();
        let mut out = Vec::new();
        for _ in 0..count {
            let (bytes, _, written) = &mut self.frames[0];
            out.push(bytes[*written]);
            *written += 1;
            if *written == bytes.len() {
                self.frames.remove(0);
            }
        }
        (out, before - self.messages())
    }
}

fn share_of(size: usize, share: u8) -> usize {
    size * usize::from(share) / 255
}

proptest! {
    /// Bytes out are the concatenation of what was put in, however the writes were cut; all counts
    /// are exact after each step; a drop leaves the torn frame and the close frame.
    #[test]
    fn prop_bytes_out_are_bytes_in(
        limit in 0usize..100,
        ops in prop::collection::vec(op(), 0..100),
    ) {
        let mut outbound = Outbound::new(limit);
        let mut model = Model::default();
        for (step, op) in ops.into_iter().enumerate() {
            let frame = |size: usize| Bytes::from(vec![u8::try_from(step).unwrap(); size]);
            let finished = model.is_finished.then_some(PushError::Finished);
            match op {
                Op::Push(size) => {
                    let waiting = model.rest().len();
                    let overflows = waiting > 0 && waiting + size > limit;
                    let overflow = PushError::Overflow { size, waiting, limit };
                    let error = if overflows { finished.or(Some(overflow)) } else { finished };
                    prop_assert_eq!(outbound.push(frame(size)).err(), error);
                    if error.is_none() {
                        model.add(&frame(size), Kind::Pushed, 0);
                    }
                }
                Op::PushUnbounded(size) => {
                    prop_assert_eq!(outbound.push_unbounded(frame(size)).err(), finished);
                    if finished.is_none() {
                        model.add(&frame(size), Kind::Message, 0);
                    }
                }
                Op::PushControl(size) => {
                    prop_assert_eq!(outbound.push_control(frame(size)).err(), finished);
                    if finished.is_none() {
                        model.add(&frame(size), Kind::Control, 0);
                    }
                }
                Op::PushRest(size, share, is_pushed) if outbound.is_empty() => {
                    let written = share_of(size, share);
                    let (kind, queued) = match is_pushed {
                        true => (Kind::Pushed, outbound.push_rest_of_pushed(frame(size), written)),
                        false => (Kind::Message, outbound.push_rest(frame(size), written)),
                    };
                    prop_assert_eq!(queued.err(), finished);
                    if finished.is_none() {
                        model.add(&frame(size), kind, written);
                    }
                }
                Op::PushRest(..) => {}
                Op::Write(count, share) => {
                    let mut slices = vec![IoSlice::new(&[]); count];
                    let count = outbound.slices(&mut slices);
                    prop_assert_eq!(count, slices.len().min(model.frames.len()));
                    let offered: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
                    let taken = share_of(offered.len(), share);
                    let (out, through) = model.write(taken);
                    prop_assert_eq!(&offered[..taken], out);
                    prop_assert_eq!(outbound.advance(taken), through);
                }
                Op::DropUntouched => {
                    let before = model.messages();
                    model.frames.retain(|(_, kind, written)| *written > 0 || *kind == Kind::Close);
                    prop_assert_eq!(outbound.drop_untouched(), before - model.messages());
                }
                Op::Finish => {
                    outbound.finish(frame(4));
                    if !model.is_finished {
                        model.add(&frame(4), Kind::Close, 0);
                        model.is_finished = true;
                    }
                }
                Op::Clear => {
                    prop_assert_eq!(outbound.clear(), model.messages());
                    model.frames.clear();
                }
            }
            let rest = model.rest();
            let torn_messages = model
                .frames
                .iter()
                .filter(|(_, kind, written)| kind.is_message() && *written > 0)
                .count();
            prop_assert_eq!(outbound.pieces().collect::<Vec<_>>().concat(), &rest[..]);
            prop_assert_eq!(outbound.len_bytes(), rest.len());
            prop_assert_eq!(outbound.len_messages(), model.messages());
            prop_assert_eq!(outbound.len_pushed(), model.pushed());
            prop_assert_eq!(outbound.len_untouched(), model.messages() - torn_messages);
            prop_assert_eq!(outbound.is_empty(), rest.is_empty());
            let is_torn = model.frames.iter().any(|(_, _, written)| *written > 0);
            prop_assert_eq!(outbound.is_torn(), is_torn);
            prop_assert_eq!(outbound.is_over_limit(), rest.len() > limit);
            prop_assert_eq!(outbound.is_finished(), model.is_finished);
        }
    }
}
