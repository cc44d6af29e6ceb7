//! Whether processes that have taken over after a reload may stay: a pure policy, the time is an
//! argument.

use std::time::{Duration, Instant};

/// Requests that may fail before one is answered.
const MAX_FAILED: u64 = 3;

/// What the processes on trial have done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Conduct {
    /// Whether one of them has answered a request.
    pub(super) has_answered: bool,
    /// Requests that failed in one of them before it had answered any.
    pub(super) failed: u64,
    /// Requests that they have in hand.
    pub(super) in_hand: usize,
    /// How often one of them ended.
    pub(super) ends: u64,
    /// Whether one of them ended that had answered nothing.
    pub(super) is_stillborn: bool,
}

/// What becomes of the processes on trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// That is not known yet.
    Open,
    /// They stay.
    Proven,
    /// Those before them come back.
    Failed(&'static str),
}

/// A trial of as many processes as a pool has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trial {
    begun: Instant,
    length: Duration,
    processes: u64,
}

impl Trial {
    /// One that begins now.
    pub(super) fn new(now: Instant, length: Duration, processes: usize) -> Self {
        Self {
            begun: now,
            length,
            processes: processes as u64,
        }
    }

    /// Judges what they have done by now.
    ///
    /// A process that has answered may end with a later request: that may be the request's fault,
    /// and would have been the former process's end, too. If they end one after another, it is
    /// theirs.
    pub(super) fn judge(&self, now: Instant, conduct: &Conduct) -> Verdict {
        if conduct.is_stillborn {
            return Verdict::Failed("a process ended before it had answered anything");
        }
        if conduct.ends > self.processes {
            return Verdict::Failed("its processes end again and again");
        }
        if !conduct.has_answered && conduct.failed >= MAX_FAILED {
            return Verdict::Failed("the first requests failed, and none was answered");
        }
        let is_over = now.saturating_duration_since(self.begun) >= self.length;
        // What is in hand and not answered in all that time may never be.
        match is_over && (conduct.has_answered || conduct.in_hand == 0) {
            true => Verdict::Proven,
            false => Verdict::Open,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LENGTH: Duration = Duration::from_secs(10);

    fn judge(after: u64, conduct: Conduct) -> Verdict {
        let begun = Instant::now();
        let trial = Trial::new(begun, LENGTH, 2);
        trial.judge(begun + Duration::from_secs(after), &conduct)
    }

    #[test]
    fn who_lives_and_is_not_asked_is_proven_at_the_end() {
        assert_eq!(judge(9, Conduct::default()), Verdict::Open);
        assert_eq!(judge(10, Conduct::default()), Verdict::Proven);
    }

    #[test]
    fn who_is_asked_and_does_not_answer_is_waited_for() {
        let asked = Conduct {
            in_hand: 1,
            ..Conduct::default()
        };
        assert_eq!(judge(60, asked), Verdict::Open);
        let answered = Conduct {
            has_answered: true,
            ..asked
        };
        assert_eq!(judge(60, answered), Verdict::Proven);
    }

    #[test]
    fn an_end_without_an_answer_fails_and_one_after_an_answer_does_not() {
        let ended = Conduct {
            ends: 1,
            is_stillborn: true,
            ..Conduct::default()
        };
        assert!(matches!(judge(0, ended), Verdict::Failed(_)));
        let ended = Conduct {
            ends: 2,
            has_answered: true,
            ..Conduct::default()
        };
        assert_eq!(judge(0, ended), Verdict::Open);
        let again = Conduct { ends: 3, ..ended };
        assert!(matches!(judge(0, again), Verdict::Failed(_)));
    }

    #[test]
    fn failures_before_the_first_answer_fail() {
        let failed = |failed, has_answered| Conduct {
            failed,
            has_answered,
            ..Conduct::default()
        };
        assert_eq!(judge(0, failed(2, false)), Verdict::Open);
        assert!(matches!(judge(0, failed(3, false)), Verdict::Failed(_)));
        assert_eq!(judge(0, failed(3, true)), Verdict::Open);
    }

    proptest! {
        #[test]
        fn prop_what_has_failed_is_never_proven_later(
            conduct in (any::<bool>(), 0_u64..6, 0_usize..3, 0_u64..6, any::<bool>()),
            more in (0_u64..6, 0_u64..6),
            after in 0_u64..100,
            later in 0_u64..100,
        ) {
            let (has_answered, failed, in_hand, ends, is_stillborn) = conduct;
            let conduct = Conduct { has_answered, failed, in_hand, ends, is_stillborn };
            if matches!(judge(after, conduct), Verdict::Failed(_)) {
                let worse = Conduct { failed: failed + more.0, ends: ends + more.1, ..conduct };
                prop_assert!(matches!(judge(after + later, worse), Verdict::Failed(_)));
            }
        }
    }
}
