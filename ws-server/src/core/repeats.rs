//! Requests that come again: whoever did not hear the answer asks once more, with the same key, and
//! gets the first one's answer instead of a second push.
//!
//! After the draft of the IETF for the `Idempotency-Key` header
//! (draft-ietf-httpapi-idempotency-key-header).

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// The longest key.
pub(crate) const MAX_KEY_SIZE: usize = 255;

/// What a request is about, so that it can be told from another with the same key.
pub(crate) type Fingerprint = [u8; 32];

/// The answers to requests with a key, for a while.
///
/// 1. [`claim`](Self::claim) a key before the request is carried out.
/// 2. If it is [`Claimed::Now`], carry the request out and [`finish`](Self::finish) with the answer,
///    or [`give_up`](Self::give_up) if there is none: the next one then is the first.
///
/// When there are too many, the oldest answers are forgotten. A request that is being carried out
/// never is, but when there are too many of those, no further one is.
#[derive(Debug)]
pub(crate) struct Repeats<A> {
    ttl: Duration,
    capacity: usize,
    /// The weight of all entries.
    weight: usize,
    /// The weight of those without an answer yet.
    under_way: usize,
    entries: HashMap<Box<str>, Entry<A>>,
    /// Those with an answer, the oldest first.
    answered: BTreeMap<u64, Box<str>>,
    next_number: u64,
}

#[derive(Debug)]
struct Entry<A> {
    fingerprint: Fingerprint,
    weight: usize,
    /// `None` while the request is being carried out.
    answer: Option<Answered<A>>,
}

#[derive(Debug)]
struct Answered<A> {
    answer: A,
    at: Instant,
    number: u64,
}

/// What a key is to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Claimed<A> {
    /// It is the first with this key.
    Now,
    /// The first one is being carried out.
    InProgress,
    /// The first one was another request.
    Different,
    /// The first one had this answer.
    Answered(A),
    /// Too much is being carried out for another one.
    Full,
}

impl<A: Clone> Repeats<A> {
    /// Keeps answers, with the requests that are under way, of at most this weight together, each
    /// for `ttl`.
    pub(crate) fn new(ttl: Duration, capacity: usize) -> Self {
        Self {
            ttl,
            capacity,
            weight: 0,
            under_way: 0,
            entries: HashMap::new(),
            answered: BTreeMap::new(),
            next_number: 0,
        }
    }

    /// How many keys are known.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Asks for a key, for a request of this weight.
    pub(crate) fn claim(
        &mut self,
        key: &str,
        request: Fingerprint,
        weight: usize,
        now: Instant,
    ) -> Claimed<A> {
        self.expire(now);
        match self.entries.get(key) {
            None if self.under_way.saturating_add(weight) > self.capacity => Claimed::Full,
            None => {
                let entry = Entry {
                    fingerprint: request,
                    weight,
                    answer: None,
                };
                self.entries.insert(key.into(), entry);
                self.under_way += weight;
                self.weight += weight;
                Claimed::Now
            }
            Some(entry) if entry.fingerprint != request => Claimed::Different,
            Some(Entry { answer: None, .. }) => Claimed::InProgress,
            Some(Entry {
                answer: Some(answered),
                ..
            }) => Claimed::Answered(answered.answer.clone()),
        }
    }

    /// Keeps the answer to a request whose key was claimed.
    pub(crate) fn finish(&mut self, key: &str, answer: A, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else {
            debug_assert!(false, "a claimed key is kept");
            return;
        };
        let number = self.next_number;
        self.next_number += 1;
        entry.answer = Some(Answered {
            answer,
            at: now,
            number,
        });
        self.under_way -= entry.weight;
        self.answered.insert(number, key.into());
        // Not when a key is claimed: the same batch may be about to ask for the oldest. This answer
        // stays, as no more than the capacity was under way with it.
        while self.weight > self.capacity {
            self.forget_oldest();
        }
    }

    /// Lets a key go that was claimed: its request has not been carried out.
    pub(crate) fn give_up(&mut self, key: &str) {
        let is_claimed = |entry: &Entry<A>| entry.answer.is_none();
        if self.entries.get(key).is_some_and(is_claimed)
            && let Some(entry) = self.entries.remove(key)
        {
            self.under_way -= entry.weight;
            self.weight -= entry.weight;
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some((_, key)) = self.answered.first_key_value() {
            let answered = self
                .entries
                .get(key)
                .and_then(|entry| entry.answer.as_ref());
            let is_due = answered.is_none_or(|answered| now >= answered.at + self.ttl);
            if !is_due {
                return;
            }
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((number, key)) = self.answered.pop_first() {
            let entry = self.entries.remove(&key);
            let answered = entry.as_ref().and_then(|entry| entry.answer.as_ref());
            debug_assert!(answered.is_some_and(|answered| answered.number == number));
            self.weight -= entry.map_or(0, |entry| entry.weight);
        }
    }
}

/// Reads the value of an `Idempotency-Key` header: a string of RFC 8941 (in quotes), as the draft
/// says, or the bare key, as most clients send it. `None` if it is neither.
pub(crate) fn key_of_header(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?.trim_matches([' ', '\t']);
    let Some(rest) = text.strip_prefix('"') else {
        return is_key(text).then(|| text.to_owned());
    };
    let mut key = String::new();
    let mut chars = rest.chars();
    loop {
        match chars.next()? {
            '"' => break,
            // RFC 8941 §3.3.3: only these two are escaped.
            '\\' => key.push(chars.next().filter(|next| matches!(next, '"' | '\\'))?),
            other => key.push(other),
        }
    }
    (chars.next().is_none() && is_key(&key)).then_some(key)
}

/// Whether a text may be a key: 1 to 255 printable characters of ASCII.
pub(crate) fn is_key(text: &str) -> bool {
    let is_printable = |byte: u8| (0x20..0x7f).contains(&byte);
    (1..=MAX_KEY_SIZE).contains(&text.len()) && text.bytes().all(is_printable)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: Fingerprint = [1; 32];
    const B: Fingerprint = [2; 32];
    const TTL: Duration = Duration::from_secs(10);

    #[test]
    fn the_second_gets_the_answer_of_the_first() {
        let now = Instant::now();
        let mut repeats = Repeats::new(TTL, 10);
        assert_eq!(repeats.claim("k", A, 1, now), Claimed::Now);
        assert_eq!(repeats.claim("k", A, 1, now), Claimed::InProgress);
        assert_eq!(repeats.claim("k", B, 1, now), Claimed::Different);
        repeats.finish("k", 7, now);
        assert_eq!(repeats.claim("k", A, 1, now), Claimed::Answered(7));
        assert_eq!(repeats.claim("k", B, 1, now), Claimed::Different);
        assert_eq!(repeats.claim("l", B, 1, now), Claimed::Now);
        let later = now + TTL;
        assert_eq!(
            repeats.claim("k", B, 1, later),
            Claimed::Now,
            "it is forgotten"
        );
        assert_eq!(
            repeats.claim("l", B, 1, later),
            Claimed::InProgress,
            "that never is"
        );
        repeats.give_up("l");
        assert_eq!(repeats.claim("l", A, 1, later), Claimed::Now);
    }

    #[test]
    fn what_is_under_way_leaves_so_much_room() {
        let now = Instant::now();
        let mut repeats = Repeats::new(TTL, 3);
        assert_eq!(repeats.claim("k", A, 1, now), Claimed::Now);
        repeats.finish("k", 7, now);
        assert_eq!(repeats.claim("l", A, 2, now), Claimed::Now);
        assert_eq!(repeats.claim("m", A, 2, now), Claimed::Full);
        assert_eq!(repeats.claim("k", A, 1, now), Claimed::Answered(7));
        assert_eq!(repeats.claim("l", A, 2, now), Claimed::InProgress);
        assert_eq!(repeats.claim("m", A, 1, now), Claimed::Now);
        repeats.finish("m", 8, now);
        assert_eq!(repeats.claim("m", A, 1, now), Claimed::Answered(8));
        assert_eq!(repeats.claim("k", A, 1, now), Claimed::Now, "it made room");
        repeats.give_up("l");
        assert_eq!(repeats.claim("l", A, 3, now), Claimed::Full);
        assert_eq!(repeats.claim("l", A, 2, now), Claimed::Now);
        assert_eq!(repeats.claim("n", A, 4, now), Claimed::Full);
    }

    #[test]
    fn keys_are_read_with_and_without_quotes() {
        for (value, key) in [
            ("abc-1", Some("abc-1")),
            (" \"abc 1\" ", Some("abc 1")),
            (r#""a\"b\\""#, Some(r#"a"b\"#)),
            (r#""a\x""#, None),
            ("\"a", None),
            ("\"a\"b", None),
            ("\"\"", None),
            ("", None),
            ("ü", None),
        ] {
            assert_eq!(key_of_header(value.as_bytes()).as_deref(), key, "{value}");
        }
        assert!(is_key(&"x".repeat(255)) && !is_key(&"x".repeat(256)));
        assert_eq!(key_of_header(b"\xff"), None);
    }

    #[derive(Clone, Debug)]
    enum Op {
        Claim(u8, bool, usize),
        Finish(u8, u32),
        GiveUp(u8),
        Pass(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        let key = || 0_u8..6;
        prop_oneof![
            4 => (key(), any::<bool>(), 1_usize..4)
                .prop_map(|(key, other, weight)| Op::Claim(key, other, weight)),
            3 => (key(), any::<u32>()).prop_map(|(key, answer)| Op::Finish(key, answer)),
            1 => key().prop_map(Op::GiveUp),
            2 => (0_u64..6).prop_map(Op::Pass),
        ]
    }

    /// Key, request, weight, and the answer with its time.
    type Known = (u8, Fingerprint, usize, Option<(u32, Instant)>);

    /// The weight of those for which this holds.
    fn weight(list: &[Known], is_counted: impl Fn(&Known) -> bool) -> usize {
        let counted = list.iter().filter(|known| is_counted(known));
        counted.map(|known| known.2).sum()
    }

    proptest! {
        /// Against a list in the order of the answers.
        #[test]
        fn prop_a_key_is_what_the_list_says(ops in prop::collection::vec(op(), 0..100), capacity in 1_usize..6) {
            let mut repeats = Repeats::new(TTL, capacity);
            let mut list: Vec<Known> = Vec::new();
            let mut now = Instant::now();
            for op in ops {
                match op {
                    Op::Claim(key, is_other, size) => {
                        let request = if is_other { B } else { A };
                        list.retain(|(.., answer)| answer.is_none_or(|(_, at)| now < at + TTL));
                        let under_way = weight(&list, |known| known.3.is_none());
                        let expected = match list.iter().find(|known| known.0 == key) {
                            None if under_way + size > capacity => Claimed::Full,
                            None => {
                                list.push((key, request, size, None));
                                Claimed::Now
                            }
                            Some((_, first, ..)) if *first != request => Claimed::Different,
                            Some((.., None)) => Claimed::InProgress,
                            Some((.., Some((answer, _)))) => Claimed::Answered(*answer),
                        };
                        let claimed = repeats.claim(&key.to_string(), request, size, now);
                        prop_assert_eq!(claimed, expected);
                    }
                    Op::Finish(key, answer) => {
                        let at = list.iter().position(|known| known.0 == key && known.3.is_none());
                        let Some(at) = at else { continue };
                        let (_, request, size, _) = list.remove(at);
                        list.push((key, request, size, Some((answer, now))));
                        while weight(&list, |_| true) > capacity {
                            let oldest = list.iter().position(|known| known.3.is_some());
                            list.remove(oldest.unwrap());
                        }
                        prop_assert_eq!(list.last().unwrap().0, key, "it is kept itself");
                        repeats.finish(&key.to_string(), answer, now);
                    }
                    Op::GiveUp(key) => {
                        list.retain(|known| known.0 != key || known.3.is_some());
                        repeats.give_up(&key.to_string());
                    }
                    Op::Pass(seconds) => now += Duration::from_secs(seconds),
                }
                prop_assert!(repeats.under_way <= capacity);
                prop_assert!(repeats.weight <= 2 * capacity);
            }
        }

        #[test]
        fn prop_any_header_is_read_without_panic(value in any::<Vec<u8>>()) {
            prop_assert!(key_of_header(&value).is_none_or(|key| is_key(&key)));
        }
    }
}
