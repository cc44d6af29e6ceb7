//! The callbacks of `examples/callbacks`, each run by a real server.

use std::path::{Path, PathBuf};
use std::process::Command;

use tokio_tungstenite::tungstenite::{Error, Message};

use crate::support::{Client, Server, Setup, ask, bye, close_code, hear, next, say};

/// The path of an example.
fn example(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/callbacks");
    folder.join(name)
}

/// An example as a command line, with an argument: a file in the server's directory.
fn example_with(name: &str, file: &str) -> String {
    let path = example(name);
    let path = path.to_str().unwrap();
    shell_words::join([path, file])
}

fn application(setup: Setup, name: &str) -> Setup {
    setup.arg("--").arg(example(name).to_str().unwrap())
}

/// Whether callbacks find the interpreter. Without it the test says so and is over; in CI it fails.
#[expect(clippy::print_stderr, reason = "whoever runs the tests is told")]
fn has(interpreter: &str) -> bool {
    let folders = ["/usr/local/bin", "/usr/bin", "/bin"];
    let is_there = folders
        .iter()
        .any(|folder| Path::new(folder).join(interpreter).exists());
    if !is_there {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "{interpreter} is not installed"
        );
        eprintln!("skipped: {interpreter} is not installed");
    }
    is_there
}

/// The names of these users stand in a file `tokens.txt`, each behind a token.
fn with_tokens(setup: Setup) -> Setup {
    let users = "a-token alice\nb-token bob\n1000 carol\n";
    std::fs::write(setup.dir().join("tokens.txt"), users).unwrap();
    setup
        .arg("--validate")
        .arg(example_with("validate.sh", "tokens.txt"))
}

async fn connect_as(server: &Server, cookie: &str) -> Client {
    let headers = [("Cookie", cookie)];
    server.connect_with("/", &headers).await.unwrap()
}

async fn refusal(server: &Server, cookie: &str) -> u16 {
    match server.connect_with("/", &[("Cookie", cookie)]).await {
        Err(Error::Http(response)) => response.status().as_u16(),
        other => panic!("not refused: {other:?}"),
    }
}

/// Everybody asks the server who they are: the user id, by the example `echo.sh`.
async fn user(server: &Server, cookie: &str) -> String {
    let mut client = connect_as(server, cookie).await;
    let reply = ask(&mut client, "?").await;
    bye(client).await;
    reply.split(',').next().unwrap().to_owned()
}

#[tokio::test]
async fn echo_sh_names_the_user_and_numbers_the_messages() {
    let server = application(with_tokens(Setup::new()), "echo.sh").start();
    let mut alice = connect_as(&server, "token=a-token").await;
    assert_eq!(ask(&mut alice, "hi").await, "alice, message 1: hi");
    assert_eq!(ask(&mut alice, "/x?y").await, "alice, message 2: /x?y");
    bye(alice).await;
    server.finish();
}

#[tokio::test]
async fn hello_py_answers_by_path_query_and_body() {
    if !has("python3") {
        return;
    }
    let server = application(with_tokens(Setup::new()), "hello.py").start();
    let mut alice = connect_as(&server, "token=a-token").await;
    for (message, reply) in [
        ("/hello/J%C3%BCrgen", "Hello, Jürgen!"),
        ("/sum?n=1&n=2", "3"),
        ("[1, \"two\"]", r#"{"user": "alice", "got": [1, "two"]}"#),
        ("/", "Send /hello/NAME, /sum?n=1&n=2 or JSON."),
    ] {
        assert_eq!(ask(&mut alice, message).await, reply);
    }
    // An exception costs its own message.
    say(&mut alice, "not JSON").await;
    assert_eq!(ask(&mut alice, "/sum?n=1").await, "1");
    assert_eq!(server.figure("callbacks.failed_by.exit"), 1);
    bye(alice).await;
    server.finish();
}

#[tokio::test]
async fn chat_php_reaches_everybody_one_user_and_lists_them() {
    if !has("php") {
        return;
    }
    let server = application(with_tokens(Setup::new()), "chat.php").start();
    let mut alice = connect_as(&server, "token=a-token").await;
    let mut bob = connect_as(&server, "token=b-token").await;
    assert_eq!(ask(&mut alice, "/who").await, "alice, bob");
    say(&mut alice, "/say/50% off? <ü>\nyes").await;
    for client in [&mut alice, &mut bob] {
        assert_eq!(hear(client).await, "alice: 50% off? <ü>\nyes");
    }
    say(&mut alice, "/tell/bob/hello").await;
    assert_eq!(hear(&mut bob).await, "alice, to you: hello");
    assert_eq!(
        ask(&mut bob, "/tell/carol/hello").await,
        "carol is not here"
    );
    bye(alice).await;
    bye(bob).await;
    server.finish();
}

#[tokio::test]
async fn chat_sh_reaches_everybody_with_one_line() {
    let server = application(with_tokens(Setup::new()), "chat.sh").start();
    let mut alice = connect_as(&server, "token=a-token").await;
    let mut bob = connect_as(&server, "token=b-token").await;
    say(&mut bob, "two\nlines\u{7}").await;
    for client in [&mut alice, &mut bob] {
        assert_eq!(hear(client).await, "bob: twolines");
    }
    assert_eq!(ask(&mut bob, &"x".repeat(4000)).await, "That is too long.");
    bye(alice).await;
    bye(bob).await;
    server.finish();
}

#[tokio::test]
async fn headers_sh_decides_about_type_close_and_failure() {
    let setup = Setup::new().set("app.output", "cgi");
    let setup = setup.set("app.error_reply", "failed");
    let server = application(setup, "headers.sh").start();
    let mut client = server.connect().await;
    assert_eq!(
        ask(&mut client, "help").await,
        "Send /bye, /bytes or /fail."
    );
    say(&mut client, "/bytes").await;
    assert_eq!(next(&mut client).await, Message::binary(vec![1, 2, 3]));
    assert_eq!(ask(&mut client, "/fail").await, "failed");
    assert_eq!(ask(&mut client, "/bye").await, "Good bye.");
    assert_eq!(close_code(&mut client).await, 4000);
    drop(client);
    server.finish();
}

#[tokio::test]
async fn sum_py_remembers_as_long_as_the_connection() {
    if !has("python3") {
        return;
    }
    let setup = with_tokens(Setup::new()).arg("--stream");
    let server = application(setup, "sum.py").start();
    let mut alice = connect_as(&server, "token=a-token").await;
    let mut bob = connect_as(&server, "token=b-token").await;
    assert!(hear(&mut alice).await.starts_with("Hello alice, "));
    assert!(hear(&mut bob).await.starts_with("Hello bob, "));
    for (number, total) in [
        ("1", "1"),
        ("2", "3"),
        ("x", "That is no number."),
        ("-4", "-1"),
    ] {
        assert_eq!(ask(&mut alice, number).await, total);
    }
    assert_eq!(ask(&mut bob, "7").await, "7");
    assert_eq!(ask(&mut alice, "").await, "Good bye.");
    assert_eq!(close_code(&mut alice).await, 1000);
    bye(bob).await;
    let log = server.finish();
    for total in ["the total was -1", "the total was 7"] {
        assert!(log.contains(total), "{total}");
    }
}

#[tokio::test]
async fn steps_sh_tells_how_far_it_is() {
    let setup = Setup::new().set("app.output", "lines");
    let server = application(setup, "steps.sh").start();
    let mut client = server.connect().await;
    assert_eq!(ask(&mut client, "x").await, "How many steps?");
    say(&mut client, "2").await;
    for line in ["step 1 of 2", "step 2 of 2", "done"] {
        assert_eq!(hear(&mut client).await, line);
    }
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn validate_sh_knows_users_by_their_token_alone() {
    let server = application(with_tokens(Setup::new()), "echo.sh").start();
    assert_eq!(user(&server, "token=a-token").await, "alice");
    assert_eq!(user(&server, "x=1; token=1000; y=2").await, "carol");
    for cookie in [
        "",
        "token=",
        "token=1e3",
        "token=A-token",
        "token=a-token x",
        "xtoken=a-token",
        "token=a-token; token=b-token",
        "token=a-token\"; system(\"id\")",
        "token=.*",
    ] {
        assert_eq!(refusal(&server, cookie).await, 401, "{cookie:?}");
    }
    std::fs::remove_file(server.dir().join("tokens.txt")).unwrap();
    assert_eq!(refusal(&server, "token=a-token").await, 503);
    server.finish();
}

#[tokio::test]
async fn validate_py_knows_users_by_a_signature() {
    if !has("python3") {
        return;
    }
    let setup = Setup::new();
    let key = setup.dir().join("key.txt");
    std::fs::write(&key, "a key\n").unwrap();
    let cookie = |name: &str| {
        let made = Command::new(example("validate.py"))
            .arg(&key)
            .arg(name)
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .output()
            .unwrap();
        String::from_utf8(made.stdout).unwrap().trim().to_owned()
    };
    let (alice, mallory) = (cookie("alice"), cookie("mal.lory"));
    let setup = setup
        .arg("--validate")
        .arg(example_with("validate.py", "key.txt"));
    let server = application(setup, "echo.sh").start();
    assert_eq!(user(&server, &format!("a=b; {alice}")).await, "alice");
    assert_eq!(user(&server, &mallory).await, "mal.lory");
    let signature = mallory.rsplit('.').next().unwrap();
    for cookie in [
        String::new(),
        "user=alice".to_owned(),
        "user=alice.".to_owned(),
        format!("user=alice.{signature}"),
        format!("user=.{signature}"),
        format!("{alice}0"),
    ] {
        assert_eq!(refusal(&server, &cookie).await, 401, "{cookie:?}");
    }
    server.finish();
}
