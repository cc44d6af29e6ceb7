//! FIFOs as files: names, modes, what stands in their place, and what becomes of them.

use super::*;

#[tokio::test]
async fn t40_names_and_modes_hold_under_every_umask() {
    for umask in ["000", "022", "077"] {
        let setup = Setup::new()
            .prelude(format!("umask {umask}"))
            .app(WHO)
            .validate("echo alice");
        let server = setup.start();
        assert_eq!(mode(&server.state("fifo")), 0o750, "umask {umask}");
        assert_eq!(mode(&server.state(GLOBAL)), 0o620, "umask {umask}");
        assert_eq!(mode(&server.state("control.sock")), 0o600, "umask {umask}");
        let client = server.connect().await;
        // It is there before the 101 is.
        let name = format!("fifo/alice:127.0.0.1:{}.fifo", port(&client));
        let path = server.state(&name);
        assert!(is_fifo(&path), "{name}");
        assert_eq!(mode(&path), 0o620, "umask {umask}");
        assert_eq!(fifo_of(&server, &client), path);
        bye(client).await;
        eventually("the FIFO goes with its connection", || !path.exists());
        server.finish();
    }
}

#[tokio::test]
async fn t40_another_user_of_the_host_cannot_write() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can become nobody");
        return;
    }
    let server = Setup::new().app(WHO).validate("echo alice").start();
    let client = server.connect().await;
    let own = fifo_of(&server, &client);
    let global = server.state(GLOBAL);
    let as_nobody = |path: &Path| {
        let mut shell = Command::new("sh");
        shell
            .args([OsStr::new("-c"), OsStr::new("echo /x > \"$0\"")])
            .arg(path);
        shell.uid(65_534).gid(65_534).output().unwrap()
    };
    for opened_up in [false, true] {
        for path in [&own, &global] {
            let output = as_nobody(path);
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(
                !output.status.success() && error.contains("ermission denied"),
                "{error}"
            );
        }
        if !opened_up {
            // The directories keep nobody out; now let the FIFOs do it themselves.
            for dir in ["", "tmp", "tmp/fifo"] {
                let dir = server.dir().join(dir);
                fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
            }
        }
    }
    assert_eq!(server.figure("fifo.records"), 0);
    bye(client).await;
    server.finish();
}

/// CarbonPHP's server never removes its FIFOs, which all may write to, in a directory that its group
/// may write to.
#[tokio::test]
async fn t40_what_carbonphp_has_left_is_cleared_away_and_its_directory_tightened() {
    let setup = Setup::new().app(WHO).set("fifo.naming", "carbonphp");
    let dir = setup.dir().join("tmp/fifo");
    let left = ["global_pipe", "7:127_0_0_1:44038", "3:[::1]:52234"];
    fs::create_dir_all(&dir).unwrap();
    for name in left {
        let path = dir.join(format!("{name}.fifo"));
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    }
    fs::set_permissions(&dir, Permissions::from_mode(0o775)).unwrap();
    let server = setup.start();
    assert_eq!(mode(&dir), 0o750);
    let names = names_in(&dir);
    let fifos: Vec<_> = names.iter().filter(|name| !name.starts_with('.')).collect();
    assert_eq!(fifos, ["global_pipe.fifo"]);
    assert_eq!(mode(&server.state(GLOBAL)), 0o620);
    server.finish();
}

#[tokio::test]
async fn fifos_that_vanish_or_are_replaced_are_made_anew() {
    let server = Setup::new().app(WHO).validate("echo alice").start();
    let mut client = server.connect().await;
    let (global, own) = (server.state(GLOBAL), fifo_of(&server, &client));
    let dir = server.state("fifo");
    let lost = || {
        let names = names_in(&dir);
        names.iter().filter(|name| name.contains(".lost-")).count()
    };
    for (path, record, answer) in [(&global, "b\n", "b"), (&own, "/b\n", "alice fifo GET /b")] {
        let before = lost();
        fs::remove_file(path).unwrap();
        eventually("it is there again", || is_ready(path));
        write(path, record);
        assert_eq!(hear(&mut client).await, answer);

        // A file of ours is not overwritten: somebody wrote it in the belief that it is a FIFO.
        let file = server.dir().join("file");
        fs::write(&file, "precious").unwrap();
        fs::rename(&file, path).unwrap();
        eventually("a FIFO again", || is_ready(path));
        assert_eq!(lost(), before + 1);
        write(path, record);
        assert_eq!(hear(&mut client).await, answer);

        // A FIFO that others made is not read.
        let foreign = server.dir().join("foreign");
        mkfifo(&foreign, Mode::S_IRWXU).unwrap();
        fs::rename(&foreign, path).unwrap();
        eventually("ours again", || is_ready(path));
        write(path, record);
        assert_eq!(hear(&mut client).await, answer);
    }
    for name in names_in(&dir).iter().filter(|name| name.contains(".lost-")) {
        assert_eq!(fs::read_to_string(dir.join(name)).unwrap(), "precious");
    }
    // The whole directory, too.
    fs::rename(&dir, server.dir().join("elsewhere")).unwrap();
    eventually("both are there again", || {
        is_ready(&global) && is_ready(&own)
    });
    write(&own, "/c\n");
    assert_eq!(hear(&mut client).await, "alice fifo GET /c");
    write(&global, "c\n");
    assert_eq!(hear(&mut client).await, "c");
    bye(client).await;
    server.finish();
}

#[test]
fn t41_what_is_not_ours_stops_the_start_and_stays_as_it_was() {
    type Plant = fn(&Path, &Path);
    let plants: [(&str, Plant); 5] = [
        ("symbolic link", |fifo, target| {
            symlink(target, fifo).unwrap();
        }),
        ("symbolic link to nothing", |fifo, target| {
            symlink(target.with_extension("nothing"), fifo).unwrap();
        }),
        ("directory", |fifo, _| fs::create_dir(fifo).unwrap()),
        ("hard link", |fifo, target| {
            fs::hard_link(target, fifo).unwrap();
        }),
        ("socket", |fifo, _| {
            drop(std::os::unix::net::UnixListener::bind(fifo).unwrap());
        }),
    ];
    for (what, plant) in plants {
        let dir = TempDir::new().unwrap();
        let state = dir.path().join("state");
        fs::create_dir_all(state.join("fifo")).unwrap();
        let (fifo, target) = (state.join(GLOBAL), dir.path().join("target"));
        fs::write(&target, "precious").unwrap();
        plant(&fifo, &target);
        let before = fs::symlink_metadata(&fifo).unwrap();
        refuses_to_start(&state, "global_pipe.fifo", what);
        let after = fs::symlink_metadata(&fifo).unwrap();
        assert_eq!(
            (before.ino(), before.mode(), before.nlink()),
            (after.ino(), after.mode(), after.nlink()),
            "{what}"
        );
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious", "{what}");
        assert_eq!(names_in(dir.path()).len(), 2, "{what}");
    }
}

#[test]
fn t41_a_fifo_of_another_user_stops_the_start() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can give a file away");
        return;
    }
    let dir = TempDir::new().unwrap();
    let fifo = dir.path().join(GLOBAL);
    fs::create_dir(dir.path().join("fifo")).unwrap();
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    std::os::unix::fs::chown(&fifo, Some(65_534), None).unwrap();
    refuses_to_start(dir.path(), "65534", "a FIFO of nobody's");
    assert_eq!(fs::metadata(&fifo).unwrap().uid(), 65_534);
}

#[test]
fn t41_a_directory_that_others_can_change_stops_the_start() {
    let dir = TempDir::new().unwrap();
    let fifos = dir.path().join("fifo");
    fs::create_dir(&fifos).unwrap();
    for mode in [0o777, 0o770, 0o757] {
        fs::set_permissions(&fifos, Permissions::from_mode(mode)).unwrap();
        refuses_to_start(dir.path(), "others may write to it", "a writable directory");
    }
    fs::remove_dir(&fifos).unwrap();
    let elsewhere = dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, &fifos).unwrap();
    refuses_to_start(dir.path(), "symbolic link", "a linked directory");
    assert!(names_in(&elsewhere).is_empty());
}

#[tokio::test]
async fn t41_a_file_of_ours_is_kept_under_another_name() {
    let setup = Setup::new().app(WHO);
    let dir = setup.dir().join("tmp/fifo");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("global_pipe.fifo"), "while you were away\n").unwrap();
    mkfifo(
        &dir.join("alice:127.0.0.1:4711.fifo"),
        Mode::S_IRUSR | Mode::S_IWUSR,
    )
    .unwrap();
    let server = setup.start();
    let names = names_in(&dir);
    let lost: Vec<_> = names
        .iter()
        .filter(|name| name.starts_with("global_pipe.fifo.lost-"))
        .collect();
    assert_eq!(lost.len(), 1, "{names:?}");
    let kept = fs::read_to_string(dir.join(lost[0])).unwrap();
    assert_eq!(kept, "while you were away\n");
    assert!(
        !names.iter().any(|name| name.contains("4711")),
        "a FIFO of a former run: {names:?}"
    );
    let mut client = server.connect().await;
    write(&server.state(GLOBAL), "hello\n");
    assert_eq!(hear(&mut client).await, "hello");
    bye(client).await;
    let log = server.finish();
    assert!(log.contains(".lost-"), "{log}");
}

#[tokio::test]
async fn a_second_server_in_the_same_directory_is_refused() {
    let server = Setup::new().app(WHO).start();
    let fifos = server.state("fifo").to_str().unwrap().to_owned();
    let output = Setup::new().set("fifo.dir", fifos).app(WHO).fail();
    assert_eq!(output.status.code(), Some(73));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("another server"), "{error}");
    // And the first one has kept everything.
    let mut client = server.connect().await;
    write(&server.state(GLOBAL), "still here\n");
    assert_eq!(hear(&mut client).await, "still here");
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn fifos_can_be_switched_off() {
    let server = Setup::new().app(WHO).set("fifo.enabled", "false").start();
    let mut client = server.connect().await;
    assert!(server.connections()[0]["fifo"].is_null());
    assert!(!server.state("fifo").exists());
    assert!(ask(&mut client, "/a").await.ends_with(" client GET /a"));
    bye(client).await;
    server.finish();

    let server = Setup::new()
        .app(WHO)
        .set("fifo.user_fifos", "false")
        .start();
    let mut client = server.connect().await;
    assert!(server.connections()[0]["fifo"].is_null());
    let names = names_in(&server.state("fifo"));
    let fifos = names.iter().filter(|name| name.ends_with(".fifo"));
    assert_eq!(fifos.collect::<Vec<_>>(), ["global_pipe.fifo"]);
    write(&server.state(GLOBAL), "hello\n");
    assert_eq!(hear(&mut client).await, "hello");
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn t42_hostile_user_ids_stay_inside_and_apart() {
    let setup = Setup::new().app("printf %s \"$WS_USER_ID\"");
    let server = setup.validate(USER_BY_PATH).start();
    // What is not `A-Z a-z 0-9 _ -` is encoded; over 150 bytes of it, there is a hash.
    let ids = [
        ("../../x", "%2E%2E%2F%2E%2E%2Fx"),
        ("..", "%2E%2E"),
        (".", "%2E"),
        ("*", "%2A"),
        ("[4]*", "%5B4%5D%2A"),
        ("?", "%3F"),
        ("4", "4"),
        ("42", "42"),
        ("420", "420"),
        ("4:127.0.0.1:1", "4%3A127%2E0%2E0%2E1%3A1"),
        ("Ab", "Ab"),
        ("aB", "aB"),
        ("%2E", "%252E"),
        ("-rf", "-rf"),
        ("~root", "~root"),
        ("é", "%C3%A9"),
        ("$(id)`id`", "%24%28id%29%60id%60"),
    ];
    let mut clients = Vec::new();
    for (id, encoded) in ids {
        let target: String = id.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let client = server
            .connect_with(&format!("/{target}"), &[])
            .await
            .unwrap();
        let encoded = encoded.replace('~', "%7E");
        let name = format!("fifo/{encoded}:127.0.0.1:{}.fifo", port(&client));
        assert_eq!(fifo_of(&server, &client), server.state(&name), "{id}");
        assert!(is_fifo(&server.state(&name)), "{id}");
        clients.push((id.to_owned(), client));
    }
    for last in ["y", "z"] {
        let id = format!("{}{last}", "x".repeat(254));
        let client = server.connect_with(&format!("/{id}"), &[]).await.unwrap();
        let fifo = fifo_of(&server, &client);
        let name = fifo.file_name().unwrap().to_str().unwrap();
        let (user, _) = name.split_once(':').unwrap();
        assert!(
            user.starts_with("sha256=") && user.len() == 7 + 64,
            "{name}"
        );
        clients.push((id, client));
    }
    let names = names_in(&server.state("fifo"));
    let count = names.iter().filter(|name| name.ends_with(".fifo")).count();
    assert_eq!(count, clients.len() + 1, "{names:?}");
    // Each leads to its own user; the message that follows proves that nothing else did.
    for (id, client) in &mut clients {
        write(&fifo_of(&server, client), "/\n");
        assert_eq!(&hear(client).await, id);
    }
    for (id, client) in &mut clients {
        assert_eq!(&ask(client, "/").await, id);
    }
    for (_, client) in clients {
        bye(client).await;
    }
    server.finish();
}

#[tokio::test]
async fn without_a_port_the_connection_id_stands_in_the_name() {
    let setup = Setup::new().app(WHO).validate("echo alice");
    let server = setup.arg("--listen").arg("unix:ws.sock").start();
    let stream = tokio::net::UnixStream::connect(server.dir().join("ws.sock"));
    let connecting = tokio_tungstenite::client_async("ws://localhost/", stream.await.unwrap());
    let (mut client, _) = connecting.await.unwrap();
    let entry = server.connections().remove(0);
    assert!(entry["port"].is_null() && entry["ip"].is_null());
    let fifo = PathBuf::from(entry["fifo"].as_str().unwrap());
    let name = format!("alice:local:{}.fifo", entry["id"].as_str().unwrap());
    assert_eq!(fifo.file_name().unwrap().to_str(), Some(&*name));
    write(&fifo, "/a\n");
    let answer = client.next().await.unwrap().unwrap();
    assert_eq!(answer.into_text().unwrap().as_str(), "alice fifo GET /a");
    client.close(None).await.unwrap();
    while let Some(Ok(_)) = client.next().await {}
    drop(client);
    server.finish();
}

#[tokio::test]
async fn t41_what_is_planted_while_the_server_runs_is_not_touched_and_outlasted() {
    let server = Setup::new().app(WHO).validate("echo alice").start();
    let mut client = server.connect().await;
    let (global, own) = (server.state(GLOBAL), fifo_of(&server, &client));
    let target = server.dir().join("target");
    fs::write(&target, "precious").unwrap();
    for path in [&global, &own] {
        fs::remove_file(path).unwrap();
        // Between the removal and this, the server may have been faster.
        let planted = path.with_extension("planted");
        symlink(&target, &planted).unwrap();
        fs::rename(&planted, path).unwrap();
    }
    // One door that is shut is no reason to shut another.
    assert_eq!(ask(&mut client, "/x").await, "alice client GET /x");
    server.send(json!({ "all": true }), "by another door");
    assert_eq!(hear(&mut client).await, "by another door");
    for path in [&global, &own] {
        assert!(fs::symlink_metadata(path).unwrap().is_symlink());
        fs::remove_file(path).unwrap();
        eventually("ours again", || is_ready(path));
    }
    write(&global, "a\n");
    assert_eq!(hear(&mut client).await, "a");
    write(&own, "/a\n");
    assert_eq!(hear(&mut client).await, "alice fifo GET /a");
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
    bye(client).await;
    server.finish();
}

#[tokio::test]
async fn t40_who_may_write_is_configured_and_everybody_only_in_as_many_words() {
    let output = Setup::new().app(WHO).set("fifo.mode", "0622").fail();
    assert_eq!(output.status.code(), Some(78));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("insecure_world_writable"), "{error}");
    for (mode_set, insecure) in [("0600", "false"), ("0660", "false"), ("0622", "true")] {
        let server = Setup::new()
            .app(WHO)
            .prelude("umask 077")
            .set("fifo.mode", mode_set)
            .set("fifo.insecure_world_writable", insecure)
            .start();
        let client = server.connect().await;
        let expected = u32::from_str_radix(mode_set, 8).unwrap();
        assert_eq!(mode(&server.state(GLOBAL)), expected);
        assert_eq!(mode(&fifo_of(&server, &client)), expected);
        bye(client).await;
        server.finish();
    }
}
