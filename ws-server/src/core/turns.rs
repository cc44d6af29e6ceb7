//! The order of callbacks on one connection, and how many may wait.

use std::collections::VecDeque;

/// The number of a message on its connection: 1, 2, ... in the order of acceptance.
pub(crate) type MessageId = u64;

/// How many callbacks of one connection run and wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TurnLimits {
    /// Callbacks that run at once.
    pub(crate) running: usize,
    /// Messages that wait behind them; with no more room the connection is not read.
    pub(crate) waiting: usize,
    /// Whether an answer may overtake the answers of earlier messages.
    pub(crate) unordered: bool,
}

/// The messages of one connection that were accepted and are not answered yet.
///
/// A message is accepted once, started at most once and finished exactly once; answers leave in
/// the order of acceptance unless [`TurnLimits::unordered`] says otherwise. `Q` is what a callback
/// is asked, `A` what it answers.
///
/// Drive it in this order: [`accept`](Self::accept) while [`has_room`](Self::has_room), then
/// [`start`](Self::start) until `None`; on each end of a callback [`finish`](Self::finish), then
/// [`next_answer`](Self::next_answer) until `None`, then `start` again.
#[derive(Debug)]
pub(crate) struct Turns<Q, A> {
    limits: TurnLimits,
    last_id: MessageId,
    /// `None` while there are none: most connections are idle.
    held: Option<Box<Held<Q, A>>>,
}

#[derive(Debug)]
struct Held<Q, A> {
    waiting: VecDeque<(MessageId, Q)>,
    /// Started and not yet taken, oldest first.
    started: VecDeque<(MessageId, Turn<A>)>,
    running: usize,
}

// By hand: the derive would ask for defaults of what is held.
impl<Q, A> Default for Held<Q, A> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            started: VecDeque::new(),
            running: 0,
        }
    }
}

impl<Q, A> Held<Q, A> {
    /// Answers that wait for an earlier one count too: their bytes are held here.
    fn count(&self) -> usize {
        self.waiting.len() + self.started.len()
    }
}

#[derive(Debug)]
enum Turn<A> {
    Running,
    Finished(A),
}

impl<Q, A> Turns<Q, A> {
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
        held < self.limits.running + self.limits.waiting
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
        let is_beginning = matches!(held.started.front(), Some((0, Turn::Running)));
        if is_beginning || held.running >= self.limits.running {
            return None;
        }
        let (id, question) = held.waiting.pop_front()?;
        held.started.push_back((id, Turn::Running));
        held.running += 1;
        Some((id, question))
    }

    /// Notes the end of a callback. An id that is not running changes nothing.
    pub(crate) fn finish(&mut self, id: MessageId, answer: A) {
        let Some(held) = &mut self.held else {
            return;
        };
        let running = held
            .started
            .iter_mut()
            .find(|(started, turn)| *started == id && matches!(turn, Turn::Running));
        if let Some((_, turn)) = running {
            *turn = Turn::Finished(answer);
            held.running -= 1;
        }
    }

    /// The next answer that may leave.
    pub(crate) fn next_answer(&mut self) -> Option<(MessageId, A)> {
        let held = self.held.as_mut()?;
        let is_finished = |(_, turn): &(MessageId, Turn<A>)| matches!(turn, Turn::Finished(_));
        let index = if self.limits.unordered {
            held.started.iter().position(is_finished)?
        } else {
            held.started.front().is_some_and(is_finished).then_some(0)?
        };
        let (id, turn) = held.started.remove(index)?;
        self.release_memory();
        match turn {
            Turn::Finished(answer) => Some((id, answer)),
            Turn::Running => None,
        }
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

    fn turns(running: usize, waiting: usize, unordered: bool) -> Turns<u64, u64> {
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

    #[derive(Clone, Debug)]
    enum Op {
        Accept,
        Start,
        Finish(usize),
        Take,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            3 => Just(Op::Accept),
            3 => Just(Op::Start),
            2 => (0..8usize).prop_map(Op::Finish),
            2 => Just(Op::Take),
        ]
    }

    proptest! {
        /// INV-01 and INV-18 against any interleaving: started in order, once, never more than
        /// allowed at a time; answered in order, once each; none held beyond the limits.
        #[test]
        fn prop_every_message_is_started_once_and_answered_in_order(
            running in 1..4usize,
            waiting in 0..5usize,
            unordered: bool,
            ops in prop::collection::vec(op(), 0..200),
        ) {
            let mut turns = turns(running, waiting, unordered);
            let mut in_flight: Vec<u64> = Vec::new();
            let (mut accepted, mut started) = (0, 0);
            let mut finished: Vec<u64> = Vec::new();
            let mut answered: Vec<u64> = Vec::new();
            for op in ops {
                match op {
                    Op::Accept if turns.has_room() => {
                        accepted += 1;
                        prop_assert_eq!(turns.accept(accepted), accepted);
                    }
                    Op::Accept => prop_assert!(
                        accepted as usize - answered.len() >= running + waiting
                    ),
                    Op::Start => if let Some((id, question)) = turns.start() {
                        started += 1;
                        prop_assert_eq!((id, question), (started, started));
                        in_flight.push(id);
                    },
                    Op::Finish(which) if !in_flight.is_empty() => {
                        let id = in_flight.remove(which % in_flight.len());
                        turns.finish(id, id * 10);
                        finished.push(id);
                    }
                    Op::Finish(_) => {}
                    Op::Take => if let Some((id, answer)) = turns.next_answer() {
                        prop_assert_eq!(answer, id * 10);
                        prop_assert!(finished.contains(&id));
                        prop_assert!(!answered.contains(&id));
                        if !unordered {
                            prop_assert_eq!(id, answered.len() as u64 + 1);
                        }
                        answered.push(id);
                    },
                }
                prop_assert!(in_flight.len() <= running);
                prop_assert_eq!(turns.is_idle(), accepted as usize == answered.len());
            }
        }
    }
}
