use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use super::*;
use crate::args::ConfigFile;

fn client(control: Option<&str>) -> Client {
    Client {
        control: control.map(Into::into),
        token_file: None,
        config: ConfigFile::default(),
        json: false,
    }
}

fn surroundings(directory: &TempDir, variables: &[(&str, &str)]) -> Surroundings {
    Surroundings {
        directory: directory.path().to_owned(),
        variables: variables
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
        system_file: directory.path().join("none.toml"),
    }
}

/// Answers one request with `response`; returns what was asked.
async fn serve_once(listener: UnixListener, response: String) -> String {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut asked = Vec::new();
    while !asked.ends_with(b"}") {
        assert_ne!(stream.read_buf(&mut asked).await.unwrap(), 0);
    }
    stream.write_all(response.as_bytes()).await.unwrap();
    String::from_utf8(asked).unwrap()
}

fn response(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn caller(address: Address) -> Caller {
    Caller {
        candidates: vec![address],
        token: Some(Token("a-token".to_owned())),
        wire: None,
        address: None,
    }
}

async fn ask(path: &Path, answer: String) -> (String, Result<Value, Failure>) {
    let listener = UnixListener::bind(path).unwrap();
    let body = json!({ "to": { "all": true }, "text": "x" });
    let mut caller = caller(Address::Socket(path.to_owned()));
    let ask = Ask {
        method: Method::POST,
        path: "/v1/send",
        body: Some(&body),
        key: Some("a \"key\""),
        patience: TIMEOUT,
    };
    tokio::join!(serve_once(listener, answer), async {
        let answer = caller.call(&ask).await;
        answer.map_err(|error| caller.failure(error))
    })
}

#[tokio::test]
async fn a_request_is_http_with_a_json_body() {
    let directory = TempDir::new().unwrap();
    let answer = response("200 OK", r#"{"connections":2}"#);
    let (asked, answered) = ask(&directory.path().join("a"), answer).await;
    assert!(asked.starts_with("POST /v1/send HTTP/1.1\r\n"), "{asked}");
    assert!(
        asked.to_lowercase().contains("host: localhost\r\n"),
        "{asked}"
    );
    assert!(
        asked.contains("idempotency-key: \"a \\\"key\\\"\"\r\n"),
        "{asked}"
    );
    assert!(!asked.contains("a-token"), "a socket needs none: {asked}");
    assert!(
        asked.ends_with(r#"{"text":"x","to":{"all":true}}"#),
        "{asked}"
    );
    assert_eq!(count(&answered.unwrap(), "connections").unwrap(), 2);
}

#[tokio::test]
async fn refusals_are_told_with_the_server_s_words() {
    for (status, body, code, message) in [
        (
            "400 Bad Request",
            r#"{"error":"no\u001b"}"#,
            Code::Failed,
            "no\\u{1b}",
        ),
        ("403 Forbidden", "", Code::NotPermitted, "403 Forbidden"),
        (
            "503 Service Unavailable",
            r#"{"error":"draining"}"#,
            Code::TryLater,
            "draining",
        ),
    ] {
        let directory = TempDir::new().unwrap();
        let (_, answered) = ask(&directory.path().join("a"), response(status, body)).await;
        let failure = answered.unwrap_err();
        assert_eq!(failure.code(), code);
        assert_eq!(
            failure.to_string(),
            format!("the server refused: {message}")
        );
    }
}

#[tokio::test]
async fn a_server_that_hangs_up_or_answers_nonsense_is_unreachable() {
    for answer in [
        String::new(),
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{".into(),
        response("200 OK", "{"),
    ] {
        let directory = TempDir::new().unwrap();
        let (_, answered) = ask(&directory.path().join("a"), answer).await;
        assert_eq!(answered.unwrap_err().code(), Code::Unreachable);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_is_unreachable() {
    let waiting = within(TIMEOUT, std::future::pending::<Result<(), CallError>>()).await;
    assert_eq!(waiting.unwrap_err().at(&"/s").code(), Code::Unreachable);
}

#[tokio::test]
async fn a_socket_with_a_long_path_is_reached() {
    let directory = TempDir::new().unwrap();
    let long = directory.path().join("d".repeat(200));
    std::fs::create_dir(&long).unwrap();
    // Bound under a short name, for std cannot bind to the long one either.
    let short = directory.path().join("short");
    std::os::unix::fs::symlink(&long, &short).unwrap();
    let _listener = UnixListener::bind(short.join("s")).unwrap();
    let path = long.join("s");
    assert!(path.as_os_str().len() > MAX_SOCKET_PATH);
    let address = Address::Socket(path);
    let (_, connected) = connect(std::slice::from_ref(&address)).await.unwrap();
    assert_eq!(connected, address);
}

#[tokio::test]
async fn the_first_socket_with_a_server_wins_and_failure_names_all() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    // A socket whose server is gone.
    drop(UnixListener::bind(path("stale")).unwrap());
    let addresses = ["missing", "stale", "live"].map(|name| Address::Socket(path(name)));
    let failure = connect(&addresses).await.err().unwrap();
    assert_eq!(failure.code(), Code::Unreachable);
    for address in &addresses {
        assert!(
            failure.to_string().contains(&address.to_string()),
            "{failure}"
        );
    }
    let _listener = UnixListener::bind(path("live")).unwrap();
    assert_eq!(connect(&addresses).await.unwrap().1, addresses[2]);
}

#[test]
fn sockets_are_looked_for_in_order() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| Address::Socket(directory.path().join(name));
    let configured = [("WS__SERVER__STATE_DIR", "state")];
    let found = candidates(&client(None), &surroundings(&directory, &configured)).unwrap();
    let system = Address::Socket("/run/ws/control.sock".into());
    assert_eq!(
        found,
        [
            path("state/control.sock"),
            path("tmp/control.sock"),
            system.clone()
        ]
    );
    let found = candidates(&client(None), &surroundings(&directory, &[])).unwrap();
    assert_eq!(found, [path("tmp/control.sock"), system]);

    // Who names a socket means that one; a bad configuration then is no matter.
    let named = [("WS_CONTROL_SOCKET", "/run/x.sock"), ("WS__NONSENSE", "1")];
    let surroundings = surroundings(&directory, &named);
    assert_eq!(
        candidates(&client(None), &surroundings).unwrap(),
        [Address::Socket("/run/x.sock".into())]
    );
    assert_eq!(
        candidates(&client(Some("c.sock")), &surroundings).unwrap(),
        [path("c.sock")]
    );
}

#[test]
fn a_url_is_a_server_on_tcp_and_its_token_is_shown_to_it() {
    let directory = TempDir::new().unwrap();
    let named = |control| candidates(&client(Some(control)), &surroundings(&directory, &[]));
    for url in ["http://127.0.0.1:8889", "http://127.0.0.1:8889/"] {
        let address = Address::Http("127.0.0.1:8889".to_owned());
        assert_eq!(named(url).unwrap(), [address]);
    }
    let address = Address::Http("[::1]:80".to_owned());
    let found = named("http://[::1]:80").unwrap();
    assert_eq!(found, std::slice::from_ref(&address));
    for wrong in [
        "http://",
        "http://host",
        "http://h:80/v1",
        "http://u@h:80",
        "http://:80",
    ] {
        assert_eq!(named(wrong).unwrap_err().code(), Code::Usage, "{wrong}");
    }

    let ask = Ask {
        method: Method::GET,
        path: "/v1/status",
        body: None,
        key: None,
        patience: TIMEOUT,
    };
    let request = request(&ask, Some(&address), Some(&Token("secret".to_owned()))).unwrap();
    assert_eq!(request.headers()["authorization"], "Bearer secret");
    assert_eq!(request.headers()["host"], "[::1]:80");
    assert!(!format!("{request:?}").contains("secret"), "T70");
    let caller = format!("{:?}", caller(address));
    assert!(!caller.contains("a-token"), "T70: {caller}");
}

#[test]
fn the_token_is_of_the_file_or_else_of_the_environment() {
    let directory = TempDir::new().unwrap();
    let variables = [("WS_CONTROL_TOKEN", "of-the-environment")];
    let surroundings = surroundings(&directory, &variables);
    let mut client = client(None);
    let found = token(&client, &surroundings).unwrap();
    assert_eq!(found.unwrap().0, "of-the-environment");
    client.token_file = Some("tokens".into());
    assert!(token(&client, &surroundings).is_err());
    let path = directory.path().join("tokens");
    std::fs::write(&path, "# new\n\n of-the-file \nold\n").unwrap();
    let found = token(&client, &surroundings).unwrap();
    assert_eq!(found.unwrap().0, "of-the-file");
    std::fs::write(&path, "# none\n").unwrap();
    assert!(token(&client, &surroundings).is_err());
}

#[test]
fn targets_are_what_the_api_takes() {
    let owned = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
    let none = Targets::default();
    assert_eq!(targets(&none), json!({ "all": true }));
    let of = |user: &[&str], session: &[&str], connection: &[&str]| Targets {
        user: owned(user),
        session: owned(session),
        connection: owned(connection),
        ..Targets::default()
    };
    assert_eq!(targets(&of(&["u"], &[], &[])), json!({ "user": "u" }));
    assert_eq!(targets(&of(&[], &["s"], &[])), json!({ "session": "s" }));
    assert_eq!(targets(&of(&[], &[], &["c"])), json!({ "connection": "c" }));
    assert_eq!(
        targets(&of(&["u", "v"], &[], &[])),
        json!({ "users": ["u", "v"] })
    );
    let but_one = Targets {
        except_session: Some("s".to_owned()),
        ..of(&["u"], &[], &[])
    };
    let expected = json!({ "user": "u", "except": { "session": "s" } });
    assert_eq!(targets(&but_one), expected);
}
