//! Pushes, from the application's web requests and from its messages.

use super::*;

#[tokio::test]
async fn a_web_request_reaches_one_user_and_everybody() {
    for (setup, _fpm) in sites() {
        let server = setup.start();
        let mut anna = enter(&server, "user=anna").await;
        let mut second = enter(&server, "user=anna").await;
        let mut other = enter(&server, "user=7").await;
        elsewhere(
            &server,
            "CarbonPHP\\Abstracts\\Pipe::sendToFifoChannel('anna', '/echo/for anna');
         CarbonPHP\\Programs\\WebSocket::sendToAllWebsSocketConnections('for everybody');",
        );
        for client in [&mut anna, &mut second] {
            let mut heard = [hear(client).await, hear(client).await];
            heard.sort();
            assert_eq!(heard, ["for anna", "for everybody"]);
        }
        assert_eq!(hear(&mut other).await, "for everybody");
        for client in [anna, second, other] {
            bye(client).await;
        }
        server.finish();
    }
}

/// CarbonPHP's writers look for names that begin with the user's, so that user 1 means 10 as well.
/// What they write is theirs; whom it runs as is not.
#[tokio::test]
async fn b04_what_reaches_the_fifo_of_user_10_runs_as_user_10() {
    for (setup, _fpm) in sites() {
        let server = setup.start();
        let mut one = enter(&server, "user=1").await;
        let mut ten = enter(&server, "user=10").await;
        push(&server, "1", "/whoami");
        for (client, user) in [(&mut one, "1"), (&mut ten, "10")] {
            let seen: Value = serde_json::from_str(&hear(client).await).unwrap();
            assert_eq!(seen["information"]["userId"], user);
            assert_eq!(seen["cookie"]["user"], user);
        }
        // The colon behind the id is what tells them apart.
        push(&server, "1:", "/whoami");
        assert!(hear(&mut one).await.contains("\"userId\":\"1\""));
        assert_eq!(ask(&mut ten, "/echo/next").await, "next");
        bye(one).await;
        bye(ten).await;
        server.finish();
    }
}

#[tokio::test]
async fn t47_any_record_reaches_the_application_and_only_the_delimiter_ends_it() {
    let Some(setup) = site() else { return };
    let server = setup.start();
    let mut client = enter(&server, "user=7").await;
    for text in [
        "echo/no slash",
        "/echo/{\"a\": [1, 2]}",
        "/echo/two\nlines",
        "/echo/ümläut",
    ] {
        push(&server, "7", text);
        let expected = text.trim_start_matches('/').strip_prefix("echo/").unwrap();
        assert_eq!(hear(&mut client).await, expected);
    }
    let long = "x".repeat(100_000);
    push(&server, "7", &format!("/echo/{long}"));
    assert_eq!(hear(&mut client).await, long);
    // Half a delimiter is none.
    write(&fifo_of(&server, &client), format!("/echo/a{DELIMITER}"));
    assert_eq!(ask(&mut client, "/echo/next").await, "next");
    assert_eq!(server.figure("fifo.refused_by.not_uri"), 0);
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn t40_fifos_are_for_the_group_and_for_nobody_else() {
    use std::os::unix::fs::MetadataExt;
    let Some(setup) = site() else { return };
    let server = setup.prelude("umask 000").start();
    let client = enter(&server, "user=7").await;
    let fifo = fifo_of(&server, &client);
    let name = fifo.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("7:127_0_0_1:"), "{name}");
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(&fifo), 0o660);
    assert_eq!(mode(&server.state("fifo/global_pipe.fifo")), 0o660);
    assert_eq!(mode(&server.state("fifo")), 0o750);
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn a_message_pushes_to_itself_to_others_and_to_everybody() {
    for (setup, _fpm) in sites() {
        let server = setup.start();
        let mut first = enter(&server, "user=1").await;
        let mut second = enter(&server, "user=2").await;
        say(&mut first, "/broadcast/hello all").await;
        let mut heard = [hear(&mut first).await, hear(&mut first).await];
        heard.sort();
        assert_eq!(heard, ["broadcast", "hello all"]);
        assert_eq!(hear(&mut second).await, "hello all");
        assert_eq!(ask(&mut first, "/notify/2/hello two").await, "notified");
        assert_eq!(hear(&mut second).await, "hello two");
        for way in ["frame", "raw", "send"] {
            assert_eq!(
                ask(&mut first, &format!("/self/{way}/hello me")).await,
                "hello me",
                "{way}"
            );
            hear(&mut first).await;
        }
        bye(first).await;
        bye(second).await;
        server.finish();
    }
}

#[tokio::test]
async fn an_application_that_asks_sees_who_is_connected() {
    for (setup, _fpm) in sites() {
        let server = setup.set("carbonphp.connections", "always").start();
        let mut first = enter(&server, "user=1").await;
        let second = enter(&server, "user=2").await;
        let users: Value = serde_json::from_str(&ask(&mut first, "/users").await).unwrap();
        let mut names: Vec<_> = users[0]
            .as_object()
            .unwrap()
            .iter()
            .map(|(key, it)| format!("{} {}", key.split(':').next().unwrap(), it[0]))
            .collect();
        names.sort();
        assert_eq!(names, ["1 \"1\"", "2 \"2\""], "{users}");
        bye(first).await;
        bye(second).await;
        server.finish();
    }
}

/// It is what `SendToUserPipe` was meant to be.
#[tokio::test]
async fn ws_send_and_ws_run_find_the_server_beside_the_application() {
    let Some(setup) = site() else { return };
    let server = setup.start();
    let mut client = enter(&server, "user=7").await;
    for args in [
        &["send", "--user", "7", "from a shell"][..],
        &["run", "--user", "7", "echo/from a shell"],
    ] {
        let output = server.ws(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        assert_eq!(hear(&mut client).await, "from a shell");
    }
    assert_eq!(
        server.ws(&["send", "--user", "70", "x"]).status.code(),
        Some(75)
    );
    // Also where a file names the application, whatever else only it could tell.
    let file = "[carbonphp]\nindex = 'index.php'\n[app]\nwatch = ['vendor']\n\
                [server]\nlisten = ['wss://127.0.0.1:0']\n";
    fs::write(server.dir().join("ws.toml"), file).unwrap();
    assert!(server.ws(&["send", "--all", "x"]).status.success());
    assert_eq!(hear(&mut client).await, "x");
    bye(client).await;
    server.finish();
}
