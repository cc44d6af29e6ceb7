//! Messages and visitors: what the application sees of them, and what the browser gets.

use std::io::Write;

use super::*;

#[tokio::test]
async fn a_message_is_a_uri_and_what_is_printed_the_reply() {
    for (setup, _fpm) in sites() {
        let server = setup.start();
        let mut client = enter(&server, "user=7").await;
        for (uri, reply) in [
            ("/echo/hello", "hello"),
            ("echo/without a slash", "without a slash"),
            ("/echo/{\"json\":[1]}", "{\"json\":[1]}"),
            ("/spaces", "padded"),
            ("/flushed", "first, second"),
            ("/silent", NO_OUTPUT),
            ("/blank", NO_OUTPUT),
            ("/zero", NO_OUTPUT),
            ("empty", NO_ROUTE),
            ("ping", "pong"),
        ] {
            assert_eq!(ask(&mut client, uri).await, reply, "{uri}");
        }
        // B11: with the original each of these closes the connection.
        for json in ["{\"a\":1}", "42", "true", "[1]", "\"text\""] {
            let reply = ask(&mut client, json).await;
            assert!(reply.contains(&format!("($uri = {json}).")), "{reply}");
        }
        assert_eq!(server.figure("callbacks.failed"), 0);
        bye(client).await;
        server.finish();
    }
}

#[tokio::test]
async fn binary_messages_and_replies_harm_nobody() {
    for (setup, _fpm) in sites() {
        let server = setup.start();
        let mut client = enter(&server, "user=7").await;
        // With the original this frame ends the server.
        let bytes = Message::binary(vec![0, 1, 2]);
        client.send(bytes).await.unwrap();
        assert!(next(&mut client).await.is_text() || server.figure("callbacks.failed") > 0);
        let uri = Message::binary(b"/echo/bytes".to_vec());
        client.send(uri).await.unwrap();
        assert_eq!(hear(&mut client).await, "bytes");
        say(&mut client, "/binary/3").await;
        assert_eq!(next(&mut client).await, Message::binary(vec![0xff; 3]));
        bye(client).await;
        server.finish();
    }
}

#[tokio::test]
async fn a_configured_reply_stands_above_the_two_texts_of_the_original() {
    for (setup, _fpm) in sites() {
        let server = setup.set("app.empty_reply", "nothing").start();
        let mut client = enter(&server, "user=7").await;
        for uri in ["/silent", "/blank", "/zero", "empty"] {
            assert_eq!(ask(&mut client, uri).await, "nothing", "{uri}");
        }
        bye(client).await;
        server.finish();
    }
}

#[tokio::test]
async fn who_throws_exits_or_dies_costs_one_answer_and_says_so_in_the_log() {
    for (setup, _fpm) in sites() {
        let server = setup.set("app.error_reply", "failed").start();
        let mut client = enter(&server, "user=7").await;
        for uri in ["/throw", "/exit", "/killed"] {
            assert_eq!(ask(&mut client, uri).await, "failed", "{uri}");
            assert_eq!(ask(&mut client, "/echo/next").await, "next", "{uri}");
        }
        assert_eq!(ask(&mut client, "/warn").await, "went on");
        assert_eq!(server.figure("callbacks.failed"), 3);
        assert_eq!(server.figure("connections.closed"), 0);
        bye(client).await;
        let log = server.finish();
        assert!(log.contains("thrown as asked"), "{log}");
        assert!(log.contains("#0 "), "there is a trace: {log}");
    }
}

#[tokio::test]
async fn b09_without_a_cookie_nobody_is_connected() {
    for (setup, _fpm) in sites() {
        let server = setup.start();
        assert_eq!(refused(&server, &[]).await, 401);
        assert_eq!(server.figure("callbacks.validations"), 0);
        bye(enter(&server, "user=7").await).await;
        server.finish();
    }
}

#[tokio::test]
async fn b07_user_ids_are_what_the_validation_returns_or_nobody_comes_in() {
    for (setup, _fpm) in sites() {
        let server = setup.start();
        for user in ["0", "7", "-1", "anna", "m.b@example.org", "böb"] {
            let mut client = enter(&server, &format!("user={user}")).await;
            let connections = server.connections();
            assert_eq!(connections[0]["user"], user);
            let seen = whoami(&mut client).await;
            assert_eq!(seen["information"]["userId"], user, "{seen}");
            bye(client).await;
            server.until("connections.open", 0);
        }
        // With the original the second and the third of these end the server.
        for (cookie, status) in [
            ("user=refused", 401),
            ("user=thrown", 503),
            ("user=exit", 503),
        ] {
            assert_eq!(
                refused(&server, &[("Cookie", cookie)]).await,
                status,
                "{cookie}"
            );
        }
        bye(enter(&server, "user=7").await).await;
        let log = server.finish();
        assert!(log.contains("no visitors from 127.0.0.1:"), "{log}");
    }
}

#[tokio::test]
async fn t62_each_connection_has_its_own_cookie_address_and_session() {
    for (setup, _fpm) in sites() {
        let server = setup.start();
        let mut clients = Vec::new();
        for user in ["1", "2"] {
            let session = user.repeat(26);
            add_session(&server, &session, &format!("session of {user}"));
            let cookie = format!("user={user}; PHPSESSID={session}");
            let client = enter(&server, &cookie).await;
            clients.push((user, session, cookie, client));
        }
        // Whoever connected last is whom the original takes for everybody.
        for (user, session, cookie, client) in &mut clients {
            let seen = whoami(client).await;
            assert_eq!(seen["server"]["HTTP_COOKIE"], **cookie);
            assert_eq!(seen["cookie"]["user"], **user);
            assert_eq!(seen["server"]["REMOTE_ADDR"], "127.0.0.1");
            assert_eq!(seen["session"]["id"], **session, "{seen}");
            assert_eq!(seen["session"]["user"], format!("session of {user}"));
            let information = &seen["information"];
            assert_eq!(information["userId"], **user);
            assert_eq!(information["ip"], "127.0.0.1");
            assert_eq!(information["headers"]["Cookie"], **cookie, "{information}");
            assert_eq!(information["userPipe"], true);
            assert_eq!(information["userSocket"], true);
        }
        let sessions = fs::read_dir(server.state("sessions")).unwrap().count();
        assert_eq!(sessions, 2, "messages make no sessions of their own");
        for (.., client) in clients {
            bye(client).await;
        }
        server.finish();
    }
}

#[tokio::test]
async fn b08_who_is_silent_or_slow_holds_up_nobody() {
    for (setup, _fpm) in sites() {
        before_callbacks(
            setup.dir(),
            "if (str_contains($_SERVER['HTTP_COOKIE'] ?? '', 'user=slow') && $uri === '') {
             fgets(fopen(__DIR__ . '/validation', 'r'));
         }
         if ($uri === '/wait') {
             fgets(fopen(__DIR__ . '/message', 'r'));
             echo 'waited';
             return true;
         }",
        );
        let dir = setup.dir().to_owned();
        let (mut validation, mut message) =
            (Gate::new(&dir, "validation"), Gate::new(&dir, "message"));
        let server = setup.start();
        // With the original each of these stalls everybody, the first for a minute.
        let silent = server.raw_stream();
        let mut slow = server.raw_stream();
        let head = crate::wire::head("/", &["Cookie: user=slow"]);
        slow.write_all(head.as_bytes()).unwrap();
        let mut waiting = enter(&server, "user=1").await;
        say(&mut waiting, "/wait").await;
        let mut deaf = enter(&server, "user=2").await;
        for _ in 0..16 {
            say(&mut deaf, "/bytes/500000").await;
        }
        let mut client = enter(&server, "user=7").await;
        for _ in 0..3 {
            assert_eq!(ask(&mut client, "/echo/hello").await, "hello");
        }
        message.open(1);
        assert_eq!(hear(&mut waiting).await, "waited");
        for _ in 0..16 {
            assert_eq!(hear(&mut deaf).await.len(), 500_000);
        }
        validation.open(1);
        assert!(crate::validation::read_head(&mut slow).starts_with("HTTP/1.1 101 "));
        drop((silent, slow));
        for client in [waiting, deaf, client] {
            bye(client).await;
        }
        server.finish();
    }
}

#[tokio::test]
async fn only_what_the_callback_says_is_the_reply() {
    for (setup, _fpm) in sites() {
        before_callbacks(
            setup.dir(),
            "http_response_code(403);
             header('X-WS-User: 99');
             switch ($uri) {
             case '/late':
                 register_shutdown_function(function () { echo 'late'; missing(); });
                 echo 'early';
                 return true;
             case '/full':
                 ini_set('memory_limit', '16M');
                 while (true) { $all[] = str_repeat('x', 1 << 20); }
             }",
        );
        let server = setup.set("app.error_reply", "failed").start();
        let mut client = enter(&server, "user=7").await;
        assert_eq!(ask(&mut client, "/late").await, "early");
        assert_eq!(ask(&mut client, "/full").await, "failed");
        let seen = whoami(&mut client).await;
        assert_eq!(seen["information"]["userId"], "7");
        bye(client).await;
        server.finish();
    }
}
