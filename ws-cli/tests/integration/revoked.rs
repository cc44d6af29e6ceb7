//! Connections that an operator ends: `ws kick`, and `DELETE` on the control socket.

use serde_json::json;
use tokio_tungstenite::tungstenite::Error;

use crate::support::*;

/// The user is the one that the header names.
const NAMED: &str = r#"echo "$HTTP_X_USER""#;

async fn log_in(server: &Server, user: &str) -> Client {
    let headers = [("X-User", user)];
    server.connect_with("/", &headers).await.unwrap()
}

#[tokio::test]
async fn t02_revoked_session_is_closed_everywhere_and_its_cookie_is_void() {
    let server = Setup::new()
        .app(r#"echo "$WS_SESSION_ID"; echo run >> runs"#)
        .start();
    let (first, cookie) = server.connect_for_cookie().await;
    let mut clients = vec![first];
    let headers = [("Cookie", cookie.as_str())];
    for _ in 0..2 {
        clients.push(server.connect_with("/", &headers).await.unwrap());
    }
    let session = ask(&mut clients[0], "who?").await;
    let mut other = server.connect().await;
    let path = format!("/v1/sessions/{session}?code=1008&reason=logged%20out");
    let (status, answer) = server.control("DELETE", &path, "");
    assert_eq!(
        (status, &*answer),
        (200, r#"{"connections":3,"sessions":1}"#)
    );
    for client in &mut clients {
        // What comes later is not run.
        say(client, "again").await;
        assert_eq!(close_code(client).await, 1008);
    }
    server.until("connections.closed_by.revoked", 3);
    let runs = std::fs::read_to_string(server.dir().join("runs")).unwrap();
    assert_eq!(runs, "run\n");
    let mut again = server.connect_with("/", &headers).await.unwrap();
    assert_ne!(ask(&mut again, "who?").await, session);
    assert_ne!(ask(&mut other, "who?").await, session, "the others go on");
    for client in [again, other] {
        bye(client).await;
    }
    drop(clients);
    server.finish();
}

/// Has sessions revoked, one of them with a connection, while the validation of a second visitor is
/// being asked, who is turned away then.
async fn revoke_while_validation_is_asked(server: &Server, path: &str, gate: &mut Gate) {
    let opening = server.connect_with("/", &[]);
    let revoking = async {
        tokio::task::spawn_blocking({
            let socket = server.state("control.sock");
            let path = path.to_owned();
            move || control(&socket, "DELETE", &path, "").unwrap()
        })
        .await
        .unwrap()
    };
    let opened = async {
        let begun = async {
            while server.figure("callbacks.validations") < 2 {
                tokio::task::yield_now().await;
            }
            let revoked = revoking.await;
            assert_eq!(
                revoked,
                (200, r#"{"connections":1,"sessions":1}"#.to_owned())
            );
            gate.open(1);
        };
        tokio::join!(opening, begun).0
    };
    match opened.await {
        Err(Error::Http(response)) => assert_eq!(response.status(), 401),
        other => panic!("let in, or worse: {other:?}"),
    }
}

/// The answer that names the session is older than the logout.
#[tokio::test]
async fn t02_session_revoked_while_the_validation_is_asked_lets_nobody_in() {
    const VALIDATION: &str = r#"read _ < gate; printf 'X-WS-User: ann\nX-WS-Session: basket\n\n'"#;
    let setup = Setup::new();
    let mut gate = Gate::new(setup.dir(), "gate");
    let server = setup
        .validate(VALIDATION)
        .set("validate.output", "cgi")
        .app(r#"echo "$WS_SESSION_ID""#)
        .start();
    gate.open(1);
    let mut first = server.connect().await;
    let session = ask(&mut first, "who?").await;
    let path = format!("/v1/sessions/{session}");
    revoke_while_validation_is_asked(&server, &path, &mut gate).await;
    assert_eq!(close_code(&mut first).await, 1008);
    drop(first);
    server.finish();
}

/// The answer that names the user is older than the logout.
#[tokio::test]
async fn t02_user_revoked_while_the_validation_is_asked_is_not_let_in() {
    const VALIDATION: &str = "read _ < gate; echo ann";
    let setup = Setup::new();
    let mut gate = Gate::new(setup.dir(), "gate");
    let server = setup.validate(VALIDATION).app("cat").start();
    gate.open(1);
    let mut first = server.connect().await;
    assert_eq!(ask(&mut first, "here").await, "here");
    revoke_while_validation_is_asked(&server, "/v1/sessions?user=ann", &mut gate).await;
    assert_eq!(close_code(&mut first).await, 1008);
    drop(first);
    server.finish();
}

#[tokio::test]
async fn users_and_connections_are_closed_with_the_words_of_the_operator() {
    let server = Setup::new().validate(NAMED).app("cat").start();
    let mut ann = log_in(&server, "ann/ü").await;
    let mut ben = log_in(&server, "ben").await;
    let kicked = server.ws(&[
        "kick",
        "--user",
        "ann/ü",
        "--code",
        "4001",
        "--reason",
        "go & rest",
    ]);
    assert!(kicked.status.success());
    assert_eq!(kicked.stdout, b"1\n");
    assert_eq!(close_code(&mut ann).await, 4001);
    assert_eq!(ask(&mut ben, "still here").await, "still here");

    let id = server.connections().iter().find_map(|connection| {
        (connection["user"] == "ben").then(|| connection["id"].as_str().unwrap().to_owned())
    });
    let kicked = server.ws(&["kick", "--json", "--connection", &id.unwrap()]);
    assert_eq!(kicked.stdout, b"{\"connections\":1}\n");
    assert_eq!(close_code(&mut ben).await, 1008);
    drop((ann, ben));
    server.until("connections.open", 0);
    assert_eq!(
        server.ws(&["kick", "--user", "ben"]).status.code(),
        Some(75)
    );
    server.finish();
}

#[tokio::test]
async fn what_cannot_be_closed_is_said_and_closes_nobody() {
    let server = Setup::new().arg("--echo").start();
    let mut client = server.connect().await;
    for (path, status, says) in [
        ("/v1/connections/abc", 400, "to.connection"),
        ("/v1/sessions/abc", 400, "to.session"),
        ("/v1/users/a%20b", 400, "to.user"),
        ("/v1/users/ann?code=1005", 400, "code"),
        ("/v1/users/ann?code=x", 400, "code"),
        ("/v1/users/ann?because=x", 400, "because"),
        ("/v1/users", 405, "not with this method"),
    ] {
        let (found, answer) = server.control("DELETE", path, "");
        assert_eq!(found, status, "{path}: {answer}");
        assert!(answer.contains(says), "{path}: {answer}");
    }
    let long = format!("/v1/users/ann?reason={}", "x".repeat(124));
    assert_eq!(server.control("DELETE", &long, "").0, 400);
    assert_eq!(server.send(json!({ "all": true }), "hello")["written"], 1);
    assert_eq!(hear(&mut client).await, "hello");
    bye(client).await;
    server.finish();
}
