use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use super::*;
use crate::args::ConfigFile;

fn client(control: Option<&str>) -> Client {
    Client {
        control: control.map(Into::into),
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

async fn ask(path: &Path, answer: String) -> (String, Result<Value, Failure>) {
    let listener = UnixListener::bind(path).unwrap();
    let body = json!({ "to": { "all": true }, "text": "x" });
    let request = request(Method::POST, "/v1/send", Some(&body)).unwrap();
    tokio::join!(serve_once(listener, answer), async {
        let (stream, socket) = connect(&[path.to_owned()]).await?;
        exchange(stream, request)
            .await
            .map_err(|failure| failure.at(&socket))
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
    let waiting = within(TIMEOUT, std::future::pending::<Result<(), ExchangeError>>()).await;
    assert_eq!(
        waiting.unwrap_err().at("/s".as_ref()).code(),
        Code::Unreachable
    );
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
    assert_eq!(connect(std::slice::from_ref(&path)).await.unwrap().1, path);
}

#[tokio::test]
async fn the_first_socket_with_a_server_wins_and_failure_names_all() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    // A socket whose server is gone.
    drop(UnixListener::bind(path("stale")).unwrap());
    let paths = [path("missing"), path("stale"), path("live")];
    let failure = connect(&paths).await.unwrap_err();
    assert_eq!(failure.code(), Code::Unreachable);
    for path in &paths {
        assert!(
            failure.to_string().contains(&path.display().to_string()),
            "{failure}"
        );
    }
    let _listener = UnixListener::bind(path("live")).unwrap();
    assert_eq!(connect(&paths).await.unwrap().1, path("live"));
}

#[test]
fn sockets_are_looked_for_in_order() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    let configured = [("WS__SERVER__STATE_DIR", "state")];
    let found = candidates(&client(None), &surroundings(&directory, &configured)).unwrap();
    let system = PathBuf::from("/run/ws/control.sock");
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
        [PathBuf::from("/run/x.sock")]
    );
    assert_eq!(
        candidates(&client(Some("c.sock")), &surroundings).unwrap(),
        [path("c.sock")]
    );
}

#[test]
fn targets_are_what_the_api_takes() {
    let target_of = |user: Option<&str>, session: Option<&str>, connection: Option<&str>| {
        let owned = |id: Option<&str>| id.map(str::to_owned);
        target(&Target {
            user: owned(user),
            session: owned(session),
            connection: owned(connection),
        })
    };
    assert_eq!(target_of(None, None, None), json!({ "all": true }));
    assert_eq!(target_of(Some("u"), None, None), json!({ "user": "u" }));
    assert_eq!(target_of(None, Some("s"), None), json!({ "session": "s" }));
    assert_eq!(
        target_of(None, None, Some("c")),
        json!({ "connection": "c" })
    );
}
