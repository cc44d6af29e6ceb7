//! What holds for each shim, as a fork server and as a worker.

use std::time::Duration;

use ws_ipc::cgi::parse_answer;
use ws_ipc::shims::{NODE, Shim};

use crate::setup::{Mode, Setup, extension, shims};
use crate::support::eventually;

pub(crate) async fn example_of_three_lines_is_answered(shim: Shim, mode: Mode) {
    let example = shims()
        .join("examples")
        .join(format!("hello.{}", extension(shim)));
    let Some(setup) = Setup::with(shim, mode, &example, &[]).await else {
        return;
    };
    let answer = setup.request("/").body("hello").text().await;
    assert_eq!(answer, "hello, said 192.0.2.1");
    setup.end().await;
}

pub(crate) async fn body_arrives_and_returns_byte_for_byte(shim: Shim, mode: Mode) {
    let Some(setup) = Setup::new(shim, mode).await else {
        return;
    };
    let every_byte: Vec<u8> = (0..=255).collect();
    let large: Vec<u8> = every_byte.iter().copied().cycle().take(1 << 20).collect();
    let uris: &[&str] = if shim == NODE {
        &["/body"]
    } else {
        &["/body", "/stdin"]
    };
    for uri in uris {
        for body in [
            &b""[..],
            b"\0",
            b"\n",
            b"\r\n\r\n",
            "\u{fc}".as_bytes(),
            &every_byte,
            &large,
        ] {
            let answer = setup.request(uri).body(body.to_vec()).bytes().await;
            assert!(answer == body, "{uri}, {} bytes", body.len());
        }
    }
    setup.end().await;
}

pub(crate) async fn variables_are_given_as_argument_and_as_environment(shim: Shim, mode: Mode) {
    let Some(setup) = Setup::new(shim, mode).await else {
        return;
    };
    let probe = |value| setup.request("/variables").variable("PROBE", value);
    let answer = probe("a=b").variable("OTHER", "set").text().await;
    assert_eq!(answer, "a=b a=b set");
    // The other one is not there any more.
    assert_eq!(probe("\u{fc} c").text().await, "\u{fc} c \u{fc} c none");
    setup.end().await;
}

pub(crate) async fn what_is_printed_and_returned_is_the_answer(shim: Shim, mode: Mode) {
    let Some(setup) = Setup::new(shim, mode).await else {
        return;
    };
    for _ in 0..2 {
        assert_eq!(setup.ask("/print").await, "printed, returned");
    }
    if shim != NODE {
        assert_eq!(setup.ask("/program").await, "before, program\n");
    }
    setup.end().await;
}

pub(crate) async fn header_is_added_to_the_answer(shim: Shim, mode: Mode) {
    let Some(setup) = Setup::new(shim, mode).await else {
        return;
    };
    let answer = setup.request("/header").answer().await.unwrap();
    let answer = parse_answer(&answer).unwrap();
    assert_eq!(answer.header("X-WS-Close"), Some("1000 bye"));
    assert_eq!(answer.content_length(), Some(0));
    let next = setup.request("/print").answer().await.unwrap();
    assert_eq!(parse_answer(&next).unwrap().headers().len(), 1);
    setup.end().await;
}

pub(crate) async fn header_that_would_add_another_is_refused(shim: Shim, mode: Mode) {
    let Some(setup) = Setup::new(shim, mode).await else {
        return;
    };
    assert!(setup.request("/split-header").fails().await);
    setup.has_said("not a header: X-WS-Close").await;
    setup.end().await;
}

pub(crate) async fn two_hundred_requests_eight_at_once_are_answered(shim: Shim, mode: Mode) {
    let Some(setup) = Setup::new(shim, mode).await else {
        return;
    };
    let mut lanes = tokio::task::JoinSet::new();
    for lane in 0..8 {
        let requests: Vec<_> = (0..25)
            .map(|turn| {
                let body = format!("{lane} {turn}");
                (setup.request("/body").body(body.clone()), body)
            })
            .collect();
        lanes.spawn(async move {
            for (request, body) in requests {
                assert_eq!(request.text().await, body);
            }
        });
    }
    assert_eq!(lanes.join_all().await.len(), 8);
    setup.end().await;
}

pub(crate) async fn application_that_raises_costs_one_answer(shim: Shim, mode: Mode) {
    let Some(setup) = Setup::new(shim, mode).await else {
        return;
    };
    let pid = setup.pid();
    assert!(setup.request("/throw").fails().await);
    setup.has_said("thrown as asked").await;
    // Where it was raised.
    setup
        .has_said(&format!("application.{}", extension(shim)))
        .await;
    assert_eq!(setup.ask("/print").await, "printed, returned");
    assert_eq!(setup.pid(), pid);
    setup.end().await;
}

/// A worker may end over it, and is then restarted.
pub(crate) async fn application_that_exits_costs_one_answer(shim: Shim, mode: Mode) {
    for uri in ["/exit-0", "/exit-3"] {
        let Some(setup) = Setup::new(shim, mode).await else {
            return;
        };
        assert!(setup.request(uri).fails().await, "{uri}");
        let message = match extension(shim) {
            "py" | "rb" => "SystemExit",
            _ => "the application exited instead of returning",
        };
        setup.has_said(message).await;
        assert_eq!(setup.ask("/print").await, "printed, returned");
        setup.end().await;
    }
}

pub(crate) async fn killed_process_costs_one_answer(shim: Shim, mode: Mode) {
    let Some(setup) = Setup::new(shim, mode).await else {
        return;
    };
    assert!(setup.request("/signal").fails().await);
    if mode == Mode::Fork {
        setup.has_said("signal 9").await;
    }
    assert_eq!(setup.ask("/print").await, "printed, returned");
    setup.end().await;
}

pub(crate) async fn request_that_is_cut_off_runs_nothing(shim: Shim, mode: Mode) {
    use std::io::{Read, Write};
    let Some(setup) = Setup::new(shim, mode).await else {
        return;
    };
    let path = setup.service.socket_path().to_owned();
    for request in [
        &b""[..],
        b"20:CONTENT_LENGTH\0",
        b"20:CONTENT_LENGTH\x005\0SCGI\0",
        b"nonsense\n\n",
    ] {
        let path = path.clone();
        let exchange = move || {
            let mut peer = std::os::unix::net::UnixStream::connect(path).unwrap();
            peer.write_all(request).unwrap();
            peer.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            // A reset is an end, too: some of the request may be unread.
            let _ = peer.read_to_end(&mut answer);
            answer
        };
        let answer = tokio::task::spawn_blocking(exchange).await.unwrap();
        assert_eq!(answer, b"", "{request:?}");
    }
    assert_eq!(setup.ask("/print").await, "printed, returned");
    assert_eq!(setup.service.restarts(), 0);
    setup.end().await;
}

pub(crate) async fn sigterm_ends_it_after_its_request(shim: Shim, mode: Mode) {
    let Some(setup) = Setup::new(shim, mode).await else {
        return;
    };
    // The application is loaded.
    setup.ask("/print").await;
    let pid = setup.pid();
    let begun = setup.file().with_extension("begun");
    let waiting = tokio::spawn(setup.request("/wait").text());
    eventually("the request has begun", || begun.exists()).await;
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    std::fs::write(setup.file(), "").unwrap();
    assert_eq!(waiting.await.unwrap(), "waited");
    // It has ended by itself, and well: with a failure the next one would not be there at once.
    eventually("another one", || {
        setup
            .service
            .pid()
            .is_some_and(|other| other != pid.as_raw())
    })
    .await;
    assert_eq!(setup.ask("/print").await, "printed, returned");
    setup.end().await;
}

/// A request that the tests give up after this is under way by then.
pub(crate) const SHORT: Duration = Duration::from_millis(500);
