//! Who is there, and who hears of it: `GET /v1/users`, `/v1/connections`, `/v1/events`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::*;

/// The user is the path of the handshake, without its slash and percent-decoded.
fn setup() -> Setup {
    let setup = Setup::new().app("echo \"$WS_USER_ID\"");
    setup.validate(r#"printf %s "${PATH_INFO#/}""#)
}

fn get(server: &Server, path: &str) -> Value {
    let (status, answer) = server.control("GET", path, "");
    assert_eq!(status, 200, "{path}: {answer}");
    serde_json::from_str(&answer).unwrap()
}

fn ids(list: &Value) -> Vec<String> {
    let list = list.as_array().unwrap().iter();
    list.map(|one| one["id"].as_str().unwrap().to_owned())
        .collect()
}

/// A stream of events, as a client reads it.
struct Events {
    reader: BufReader<UnixStream>,
    /// The last id that came.
    id: String,
    /// What came before is forgotten.
    is_reset: bool,
}

/// An event: its name and data.
type Event = (String, Value);

impl Events {
    fn open(server: &Server, query: &str, headers: &str) -> Self {
        let mut stream = UnixStream::connect(server.state("control.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!("GET /v1/events{query} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut events = Self {
            reader: BufReader::new(stream),
            id: String::new(),
            is_reset: false,
        };
        assert_eq!(events.line().as_deref(), Some("HTTP/1.1 200 OK"));
        let mut is_stream = false;
        loop {
            let line = events.line().unwrap();
            is_stream |= line == "content-type: text/event-stream";
            if line.is_empty() {
                break;
            }
        }
        assert!(is_stream);
        // What comes first tells that it listens.
        while events.id.is_empty() {
            let (name, value) = events.field().unwrap();
            events.is_reset |= (&*name, &*value) == ("event", "reset");
        }
        events
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.reader.read_line(&mut line).unwrap();
        (read > 0).then(|| line.trim_end_matches(['\r', '\n']).to_owned())
    }

    /// The next line that says something, or an empty one; sizes of chunks say nothing, and an empty
    /// line more or less does not either. `None` at the end.
    fn field(&mut self) -> Option<(String, String)> {
        loop {
            let line = self.line()?;
            // The last chunk is empty: this is an end in good order.
            if line == "0" {
                return None;
            }
            if line.is_empty() {
                return Some((String::new(), String::new()));
            }
            if let Some((name, value)) = line.split_once(": ") {
                if name == "id" {
                    value.clone_into(&mut self.id);
                }
                return Some((name.to_owned(), value.to_owned()));
            }
        }
    }

    fn next(&mut self) -> Option<Event> {
        let (mut event, mut data) = (String::new(), None);
        loop {
            let (name, value) = self.field()?;
            match &*name {
                "event" => event = value,
                "data" => data = Some(serde_json::from_str(&value).unwrap()),
                "" => {
                    if let Some(data) = data {
                        return Some((event, data));
                    }
                }
                _ => {}
            }
        }
    }

    fn expect(&mut self, name: &str) -> Value {
        let (event, data) = self.next().unwrap();
        assert_eq!(event, name, "{data}");
        data
    }
}

#[tokio::test]
async fn a_user_is_listed_with_connections_sessions_and_since_when() {
    let server = setup().start();
    assert_eq!(get(&server, "/v1/users"), json!({ "users": [] }));
    let (first, response) = {
        let client = server.connect_with("/alice", &[]).await.unwrap();
        (client, get(&server, "/v1/users/alice"))
    };
    let since = response["since"].as_f64().unwrap();
    assert_eq!(response["sessions"].as_array().unwrap().len(), 1);
    assert_eq!(response["connections"][0]["user"], "alice");
    let second = server.connect_with("/alice", &[]).await.unwrap();
    let other = server.connect_with("/a%2Fb", &[]).await.unwrap();
    let list = get(&server, "/v1/users");
    assert_eq!(ids(&list["users"]), ["a/b", "alice"]);
    let alice = json!({ "id": "alice", "connections": 2, "sessions": 2, "since": since });
    assert_eq!(list["users"][1], alice);
    // Another connection goes on where the first one was.
    bye(first).await;
    server.until("connections.open", 2);
    let alice = json!({ "id": "alice", "connections": 1, "sessions": 1, "since": since });
    assert_eq!(get(&server, "/v1/users?prefix=al")["users"][0], alice);
    assert_eq!(get(&server, "/v1/users/a%2Fb")["id"], "a/b");

    let listed = server.ws(&["ls", "--users"]);
    let listed = String::from_utf8(listed.stdout).unwrap();
    let rows: Vec<Vec<&str>> = listed
        .lines()
        .map(|line| line.split_whitespace().take(3).collect())
        .collect();
    let expected = [
        ["USER", "CONNECTIONS", "SESSIONS"],
        ["a/b", "1", "1"],
        ["alice", "1", "1"],
    ];
    assert_eq!(rows, expected);
    let json = server.ws(&["ls", "--users", "--json"]).stdout;
    let json: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(ids(&json["users"]), ["a/b", "alice"]);
    let only = server.ws(&["ls", "--user", "a/b", "--json"]).stdout;
    let only: Value = serde_json::from_slice(&only).unwrap();
    assert_eq!(only["connections"].as_array().unwrap().len(), 1);

    bye(second).await;
    bye(other).await;
    server.until("connections.open", 0);
    let (status, answer) = server.control("GET", "/v1/users/alice", "");
    assert_eq!(
        (status, &*answer),
        (404, r#"{"error":"alice has no connection"}"#)
    );
    server.finish();
}

#[tokio::test]
async fn a_list_comes_in_parts_that_make_it_up() {
    let server = setup().start();
    let mut clients = Vec::new();
    for number in 0..23 {
        let target = format!("/user{}", number % 7);
        clients.push(server.connect_with(&target, &[]).await.unwrap());
    }
    for (name, limit, count) in [("users", 3, 7), ("connections", 10, 23)] {
        let whole = ids(&get(&server, &format!("/v1/{name}"))[name]);
        assert_eq!(whole.len(), count);
        assert!(whole.is_sorted());
        let (mut parts, mut after) = (Vec::new(), String::new());
        loop {
            let part = get(&server, &format!("/v1/{name}?limit={limit}{after}"));
            let part_ids = ids(&part[name]);
            assert!(part_ids.len() <= limit);
            parts.extend(part_ids);
            let Some(next) = part["next"].as_str() else {
                break;
            };
            assert_eq!(parts.last().map(String::as_str), Some(next));
            after = format!("&after={next}");
        }
        assert_eq!(parts, whole);
    }
    let of_user = get(&server, "/v1/connections?user=user1");
    assert_eq!(ids(&of_user["connections"]).len(), 4);
    let session = &of_user["connections"][0]["session"].as_str().unwrap();
    let of_session = get(&server, &format!("/v1/connections?session={session}"));
    assert_eq!(ids(&of_session["connections"]).len(), 1);
    let of_both = format!("/v1/connections?session={session}&user=user2");
    assert_eq!(get(&server, &of_both), json!({ "connections": [] }));
    for wrong in [
        "/v1/users?limit=0",
        "/v1/users?limit=x",
        "/v1/users?limt=1",
        "/v1/users/a%20b",
        "/v1/connections?user=a%20b",
        "/v1/connections?session=x",
        "/v1/connections?after=x",
        "/v1/events?events=opened",
        "/v1/events?user=a%20b",
    ] {
        let (status, answer) = server.control("GET", wrong, "");
        assert_eq!(status, 400, "{wrong}: {answer}");
    }
    for client in clients {
        bye(client).await;
    }
    server.finish();
}

#[tokio::test]
async fn connections_are_listed_with_their_traffic_if_that_is_asked_for() {
    let server = Setup::new().arg("--echo").start();
    let mut busy = server.connect().await;
    say(&mut busy, "hello").await;
    assert_eq!(hear(&mut busy).await, "hello");
    let plain = get(&server, "/v1/connections");
    assert!(plain["connections"][0].get("received").is_none(), "{plain}");
    let idle = server.connect().await;
    let list = get(&server, "/v1/connections?traffic=true");
    let mut counts: Vec<[u64; 5]> = list["connections"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            [
                "received",
                "received_bytes",
                "sent",
                "sent_bytes",
                "waiting_bytes",
            ]
            .map(|name| one[name].as_u64().unwrap())
        })
        .collect();
    counts.sort_unstable();
    // Of what is sent, the frames count; of what is received, the payloads.
    assert_eq!(counts, [[0, 0, 0, 0, 0], [1, 5, 1, 7, 0]]);
    bye(busy).await;
    bye(idle).await;
    server.finish();
}

#[tokio::test]
async fn users_of_any_name_are_listed_and_found() {
    let server = setup().start();
    let long = "x".repeat(255);
    let names = [
        "*",
        "..",
        "a/b",
        "a?b#c",
        "%2F",
        "\"'`$(id)",
        "<b>",
        "Jörg",
        "日本",
        &long,
    ];
    let encode =
        |name: &str| -> String { name.bytes().map(|byte| format!("%{byte:02X}")).collect() };
    let mut clients = Vec::new();
    let mut events = Events::open(&server, "?events=online", "");
    for name in names {
        let target = format!("/{}", encode(name));
        clients.push(server.connect_with(&target, &[]).await.unwrap());
        assert_eq!(events.expect("online")["user"], name);
        let user = get(&server, &format!("/v1/users/{}", encode(name)));
        assert_eq!(user["id"], name);
        assert_eq!(ids(&user["connections"]).len(), 1);
        let only = get(&server, &format!("/v1/connections?user={}", encode(name)));
        assert_eq!(only["connections"], user["connections"]);
        let prefix = get(&server, &format!("/v1/users?prefix={}", encode(name)));
        assert_eq!(ids(&prefix["users"]), [name]);
    }
    let mut sorted = names.map(str::to_owned).to_vec();
    sorted.sort();
    assert_eq!(ids(&get(&server, "/v1/users")["users"]), sorted);
    for client in clients {
        bye(client).await;
    }
    drop(events);
    server.finish();
}

#[tokio::test]
async fn events_tell_who_comes_and_goes_in_order() {
    let server = setup().start();
    let mut all = Events::open(&server, "", "");
    let mut offline = Events::open(&server, "?user=alice&events=offline", "");
    server.until("events.listeners", 2);
    let first = server.connect_with("/alice", &[]).await.unwrap();
    let second = server.connect_with("/alice", &[]).await.unwrap();
    let other = server.connect_with("/bob", &[]).await.unwrap();
    let opened = all.expect("open");
    assert_eq!(opened["user"], "alice");
    assert_eq!(opened["connections"], 1);
    assert_eq!(all.expect("online"), opened);
    assert_eq!(all.expect("open")["connections"], 2);
    assert_eq!(all.expect("open")["user"], "bob");
    assert_eq!(all.expect("online")["user"], "bob");
    let generation = opened["generation"].as_u64().unwrap();

    let connection = opened["connection"].as_str().unwrap();
    let path = format!("/v1/connections/{connection}?code=4001");
    assert_eq!(server.control("DELETE", &path, "").0, 200);
    bye(first).await;
    let closed = all.expect("close");
    assert_eq!(closed["connection"], opened["connection"]);
    assert_eq!(closed["session"], opened["session"]);
    assert_eq!(closed["connections"], 1);
    assert_eq!(
        (&closed["code"], &closed["cause"]),
        (&json!(4001), &json!("revoked"))
    );
    assert_eq!(closed["generation"], generation + 3);
    bye(other).await;
    assert_eq!(all.expect("close")["user"], "bob");
    assert_eq!(all.expect("offline")["user"], "bob");
    bye(second).await;
    assert_eq!(all.expect("close")["user"], "alice");
    let gone = all.expect("offline");
    assert_eq!(
        (&gone["user"], &gone["cause"]),
        (&json!("alice"), &json!("peer"))
    );
    // Nothing else came before that.
    assert_eq!(offline.expect("offline"), gone);
    assert_eq!(all.id, gone["generation"].to_string());
    drop((all, offline));
    server.until("events.listeners", 0);
    server.finish();
}

#[tokio::test]
async fn who_comes_back_to_the_events_goes_on_where_it_was() {
    let server = setup().start();
    let mut before = Events::open(&server, "", "");
    let first = server.connect_with("/alice", &[]).await.unwrap();
    before.expect("open");
    before.expect("online");
    let (id, before_reset) = (before.id.clone(), before.is_reset);
    drop(before);
    server.until("events.listeners", 0);
    let second = server.connect_with("/bob", &[]).await.unwrap();
    let mut after = Events::open(&server, "", &format!("Last-Event-ID: {id}\r\n"));
    assert!(!before_reset && !after.is_reset);
    assert_eq!(after.expect("open")["user"], "bob");
    assert_eq!(after.expect("online")["user"], "bob");
    // Of another time.
    for last in ["1", "x", "99999999999999999999"] {
        let mut lost = Events::open(&server, "", &format!("Last-Event-ID: {last}\r\n"));
        assert_eq!(lost.id, after.id);
        let (_, third) = (
            server.figure("connections.open"),
            server.connect_with("/eve", &[]).await,
        );
        assert_eq!(lost.expect("open")["user"], "eve");
        bye(third.unwrap()).await;
        server.until("connections.open", 2);
        after.expect("open");
        after.expect("online");
        after.expect("close");
        after.expect("offline");
    }
    bye(first).await;
    bye(second).await;
    drop(after);
    server.finish();
}

#[tokio::test]
async fn a_listener_that_does_not_read_holds_up_nobody() {
    let setup = setup().set("control.max_listeners", "2");
    let server = setup.start();
    let stalled = Events::open(&server, "", "");
    let mut reading = Events::open(&server, "?events=online", "");
    let (status, answer) = server.control("GET", "/v1/events", "");
    assert_eq!(status, 503, "{answer}");
    assert!(answer.contains("control.max_listeners is 2"), "{answer}");
    for _ in 0..100 {
        let client = server.connect_with("/alice", &[]).await.unwrap();
        assert_eq!(reading.expect("online")["user"], "alice");
        bye(client).await;
        server.until("connections.open", 0);
    }
    drop((stalled, reading));
    server.until("events.listeners", 0);
    server.finish();
}

#[tokio::test]
async fn events_of_the_drain_are_told_and_the_stream_ends_in_good_order() {
    let server = setup().start();
    let mut events = Events::open(&server, "?events=offline", "");
    let mut told = Command::new(env!("CARGO_BIN_EXE_ws"))
        .args(["events", "--only", "offline", "--json"])
        .current_dir(server.dir())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    server.until("events.listeners", 2);
    let mut clients = Vec::new();
    for user in ["/alice", "/bob", "/carol"] {
        clients.push(server.connect_with(user, &[]).await.unwrap());
    }
    server.signal(Signal::SIGTERM);
    for client in &mut clients {
        assert_eq!(close_code(client).await, 1001);
    }
    for client in clients {
        bye(client).await;
    }
    let mut left = BTreeMap::new();
    while let Some((name, data)) = events.next() {
        assert_eq!(name, "offline");
        left.insert(
            data["user"].as_str().unwrap().to_owned(),
            data["code"].clone(),
        );
    }
    let codes = ["alice", "bob", "carol"].map(|user| (user.to_owned(), json!(1001)));
    assert_eq!(left, BTreeMap::from(codes));
    server.check_end();
    let mut output = String::new();
    std::io::Read::read_to_string(&mut told.stdout.take().unwrap(), &mut output).unwrap();
    assert!(told.wait().unwrap().success());
    let mut users: Vec<Value> = output
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["user"].clone())
        .collect();
    users.sort_by_key(Value::to_string);
    assert_eq!(users, ["alice", "bob", "carol"]);
}
