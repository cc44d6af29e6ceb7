//! What holds for each shim that forks.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use ws_ipc::Failure;
use ws_ipc::cgi::CgiError;
use ws_ipc::shims::{self, Shim};

use crate::answers::{self, SHORT};
use crate::setup::{Mode, Setup};
use crate::support::{children_of, eventually, kill, looked_for_orphans, processes_with};

/// How many children each shim has at most.
const MAX_CHILDREN: usize = 256;

/// Makes each claim a test of the shim.
macro_rules! claims {
    ($shim:ident: $($claim:ident)*; $($common:ident)*) => {
        $(#[tokio::test]
        async fn $claim() {
            super::$claim(super::shims::$shim).await;
        })*
        $(#[tokio::test]
        async fn $common() {
            super::answers::$common(super::shims::$shim, super::Mode::Fork).await;
        })*
    };
}

macro_rules! language {
    ($name:ident, $shim:ident) => {
        mod $name {
            claims! {
                $shim:
                state_of_a_child_is_not_seen_by_the_next
                children_draw_different_random_numbers
                at_most_256_children_live_at_once
                t54_child_has_its_streams_and_its_connection
                t56_children_leave_no_zombies
                t61_hang_up_kills_the_child_with_its_group
                t61_hang_up_before_there_is_a_group_kills_the_child
                what_a_killed_child_started_dies_with_it
                t57_daemon_of_a_message_ends_when_that_does
                shutdown_leaves_no_process
                killed_fork_server_takes_its_children_along;
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

language!(fork_php, PHP);
language!(fork_py, PYTHON);
language!(fork_rb, RUBY);
language!(fork_pl, PERL);

async fn setup(shim: Shim) -> Option<Setup> {
    Setup::new(shim, Mode::Fork).await
}

async fn state_of_a_child_is_not_seen_by_the_next(shim: Shim) {
    let Some(setup) = setup(shim).await else {
        return;
    };
    let first = setup.ask("/pid").await;
    assert_ne!(first, setup.ask("/pid").await);
    for _ in 0..3 {
        assert_eq!(setup.ask("/count").await, "1");
    }
    setup.end().await;
}

/// The application has seeded the generator before the first fork.
async fn children_draw_different_random_numbers(shim: Shim) {
    let Some(setup) = setup(shim).await else {
        return;
    };
    let mut numbers = BTreeSet::new();
    for _ in 0..4 {
        numbers.insert(setup.ask("/random").await);
    }
    assert_eq!(numbers.len(), 4);
    setup.end().await;
}

async fn at_most_256_children_live_at_once(shim: Shim) {
    let Some(setup) = setup(shim).await else {
        return;
    };
    let pid = setup.pid();
    let mut hanging = tokio::task::JoinSet::new();
    for _ in 0..MAX_CHILDREN + 4 {
        hanging.spawn(setup.request("/hang").answer());
    }
    eventually("all that may be", || {
        let children = children_of(pid).len();
        assert!(children <= MAX_CHILDREN);
        children == MAX_CHILDREN
    })
    .await;
    // It waits until there is room again.
    let waiting = tokio::spawn(setup.request("/print").text());
    hanging.shutdown().await;
    assert_eq!(waiting.await.unwrap(), "printed, returned");
    setup.end().await;
}

async fn t54_child_has_its_streams_and_its_connection(shim: Shim) {
    let Some(setup) = setup(shim).await else {
        return;
    };
    // Others at the same time, whose connections are none of its business.
    let others: Vec<_> = (0..3)
        .map(|_| tokio::spawn(setup.request("/wait").text()))
        .collect();
    let pid = setup.pid();
    eventually("the others serve", || children_of(pid).len() == 3).await;
    let descriptors = setup.ask("/descriptors").await;
    let targets: Vec<_> = descriptors
        .lines()
        .filter_map(|line| line.split_once(' '))
        .collect();
    let with = |kind: &str| {
        targets
            .iter()
            .filter(|(number, it)| it.starts_with(kind) && *number != "0")
            .count()
    };
    // Its connection; neither the listener nor those of others. Descriptor 0 has the body.
    assert_eq!(with("socket:"), 1, "{descriptors}");
    // Standard output is the log at most, standard error is the test's file.
    assert!(with("pipe:") <= 1, "{descriptors}");
    let known = [
        "socket:",
        "pipe:",
        "anon_inode:",
        "/dev/",
        "/memfd:",
        "/proc/",
    ];
    let is_script = |it: &str| Path::new(it).starts_with(env!("CARGO_MANIFEST_DIR"));
    let foreign: Vec<_> = targets
        .iter()
        .filter(|(number, it)| {
            let is_known = known.iter().any(|kind| it.starts_with(kind));
            !(is_known || it.is_empty() || *number == "2" || is_script(it))
        })
        .collect();
    assert!(foreign.is_empty(), "{descriptors}");
    std::fs::write(setup.file(), "").unwrap();
    for other in others {
        assert_eq!(other.await.unwrap(), "waited");
    }
    setup.end().await;
}

async fn t56_children_leave_no_zombies(shim: Shim) {
    let Some(setup) = setup(shim).await else {
        return;
    };
    for uri in ["/print", "/throw", "/exit-3", "/signal"].repeat(5) {
        let _ = setup.request(uri).answer().await;
    }
    let pid = setup.pid();
    eventually("no child", || children_of(pid).is_empty()).await;
    setup.end().await;
}

async fn t61_hang_up_kills_the_child_with_its_group(shim: Shim) {
    let mark = format!("SHIM_MARK={}-{}", std::process::id(), shim.name());
    let Some(setup) = marked(shim, &mark).await else {
        return;
    };
    setup.ask("/print").await;
    let pid = setup.pid();
    let request = setup.request("/hang").timeout(SHORT);
    let hanging = tokio::spawn(request.answer());
    // The shim, its child, and what that has started.
    eventually("it hangs", || processes_with(&mark).len() == 3).await;
    assert_eq!(hanging.await.unwrap(), Err(Failure::TimedOut));
    eventually("only the shim", || processes_with(&mark) == [pid]).await;
    setup.end().await;
}

/// Or just after: with some luck each moment of a fork is met.
async fn t61_hang_up_before_there_is_a_group_kills_the_child(shim: Shim) {
    let Some(setup) = setup(shim).await else {
        return;
    };
    setup.ask("/print").await;
    for microseconds in (0..6000).step_by(300) {
        let patience = Duration::from_micros(microseconds);
        let hurried = setup.request("/hang").timeout(patience).answer().await;
        assert_eq!(hurried, Err(Failure::TimedOut));
    }
    let pid = setup.pid();
    eventually("no child", || children_of(pid).is_empty()).await;
    setup.end().await;
}

async fn what_a_killed_child_started_dies_with_it(shim: Shim) {
    let mark = format!("SHIM_MARK={}-{}-left", std::process::id(), shim.name());
    let Some(setup) = marked(shim, &mark).await else {
        return;
    };
    let pid = setup.pid();
    let hanging = tokio::spawn(setup.request("/hang").answer());
    eventually("it hangs", || processes_with(&mark).len() == 3).await;
    kill(children_of(pid)[0]);
    let failure = Err(Failure::BadAnswer(CgiError::Empty));
    assert_eq!(hanging.await.unwrap(), failure);
    eventually("only the shim", || processes_with(&mark) == [pid]).await;
    setup.end().await;
}

/// Out of its group, its session, and one of two out of its environment too.
async fn t57_daemon_of_a_message_ends_when_that_does(shim: Shim) {
    let Some(setup) = setup(shim).await else {
        return;
    };
    let mark = format!("SHIM_DAEMON={}-{}", std::process::id(), shim.name());
    let daemon = |clean: &str| {
        format!("setsid sh -c 'env {clean} {mark} setsid sleep 600 >/dev/null 2>&1 &';")
    };
    let daemons = daemon("") + &daemon("-i");
    let file = setup.file();
    let command = format!(
        "{daemons} until [ -e {} ]; do sleep 0.01; done",
        file.display()
    );
    let request = setup.request("/shell").variable("COMMAND", &command);
    let running = tokio::spawn(request.text());
    eventually("both daemons", || processes_with(&mark).len() == 2).await;
    looked_for_orphans(setup.spawners()).await;
    assert_eq!(processes_with(&mark).len(), 2, "it still runs");
    std::fs::write(&file, "").unwrap();
    assert_eq!(running.await.unwrap(), "done");
    eventually("no daemon", || processes_with(&mark).is_empty()).await;
    // Another message of the same shim was never in danger.
    assert_eq!(setup.ask("/print").await, "printed, returned");
    setup.end().await;
}

/// Although a child of it does not end by itself.
async fn shutdown_leaves_no_process(shim: Shim) {
    let mark = format!("SHIM_MARK={}-{}-shut", std::process::id(), shim.name());
    let Some(setup) = marked(shim, &mark).await else {
        return;
    };
    let hanging = tokio::spawn(setup.request("/hang").answer());
    eventually("it hangs", || processes_with(&mark).len() == 3).await;
    setup.service.shutdown().await;
    eventually("no process", || processes_with(&mark).is_empty()).await;
    assert!(hanging.await.unwrap().is_err());
    setup.end().await;
}

async fn killed_fork_server_takes_its_children_along(shim: Shim) {
    let mark = format!("SHIM_MARK={}-{}-killed", std::process::id(), shim.name());
    let Some(setup) = marked(shim, &mark).await else {
        return;
    };
    let first = setup.pid();
    let hanging = tokio::spawn(setup.request("/hang").answer());
    eventually("it hangs", || processes_with(&mark).len() == 3).await;
    kill(first);
    assert!(hanging.await.unwrap().is_err());
    eventually("only the next one", || {
        let left = processes_with(&mark);
        left.len() == 1 && left != [first]
    })
    .await;
    assert_eq!(setup.ask("/print").await, "printed, returned");
    setup.end().await;
}

/// A shim whose processes can be told from those of other tests.
async fn marked(shim: Shim, mark: &str) -> Option<Setup> {
    let pair = mark.split_once('=').unwrap();
    Setup::with_env(shim, Mode::Fork, &[pair]).await
}

mod php {
    //! What only PHP has.

    use crate::setup::{Mode, Setup};
    use crate::support::{children_of, eventually};
    use ws_ipc::Failure;
    use ws_ipc::cgi::CgiError;
    use ws_ipc::shims::PHP;

    #[tokio::test]
    async fn superglobals_are_filled_as_in_cgi() {
        let Some(setup) = Setup::new(PHP, Mode::Fork).await else {
            return;
        };
        let answer = setup
            .request("/superglobals")
            .variable("QUERY_STRING", "a=1&b[]=2&b[]=%C3%BC")
            .variable("HTTP_COOKIE", "c=1+2; d=%20; c=3; e[x]=5&6")
            .variable("PROBE", "p")
            .text()
            .await;
        let query = r#"{"a":"1","b":["2","\u00fc"]}"#;
        let cookies = r#"{"e":{"x":"5&6"},"c":"1+2","d":" "}"#;
        assert_eq!(answer, format!(r#"[{query},{cookies},{query},"p"]"#));
        setup.end().await;
    }

    /// Although what it left behind holds the connection: PHP cannot close it on exec.
    #[tokio::test]
    async fn failure_is_told_at_once_whatever_is_left_behind() {
        let Some(setup) = Setup::new(PHP, Mode::Fork).await else {
            return;
        };
        let answer = setup.request("/leave-behind").answer().await;
        assert_eq!(answer, Err(Failure::BadAnswer(CgiError::Empty)));
        setup.end().await;
    }

    #[tokio::test]
    async fn what_is_flushed_is_part_of_the_answer() {
        let Some(setup) = Setup::new(PHP, Mode::Fork).await else {
            return;
        };
        assert_eq!(setup.ask("/flush").await, "flushed, kept, returned");
        setup.end().await;
    }

    /// To forget them costs the next one that is included, and the clearing more than a fork.
    #[tokio::test]
    async fn paths_that_were_resolved_while_it_was_loaded_stay_known() {
        let Some(setup) = Setup::new(PHP, Mode::Fork).await else {
            return;
        };
        let answer = setup.request("/paths").body("some").text().await;
        assert_eq!(answer, "known");
        setup.end().await;
    }

    #[tokio::test]
    async fn shutdown_functions_run_after_the_answer() {
        let Some(setup) = Setup::new(PHP, Mode::Fork).await else {
            return;
        };
        assert_eq!(setup.ask("/slow-end").await, "answered");
        let (file, pid) = (setup.file(), setup.pid());
        eventually("it has run", || file.exists()).await;
        eventually("no child", || children_of(pid).is_empty()).await;
        setup.end().await;
    }

    #[tokio::test]
    async fn child_that_kills_itself_has_answered_and_closed_its_session() {
        let kills = [("WS_FORK_EXIT", "kill")];
        let Some(setup) = Setup::with_env(PHP, Mode::Fork, &kills).await else {
            return;
        };
        assert_eq!(setup.ask("/slow-end").await, "answered");
        let (file, pid) = (setup.file(), setup.pid());
        eventually("no child", || children_of(pid).is_empty()).await;
        assert!(file.exists(), "its shutdown functions have run");
        std::fs::remove_file(&file).unwrap();
        assert_eq!(setup.ask("/destructor").await, "answered");
        eventually("no child", || children_of(pid).is_empty()).await;
        assert!(!file.exists(), "its destructors have not");
        for count in ["1", "2", "3"] {
            let request = setup.request("/session");
            assert_eq!(request.text().await, count);
        }
        setup.end().await;
    }
}
