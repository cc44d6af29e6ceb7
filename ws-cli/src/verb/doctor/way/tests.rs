use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use ws_server::config::{TrustedPeer, TrustedPeers};

use super::super::finding::Verdict::{self, Fault, Ok as Fine, Warning};
use super::super::probe::{Answer, Head, Silence, Trouble};
use super::super::tls::{self, Shown};
use super::*;

fn head(status: u16, headers: &[(&str, &str)], body: &str) -> Head {
    let headers = headers.iter();
    Head {
        status,
        headers: headers
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        body: body.to_owned(),
    }
}

fn http(status: u16, headers: &[(&str, &str)], body: &str) -> Answer {
    let head = head(status, headers, body);
    Answer::Http {
        head,
        accepts: true,
    }
}

const PLAIN: (&str, &str) = ("Content-Type", "text/plain; charset=utf-8");
const HTML: (&str, &str) = ("Content-Type", "text/html");
const UPGRADE: [(&str, &str); 2] = [("Upgrade", "websocket"), ("Connection", "upgrade")];

#[test]
fn each_answer_has_its_cause() {
    let text = |text: &str| text.to_owned();
    let page = "<html>no</html>";
    for (answer, expected) in [
        (http(101, &UPGRADE, ""), Cause::Upgraded),
        (
            Answer::Http {
                head: head(101, &UPGRADE, ""),
                accepts: false,
            },
            Cause::WrongAccept,
        ),
        (
            http(101, &UPGRADE[1..], ""),
            Cause::Incomplete("Upgrade: websocket"),
        ),
        (
            http(101, &UPGRADE[..1], ""),
            Cause::Incomplete("Connection: Upgrade"),
        ),
        (
            http(426, &[PLAIN], "no upgrade to websocket\n"),
            Cause::UpgradeDropped { status: 426 },
        ),
        (
            http(426, &[HTML], page),
            Cause::UpgradeDropped { status: 426 },
        ),
        (
            http(505, &[PLAIN], "version is not HTTP/1.1"),
            Cause::UpgradeDropped { status: 505 },
        ),
        (
            http(505, &[HTML], page),
            Cause::RefusedByHop { status: 505 },
        ),
        (
            http(403, &[PLAIN], "this origin may not connect"),
            Cause::Origin,
        ),
        (
            http(403, &[HTML], page),
            Cause::RefusedByHop { status: 403 },
        ),
        (
            http(421, &[PLAIN], "only localhost is served here"),
            Cause::Host(text("only localhost is served here")),
        ),
        (
            http(401, &[PLAIN], "not recognised"),
            Cause::Unrecognised(text("not recognised")),
        ),
        (
            http(401, &[HTML], page),
            Cause::RefusedByHop { status: 401 },
        ),
        (
            http(503, &[PLAIN], "limits.max_connections is reached"),
            Cause::Busy(text("limits.max_connections is reached")),
        ),
        (http(503, &[HTML], page), Cause::BackendDown { status: 503 }),
        (http(502, &[], ""), Cause::BackendDown { status: 502 }),
        (http(504, &[HTML], page), Cause::BackendDown { status: 504 }),
        (
            http(400, &[PLAIN], "bad request: two Host headers"),
            Cause::Refused {
                status: 400,
                text: text("bad request: two Host headers"),
            },
        ),
        (
            http(400, &[HTML], page),
            Cause::RefusedByHop { status: 400 },
        ),
        (
            http(
                400,
                &[HTML],
                "The plain HTTP request was sent to HTTPS port",
            ),
            Cause::IsTls,
        ),
        (
            http(301, &[("location", "https://chat.example/")], page),
            Cause::Redirected {
                status: 301,
                to: text("https://chat.example/"),
            },
        ),
        (http(200, &[HTML], page), Cause::Page),
        (http(404, &[HTML], page), Cause::NotFound),
        (Answer::NotHttp(vec![21, 3, 3, 0, 2]), Cause::IsTls),
        (
            Answer::NotHttp(b"SSH-2.0".to_vec()),
            Cause::NotHttp(text("SSH-2.0")),
        ),
        (Answer::Closed, Cause::Closed),
        (Answer::Broken(text("reset")), Cause::Broken(text("reset"))),
    ] {
        assert_eq!(cause(&answer), expected, "{answer:?}");
    }
}

#[test]
fn each_cause_names_the_hop_and_what_to_do() {
    let around = Around {
        url: "ws://chat.example/".to_owned(),
        proxy: Some(Proxy::Nginx),
        software: Some("nginx/1.22.1".to_owned()),
        origin: "http://chat.example".to_owned(),
        ..Around::default()
    };
    let text = |text: &str| text.to_owned();
    for (cause, verdict, part, remedy) in [
        (Cause::Upgraded, Fine, "101", None),
        (Cause::WrongAccept, Fault, "cache", None),
        (
            Cause::UpgradeDropped { status: 426 },
            Fault,
            "nginx/1.22.1 has dropped them",
            Some(Remedy::Upgrade),
        ),
        (
            Cause::UpgradeDropped { status: 505 },
            Fault,
            "HTTP/1.0",
            Some(Remedy::Upgrade),
        ),
        (
            Cause::Origin,
            Fault,
            "origin.allow lacks",
            Some(Remedy::Host),
        ),
        (
            Cause::Host(text("?")),
            Fault,
            "server.allowed_hosts",
            Some(Remedy::Host),
        ),
        (Cause::Unrecognised(text("?")), Warning, "--header", None),
        (
            Cause::Redirected {
                status: 301,
                to: text("https://chat.example/"),
            },
            Fault,
            "Connect to wss:// instead",
            None,
        ),
        (
            Cause::Page,
            Fault,
            "does not reach ws",
            Some(Remedy::Backend),
        ),
        (
            Cause::NotFound,
            Fault,
            "does not know this path",
            Some(Remedy::Backend),
        ),
        (
            Cause::BackendDown { status: 502 },
            Fault,
            "does not reach ws",
            Some(Remedy::Backend),
        ),
        (
            Cause::RefusedByHop { status: 403 },
            Fault,
            "access rules",
            Some(Remedy::Upgrade),
        ),
        (Cause::IsTls, Fault, "wss://", None),
        (Cause::Closed, Fault, "PROXY protocol", None),
        (Cause::Silent(Duration::from_secs(5)), Fault, "5.0 s", None),
    ] {
        let finding = judge(&cause, &around);
        assert_eq!(finding.verdict(), verdict, "{cause:?}");
        assert!(
            finding.text().contains(part),
            "{cause:?}: {}",
            finding.text()
        );
        assert_eq!(finding.remedies(), remedy, "{cause:?}");
    }
}

#[test]
fn what_listens_here_tells_why_the_proxy_reaches_nothing() {
    let says = |listens_here| {
        let around = Around {
            listens_here,
            ..Around::default()
        };
        judge(&Cause::BackendDown { status: 502 }, &around).text()
    };
    assert!(says(Some(false)).contains("Start the server"));
    assert!(says(Some(true)).contains("compare the address"));
    assert!(says(None).contains("Is the server running"));
}

#[test]
fn the_origin_that_is_accepted_tells_what_the_proxy_did() {
    let says = |rewritten| {
        let around = Around {
            rewritten: Some(rewritten),
            ..Around::default()
        };
        let finding = judge(&Cause::Origin, &around);
        (finding.text(), finding.remedies())
    };
    let (text, remedy) = says(Rewritten::Host("127.0.0.1:8888".to_owned()));
    assert!(text.contains("says \"127.0.0.1:8888\""), "{text}");
    assert_eq!(remedy, Some(Remedy::Host));
    let (text, remedy) = says(Rewritten::Scheme);
    assert!(text.contains("X-Forwarded-Proto"), "{text}");
    assert_eq!(remedy, Some(Remedy::Scheme));
    assert!(says(Rewritten::Port).0.contains("port"));
}

#[test]
fn frames_that_do_not_come_are_told_from_an_end() {
    let around = Around::default();
    let judge = |answered| judge_frames("frames", "pong", &answered, &around);
    assert_eq!(judge(Ok(Duration::from_millis(1))).verdict(), Fine);
    let silent = judge(Err(Trouble::Silent(Duration::from_secs(5))));
    assert!(silent.text().contains("buffers"), "{}", silent.text());
    let cut = judge(Err(Trouble::Cut(String::new())));
    assert!(
        cut.text().contains("without a close frame"),
        "{}",
        cut.text()
    );
    let going = judge(Err(Trouble::Closed {
        code: 1001,
        reason: String::new(),
    }));
    assert_eq!(going.verdict(), Warning);
}

#[test]
fn a_cut_in_silence_is_timed_and_the_setting_named() {
    let silence = Silence {
        asked: Duration::from_secs(65),
        lasted: Duration::from_millis(60_040),
        quiet: Duration::from_millis(60_010),
        pings: 0,
        end: Some(Trouble::Cut(String::new())),
    };
    let judge = |silence: &Silence, proxy| {
        let around = Around {
            proxy,
            ..Around::default()
        };
        judge_silence(silence, Some(Duration::from_secs(90)), &around)
    };
    for (proxy, setting) in [
        (Some(Proxy::Nginx), "proxy_read_timeout"),
        (Some(Proxy::Haproxy), "timeout tunnel"),
        (Some(Proxy::Apache), "ProxyTimeout"),
        (None, "AWS 60 s"),
    ] {
        let finding = judge(&silence, proxy);
        assert_eq!(finding.verdict(), Fault);
        let text = finding.text();
        assert!(text.contains(setting), "{text}");
        assert!(
            text.contains("60.0 s after it began") && text.contains("90.0 s"),
            "{text}"
        );
        assert_eq!(finding.remedies(), Some(Remedy::Idle));
    }
    let open = Silence {
        end: None,
        pings: 2,
        ..silence
    };
    let finding = judge(&open, None);
    assert_eq!(finding.verdict(), Fine);
    assert!(finding.text().contains("2 pings"));
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// How the server sees us, our address, whom it trusts, the verdict and a part of its text.
type Case<'a> = (Option<Seen>, &'a str, &'a [&'a str], Verdict, &'a str);

#[test]
fn whom_the_server_takes_us_for_tells_whether_the_proxy_is_believed() {
    let trusting = |peers: &[&str]| {
        let peers = peers
            .iter()
            .map(|peer| peer.parse::<TrustedPeer>().unwrap());
        TrustedPeers::new(peers.collect())
    };
    let seen = |ip: &str, port| {
        Some(Seen {
            ip: Some(ip.parse().unwrap()),
            port,
        })
    };
    let unix = Some(Seen {
        ip: None,
        port: None,
    });
    let (local, public) = ("127.0.0.1:4711", "192.0.2.7:4711");
    let cases: &[Case<'_>] = &[
        (
            seen("127.0.0.1", Some(4711)),
            local,
            &[],
            Fine,
            "no proxy is between",
        ),
        (
            seen("127.0.0.1", Some(9)),
            local,
            &[],
            Warning,
            "does not name the proxy",
        ),
        (
            seen("127.0.0.1", None),
            local,
            &["127.0.0.1"],
            Fine,
            "which is right",
        ),
        (
            seen("192.0.2.7", None),
            public,
            &["127.0.0.1"],
            Fine,
            "which is right",
        ),
        (
            seen("127.0.0.1", Some(9)),
            public,
            &[],
            Warning,
            "trusted = [\"127.0.0.1\"]",
        ),
        (
            seen("127.0.0.1", Some(9)),
            public,
            &["127.0.0.1"],
            Warning,
            "does not say who",
        ),
        (
            seen("10.0.0.9", Some(9)),
            public,
            &["10.0.0.0/8"],
            Warning,
            "does not say who",
        ),
        (
            seen("203.0.113.1", None),
            public,
            &[],
            Fine,
            "public address",
        ),
        (unix, public, &[], Warning, "trusted = [\"unix\"]"),
        (unix, public, &["unix"], Warning, "does not say who"),
        (None, public, &[], Warning, "leads to another"),
    ];
    for (seen, ours, trusted, verdict, part) in cases {
        let finding = judge_visitor(*seen, addr(ours), addr("127.0.0.1:80"), &trusting(trusted));
        assert_eq!(finding.verdict(), *verdict, "{seen:?} {finding:?}");
        assert!(finding.text().contains(part), "{seen:?} {}", finding.text());
    }
}

#[test]
fn the_cookie_tells_whether_the_server_knows_of_tls() {
    let place = |url| Place::parse(url).unwrap();
    let head = |cookie| head(101, &[("Set-Cookie", cookie)], "");
    let judge = |cookie, url| judge_scheme(&head(cookie), &place(url), "ws_session");
    let secure = judge("ws_session=a; Path=/; Secure", "wss://a/").unwrap();
    assert_eq!(secure.verdict(), Fine);
    let plain = judge("ws_session=a; Path=/", "wss://a/").unwrap();
    assert_eq!(plain.verdict(), Warning);
    assert_eq!(judge("ws_session=a; Path=/", "ws://a/"), None);
    assert_eq!(judge("other=a; Path=/", "wss://a/"), None);
}

#[test]
fn compression_that_is_lost_is_a_warning() {
    let with = head(
        101,
        &[("Sec-WebSocket-Extensions", "permessage-deflate")],
        "",
    );
    let without = head(101, &[], "");
    let verdict = |head, is_enabled| {
        judge_compression(head, is_enabled, &Around::default()).map(|it| it.verdict())
    };
    assert_eq!(verdict(&with, true), Some(Fine));
    assert_eq!(verdict(&without, true), Some(Warning));
    assert_eq!(verdict(&without, false), None);
}

#[test]
fn addresses_are_judged_together() {
    let v4 = || (addr("192.0.2.1:443"), Ok(Duration::from_millis(3)));
    let v6 = |done: Result<Duration, String>| (addr("[2001:db8::1]:443"), done);
    let refused = || Err("refused".to_owned());
    let verdicts = |host, tried: &[_]| -> Vec<Verdict> {
        let findings = judge_addresses(host, tried);
        findings.iter().map(Finding::verdict).collect()
    };
    assert_eq!(
        verdicts("a.example", &[v4(), v6(Ok(Duration::ZERO))]),
        [Fine, Fine]
    );
    assert_eq!(
        verdicts("a.example", &[v6(refused()), v4()]),
        [Fine, Warning]
    );
    assert_eq!(
        verdicts("a.example", &[v6(Ok(Duration::ZERO))]),
        [Warning, Fine]
    );
    assert_eq!(verdicts("a.example", &[v6(refused())]), [Warning, Fault]);
    assert_eq!(verdicts("192.0.2.1", &[v4()]), [Fine]);
}

#[test]
fn certificates_are_judged_as_browsers_do() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let days = |days: u64| now + Duration::from_secs(86_400 * days + 60);
    let shown = |trouble, not_after| Shown {
        trouble,
        not_after: Some(not_after),
        names: vec!["a.example".to_owned()],
    };
    let judge = |shown: &Shown, insecure| judge_certificate(shown, "b.example", insecure, now);
    let good = judge(&shown(None, days(80)), false);
    assert_eq!(good.verdict(), Fine);
    assert!(good.text().contains("80 days"), "{}", good.text());
    assert_eq!(judge(&shown(None, days(3)), false).verdict(), Warning);
    let expired = shown(
        Some(tls::Trouble::Expired),
        now - Duration::from_secs(86_400 * 2 + 60),
    );
    let finding = judge(&expired, false);
    assert_eq!(finding.verdict(), Fault);
    assert!(
        finding.text().contains("expired 3 days ago"),
        "{}",
        finding.text()
    );
    let wrong = shown(Some(tls::Trouble::WrongName), days(80));
    let text = judge(&wrong, false).text();
    assert!(text.contains("for a.example, not for b.example"), "{text}");
    assert_eq!(judge(&wrong, true).verdict(), Warning);
}

#[test]
fn urls_are_read_as_browsers_do() {
    let place = Place::parse("wss://Chat.Example/a?b#c").unwrap();
    assert_eq!((place.host.as_str(), place.port), ("chat.example", 443));
    assert_eq!(place.authority(), "chat.example");
    assert_eq!(place.origin(), "https://chat.example");
    assert_eq!(place.marked("m=1"), "/a?b&m=1");
    let place = Place::parse("ws://[::1]:8080").unwrap();
    assert_eq!((place.host.as_str(), place.port), ("::1", 8080));
    assert_eq!(place.origin(), "http://[::1]:8080");
    assert_eq!(place.marked("m=1"), "/?m=1");
    assert!(Place::parse("https://a?b").unwrap().is_secure);
    for wrong in [
        "a",
        "ftp://a/",
        "ws://",
        "ws://u@a/",
        "ws://a/\r\nX: y",
        "ws://a b/",
    ] {
        assert!(Place::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn origins_of_rewriting_proxies_are_not_that_of_the_page() {
    let place = Place::parse("ws://chat.example:8080/").unwrap();
    let backends = ["127.0.0.1:8888".to_owned(), "chat.example:8080".to_owned()];
    let origins = place.origins_of_rewriting_proxies(&backends);
    assert!(origins.iter().all(|(origin, _)| *origin != place.origin()));
    assert!(origins.contains(&(
        "http://127.0.0.1:8888".to_owned(),
        Rewritten::Host("127.0.0.1:8888".to_owned())
    )));
    assert!(origins.contains(&("http://chat.example".to_owned(), Rewritten::Port)));
}

proptest! {
    /// Whatever is answered, there is a finding, and only a whole 101 is good.
    #[test]
    fn prop_every_answer_is_judged(
        status in 100_u16..600,
        headers in proptest::collection::vec(("[A-Za-z-]{1,12}", "[ -~]{0,20}"), 0..5),
        body in ".{0,60}",
        accepts: bool,
    ) {
        let answer = Answer::Http { head: Head { status, headers, body }, accepts };
        let cause = cause(&answer);
        let finding = judge(&cause, &Around::default());
        prop_assert_eq!(finding.verdict() == Fine, cause == Cause::Upgraded);
        prop_assert!(cause != Cause::Upgraded || (status == 101 && accepts));
    }

    /// What is read of a URL cannot break out of the request line.
    #[test]
    fn prop_targets_have_no_blanks(text in "wss?://[ -~\r\n]{0,40}") {
        if let Ok(place) = Place::parse(&text) {
            prop_assert!(place.target.starts_with('/'));
            prop_assert!(place.marked("m").bytes().all(|byte| byte.is_ascii_graphic()));
        }
    }
}
