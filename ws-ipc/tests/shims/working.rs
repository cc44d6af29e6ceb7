//! What holds for each shim as a worker.

use ws_ipc::shims::{self, Shim};

use crate::answers;
use crate::setup::{Mode, Setup};

macro_rules! claims {
    ($shim:ident: $($claim:ident)*; $($common:ident)*) => {
        $(#[tokio::test]
        async fn $claim() {
            super::$claim(super::shims::$shim).await;
        })*
        $(#[tokio::test]
        async fn $common() {
            super::answers::$common(super::shims::$shim, super::Mode::Worker).await;
        })*
    };
}

macro_rules! language {
    ($name:ident, $shim:ident) => {
        mod $name {
            claims! {
                $shim:
                state_is_seen_by_the_next_request;
                example_of_three_lines_is_answered
                body_arrives_and_returns_byte_for_byte
                variables_are_given_as_argument_and_as_environment
                what_is_printed_and_returned_is_the_answer
                header_is_added_to_the_answer
                header_that_would_add_another_is_refused
                two_hundred_requests_eight_at_once_are_answered
                application_that_raises_costs_one_answer
                application_that_exits_costs_one_answer
                killed_process_costs_one_answer
                request_that_is_cut_off_runs_nothing
                sigterm_ends_it_after_its_request
            }
        }
    };
}

language!(worker_php, PHP);
language!(worker_py, PYTHON);
language!(worker_rb, RUBY);
language!(worker_pl, PERL);
language!(worker_js, NODE);

async fn state_is_seen_by_the_next_request(shim: Shim) {
    let Some(setup) = Setup::new(shim, Mode::Worker).await else {
        return;
    };
    let pid = setup.pid().to_string();
    for count in ["1", "2", "3"] {
        assert_eq!(setup.ask("/count").await, count);
        assert_eq!(setup.ask("/pid").await, pid);
    }
    setup.end().await;
}
