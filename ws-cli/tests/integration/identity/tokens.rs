//! Signed tokens (JWT).

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::StreamExt as _;
use nix::sys::signal::Signal;
use ring::hmac;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::*;

const SECRET: &str = "a secret of thirty-two bytes, or more";
const OTHER: &str = "another secret of thirty-two or more";

fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap().as_secs()
}

fn sign(header: &Value, claims: &Value, secret: &str) -> String {
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let signed = format!(
        "{}.{}",
        part(header.to_string().as_bytes()),
        part(claims.to_string().as_bytes())
    );
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let signature = hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", part(signature.as_ref()))
}

fn token(claims: &Value) -> String {
    sign(&json!({ "alg": "HS256" }), claims, SECRET)
}

/// A token that is good for a minute.
fn token_of(user: &str) -> String {
    token(&json!({ "sub": user, "exp": now() + 60 }))
}

/// A server that believes tokens at each kind of place.
fn believer(app: &str) -> Setup {
    let setup = Setup::new().app(app);
    std::fs::write(setup.dir().join("secret"), format!("{SECRET}\n")).unwrap();
    setup.set("identity.token.secret_file", "secret").set(
        "identity.token.from",
        "cookie:jwt, header:Authorization, subprotocol:ws.token",
    )
}

#[tokio::test]
async fn a_token_names_the_user_wherever_it_stands_and_no_process_is_started() {
    let server = believer(WHO).validate("exit 1").start();
    let token = token_of("alice");
    for (header, value) in [
        ("Cookie", format!("a=b; jwt={token}")),
        ("Authorization", format!("Bearer {token}")),
        ("Sec-WebSocket-Protocol", format!("ws.token, {token}")),
    ] {
        let user = who(&server, &[(header, &value)]).await;
        assert_eq!(user.as_deref(), Ok("alice"), "{header}");
    }
    assert_eq!(server.figure("callbacks.validations"), 0);
    assert_eq!(server.figure("identities.identified_by.token"), 3);
    // Whoever brings none is asked for otherwise.
    assert_eq!(who(&server, &[]).await, Err(401));
    assert_eq!(
        who(&server, &[("Authorization", "Basic YTpi")]).await,
        Err(401)
    );
    assert_eq!(server.figure("callbacks.validations"), 2);
    server.finish();
}

#[tokio::test]
async fn t09_of_the_subprotocols_only_the_name_of_ours_is_echoed() {
    let server = believer(r#"echo "$HTTP_SEC_WEBSOCKET_PROTOCOL""#).start();
    let offer = format!("ws.token, {}, chat", token_of("alice"));
    let head = crate::wire::head("/", &[&format!("Sec-WebSocket-Protocol: {offer}")]);
    let mut stream = server.raw_stream();
    std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
    let answer = crate::validation::read_head(&mut stream);
    let echoed: Vec<&str> = answer
        .lines()
        .filter(|line| {
            line.to_ascii_lowercase()
                .starts_with("sec-websocket-protocol")
        })
        .collect();
    assert_eq!(echoed, ["Sec-WebSocket-Protocol: ws.token"]);
    drop(stream);
    // Nor do callbacks get to see the token among them.
    let headers = [("Sec-WebSocket-Protocol", &*offer)];
    let mut client = server.connect_with("/", &headers).await.unwrap();
    assert_eq!(ask(&mut client, "what?").await, "ws.token, chat");
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn a_bad_token_refuses_whatever_else_would_let_in() {
    let server = believer(WHO).validate("echo everybody").start();
    let good = token_of("alice");
    let end = now() + 60;
    let alice = json!({ "sub": "alice", "exp": end });
    let table = [
        ("signature", sign(&json!({ "alg": "HS256" }), &alice, OTHER)),
        ("algorithm", sign(&json!({ "alg": "none" }), &alice, SECRET)),
        (
            "algorithm",
            sign(&json!({ "alg": "RS256" }), &alice, SECRET),
        ),
        ("signature", good[..good.len() - 3].to_owned()),
        ("malformed", good[..good.len() / 3].to_owned()),
        (
            "expired",
            token(&json!({ "sub": "alice", "exp": now() - 1 })),
        ),
        (
            "not_yet",
            token(&json!({ "sub": "alice", "exp": end, "nbf": end })),
        ),
        (
            "audience",
            token(&json!({ "sub": "alice", "exp": end, "aud": "x" })),
        ),
        ("claim", token(&json!({ "sub": "alice" }))),
        ("claim", token(&json!({ "sub": "a b", "exp": end }))),
        (
            "claim",
            token(&json!({ "sub": "a".repeat(256), "exp": end })),
        ),
        ("claim", token(&json!({ "sub": "a\nb", "exp": end }))),
        ("malformed", "x".repeat(9000)),
    ];
    for (refusal, token) in &table {
        let counted = format!("identities.refused_by.{refusal}");
        let before = server.figure(&counted);
        let header = format!("Bearer {token}");
        let end = who(&server, &[("Authorization", &header)]).await;
        assert_eq!(end, Err(401), "{refusal}");
        assert_eq!(server.figure(&counted), before + 1, "{refusal}");
    }
    // A good one behind it does not help: the first place that holds something decides.
    let both = [
        ("Cookie", "jwt=x.y.z".to_owned()),
        ("Authorization", format!("Bearer {good}")),
    ];
    let both = both.each_ref().map(|(name, value)| (*name, value.as_str()));
    assert_eq!(who(&server, &both).await, Err(401));
    let alone = [("Sec-WebSocket-Protocol", "ws.token")];
    assert_eq!(who(&server, &alone).await, Err(401));
    assert_eq!(server.figure("callbacks.validations"), 0);
    assert_eq!(
        server.figure("sockets.refused_by.identity"),
        table.len() as u64 + 2
    );
    server.finish();
}

#[tokio::test]
async fn t70_tokens_are_in_no_line_of_the_log() {
    let server = believer(WHO).set("log.level", "trace").start();
    let good = token_of("alice");
    let forged = sign(
        &json!({ "alg": "HS256" }),
        &json!({ "sub": "canary-claim" }),
        OTHER,
    );
    for token in [&good, &forged] {
        let offer = format!("ws.token, {token}");
        let _ = who(&server, &[("Authorization", &format!("Bearer {token}"))]).await;
        let _ = who(&server, &[("Sec-WebSocket-Protocol", &offer)]).await;
        let _ = who(&server, &[("Cookie", &format!("jwt={token}"))]).await;
    }
    let log = server.finish();
    for token in [&good, &forged] {
        for part in token.split('.') {
            assert!(!log.contains(part), "the log has {part}:\n{log}");
        }
    }
    assert!(log.contains("its signature is not that of a key"), "{log}");
    assert!(!log.contains("canary-claim"), "{log}");
}

#[tokio::test]
async fn a_connection_ends_with_its_token() {
    let server = believer(WHO)
        .set("identity.token.close_code", "4401")
        .set("identity.token.close_reason", "log in again")
        .set("identity.token.leeway", "1s")
        .start();
    let end = now() + 2;
    let token = token(&json!({ "sub": "alice", "exp": end }));
    let header = format!("Bearer {token}");
    let headers = [("Authorization", &*header)];
    let mut client = server.connect_with("/", &headers).await.unwrap();
    let mut endless = server
        .connect_with(
            "/",
            &[("Authorization", &*format!("Bearer {}", token_of("bob")))],
        )
        .await
        .unwrap();
    assert_eq!(ask(&mut client, "who?").await, "alice");
    let frame = loop {
        match tokio::time::timeout(PATIENCE, client.next()).await.unwrap() {
            Some(Ok(Message::Close(frame))) => break frame.unwrap(),
            Some(Ok(_)) => {}
            other => panic!("no close frame: {other:?}"),
        }
    };
    assert_eq!(u16::from(frame.code), 4401);
    assert_eq!(frame.reason.as_str(), "log in again");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let late = now.unwrap().as_secs_f64() - (end + 1) as f64;
    assert!((0.0..1.0).contains(&late), "{late} s late");
    bye(client).await;
    assert_eq!(ask(&mut endless, "who?").await, "bob");
    bye(endless).await;
    server.until("connections.closed_by.expired", 1);
    server.finish();
}

#[tokio::test]
async fn required_refuses_whom_nobody_names() {
    let server = believer(WHO).set("identity.required", "true").start();
    assert_eq!(who(&server, &[]).await, Err(401));
    assert_eq!(who_with_cookie(&server, "jwt=").await, Err(401));
    let cookie = format!("jwt={}", token_of("alice"));
    assert_eq!(
        who_with_cookie(&server, &cookie).await.as_deref(),
        Ok("alice")
    );
    assert_eq!(server.figure("identities.refused_by.missing"), 2);
    server.finish();

    let server = believer(WHO).start();
    let guest = who(&server, &[]).await.unwrap();
    assert_eq!(guest.len(), 32, "{guest} is not a session id");
    server.finish();
}

#[tokio::test]
async fn a_session_claim_names_the_session() {
    let server = believer(WHO)
        .set("identity.token.session_claim", "sid")
        .start();
    let claims = json!({ "sub": 7, "sid": "s1", "exp": now() + 60 });
    let mut sessions = Vec::new();
    for _ in 0..2 {
        let cookie = format!("jwt={}", token(&claims));
        let headers = [("Cookie", &*cookie)];
        let client = server.connect_with("/", &headers).await.unwrap();
        sessions.push(session(&server));
        assert_eq!(server.connections()[0]["user"], "7");
        bye(client).await;
        server.until("connections.open", 0);
    }
    assert_eq!(sessions[0], sessions[1]);
    server.finish();
}

#[tokio::test]
async fn keys_are_read_again_when_they_change() {
    let server = believer(WHO)
        .set("identity.token.reload_interval", "20ms")
        .start();
    let alice = json!({ "sub": "alice", "exp": now() + 60 });
    let by_other = format!("Bearer {}", sign(&json!({ "alg": "HS256" }), &alice, OTHER));
    let headers = [("Authorization", &*by_other)];
    assert_eq!(who(&server, &headers).await, Err(401));
    let by_former = format!("Bearer {}", token(&alice));
    let mut client = server
        .connect_with("/", &[("Authorization", &*by_former)])
        .await
        .unwrap();

    let secret = server.dir().join("secret");
    let write = |text: &str| {
        let new = server.dir().join("secret.new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &secret).unwrap();
    };
    write(OTHER);
    server.until("identities.key_reloads", 1);
    assert_eq!(who(&server, &headers).await.as_deref(), Ok("alice"));
    // What cannot be used changes nothing, nor does the change touch a connection.
    write("short");
    server.until("identities.key_reloads_failed", 1);
    assert_eq!(who(&server, &headers).await.as_deref(), Ok("alice"));
    assert_eq!(ask(&mut client, "who?").await, "alice");
    bye(client).await;
    server.finish();

    let server = believer(WHO)
        .set("identity.token.reload_interval", "off")
        .start();
    std::fs::write(server.dir().join("secret"), OTHER).unwrap();
    server.signal(Signal::SIGHUP);
    server.until("identities.key_reloads", 1);
    assert_eq!(who(&server, &headers).await.as_deref(), Ok("alice"));
    server.finish();
}

#[tokio::test]
async fn keys_that_others_may_write_are_not_taken() {
    let allow = |path: &Path, mode| {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    };
    for file in ["secret_file", "public_key_file", "jwks_file"] {
        for mode in [0o620, 0o602, 0o666] {
            let setup = Setup::new().app(WHO);
            let path = setup.dir().join("key");
            std::fs::write(&path, SECRET).unwrap();
            allow(&path, mode);
            let setting = format!("identity.token.{file}");
            let output = setup.set(&setting, "key").fail();
            let told = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(78), "{file}: {told}");
            assert!(
                told.contains("may write") && told.contains(&setting),
                "{told}"
            );
        }
    }

    let server = believer(WHO)
        .set("identity.token.reload_interval", "20ms")
        .start();
    let secret = server.dir().join("secret");
    // Another one, but anybody could have put it there.
    let new = server.dir().join("secret.new");
    std::fs::write(&new, OTHER).unwrap();
    allow(&new, 0o660);
    std::fs::rename(&new, &secret).unwrap();
    server.until("identities.key_reloads_failed", 1);
    let former = format!("Bearer {}", token_of("alice"));
    let headers = [("Authorization", &*former)];
    assert_eq!(who(&server, &headers).await.as_deref(), Ok("alice"));
    allow(&secret, 0o600);
    server.until("identities.key_reloads", 1);
    assert_eq!(who(&server, &headers).await, Err(401));
    server.finish();
}

#[test]
fn keys_that_cannot_be_used_are_told_at_the_start() {
    for (key, content, expected) in [
        ("secret_file", Some("short"), "the secret has 5 bytes"),
        ("secret_file", None, "No such file"),
        (
            "secret_file",
            Some("-----BEGIN PUBLIC KEY-----\n"),
            "it is PEM",
        ),
        ("public_key_file", Some("x"), "no PUBLIC KEY"),
        ("jwks_file", Some("{}"), "not a JWK Set"),
        ("jwks_file", Some(r#"{"keys":[]}"#), "no key is for"),
    ] {
        let setup = Setup::new().app(WHO);
        if let Some(content) = content {
            std::fs::write(setup.dir().join("key"), content).unwrap();
        }
        let path = format!("identity.token.{key}");
        let output = setup.set(&path, "key").fail();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(78), "{key}: {told}");
        assert!(told.contains(expected) && told.contains(&path), "{told}");
    }
}

#[tokio::test]
async fn t77_a_token_that_never_ends_is_no_alarm() {
    let server = believer(WHO)
        .set("identity.token.require_exp", "false")
        .start();
    for exp in [None, Some(1e300), Some(1e12)] {
        let mut claims = json!({ "sub": "alice" });
        if let Some(exp) = exp {
            claims["exp"] = json!(exp);
        }
        let cookie = format!("jwt={}", token(&claims));
        let began = Instant::now();
        assert_eq!(
            who_with_cookie(&server, &cookie).await.as_deref(),
            Ok("alice")
        );
        assert!(began.elapsed() < Duration::from_secs(30));
    }
    server.finish();
}
