//! Fork servers, workers, an SCGI server and php-fpm behind the whole server: the contract is the
//! same, whichever runs the application.

mod outside;

use std::io::Write;
use std::time::{Duration, Instant};

use futures_util::SinkExt;
use futures_util::future::join_all;
use tokio_tungstenite::tungstenite::{Error, Message};

pub(crate) use self::outside::Outside;
use super::{installed, until_failed};
use crate::support::*;
use crate::validation::read_head;

/// How an application is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backend {
    Fork,
    Worker,
    Scgi,
    FastCgi,
}

const ALL: [Backend; 4] = [
    Backend::Fork,
    Backend::Worker,
    Backend::Scgi,
    Backend::FastCgi,
];

/// The program that runs applications in Perl.
const SHIM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../ws-ipc/shims/fork.pl");
const PERL: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/integration/callbacks/backends/application.pl"
);
const PHP: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/integration/callbacks/backends/application.php"
);

impl Backend {
    fn name(self) -> &'static str {
        match self {
            Self::Fork => "fork",
            Self::Worker => "worker",
            Self::Scgi => "scgi",
            Self::FastCgi => "fastcgi",
        }
    }

    /// What a request fails by whose process dies: who knows that the whole program has died says
    /// so, who only sees a connection that ends says that.
    fn cause_of_a_crash(self) -> &'static str {
        match self {
            Self::Worker | Self::FastCgi => "lost",
            Self::Fork | Self::Scgi => "bad_answer",
        }
    }

    /// Makes it what runs a section, `app` or `validate`; `None` if its programs are not installed.
    fn behind(self, setup: Setup, section: &str) -> Option<(Setup, Option<Outside>)> {
        let set =
            |setup: Setup, key: &str, value: &str| setup.set(&format!("{section}.{key}"), value);
        let setup = set(setup, "backend", self.name());
        if self == Self::FastCgi {
            let server = Outside::php_fpm()?;
            let setup = set(setup, "address", server.address());
            let setup = set(setup, "params__SCRIPT_FILENAME", PHP);
            return Some((setup, Some(server)));
        }
        installed("perl")?;
        if self == Self::Scgi {
            let server = Outside::scgi(&[SHIM, PERL]);
            return Some((set(setup, "address", server.address()), Some(server)));
        }
        let mode = if self == Self::Worker { "--worker" } else { "" };
        let setup = set(setup, "command", &format!("perl {SHIM} {mode} {PERL}"));
        Some((setup.keeps(SHIM), None))
    }
}

/// A server for each backend that can run here, and what must run beside it.
fn servers(configure: impl Fn(Setup) -> Setup) -> Vec<(Backend, Server, Option<Outside>)> {
    let start = |backend: Backend| {
        let setup = Setup::new().set("app.error_reply", "failed");
        let (setup, outside) = backend.behind(configure(setup), "app")?;
        Some((backend, setup.start(), outside))
    };
    ALL.into_iter().filter_map(start).collect()
}

#[tokio::test]
async fn messages_travel_byte_for_byte() {
    for (backend, server, _outside) in servers(|setup| setup.set("app.max_output", "2MiB")) {
        let mut client = server.connect().await;
        for text in ["a", " a\nb ", "ünïcode", "//not/a/uri", "{\"a\": 1}"] {
            assert_eq!(ask(&mut client, text).await, text, "{backend:?}");
        }
        let reply = ask(&mut client, "/uri/b%20c?d=1&e").await;
        assert_eq!(reply, "/uri/b%20c d=1&e".replace("%20", decoded(backend)));
        let large = "x".repeat(1_000_000);
        assert_eq!(ask(&mut client, &large).await, large, "{backend:?}");
        let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
        client.send(Message::binary(bytes.clone())).await.unwrap();
        assert_eq!(next(&mut client).await, Message::binary(bytes));
        assert_eq!(ask(&mut client, "ping").await, "pong");
        bye(client).await;
        server.finish();
    }
}

/// `PATH_INFO` is decoded; the script for php-fpm looks at the URI instead, since PHP makes up a
/// `PATH_INFO` of its own.
fn decoded(backend: Backend) -> &'static str {
    match backend {
        Backend::FastCgi => "%20",
        _ => " ",
    }
}

#[tokio::test]
async fn nothing_written_is_nothing_sent_by_any_backend() {
    for (backend, server, _outside) in servers(|setup| setup) {
        let mut client = server.connect().await;
        say(&mut client, "/nothing").await;
        assert_eq!(ask(&mut client, "/text/next").await, "next", "{backend:?}");
        bye(client).await;
        server.finish();
    }
}

#[tokio::test]
async fn application_closes_the_connection_behind_its_reply() {
    for (backend, server, _outside) in servers(|setup| setup) {
        let mut client = server.connect().await;
        assert_eq!(ask(&mut client, "/close").await, "last", "{backend:?}");
        match next(&mut client).await {
            Message::Close(Some(frame)) => {
                assert_eq!(u16::from(frame.code), 4001);
                assert_eq!(frame.reason.as_str(), "enough for today");
            }
            other => panic!("not a close: {other:?}"),
        }
        bye(client).await;
        server.until("connections.closed_by.application", 1);
        server.finish();
    }
}

#[tokio::test]
async fn status_of_400_and_above_is_a_failure() {
    for (backend, server, _outside) in servers(|setup| setup) {
        let mut client = server.connect().await;
        for (status, reply) in [("399", "partial"), ("400", "failed"), ("503", "failed")] {
            let uri = format!("/status/{status}");
            assert_eq!(ask(&mut client, &uri).await, reply, "{backend:?} {status}");
        }
        until_failed(&server, "bad_answer", 2);
        bye(client).await;
        server.finish();
    }
}

#[tokio::test]
async fn inv01_replies_are_in_the_order_of_the_messages_whoever_runs_them() {
    let configure = |setup: Setup| setup.set("app.per_connection", "3");
    for (backend, server, _outside) in servers(configure) {
        let mut client = server.connect().await;
        let latencies = [9, 1, 5, 0, 7, 2, 8, 3, 0, 6, 4];
        for latency in latencies {
            say(&mut client, &format!("/late/{latency}")).await;
        }
        for latency in latencies {
            assert_eq!(hear(&mut client).await, latency.to_string(), "{backend:?}");
        }
        bye(client).await;
        server.finish();
    }
}

#[tokio::test]
async fn t62_each_reply_goes_to_who_asked() {
    for (backend, server, _outside) in servers(|setup| setup) {
        let asks = (0..24).map(|index| {
            let server = &server;
            async move {
                let mut client = server.connect().await;
                for turn in 0..8 {
                    let text = format!("{index}-{turn}");
                    // Some are gone before their answer comes.
                    if (index + turn) % 5 == 0 {
                        say(&mut client, &format!("/late/{turn}")).await;
                        drop(client);
                        client = server.connect().await;
                    }
                    assert_eq!(ask(&mut client, &format!("/text/{text}")).await, text);
                }
                bye(client).await;
            }
        });
        join_all(asks).await;
        assert_eq!(server.figure("callbacks.failed"), 0, "{backend:?}");
        server.finish();
    }
}

#[tokio::test]
async fn t60_answer_that_is_too_long_is_a_failure_and_nothing_of_it_is_sent() {
    let configure = |setup: Setup| setup.set("app.max_output", "100000");
    for (backend, server, _outside) in servers(configure) {
        let mut client = server.connect().await;
        let longest = ask(&mut client, "/long/100000").await;
        assert_eq!(longest.len(), 100_000, "{backend:?}");
        for (count, size) in [(1, "100001"), (2, "20000000")] {
            let reply = ask(&mut client, &format!("/long/{size}")).await;
            assert_eq!(reply, "failed", "{backend:?} {size}");
            until_failed(&server, "output", count);
        }
        assert_eq!(ask(&mut client, "/text/next").await, "next");
        bye(client).await;
        server.finish();
    }
}

#[tokio::test]
async fn t61_request_that_hangs_is_given_up_at_its_deadline() {
    let configure = |setup: Setup| setup.set("app.timeout", "1s");
    for (backend, server, outside) in servers(configure) {
        let mut client = server.connect().await;
        let mut other = server.connect().await;
        for count in 1..=2 {
            let begun = Instant::now();
            say(&mut client, "/hang").await;
            assert_eq!(ask(&mut other, "/text/unharmed").await, "unharmed");
            assert_eq!(hear(&mut client).await, "failed", "{backend:?}");
            assert!(begun.elapsed() >= Duration::from_secs(1), "{backend:?}");
            until_failed(&server, "timeout", count);
            assert_eq!(ask(&mut client, "/text/next").await, "next", "{backend:?}");
        }
        // Who is known to be busy with it is killed; what others run is theirs to end.
        if outside.is_none() {
            eventually("what hung is gone", || sleepers(&server) == 0);
        }
        bye(client).await;
        bye(other).await;
        server.finish();
    }
}

/// Processes of a server that sleep in `/hang`: they have not been waiting for requests.
fn sleepers(server: &Server) -> usize {
    let is_asleep = |pid: &i32| {
        std::fs::read_to_string(format!("/proc/{pid}/wchan"))
            .is_ok_and(|place| place.contains("nanosleep"))
    };
    let processes = server.helpers(SHIM);
    processes.iter().filter(|pid| is_asleep(pid)).count()
}

#[tokio::test]
async fn t56_a_crash_costs_one_answer_and_leaves_no_zombie() {
    for (backend, server, _outside) in servers(|setup| setup) {
        let mut client = server.connect().await;
        let mut other = server.connect().await;
        for count in 1..=5 {
            say(&mut client, "/crash").await;
            assert_eq!(ask(&mut other, "/text/unharmed").await, "unharmed");
            assert_eq!(hear(&mut client).await, "failed", "{backend:?}");
            until_failed(&server, backend.cause_of_a_crash(), count);
        }
        assert_eq!(ask(&mut client, "/text/next").await, "next", "{backend:?}");
        eventually("no zombie is left", || server.zombies().is_empty());
        bye(client).await;
        bye(other).await;
        server.finish();
    }
}

#[tokio::test]
async fn t63_what_cannot_be_reached_is_a_failure_and_the_connection_stays() {
    for backend in ["scgi", "fastcgi"] {
        let server = Setup::new()
            .set("app.error_reply", "failed")
            .set("app.backend", backend)
            .set("app.address", "/nowhere/at/all.sock")
            .start();
        let mut client = server.connect().await;
        for count in 1..=2 {
            assert_eq!(ask(&mut client, "a").await, "failed", "{backend}");
            until_failed(&server, "unreachable", count);
        }
        bye(client).await;
        server.finish();
    }
}

/// The status of a refusal, or the connection with its cookies.
async fn enter(server: &Server, who: &str) -> Result<Client, u16> {
    match server.connect_with("/", &[("X-Who", who)]).await {
        Ok(client) => Ok(client),
        Err(Error::Http(response)) => Err(response.status().as_u16()),
        Err(error) => panic!("no answer of HTTP: {error}"),
    }
}

/// Validation by each backend, while the application is another program.
#[tokio::test]
async fn t49_validation_by_every_backend() {
    for backend in ALL {
        let setup = Setup::new()
            .set("validate.timeout", "1s")
            .app("echo \"$WS_USER_ID\"");
        let Some((setup, _outside)) = backend.behind(setup, "validate") else {
            continue;
        };
        let server = setup.start();
        validates(&server, backend, "who").await;
        server.finish();
    }
}

/// Validation by the application itself, whichever backend runs it.
#[tokio::test]
async fn t49_validation_by_the_application() {
    let configure = |setup: Setup| {
        let setup = setup.set("validate.backend", "app");
        setup.set("validate.timeout", "1s")
    };
    for (backend, server, _outside) in servers(configure) {
        validates(&server, backend, "/who").await;
        server.finish();
    }
}

async fn validates(server: &Server, backend: Backend, question: &str) {
    for who in ["alice", "4-2", "böb"] {
        let mut client = enter(server, who).await.unwrap();
        assert_eq!(ask(&mut client, question).await, who, "{backend:?}");
        bye(client).await;
    }
    // No; no answer; no answer in time; none that is a user id.
    for (who, status) in [
        ("", 401),
        ("crash", 503),
        ("hang", 503),
        ("two tokens", 503),
    ] {
        let end = enter(server, who).await;
        assert_eq!(end.unwrap_err(), status, "{backend:?} {who}");
    }
    assert_eq!(server.figure("sockets.refused_by.validation"), 1);
    assert_eq!(server.figure("sockets.refused_by.validation_failed"), 3);
    let mut stream = server.raw_stream();
    let upgrade = crate::wire::head("/", &["X-Who: carol"]);
    stream.write_all(upgrade.as_bytes()).unwrap();
    let head = read_head(&mut stream);
    let cookie = "\r\nSet-Cookie: known=carol; HttpOnly\r\n";
    assert!(head.contains(cookie), "{backend:?}: {head}");
}

/// A deployment that does not work does not take the service down.
#[tokio::test]
async fn an_application_that_does_not_load_or_fails_at_once_replaces_none_that_works() {
    if installed("perl").is_none() {
        return;
    }
    for backend in [Backend::Fork, Backend::Worker] {
        let mode = if backend == Backend::Worker {
            "--worker"
        } else {
            ""
        };
        let setup = Setup::new().keeps(SHIM).set("app.backend", backend.name());
        let setup = setup.set("app.command", format!("perl {SHIM} {mode} app.pl"));
        let setup = setup.set("app.probation", "3s");
        let setup = setup.set("app.error_reply", "failed");
        let deploy = |dir: &std::path::Path, text: &str| {
            std::fs::write(dir.join("app.pl"), text).unwrap();
        };
        deploy(setup.dir(), "sub { 'first' };");
        let server = setup.start();
        let mut client = server.connect().await;
        assert_eq!(ask(&mut client, "who?").await, "first");
        let reload = || server.signal(nix::sys::signal::Signal::SIGHUP);

        deploy(
            server.dir(),
            "select undef, undef, undef, 0.5; die 'broken';",
        );
        reload();
        while server.figure("processes.replacements_failed") == 0 {
            assert_eq!(ask(&mut client, "who?").await, "first", "{backend:?}");
        }

        deploy(server.dir(), "sub { die 'broken, too' };");
        reload();
        let mut failed = 0;
        while server.figure("processes.replacements_failed") == 1 {
            failed += u32::from(ask(&mut client, "who?").await == "failed");
        }
        assert!(failed >= 3, "{backend:?}: {failed}");
        assert_eq!(ask(&mut client, "who?").await, "first", "{backend:?}");

        deploy(server.dir(), "sub { 'second' };");
        reload();
        while ask(&mut client, "who?").await != "second" {}
        bye(client).await;
        server.finish();
    }
}

/// More of them than may fail: their validations end with them, and that says nothing about the code.
#[tokio::test]
async fn t61_visitors_who_hang_up_do_not_bring_the_former_validation_back() {
    if installed("perl").is_none() {
        return;
    }
    let answering = |user: &str| {
        format!(
            "sub {{ sleep 600 if $_[0]{{HTTP_X_WHO}} eq 'hang'; WS::header('X-WS-User', '{user}'); '' }};"
        )
    };
    let setup = Setup::new()
        .keeps(SHIM)
        .set("validate.backend", "worker")
        .set(
            "validate.command",
            format!("perl {SHIM} --worker validate.pl"),
        )
        .set("validate.processes", "2")
        .set("validate.timeout", "5m")
        .set("validate.probation", "3s")
        .app("echo \"$WS_USER_ID\"");
    std::fs::write(setup.dir().join("validate.pl"), answering("first")).unwrap();
    let server = setup.start();
    let who = async || {
        let mut client = enter(&server, "anybody").await.unwrap();
        let who = ask(&mut client, "who?").await;
        bye(client).await;
        who
    };
    assert_eq!(who().await, "first");
    std::fs::write(server.dir().join("validate.pl"), answering("second")).unwrap();
    server.signal(nix::sys::signal::Signal::SIGHUP);
    server.until("processes.replaced", 2);
    for visitors in 1..=6 {
        let asked = server.figure("callbacks.validations");
        let mut stream = server.raw_stream();
        let upgrade = crate::wire::head("/", &["X-Who: hang"]);
        stream.write_all(upgrade.as_bytes()).unwrap();
        server.until("callbacks.validations", asked + 1);
        drop(stream);
        server.until("sockets.refused_by.gone", visitors);
    }
    assert_eq!(who().await, "second");
    assert_eq!(server.figure("processes.replacements_failed"), 0);
    server.finish();
}
