//! Whom an orphan may belong to, as far as that can be told.

use std::io;

use crate::children::{self, Instance, Suspects};

/// Who may have left an orphan behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Suspect {
    Job(u64),
    /// A child of a fork server, which is a job.
    Child(u64, Instance),
}

impl Suspect {
    pub(super) const fn job(self) -> u64 {
        match self {
            Self::Job(job) | Self::Child(job, _) => job,
        }
    }
}

/// A job that may have left orphans behind.
#[derive(Debug)]
pub(super) enum Candidate {
    /// A program that runs.
    Run(u64),
    /// A fork server, whose messages run in children of it.
    ForkServer {
        job: u64,
        messages: Messages,
        /// Those it has now.
        children: Vec<Instance>,
    },
}

/// What is known of a fork server's messages.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Messages {
    /// When the first child started that was seen to run one.
    since: Option<u64>,
}

impl Messages {
    /// Whether none has been seen yet.
    pub(super) const fn are_unknown(self) -> bool {
        self.since.is_none()
    }

    /// The children of a fork server, which leads its group; looks which of them run messages.
    ///
    /// # Errors
    ///
    /// The system's error if they cannot be read.
    pub(super) fn look(&mut self, leader: i32) -> io::Result<Vec<Instance>> {
        let children = children::children_of(leader)?;
        // What runs a message leads a group of its own. What has not left the command's may be the
        // first half of a double fork, or what the application starts for itself.
        let has_left = |child: &&Instance| children::group_of(child.pid) != Some(leader);
        let oldest = children.iter().filter(has_left).map(|child| child.since);
        self.since = self.since.into_iter().chain(oldest).min();
        Ok(children)
    }
}

/// Leaves of these who they are if it is known whose an orphan is, and whether its program was
/// started with the variables of a message: then by a process that runs one.
pub(super) fn narrow(suspects: &mut Suspects<Suspect>, job: u64, is_of_message: bool) {
    suspects.narrow(|suspect| match suspect {
        Suspect::Job(_) => suspect.job() == job && !is_of_message,
        Suspect::Child(..) => suspect.job() == job,
    });
}

/// Who may have left behind an orphan that started then, or nobody knows when.
pub(super) fn suspects(candidates: &[Candidate], orphan_since: Option<u64>) -> Suspects<Suspect> {
    let suspects = candidates.iter().flat_map(|candidate| match candidate {
        Candidate::Run(job) => vec![Suspect::Job(*job)],
        Candidate::ForkServer {
            job,
            messages,
            children,
        } => match messages.since {
            Some(first) if orphan_since.is_none_or(|since| since >= first) => children
                .iter()
                // What is younger than the orphan has not started it, and what is older than all
                // messages is the application's own.
                .filter(|child| child.since >= first)
                .filter(|child| orphan_since.is_none_or(|since| child.since <= since))
                .map(|&child| Suspect::Child(*job, child))
                .collect(),
            // Started before any message was, as far as is known: by the application while it was
            // loaded, or it is itself what answers, if each message is forked twice. Or by one of
            // the first, which its environment may tell.
            _ => children
                .iter()
                .filter(|child| orphan_since.is_none_or(|since| child.since <= since))
                .map(|&child| Suspect::Child(*job, child))
                .chain([Suspect::Job(*job)])
                .collect(),
        },
    });
    Suspects::new(suspects)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const JOB: u64 = 7;

    const fn child(since: u64) -> Instance {
        Instance {
            pid: since as i32 + 100,
            since,
        }
    }

    fn fork_server(first: Option<u64>, children: &[u64]) -> [Candidate; 1] {
        [Candidate::ForkServer {
            job: JOB,
            messages: Messages { since: first },
            children: children.iter().map(|&since| child(since)).collect(),
        }]
    }

    fn of_children(children: &[u64]) -> Suspects<Suspect> {
        let suspect = |&since: &u64| Suspect::Child(JOB, child(since));
        Suspects::new(children.iter().map(suspect))
    }

    /// Whether an orphan goes when nobody but the command itself is left.
    fn goes(mut suspects: Suspects<Suspect>, is_of_message: bool) -> bool {
        narrow(&mut suspects, JOB, is_of_message);
        suspects.are_gone(|suspect| suspect == Suspect::Job(JOB))
    }

    #[test]
    fn t57_orphan_of_a_fork_server_without_messages_is_the_command_s() {
        for (children, since) in [(&[][..], Some(5)), (&[3], Some(5)), (&[], None)] {
            let found = suspects(&fork_server(None, children), since);
            assert!(!goes(found.clone(), false), "{found:?}");
            assert!(goes(found, true), "its environment says of whom it is");
        }
    }

    #[test]
    fn t57_orphan_older_than_all_messages_is_the_command_s() {
        let found = suspects(&fork_server(Some(6), &[6, 8]), Some(5));
        assert!(!goes(found.clone(), false), "{found:?}");
        assert!(goes(found, true));
    }

    #[test]
    fn t57_orphan_of_one_of_the_first_messages_lives_as_long_as_that_does() {
        let mut found = suspects(&fork_server(None, &[3, 6]), Some(5));
        narrow(&mut found, JOB, true);
        assert_eq!(found, of_children(&[3]));
    }

    #[test]
    fn t57_children_younger_than_an_orphan_and_those_of_the_application_are_not_suspected() {
        let candidates = fork_server(Some(4), &[2, 4, 6, 8]);
        assert_eq!(suspects(&candidates, Some(6)), of_children(&[4, 6]));
        assert_eq!(suspects(&candidates, None), of_children(&[4, 6, 8]));
    }

    #[test]
    fn t57_orphan_of_a_message_that_is_over_has_no_suspects() {
        let candidates = fork_server(Some(4), &[8]);
        assert!(suspects(&candidates, Some(6)).are_gone(|_| true));
    }

    proptest! {
        /// Whatever else is known, whoever started an orphan is among those it is killed after.
        #[test]
        fn prop_who_left_an_orphan_is_suspected(
            first in 0_u64..20,
            mut others in proptest::collection::vec(0_u64..40, 0..8),
            message in 0_u64..20,
            later in 0_u64..5,
        ) {
            let (message, orphan) = (first + message, first + message + later);
            others.push(message);
            let mut suspects = suspects(&fork_server(Some(first), &others), Some(orphan));
            prop_assert!(!suspects.are_gone(|it| it == Suspect::Child(JOB, child(message))));
        }
    }
}
