//! What the application is asked before anything is bound, and what is said if it does not answer.

use super::*;

/// What a start that fails says, with its exit code.
fn failure(setup: Setup) -> (Option<i32>, String) {
    let output = setup.fail();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said)
}

fn ws(dir: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_ws"))
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
fn what_the_application_configures_is_shown_and_stands_below_all_else() {
    let Some(setup) = site() else { return };
    let code =
        "['configuration' => ['SOCKET' => ['HOST' => 'localhost', 'PORT' => 1234, 'DEV' => true]],
                 'before' => fn () => CarbonPHP\\Programs\\WebSocket::$streamSelectSeconds = 7]";
    configure(setup.dir(), code);
    let dir = setup.dir();
    let (status, shown, _) = ws(dir, &["carbonphp", "check", "index.php", "--json"]);
    assert_eq!(status, Some(0));
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["report"]["callbacks"]["validate"], "application");
    let settings = &shown["settings"];
    assert_eq!(settings["server"]["listen"], json!(["ws://localhost:1234"]));
    assert_eq!(settings["log"]["stats_interval"], "7s");
    assert_eq!(settings["log"]["level"], "debug");
    let delimiter = settings["fifo"]["delimiter"].as_str().unwrap();
    assert!(delimiter.starts_with(DELIMITER) && delimiter.ends_with('\n'));
    // What is printed is a configuration without the application.
    let (_, printed, _) = ws(dir, &["carbonphp", "check", "index.php"]);
    fs::write(dir.join("printed.toml"), &printed).unwrap();
    let (status, _, said) = ws(dir, &["config", "check", "--config", "printed.toml"]);
    assert_eq!(status, Some(0), "{said}");
    // What is written stands above.
    let file = "[carbonphp]\nindex = 'index.php'\n[server]\nlisten = ['127.0.0.1:1']\n";
    fs::write(dir.join("ws.toml"), file).unwrap();
    let (_, printed, _) = ws(dir, &["config", "print", "--json"]);
    let printed: Value = serde_json::from_str(&printed).unwrap();
    let settings = &printed["settings"];
    assert_eq!(settings["server"]["listen"], json!(["127.0.0.1:1"]));
    assert_eq!(settings["log"]["stats_interval"], "7s");
    assert_eq!(settings["identity"]["require_cookie"], true);
    let source = &printed["sources"]["log.stats_interval"][0];
    assert_eq!(source["kind"], "application");
    let name = source["name"].as_str().unwrap();
    assert!(
        name.ends_with("/index.php (WebSocket::$streamSelectSeconds)"),
        "{name}"
    );
}

#[test]
fn the_start_says_in_one_line_what_was_taken() {
    let Some(setup) = site() else { return };
    let index = setup.dir().join("index.php");
    let log = setup.start().finish();
    let told = records(&log, "application of CarbonPHP's");
    assert_eq!(told.len(), 1, "{log}");
    assert_eq!(told[0]["index"], index.to_str().unwrap());
    assert_eq!(told[0]["port"], 8888);
}

#[test]
fn what_is_missing_is_78_and_named() {
    let (code, said) = failure(Setup::new().arg("--carbonphp").arg("nowhere.php"));
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("/nowhere.php: "), "{said}");
    let Some(setup) = site() else { return };
    let (code, said) = failure(setup.set("carbonphp.php", "php-that-is-not-here"));
    assert_eq!(code, Some(78), "{said}");
    assert!(
        said.contains("there is no program php-that-is-not-here"),
        "{said}"
    );
    // A program that is no PHP, and one that lacks what the bridge needs.
    let setup = site().unwrap();
    let old = setup.script("old-php", "#!/bin/sh\necho; echo 70433 7.4.33\nexit 255\n");
    let (code, said) = failure(setup.set("carbonphp.php", old.to_str().unwrap()));
    assert_eq!(code, Some(78), "{said}");
    assert!(
        said.contains("PHP 7.4.33 is too old; 8.2 or later"),
        "{said}"
    );
    let without = "php -d disable_functions=pcntl_fork";
    let setup = site().unwrap().set("carbonphp.php", without);
    configure(setup.dir(), "['before' => fn () => exit(1)]");
    let (code, said) = failure(setup);
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("lacks pcntl"), "{said}");
}

#[test]
fn an_application_that_does_not_come_to_its_command_is_1_and_its_last_words_are_shown() {
    for (code, words) in [
        (
            "fn () => throw new Exception('no database today')",
            "no database today",
        ),
        ("fn () => exit(3)", "exit status: 3"),
        (
            "fn () => exit(0)",
            "ended without running its command websocket",
        ),
    ] {
        let Some(setup) = site() else { return };
        configure(setup.dir(), &format!("['before' => {code}]"));
        let state = setup.dir().join("tmp/control.sock");
        let (status, said) = failure(setup);
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains(words), "{said}");
        assert!(said.contains("/index.php: the application "), "{said}");
        assert!(!state.exists());
    }
}

#[test]
fn the_bridge_that_is_printed_is_the_one_that_is_used() {
    let Some(setup) = site() else { return };
    let (status, printed, _) = ws(setup.dir(), &["carbonphp", "bridge"]);
    assert_eq!(status, Some(0));
    let server = setup.start();
    let used = fs::read_to_string(server.state(BRIDGE)).unwrap();
    assert!(printed.starts_with("<?php\n") && printed == used);
    server.finish();
}

/// It lies where a web server may reach it.
#[tokio::test]
async fn the_bridge_is_no_page_for_who_asks_a_web_server_for_it() {
    for (setup, fpm) in sites() {
        if fpm.is_none() {
            continue;
        }
        let server = setup.set("app.params.WS_CARBONPHP_INDEX", "").start();
        assert_eq!(refused(&server, &[("Cookie", "user=7")]).await, 503);
        let log = server.finish();
        assert!(log.contains("status 404"), "{log}");
        assert!(!log.contains("PHP message"), "nothing has run: {log}");
    }
}

#[tokio::test]
async fn an_entry_script_of_ones_own_is_run_in_place_of_the_bridge() {
    for (setup, fpm) in sites() {
        if fpm.is_none() {
            continue;
        }
        let script = setup.dir().join("own.php");
        fs::write(&script, "<?php header('X-WS-User: 7'); echo 'my own';").unwrap();
        let server = setup
            .set("app.params.SCRIPT_FILENAME", script.to_str().unwrap())
            .start();
        let mut client = enter(&server, "user=7").await;
        assert_eq!(ask(&mut client, "/echo/hello").await, "my own");
        assert!(!server.state(BRIDGE).exists());
        bye(client).await;
        server.finish();
    }
}
