//! Whom a crowd of unfinished handshakes costs its place.

use std::collections::BTreeMap;

/// The opening handshakes of one worker that have not said yet what they want.
///
/// When there are too many, the oldest has to go. If newcomers had to wait instead, a few who say
/// nothing would keep everybody out for `limits.handshake_timeout`, again and again; so it takes a
/// crowd that arrives faster than honest visitors finish, which is a matter of milliseconds.
#[derive(Debug)]
pub(crate) struct Handshakes<T> {
    limit: usize,
    arrived: u64,
    waiting: BTreeMap<u64, T>,
}

impl<T> Handshakes<T> {
    /// At most `limit`, and one at least.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            arrived: 0,
            waiting: BTreeMap::new(),
        }
    }

    /// Takes in a newcomer. Returns its number and, if there are too many now, the oldest, which is
    /// no longer among them.
    pub(crate) fn enter(&mut self, newcomer: T) -> (u64, Option<T>) {
        let number = self.arrived;
        self.arrived += 1;
        let oldest = match self.waiting.len() >= self.limit {
            true => self.take_oldest(),
            false => None,
        };
        self.waiting.insert(number, newcomer);
        (number, oldest)
    }

    /// The one that has waited longest.
    pub(crate) fn oldest(&self) -> Option<&T> {
        self.waiting.first_key_value().map(|(_, oldest)| oldest)
    }

    /// Takes the one out that has waited longest.
    pub(crate) fn take_oldest(&mut self) -> Option<T> {
        self.waiting.pop_first().map(|(_, oldest)| oldest)
    }

    /// Forgets one that is done with, if it is still there.
    pub(crate) fn leave(&mut self, number: u64) {
        self.waiting.remove(&number);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn t10_one_more_than_the_limit_costs_the_oldest_its_place() {
        let mut handshakes = Handshakes::new(3);
        let numbers: Vec<u64> = ["a", "b", "c"]
            .map(|name| match handshakes.enter(name) {
                (number, None) => number,
                (_, Some(oldest)) => panic!("{oldest} had to go"),
            })
            .into();
        assert_eq!(handshakes.enter("d").1, Some("a"));
        handshakes.leave(numbers[1]);
        assert_eq!(handshakes.enter("e").1, None);
        assert_eq!(handshakes.enter("f").1, Some("c"));
        // Whoever had to go is not there to leave.
        handshakes.leave(numbers[0]);
        assert_eq!(handshakes.enter("g").1, Some("d"));
    }

    proptest! {
        /// Against a plain list: never more than the limit, and the oldest goes.
        #[test]
        fn prop_t10_the_oldest_goes(limit in 1_usize..5, ops in prop::collection::vec(0_usize..8, 0..100)) {
            let mut handshakes = Handshakes::new(limit);
            let mut model: Vec<u64> = Vec::new();
            for op in ops {
                if op < 3 && op < model.len() {
                    handshakes.leave(model.remove(op));
                    continue;
                }
                let expected = (model.len() == limit).then(|| model.remove(0));
                let (number, oldest) = handshakes.enter(handshakes.arrived);
                prop_assert_eq!(oldest, expected);
                model.push(number);
                prop_assert!(handshakes.waiting.len() <= limit);
                prop_assert!(handshakes.waiting.keys().eq(model.iter()));
            }
        }
    }
}
