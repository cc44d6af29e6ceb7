//! Request heads: what is refused byte by byte, and the limits.

use ws_proto::handshake::{BadRequest, HeadLimits, HeadReader, Rejection, RequestHead, Version};

fn read(bytes: &[u8]) -> Result<Option<RequestHead>, Rejection> {
    HeadReader::new(HeadLimits::default()).read(bytes)
}

/// Reads at once and byte by byte; both must agree.
#[track_caller]
fn refusal(bytes: &[u8]) -> Rejection {
    let at_once = read(bytes).expect_err("a refusal");
    let mut reader = HeadReader::new(HeadLimits::default());
    let bytewise = bytes.iter().find_map(|byte| reader.read(&[*byte]).err());
    assert_eq!(bytewise, Some(at_once.clone()), "cut into bytes");
    at_once
}

fn get(headers: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\n{headers}\r\n").into_bytes()
}

fn bad(reason: BadRequest) -> Rejection {
    Rejection::BadRequest(reason)
}

#[test]
fn head_is_read_with_its_parts() {
    let head = read(b"GET /a?b=c HTTP/1.1\r\nHost: h:80\r\nX-A:  1 \t\r\nx-a: 2\r\nX-B:\r\n\r\n");
    let head = head.unwrap().unwrap();
    assert_eq!((head.method(), head.target()), ("GET", "/a?b=c"));
    assert_eq!(head.path_and_query(), "/a?b=c");
    assert_eq!(head.version(), Version::Http11);
    assert_eq!(head.header("x-A"), Some("1"));
    assert_eq!(head.header_count("X-A"), 2);
    assert_eq!(head.header("X-B"), Some(""));
    assert_eq!(head.header("X-C"), None);
    let names: Vec<_> = head.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["Host", "X-A", "x-a", "X-B"]);
    assert!(!head.wants_websocket());
}

#[test]
fn header_that_is_not_utf8_is_bytes() {
    let mut bytes = b"GET / HTTP/1.1\r\nHost: h\r\nX: \xE9".to_vec();
    bytes.extend(b"\r\n\r\n");
    let head = read(&bytes).unwrap().unwrap();
    assert_eq!(head.header("X"), None);
    assert_eq!(head.header_bytes("X"), Some(&b"\xE9"[..]));
}

#[test]
fn debug_output_keeps_values_to_itself() {
    let head = read(&get("Host: h\r\nCookie: secret\r\n"))
        .unwrap()
        .unwrap();
    let shown = format!("{head:?}");
    assert!(
        shown.contains("Cookie") && !shown.contains("secret"),
        "{shown}"
    );
}

#[test]
fn t07_head_of_16385_bytes_is_431() {
    let with_size = |size: usize| {
        let frame = get("Host: h\r\nX: \r\n").len();
        get(&format!("Host: h\r\nX: {}\r\n", "x".repeat(size - frame)))
    };
    for size in [16_383, 16_384] {
        assert!(read(&with_size(size)).unwrap().is_some());
    }
    let refused = refusal(&with_size(16_385));
    assert_eq!(refused, Rejection::HeadTooLarge { max: 16_384 });
    assert_eq!(refused.status(), 431);
}

#[test]
fn t07_head_without_end_is_431_as_soon_as_it_is_too_large() {
    let mut reader = HeadReader::new(HeadLimits::default());
    assert_eq!(reader.read(b"GET / HTTP/1.1\r\nX: "), Ok(None));
    let rest = 16_384 - 19;
    assert_eq!(reader.read(&vec![b'x'; rest]), Ok(None));
    assert_eq!(
        reader.read(b"x"),
        Err(Rejection::HeadTooLarge { max: 16_384 })
    );
}

#[test]
fn t07_65_headers_are_431() {
    let with_count = |count: usize| get(&format!("Host: h\r\n{}", "X: y\r\n".repeat(count - 1)));
    for count in [63, 64] {
        let head = read(&with_count(count)).unwrap().unwrap();
        assert_eq!(head.iter().count(), count);
    }
    let refused = refusal(&with_count(65));
    assert_eq!(refused, Rejection::TooManyHeaders { max: 64 });
    assert_eq!(refused.status(), 431);
}

#[test]
fn t07_target_of_8193_bytes_is_414() {
    let with_size = |size: usize| {
        format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "x".repeat(size - 1)).into_bytes()
    };
    for size in [8191, 8192] {
        assert_eq!(
            read(&with_size(size)).unwrap().unwrap().target().len(),
            size
        );
    }
    let refused = refusal(&with_size(8193));
    assert_eq!(refused, Rejection::TargetTooLong { max: 8192 });
    assert_eq!(refused.status(), 414);
}

#[test]
fn t07_missing_or_second_host_is_400() {
    assert_eq!(refusal(&get("X: y\r\n")), bad(BadRequest::MissingHost));
    assert_eq!(
        refusal(&get("Host: a\r\nhost: a\r\n")),
        bad(BadRequest::DuplicateHost)
    );
    for host in ["", "a b", "a/b", "user@host", "a\tb"] {
        let refused = refusal(&get(&format!("Host: {host}\r\n")));
        assert_eq!(refused, bad(BadRequest::InvalidHost), "{host}");
    }
    for host in ["localhost:8888", "[::1]:80", "ex-ample.com", "127.0.0.1"] {
        assert!(read(&get(&format!("Host: {host}\r\n"))).is_ok(), "{host}");
    }
}

#[test]
fn t07_bare_cr_and_bare_lf_are_400() {
    for head in [
        "GET / HTTP/1.1\nHost: h\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\n\n",
        "GET / HTTP/1.1\r\nHost: h\rX: y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\r\n\r\n",
        "GET /\r HTTP/1.1\r\nHost: h\r\n\r\n",
    ] {
        assert_eq!(
            refusal(head.as_bytes()),
            bad(BadRequest::BareLineEnd),
            "{head:?}"
        );
    }
}

#[test]
fn t07_control_bytes_are_400_and_a_tab_in_a_value_is_not() {
    for byte in (0..0x20_u8)
        .chain([0x7F])
        .filter(|byte| !b"\t\r\n".contains(byte))
    {
        let head = format!("Host: h\r\nX: a{}b\r\n", char::from(byte));
        assert_eq!(
            refusal(&get(&head)),
            bad(BadRequest::ControlByte),
            "{byte:#x}"
        );
    }
    let in_target = refusal(b"GET /\0 HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(in_target, bad(BadRequest::ControlByte));
    let with_tab = read(&get("Host: h\r\nX: a\tb\r\n")).unwrap().unwrap();
    assert_eq!(with_tab.header("X"), Some("a\tb"));
}

#[test]
fn t07_folded_header_is_400() {
    for fold in [" ", "\t"] {
        let refused = refusal(&get(&format!("Host: h\r\nX: a\r\n{fold}b\r\n")));
        assert_eq!(refused, bad(BadRequest::FoldedHeader));
    }
}

#[test]
fn t07_malformed_headers_are_400() {
    for line in ["X : y", "X y", ": y", "X(: y", "X\t: y", "é: y"] {
        let refused = refusal(&get(&format!("Host: h\r\n{line}\r\n")));
        assert_eq!(refused, bad(BadRequest::MalformedHeader), "{line}");
    }
}

#[test]
fn t08_what_is_not_http_is_400_at_its_first_line() {
    for line in [
        "hello",
        "SSH-2.0-OpenSSH_9.2",
        "GET /",
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 ",
        " GET / HTTP/1.1",
        "GET / http/1.1",
        "GET / HTTP/11",
        "G(T / HTTP/1.1",
        "",
    ] {
        let refused = refusal(format!("{line}\r\n").as_bytes());
        assert_eq!(refused, bad(BadRequest::NotHttp), "{line}");
        assert_eq!(refused.status(), 400);
    }
    // The first byte of a TLS handshake.
    assert_eq!(refusal(b"\x16\x03\x01"), bad(BadRequest::ControlByte));
}

#[test]
fn t08_other_versions_are_505() {
    for head in [
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET / HTTP/2.0\r\n",
        "GET / HTTP/1.2\r\n",
    ] {
        assert_eq!(
            read(head.as_bytes()),
            Err(Rejection::VersionNotSupported),
            "{head}"
        );
    }
    assert_eq!(Rejection::VersionNotSupported.status(), 505);
    let old = read(b"GET / HTTP/1.0\r\n\r\n").unwrap().unwrap();
    assert_eq!(old.version(), Version::Http10);
}

#[test]
fn targets_are_paths_or_absolute_uris_of_the_host() {
    let target = |target: &str| {
        let head = read(format!("GET {target} HTTP/1.1\r\nHost: Ex.com\r\n\r\n").as_bytes())?;
        Ok(head.unwrap().path_and_query().to_owned())
    };
    assert_eq!(target("/"), Ok("/".to_owned()));
    assert_eq!(target("//x?y"), Ok("//x?y".to_owned()));
    assert_eq!(target("http://ex.com/a?b"), Ok("/a?b".to_owned()));
    assert_eq!(target("WS://ex.com"), Ok("/".to_owned()));
    for wrong in [
        "x",
        "*",
        "http://other.com/",
        "http:///",
        "ftp://ex.com/",
        "/#f",
        "/é",
    ] {
        assert_eq!(
            target(wrong),
            Err(bad(BadRequest::InvalidTarget)),
            "{wrong}"
        );
    }
}

#[test]
fn t05_any_byte_behind_the_head_is_400() {
    let mut bytes = get("Host: h\r\n");
    bytes.extend(b"GET /admin HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(read(&bytes), Err(Rejection::EarlyData));
    assert_eq!(Rejection::EarlyData.status(), 400);
    // Also when it comes later, before anything has been answered.
    let mut reader = HeadReader::new(HeadLimits::default());
    assert!(reader.read(&get("Host: h\r\n")).unwrap().is_some());
    assert_eq!(reader.read(b""), Ok(None));
    assert_eq!(reader.read(b"\x81"), Err(Rejection::EarlyData));
}

#[test]
fn t08_post_with_a_body_is_405_all_the_same() {
    let bytes = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi";
    assert_eq!(read(bytes), Err(Rejection::MethodNotAllowed));
}

#[test]
fn t07_work_is_linear_however_the_head_is_cut() {
    // The head that passes all limits, byte by byte. A parser that began anew at each byte would
    // look at 134 million bytes; this takes a fraction of a second even unoptimized.
    let head = get(&format!("Host: h\r\nX: {}\r\n", "x".repeat(16_384 - 32)));
    #[expect(clippy::disallowed_methods, reason = "measures the work")]
    let now = std::time::Instant::now;
    let start = now();
    for _ in 0..20 {
        let mut reader = HeadReader::new(HeadLimits::default());
        for byte in &head {
            reader.read(std::slice::from_ref(byte)).unwrap();
        }
    }
    assert!(
        start.elapsed() < std::time::Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
}
