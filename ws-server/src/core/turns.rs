//! The order of callbacks on one connection, and how many may wait.

use std::collections::VecDeque;

/// The number of a message on its connection: 1, 2, ... in the order of acceptance.
pub(crate) type MessageId = u64;

/// How many callbacks of one connection run and wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TurnLimits {
    /// Callbacks that run at once.
    pub(crate) running: u32,
    /// Messages that wait behind them; with no more room the connection is not read.
    pub(crate) waiting: u32,
    /// Whether an answer may overtake the answers of earlier messages.
    pub(crate) unordered: bool,
}

/// The messages of one connection that were accepted and are not answered yet.
///
/// A message is accepted once, started at most once and finished exactly once; answers leave in
/// the order of acceptance unless [`TurnLimits::unordered`] says otherwise. `Q` is what a callback
/// is asked, `A` what it answers, `P` a part of that which leaves before the whole.
///
/// Drive it in this order: [`accept`](Self::accept) while [`has_room`](Self::has_room), then
/// [`start`](Self::start) until `None`; on each end of a callback [`finish`](Self::finish), then
/// [`next_part`](Self::next_part) and [`next_answer`](Self::next_answer) in turn until both say
/// `None`, then `start` again.
#[derive(Debug)]
pub(crate) struct Turns<Q, A, P> {
    limits: TurnLimits,
    last_id: MessageId,
    /// `None` while there are none: most connections are idle.
    held: Option<Box<Held<Q, A, P>>>,
}

#[derive(Debug)]
struct Held<Q, A, P> {
    waiting: VecDeque<(MessageId, Q)>,
    /// Started and not yet taken, oldest first.
    started: VecDeque<(MessageId, Turn<A, P>)>,
    running: u32,
}

// By hand: the derive would ask for defaults of what is held.
impl<Q, A, P> Default for Held<Q, A, P> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            started: VecDeque::new(),
            running: 0,
        }
    }
}

impl<Q, A, P> Held<Q, A, P> {
    /// Answers that wait for an earlier one count too: their bytes are held here.
    fn count(&self) -> usize {
        self.waiting.len() + self.started.len()
    }
}

/// A callback that was started.
#[derive(Debug)]
struct Turn<A, P> {
    /// What may not leave before earlier messages are answered.
    parts: VecDeque<P>,
    /// `None` while it runs.
    answer: Option<A>,
}

impl<A, P> Turn<A, P> {
    fn is_due(&self) -> bool {
        self.answer.is_some() && self.parts.is_empty()
    }
}

impl<Q, A, P> Turns<Q, A, P> {
    pub(crate) fn new(limits: TurnLimits) -> Self {
        Self {
            limits,
            last_id: 0,
            held: None,
        }
    }

    /// Whether one more message may be accepted.
    pub(crate) fn has_room(&self) -> bool {
        let held = self.held.as_ref().map_or(0, |held| held.count());
        held < self.limits.running as usize + self.limits.waiting as usize
    }

    /// Whether nothing that was accepted is left to do.
    pub(crate) fn is_idle(&self) -> bool {
        self.held.is_none()
    }

    /// Takes a message in and numbers it. The caller asks [`has_room`](Self::has_room) first.
    pub(crate) fn accept(&mut self, question: Q) -> MessageId {
        self.last_id += 1;
        let held = self.held.get_or_insert_default();
        held.waiting.push_back((self.last_id, question));
        self.last_id
    }

    /// Takes in what is to be asked before any message and is none, so that it is not counted among
    /// them: its number is 0, and no message starts before it has finished. It comes first or not at
    /// all.
    pub(crate) fn begin_with(&mut self, question: Q) {
        debug_assert!(
            self.last_id == 0 && self.held.is_none(),
            "messages came before"
        );
        self.held
            .get_or_insert_default()
            .waiting
            .push_back((0, question));
    }

    /// The next message whose callback is to run now.
    pub(crate) fn start(&mut self) -> Option<(MessageId, Q)> {
        let held = self.held.as_mut()?;
        let first = held.started.front();
        let is_beginning = first.is_some_and(|(id, turn)| *id == 0 && turn.answer.is_none());
        if is_beginning || held.running >= self.limits.running {
            return None;
        }
        let (id, question) = held.waiting.pop_front()?;
        let turn = Turn {
            parts: VecDeque::new(),
            answer: None,
        };
        held.started.push_back((id, turn));
        held.running += 1;
        Some((id, question))
    }

    /// Notes the end of a callback. An id that is not running changes nothing.
    pub(crate) fn finish(&mut self, id: MessageId, answer: A) {
        if let Some(turn) = self.running(id) {
            turn.answer = Some(answer);
            if let Some(held) = &mut self.held {
                held.running -= 1;
            }
        }
    }

    /// Whether parts of this answer may leave at once, because nothing earlier is unanswered.
    pub(crate) fn is_next(&self, id: MessageId) -> bool {
        let first = self.held.as_ref().and_then(|held| held.started.front());
        self.limits.unordered
            || first.is_some_and(|(first, turn)| *first == id && turn.parts.is_empty())
    }

    /// Takes a part of the answer of a callback that runs: gives it back if it may leave at once,
    /// keeps it otherwise. One of an id that is not running is dropped.
    pub(crate) fn offer(&mut self, id: MessageId, part: P) -> Option<P> {
        let is_next = self.is_next(id);
        let turn = self.running(id)?;
        if is_next {
            return Some(part);
        }
        turn.parts.push_back(part);
        None
    }

    /// The next part, of those that were kept, that may leave.
    pub(crate) fn next_part(&mut self) -> Option<P> {
        let (_, first) = self.held.as_mut()?.started.front_mut()?;
        first.parts.pop_front()
    }

    /// The next answer that may leave, once all its parts have.
    pub(crate) fn next_answer(&mut self) -> Option<(MessageId, A)> {
        let held = self.held.as_mut()?;
        let is_due = |(_, turn): &(MessageId, Turn<A, P>)| turn.is_due();
        let index = if self.limits.unordered {
            held.started.iter().position(is_due)?
        } else {
            held.started.front().is_some_and(is_due).then_some(0)?
        };
        let (id, turn) = held.started.remove(index)?;
        self.release_memory();
        Some((id, turn.answer?))
    }

    /// Whether a message waits to be started.
    pub(crate) fn has_waiting(&self) -> bool {
        let waiting = self.held.as_ref().map(|held| &held.waiting);
        waiting.is_some_and(|waiting| !waiting.is_empty())
    }

    /// Forgets the messages that wait, and says how many there were. Running ones go on.
    pub(crate) fn cancel_waiting(&mut self) -> usize {
        let Some(held) = &mut self.held else {
            return 0;
        };
        let cancelled = std::mem::take(&mut held.waiting).len();
        self.release_memory();
        cancelled
    }

    fn running(&mut self, id: MessageId) -> Option<&mut Turn<A, P>> {
        let mut started = self.held.as_mut()?.started.iter_mut();
        let found = started.find(|(started, turn)| *started == id && turn.answer.is_none());
        found.map(|(_, turn)| turn)
    }

    fn release_memory(&mut self) {
        if self.held.as_ref().is_some_and(|held| held.count() == 0) {
            self.held = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn turns(running: u32, waiting: u32, unordered: bool) -> Turns<u64, u64, (u64, u32)> {
        Turns::new(TurnLimits {
            running,
            waiting,
            unordered,
        })
    }

    #[test]
    fn one_runs_and_sixteen_wait() {
        let mut turns = turns(1, 16, false);
        for question in 1..=17 {
            assert!(turns.has_room());
            assert_eq!(turns.accept(question), question);
            let started = turns.start();
            assert_eq!(started.is_some(), question == 1);
        }
        assert!(!turns.has_room());
    }

    #[test]
    fn an_answer_waits_for_the_earlier_one() {
        let mut turns = turns(2, 0, false);
        turns.accept(1);
        turns.accept(2);
        turns.start();
        turns.start();
        turns.finish(2, 2);
        assert_eq!(turns.next_answer(), None);
        turns.finish(1, 1);
        assert_eq!(turns.next_answer(), Some((1, 1)));
        assert_eq!(turns.next_answer(), Some((2, 2)));
        assert!(turns.is_idle());
    }

    #[test]
    fn a_second_end_of_the_same_callback_changes_nothing() {
        let mut turns = turns(1, 1, false);
        turns.accept(1);
        turns.start();
        turns.finish(1, 1);
        turns.finish(1, 7);
        assert_eq!(turns.next_answer(), Some((1, 1)));
        assert_eq!(turns.next_answer(), None);
        assert!(turns.is_idle());
    }

    #[test]
    fn parts_wait_for_earlier_answers_and_go_before_their_own() {
        let mut turns = turns(2, 0, false);
        turns.accept(1);
        turns.accept(2);
        turns.start();
        turns.start();
        assert_eq!(turns.offer(2, (2, 0)), None);
        assert_eq!(turns.offer(1, (1, 0)), Some((1, 0)));
        turns.finish(2, 2);
        turns.finish(1, 1);
        assert_eq!(turns.next_part(), None);
        assert_eq!(turns.next_answer(), Some((1, 1)));
        assert_eq!(turns.next_answer(), None);
        assert_eq!(turns.next_part(), Some((2, 0)));
        assert_eq!(turns.next_answer(), Some((2, 2)));
        assert!(turns.is_idle());
    }

    #[derive(Clone, Debug)]
    enum Op {
        Accept,
        Start,
        Part(usize),
        Finish(usize),
        Take,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            3 => Just(Op::Accept),
            3 => Just(Op::Start),
            3 => (0..8usize).prop_map(Op::Part),
            2 => (0..8usize).prop_map(Op::Finish),
            2 => Just(Op::Take),
        ]
    }

    proptest! {
        /// INV-01 and INV-18 against any interleaving: started in order, once, never more than
        /// allowed at a time; answered in order, once each, all parts before; none held beyond the
        /// limits.
        #[test]
        fn prop_every_message_is_started_once_and_answered_in_order(
            running in 1..4u32,
            waiting in 0..5u32,
            unordered: bool,
            ops in prop::collection::vec(op(), 0..200),
        ) {
            let mut turns = turns(running, waiting, unordered);
            let mut in_flight: Vec<u64> = Vec::new();
            let (mut accepted, mut started) = (0, 0);
            let mut finished: Vec<u64> = Vec::new();
            let mut answered: Vec<u64> = Vec::new();
            // How many parts of each were written, and how many have left.
            let mut written = [0_u32; 256];
            let mut left = [0_u32; 256];
            for op in ops {
                match op {
                    Op::Accept if turns.has_room() => {
                        accepted += 1;
                        prop_assert_eq!(turns.accept(accepted), accepted);
                    }
                    Op::Accept => prop_assert!(
                        accepted as usize - answered.len() >= (running + waiting) as usize
                    ),
                    Op::Start => if let Some((id, question)) = turns.start() {
                        started += 1;
                        prop_assert_eq!((id, question), (started, started));
                        in_flight.push(id);
                    },
                    Op::Part(which) if !in_flight.is_empty() => {
                        let id = in_flight[which % in_flight.len()];
                        let part = (id, written[id as usize]);
                        written[id as usize] += 1;
                        if let Some((id, part)) = turns.offer(id, part) {
                            prop_assert_eq!(part, left[id as usize]);
                            left[id as usize] += 1;
                            prop_assert!(unordered || id == answered.len() as u64 + 1);
                        }
                    }
                    Op::Part(_) => {}
                    Op::Finish(which) if !in_flight.is_empty() => {
                        let id = in_flight.remove(which % in_flight.len());
                        turns.finish(id, id * 10);
                        finished.push(id);
                    }
                    Op::Finish(_) => {}
                    Op::Take => if let Some((id, part)) = turns.next_part() {
                        prop_assert_eq!(part, left[id as usize]);
                        left[id as usize] += 1;
                        prop_assert_eq!(id, answered.len() as u64 + 1);
                    } else if let Some((id, answer)) = turns.next_answer() {
                        prop_assert_eq!(left[id as usize], written[id as usize]);
                        prop_assert_eq!(answer, id * 10);
                        prop_assert!(finished.contains(&id));
                        prop_assert!(!answered.contains(&id));
                        if !unordered {
                            prop_assert_eq!(id, answered.len() as u64 + 1);
                        }
                        answered.push(id);
                    },
                }
                prop_assert!(in_flight.len() <= running as usize);
                prop_assert_eq!(turns.is_idle(), accepted as usize == answered.len());
            }
        }
    }
}
