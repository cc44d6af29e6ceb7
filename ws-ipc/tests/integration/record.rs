//! Records under any cut, from any writers.

use proptest::prelude::*;
use ws_ipc::{Framing, Record, RecordDecoder};

use crate::cut::{chunks, cuts};

/// A record, or the size of one that was dropped.
type Found = Result<Vec<u8>, usize>;

fn decode(framing: &Framing, max_record: usize, bytes: &[u8], cuts: &[usize]) -> Vec<Found> {
    let mut decoder = RecordDecoder::new(framing.clone(), max_record);
    let mut found = Vec::new();
    for chunk in chunks(bytes, cuts) {
        decoder.feed(chunk, &mut |record| {
            found.push(match record {
                Record::Whole(bytes) => Ok(bytes.to_vec()),
                Record::TooLong(size) => Err(size),
            });
        });
    }
    found
}

/// The same, the obvious way: the end mark is looked for in all bytes at once.
fn model(framing: &Framing, max_record: usize, mut bytes: &[u8]) -> Vec<Found> {
    let mark = mark(framing);
    let mut found = Vec::new();
    while let Some(at) = bytes.windows(mark.len()).position(|window| window == mark) {
        if at + mark.len() > max_record {
            found.push(Err(at));
        } else if at > 0 {
            found.push(Ok(bytes[..at].to_vec()));
        }
        bytes = &bytes[at + mark.len()..];
    }
    found
}

fn mark(framing: &Framing) -> &[u8] {
    match framing {
        Framing::Lines => b"\n",
        Framing::Delimiter(mark) => mark,
    }
}

fn framings() -> impl Strategy<Value = Framing> {
    let delimiter = prop::collection::vec(prop::sample::select(b"\nab".to_vec()), 1..5);
    prop_oneof![Just(Framing::Lines), delimiter.prop_map(Framing::Delimiter)]
}

/// Few different bytes, so that end marks and halves of them are frequent.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(b"\n\naabx".to_vec()), 0..200)
}

proptest! {
    #[test]
    fn prop_t46_any_cut_gives_the_same_records(
        framing in framings(),
        max_record in 0..20usize,
        bytes in stream(),
        cuts in cuts(),
    ) {
        let expected = model(&framing, max_record, &bytes);
        prop_assert_eq!(decode(&framing, max_record, &bytes, &cuts), expected);
    }

    #[test]
    fn prop_decoding_what_was_encoded_is_identity(
        framing in framings(),
        records in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..30), 0..10),
        cuts in cuts(),
    ) {
        let sent: Vec<_> = records.iter().filter(|record| framing.encode(record).is_ok()).collect();
        let bytes: Vec<u8> = sent.iter().flat_map(|record| framing.encode(record).unwrap()).collect();
        let received = decode(&framing, 4096, &bytes, &cuts);
        prop_assert!(received.iter().eq(sent.iter().map(|record| Ok((*record).clone())).collect::<Vec<_>>().iter()));
    }

    #[test]
    fn prop_t43_interleaved_writers_never_yield_an_over_long_record(
        framing in framings(),
        max_record in 1..40usize,
        writers in prop::collection::vec(stream(), 1..5),
        turns in prop::collection::vec((any::<prop::sample::Index>(), 1..30usize), 0..60),
    ) {
        let mut decoder = RecordDecoder::new(framing.clone(), max_record);
        let mut writers: Vec<_> = writers.iter().map(Vec::as_slice).collect();
        for (writer, size) in turns {
            let writer = writer.get_mut(&mut writers);
            let (piece, rest) = writer.split_at(size.min(writer.len()));
            *writer = rest;
            let mut longest = 0;
            decoder.feed(piece, &mut |record| match record {
                Record::Whole(bytes) => longest = longest.max(bytes.len()),
                Record::TooLong(size) => assert!(size + mark(&framing).len() > max_record),
            });
            prop_assert!(longest == 0 || longest + mark(&framing).len() <= max_record);
        }
    }

    #[test]
    fn prop_t46_expiry_never_delivers_a_part_of_a_record(
        records in prop::collection::vec("[a-z]{1,10}", 1..20),
        pauses in prop::collection::vec(1..30usize, 1..20),
    ) {
        let sent: Vec<_> = records.iter().map(|record| format!("<{record}>")).collect();
        let bytes = sent.iter().flat_map(|record| Framing::Lines.encode(record.as_bytes()).unwrap());
        let bytes: Vec<u8> = bytes.collect();
        let mut decoder = RecordDecoder::new(Framing::Lines, 4096);
        let mut received = Vec::new();
        let mut expired = 0;
        for chunk in chunks(&bytes, &pauses) {
            decoder.feed(chunk, &mut |record| {
                let Record::Whole(bytes) = record else { panic!("{record:?}") };
                received.push(String::from_utf8(bytes.to_vec()).unwrap());
            });
            expired += usize::from(decoder.expire().is_some());
        }
        prop_assert_eq!(received.len() + expired, sent.len());
        prop_assert!(received.iter().all(|record| sent.contains(record)));
    }
}

#[test]
fn t46_every_split_point_of_a_record() {
    let bytes = b"/first?a=1\n/second\n\n/third\n";
    let expected: Vec<Found> = ["/first?a=1", "/second", "/third"]
        .map(|record| Ok(record.into()))
        .into();
    for at in 1..bytes.len() {
        assert_eq!(decode(&Framing::Lines, 4096, bytes, &[at]), expected);
    }
}
