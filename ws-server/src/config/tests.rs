use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn raw(value: serde_json::Value) -> RawConfig {
    serde_json::from_value(value).unwrap()
}

fn check(value: serde_json::Value) -> Result<Config, InvalidConfig> {
    Config::from_raw(&raw(value), "/srv".as_ref())
}

fn faults(value: serde_json::Value) -> Vec<String> {
    check(value)
        .unwrap_err()
        .faults()
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn nothing_written_is_the_demo_on_loopback() {
    let config = check(json!({})).unwrap();
    assert_eq!(config.server().state_dir, Path::new("/srv/tmp"));
    assert_eq!(config.fifo().dir, Path::new("/srv/tmp/fifo"));
    assert_eq!(config.control_socket(), Path::new("/srv/tmp/control.sock"));
    assert_eq!(config.limits().max_message_size, 1 << 20);
    assert_eq!(config.limits().ping_interval, Some(Duration::from_secs(25)));
    assert_eq!(config.fifo().mode, 0o620);
    assert_eq!(config.origin().allow, [OriginRule::SameOrigin]);
    assert!(matches!(config.app().backend, AppBackend::Demo));
    assert!(matches!(config.validate().backend, ValidateBackend::None));
    assert!(config.app().ping && config.serves_console() && config.is_local_only());
}

/// `UPDATE_REFERENCE=1 cargo test -p ws-server reference` writes it.
#[test]
fn the_reference_in_the_documentation_is_that_of_the_settings() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/configuration.md");
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, reference()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let hint = "stale: UPDATE_REFERENCE=1 cargo test -p ws-server reference";
    assert!(written == reference(), "{} is {hint}", path.display());
    for setting in settings::SETTINGS {
        assert!(written.contains(&format!("\n### `{}`\n", setting.path)));
    }
}

#[test]
fn a_reload_takes_what_is_live_and_names_what_is_not() {
    let base = json!({
        "server": { "listen": ["127.0.0.1:1"] },
        "origin": { "allow": ["https://a.example"] },
        "app": { "command": "cat", "env": { "A": "1" }, "params": { "P": "1" } },
        "identity": { "store": "redis://:canary1@host" },
    });
    let old = check(base.clone()).unwrap();
    let mut other = base.clone();
    // Written as it was by default, or in another way, nothing is changed.
    other["limits"] = json!({ "max_handshakes": "4096", "ping_interval": "25s" });
    assert_eq!(
        old.reloaded(&check(other.clone()).unwrap())
            .unwrap()
            .changes(),
        []
    );
    other["server"]["listen"] = json!(["127.0.0.1:2"]);
    other["limits"] = json!({ "ping_interval": "off" });
    other["app"]["timeout"] = json!("5s");
    other["app"]["env"] = json!({ "A": "canary3" });
    other["app"]["params"] = json!({ "P": "2", "Q": "3" });
    other["identity"]["store"] = json!("redis://:canary2@other");
    other["origin"] = json!({});
    let new = check(other).unwrap();
    let reloaded = old.reloaded(&new).unwrap();
    let changes = reloaded.changes().iter().map(|change| {
        let (old, new) = (change.old(), change.new_value());
        format!("{} {old} {new} {:?}", change.path(), change.applies())
    });
    let expected = [
        r#"server.listen ["127.0.0.1:1"] ["127.0.0.1:2"] Restart"#,
        r#"origin.allow ["https://a.example"] ["same-origin"] Live"#,
        r#"limits.ping_interval "25s" "off" Live"#,
        r#"identity.store "redis://:***@host" "redis://:***@other" Restart"#,
        r#"app.params {"P":"***"} {"P":"***","Q":"***"} Live"#,
        r#"app.timeout "30s" "5s" Live"#,
        r#"app.env {"A":"***"} {"A":"***"} Restart"#,
    ];
    assert_eq!(changes.collect::<Vec<_>>(), expected);
    let held = reloaded.into_config();
    assert_eq!(held.server().listen[0].to_string(), "127.0.0.1:1");
    assert_eq!(held.limits().ping_interval, None);
    assert_eq!(held.app().timeout, Duration::from_secs(5));
    assert_eq!(held.identity().store.to_string(), "redis://:***@host");
    assert_eq!(held.origin().allow, [OriginRule::SameOrigin]);
    // What waits for a restart is named each time.
    assert_eq!(held.reloaded(&new).unwrap().changes().len(), 3);
    assert_eq!(held.reloaded(&held).unwrap().changes(), []);
}

#[test]
fn a_reload_that_does_not_go_with_what_needs_a_restart_is_refused() {
    let old = check(json!({ "control": { "idempotency_receipts": 1000 } })).unwrap();
    let new = json!({ "control": { "idempotency_receipts": 5000, "max_batch": 5000 } });
    let invalid = old.reloaded(&check(new).unwrap()).unwrap_err();
    assert_eq!(invalid.faults()[0].path(), "control.idempotency_receipts");
    let development = check(json!({})).unwrap().for_development().unwrap();
    let held = development.reloaded(&check(json!({})).unwrap()).unwrap();
    assert!(held.config().is_local_only());
}

/// Whatever half of a section waits for a restart, the rest of the file is applied.
#[test]
fn a_live_setting_that_means_nothing_without_one_that_waits_waits_with_it() {
    let cases = [
        #[cfg(feature = "otel")]
        (
            json!({}),
            json!({ "trace": { "endpoint": "http://127.0.0.1:1", "sample_ratio": "0.5" } }),
            "trace.sample_ratio",
        ),
        (
            json!({ "app": { "command": "cat", "backend": "stream" } }),
            json!({ "app": { "command": "cat", "events": ["open"] } }),
            "app.events",
        ),
    ];
    for (old, mut new, waits) in cases {
        let old = check(old).unwrap();
        new["limits"] = json!({ "ping_interval": "7s" });
        let new = check(new).unwrap();
        let reloaded = old.reloaded(&new).unwrap();
        let found = reloaded.changes().iter().find(|it| it.path() == waits);
        assert_eq!(found.unwrap().applies(), Applies::Restart, "{waits}");
        let held = reloaded.into_config();
        assert_eq!(held.limits().ping_interval, Some(Duration::from_secs(7)));
        // Nor is the next one refused.
        assert!(held.reloaded(&new).is_ok());
    }
}

/// Each setting in turn is changed, as far as the example or the kind of its default lets us: what
/// is applied without a restart is the new value, everything else the old one.
#[test]
fn every_setting_is_applied_as_it_is_classified() {
    let old = check(json!({})).unwrap();
    let (mut live, mut restart) = (0, 0);
    for setting in settings::SETTINGS {
        let values: Vec<RawValue> = match setting.default {
            settings::DefaultValue::Flag(value) => vec![(!value).into()],
            settings::DefaultValue::Number(value) => {
                vec![(value + 1).into(), (value - 1).into(), 1000.into()]
            }
            settings::DefaultValue::Text(_) => {
                let texts = [
                    "7s", "7KiB", "off", "on", "x", "0600", "a.b", "memory", "warn", "json",
                ];
                texts.map(RawValue::from).to_vec()
            }
            settings::DefaultValue::List(_) => {
                vec![
                    vec!["10.0.0.1"].into(),
                    vec!["https://b.example"].into(),
                    vec!["open"].into(),
                ]
            }
            settings::DefaultValue::Table => {
                let entry = BTreeMap::from([("A".to_owned(), RawValue::from("1"))]);
                vec![RawKind::Table(entry).into()]
            }
            settings::DefaultValue::Absent(example) => {
                let value = serde_json::from_str::<RawValue>(&example.replace(" = ", ": "));
                value.map(|value| vec![value]).unwrap_or_default()
            }
        };
        let others = values.into_iter();
        let mut others = others.filter(|value| setting.default_value().as_ref() != Some(value));
        let changed = others.find_map(|value| {
            let mut raw = RawConfig::default();
            raw.set(setting.path, value);
            Config::from_raw(&raw, "/srv".as_ref()).ok()
        });
        // What needs others beside it to be valid is covered by its neighbours.
        let Some(changed) = changed else { continue };
        let reloaded = old.reloaded(&changed).unwrap();
        let changes: Vec<_> = reloaded.changes().iter().map(Change::path).collect();
        assert_eq!(changes, [setting.path]);
        let value = |config: &Config| {
            let found = config.effective().find(|(path, _)| *path == setting.path);
            found.map(|(_, value)| serde_json::to_string(&value).unwrap())
        };
        let expected = match setting.applies {
            Applies::Live => {
                live += 1;
                value(&changed)
            }
            Applies::Restart => {
                restart += 1;
                value(&old)
            }
        };
        assert_eq!(value(reloaded.config()), expected, "{}", setting.path);
    }
    assert!(live > 45 && restart > 45, "{live} {restart}");
}

#[test]
fn every_setting_is_read_and_named_once() {
    // Each setting in turn is given a value of a type that none has.
    for (at, setting) in settings::SETTINGS.iter().enumerate() {
        let mut raw = RawConfig::default();
        raw.set(setting.path, RawValue::from(RawKind::Float(0.5)));
        let faults = Config::from_raw(&raw, "/".as_ref())
            .map(|_| ())
            .unwrap_err();
        assert!(
            faults
                .faults()
                .iter()
                .any(|fault| fault.path() == setting.path),
            "{setting:?}"
        );
        assert!(
            settings::SETTINGS[..at]
                .iter()
                .all(|other| other.path != setting.path)
        );
    }
}

#[test]
fn all_faults_are_reported_at_once_with_their_paths() {
    let found = faults(json!({
        "server": { "listn": [], "threads": "many" },
        "limits": { "max_message_size": "1MB", "ping_interval": 25, "max_connections": 0 },
        "limit": {},
        "max_connections": 5,
        "app": { "backend": "exec", "trim": "some", "env": { "1A": "x" } },
        "fifo": 7,
    }));
    let expected = [
        "fifo: expected a table, found an integer",
        "limit: unknown key, did you mean limits?",
        "max_connections: unknown key, did you mean limits.max_connections?",
        "server.listn: unknown key, did you mean server.listen?",
        "server.threads: \"many\" is not an integer",
        "limits.max_message_size: \"1MB\" is not a size like \"64KiB\" (B, KiB, MiB, GiB)",
        "limits.max_connections: 0 is not between 1 and 1000000",
        "limits.ping_interval: expected a duration like \"30s\", found an integer",
        "app.env: \"1A\" is not the name of an environment variable",
        "app.command: is needed by backend = \"exec\"",
        "app.trim: \"some\" is not one of \"newlines\", \"all\", \"none\"",
    ];
    assert_eq!(found, expected);
}

#[test]
fn listeners_have_what_their_addresses_ask_for() {
    let with = |listen: &str, tls: serde_json::Value, trusted: &[&str]| {
        check(json!({
            "server": { "listen": [listen], "tls": tls, "proxy": { "trusted": trusted } },
        }))
    };
    let files = json!({ "cert": "cert.pem", "key": "/etc/key.pem", "client_ca": "" });
    let config = with("wss://127.0.0.1:0", files, &[]).unwrap();
    let Tls::Files(files) = &config.server().tls else {
        panic!("there are files")
    };
    let paths: Vec<_> = files.files().collect();
    assert_eq!(
        paths,
        [Path::new("/srv/cert.pem"), Path::new("/etc/key.pem")]
    );

    for (listen, tls, trusted, is_valid) in [
        ("ws://127.0.0.1:0", json!({}), &[][..], true),
        ("wss://127.0.0.1:0", json!({}), &[], false),
        ("wss+unix:a", json!({ "self_signed": true }), &[], true),
        ("wss://127.0.0.1:0", json!({ "cert": "a" }), &[], false),
        ("ws://127.0.0.1:0", json!({ "key": "a" }), &[], false),
        ("ws://127.0.0.1:0", json!({ "client_ca": "a" }), &[], false),
        (
            "wss://127.0.0.1:0",
            json!({ "cert": "a", "key": "a", "self_signed": true }),
            &[],
            false,
        ),
        ("ws+proxy://127.0.0.1:0", json!({}), &[], false),
        ("ws+proxy://127.0.0.1:0", json!({}), &["127.0.0.1"], true),
        ("systemd+proxy:a", json!({}), &["unix"], true),
    ] {
        let checked = with(listen, tls.clone(), trusted);
        assert_eq!(
            checked.is_ok(),
            is_valid,
            "{listen} {tls} {trusted:?}: {checked:?}"
        );
    }
}

#[test]
fn further_certificates_are_a_list_of_tables() {
    let with = |certificates: serde_json::Value| {
        json!({ "server": { "tls": {
            "cert": "a.pem", "key": "a.key", "certificates": certificates,
        } } })
    };
    let list = json!([{ "cert": "b.pem", "key": "b.key" }, { "cert": "/c.pem", "key": "/c.pem" }]);
    let config = check(with(list)).unwrap();
    let Tls::Files(files) = &config.server().tls else {
        panic!("there are files")
    };
    let paths: Vec<_> = files.files().map(|path| path.to_str().unwrap()).collect();
    let expected = [
        "/srv/a.pem",
        "/srv/a.key",
        "/srv/b.pem",
        "/srv/b.key",
        "/c.pem",
        "/c.pem",
    ];
    assert_eq!(paths, expected);

    // As an environment variable gives it.
    let wrong = "server.tls.certificates: expected a list of tables, as only a file can have it, found a string";
    assert_eq!(faults(with("b.pem".into())), [wrong]);
    assert_eq!(faults(with(json!(["b.pem"]))), [wrong]);
    let list = json!([{ "cert": "b", "key": "b" }, { "crt": "b", "key": "", "x": 1 }]);
    let expected = [
        "server.tls.certificates[1].crt: unknown key, did you mean server.tls.certificates[1].cert?",
        "server.tls.certificates[1].x: unknown key",
        "server.tls.certificates[1].cert: is needed",
        "server.tls.certificates[1].key: \"\" is not a path",
    ];
    assert_eq!(faults(with(list)), expected);
    let alone = json!({ "server": { "tls": { "certificates": [{ "cert": "b", "key": "b" }] } } });
    assert!(faults(alone)[0].starts_with("server.tls.certificates: server.tls.cert and"));
}

#[test]
fn clients_are_asked_for_certificates_only_with_issuers() {
    let with = |tls: serde_json::Value| json!({ "server": { "tls": tls } });
    let files = json!({ "cert": "a", "key": "a", "client_ca": "a", "client_auth": "required" });
    check(with(files)).unwrap();
    let files = json!({ "cert": "a", "key": "a", "client_auth": "required" });
    let expected = "server.tls.client_auth: has no effect without server.tls.client_ca";
    assert_eq!(faults(with(files)), [expected]);
    let files = json!({ "cert": "a", "key": "a", "client_ca": "a", "client_auth": "yes" });
    let expected = "server.tls.client_auth: \"yes\" is not one of \"optional\", \"required\"";
    assert_eq!(faults(with(files)), [expected]);
}

#[test]
fn compression_is_off_and_its_defaults_are_those_of_the_protocol() {
    let off = check(json!({})).unwrap();
    assert_eq!(off.compression().deflate(), None);
    // As an environment variable gives it.
    let on = check(json!({ "compression": { "enabled": "true" } })).unwrap();
    assert_eq!(
        on.compression().deflate(),
        Some(ws_proto::DeflateConfig::default())
    );
}

#[test]
fn compression_is_checked_as_a_whole() {
    let config = check(json!({ "compression": {
        "enabled": true,
        "level": "9",
        "min_size": "1KiB",
        "server_context_takeover": true,
        "client_context_takeover": "true",
        "server_max_window_bits": 8,
        "client_max_window_bits": "14",
    } }));
    let deflate = config.unwrap().compression().deflate().unwrap();
    assert_eq!((deflate.level().get(), deflate.min_size()), (9, 1024));
    assert!(deflate.server_context_takeover() && deflate.client_context_takeover());
    assert_eq!(deflate.server_max_window_bits().get(), 8);
    assert_eq!(deflate.client_max_window_bits().get(), 14);

    let found = faults(json!({ "compression": {
        "enable": true,
        "enabled": "yes",
        "level": 0,
        "min_size": "2GiB",
        "server_context_takeover": 1,
        "server_max_window_bits": 16,
        "client_max_window_bits": 7,
    } }));
    let expected = [
        "compression.enable: unknown key, did you mean compression.enabled?",
        "compression.enabled: \"yes\" is not true or false",
        "compression.level: 0 is not between 1 and 9",
        "compression.min_size: 2GiB is not between 0B and 1GiB",
        "compression.server_context_takeover: expected true or false, found an integer",
        "compression.server_max_window_bits: 16 is not between 8 and 15",
        "compression.client_max_window_bits: 7 is not between 8 and 15",
    ];
    assert_eq!(found, expected);
}

#[test]
fn unknown_keys_are_told_the_nearest_known_name() {
    let nearest = |path: &str| {
        let mut raw = RawConfig::default();
        raw.set(path, 1_i64);
        let problem = Config::from_raw(&raw, "/".as_ref()).unwrap_err().faults()[0]
            .problem()
            .clone();
        match problem {
            Problem::UnknownKey { nearest } => nearest,
            other => panic!("{other}"),
        }
    };
    let some = |name: &str| Some(name.to_owned());
    assert_eq!(
        nearest("limits.max_conections"),
        some("limits.max_connections")
    );
    assert_eq!(
        nearest("server.max_connections"),
        some("limits.max_connections")
    );
    assert_eq!(nearest("Log.level"), some("log"));
    assert_eq!(nearest("app.comand"), some("app.command"));
    assert_eq!(nearest("validate.comand"), some("validate.command"));
    assert_eq!(nearest("app.xylophone"), None);
    assert_eq!(nearest("q.q"), None);
}

#[test]
fn faults_name_the_place_and_paths_are_relative_to_it() {
    let file = Arc::new(Source::new("/etc/ws/ws.toml", "/etc/ws"));
    let text = |text: &str| RawValue::new(RawKind::Text(text.into()), Some(Arc::clone(&file)));
    let mut raw = RawConfig::default();
    raw.set("server.state_dir", text("state"));
    raw.set("server.listen", text("unix:ws.sock"));
    raw.set("app.command", text("./answer 'one word' ./two"));
    raw.set("fifo.dir", "fifos");
    let config = Config::from_raw(&raw, "/srv".as_ref()).unwrap();
    assert_eq!(config.server().state_dir, Path::new("/etc/ws/state"));
    assert_eq!(
        config.server().listen[0].to_string(),
        "unix:/etc/ws/ws.sock"
    );
    assert_eq!(config.fifo().dir, Path::new("/srv/fifos"));
    let AppBackend::Callback(CallbackBackend::Exec(exec)) = &config.app().backend else {
        panic!("a command is exec")
    };
    assert_eq!(exec.command, ["/etc/ws/./answer", "one word", "./two"]);

    raw.set("log.level", text("loud"));
    let invalid = Config::from_raw(&raw, "/srv".as_ref()).unwrap_err();
    assert!(
        invalid
            .to_string()
            .starts_with("/etc/ws/ws.toml: log.level: \"loud\" is not one of")
    );
}

#[test]
fn commands_and_backends_go_together() {
    let echo = check(json!({ "app": { "backend": "echo" } })).unwrap();
    assert!(matches!(echo.app().backend, AppBackend::Echo));
    assert!(!echo.app().ping && !echo.serves_console());
    let exec = check(json!({ "validate": { "command": ["who", "$HOME"] } })).unwrap();
    let ValidateBackend::Callback(CallbackBackend::Exec(exec)) = &exec.validate().backend else {
        panic!()
    };
    assert_eq!(exec.command, ["who", "$HOME"]);
    for wrong in [
        json!({ "app": { "backend": "demo", "command": "cat" } }),
        json!({ "app": { "backend": "exec" } }),
        json!({ "app": { "command": "" } }),
        json!({ "app": { "command": [] } }),
        json!({ "app": { "command": "cat 'open" } }),
        json!({ "app": { "command": "cat", "group": "0" } }),
    ] {
        let found = faults(wrong.clone());
        assert_eq!(found.len(), 1, "{wrong}: {found:?}");
    }
}

#[test]
fn callbacks_have_what_their_backend_needs_and_nothing_else() {
    for (app, name) in [
        (
            json!({ "backend": "fork", "command": "app", "processes": 2 }),
            "fork",
        ),
        (
            json!({ "backend": "worker", "command": "app", "recycle_requests": 500, "recycle_age": "1h" }),
            "worker",
        ),
        (
            json!({ "backend": "scgi", "address": "127.0.0.1:4000" }),
            "scgi",
        ),
        (
            json!({ "backend": "fastcgi", "address": "/run/php.sock",
                    "params": { "SCRIPT_FILENAME": "/srv/ws.php" } }),
            "fastcgi",
        ),
    ] {
        let config = check(json!({ "app": app, "validate": { "backend": "app" } })).unwrap();
        assert_eq!(config.app().backend.name(), name);
        assert!(matches!(
            config.validate().backend,
            ValidateBackend::Application
        ));
        let validation = check(json!({ "validate": app })).unwrap();
        let ValidateBackend::Callback(backend) = &validation.validate().backend else {
            panic!()
        };
        assert_eq!(backend.name(), name);
    }
    for (wrong, path) in [
        (json!({ "backend": "fork" }), "app.command"),
        (
            json!({ "backend": "exec", "command": "app", "processes": 2 }),
            "app.processes",
        ),
        (json!({ "backend": "fastcgi" }), "app.address"),
        (
            json!({ "backend": "fastcgi", "address": "" }),
            "app.address",
        ),
        (
            json!({ "backend": "scgi", "address": "/s", "command": "app" }),
            "app.command",
        ),
        (json!({ "address": "/s" }), "app.address"),
        (
            json!({ "backend": "worker", "command": "app", "recycle_memory": "1KiB" }),
            "app.recycle_memory",
        ),
    ] {
        let found = faults(json!({ "app": wrong }));
        assert!(
            found.len() == 1 && found[0].starts_with(path),
            "{wrong}: {found:?}"
        );
    }
    let found = faults(json!({ "validate": { "backend": "app" } }));
    assert!(found[0].starts_with("validate.backend"), "{found:?}");
}

#[test]
fn development_stays_on_this_host() {
    let listen = |addr: &str| check(json!({ "server": { "listen": [addr] } })).unwrap();
    for local in ["127.0.0.1:0", "[::1]:0", "localhost:0", "unix:/tmp/ws.sock"] {
        assert!(
            listen(local)
                .for_development()
                .is_ok_and(|config| config.is_local_only())
        );
    }
    assert!(listen("0.0.0.0:0").for_development().is_err());
    assert!(listen("example.org:80").for_development().is_err());
}

#[test]
fn users_are_looked_up() {
    let root = check(json!({ "app": { "command": "cat", "user": "root" } })).unwrap();
    let AppBackend::Callback(CallbackBackend::Exec(exec)) = &root.app().backend else {
        panic!()
    };
    assert_eq!(
        exec.account.map(|account| (account.uid(), account.gid())),
        Some((0, 0))
    );
    let user = |user: &str| json!({ "app": { "command": "cat", "user": user } });
    assert_eq!(
        faults(user("no such user")),
        ["app.user: \"no such user\" is not a user of this host"]
    );
    assert_eq!(
        faults(user("3999999999")),
        ["app.user: is unknown to this host, so a group is needed"]
    );
    assert!(!faults(user("4294967295")).is_empty(), "-1 means no change");
}

#[test]
fn t59_sandboxes_of_the_two_commands_are_apart() {
    let config = check(json!({
        "app": {
            "command": "cat", "max_memory": "64MiB", "cgroup": "own", "umask": "0027",
            "landlock_read": ["data"],
        },
        "validate": { "command": "cat", "max_processes": 7, "cgroup": "groups", "nice": 19 },
    }));
    let config = config.unwrap();
    let AppBackend::Callback(CallbackBackend::Exec(app)) = &config.app().backend else {
        panic!()
    };
    let ValidateBackend::Callback(CallbackBackend::Exec(validate)) = &config.validate().backend
    else {
        panic!()
    };
    assert_eq!(app.sandbox.max_memory, Some(64 << 20));
    assert_eq!(app.sandbox.cgroup, Some(CgroupPlace::Own));
    assert_eq!(app.sandbox.umask, Some(0o027));
    assert_eq!(app.sandbox.landlock_read, [Path::new("/srv/data")]);
    assert!(app.sandbox.has_landlock() && app.sandbox.no_new_privs);
    assert_eq!(
        (app.sandbox.max_processes, app.sandbox.nice),
        (None, Some(10))
    );
    assert_eq!(validate.sandbox.max_processes, Some(7));
    let groups = CgroupPlace::Dir("/srv/groups".into());
    assert_eq!(validate.sandbox.cgroup, Some(groups));
    assert_eq!(validate.sandbox.nice, Some(19));
    assert!(!validate.sandbox.has_landlock());
}

#[test]
fn modes_that_open_a_door_are_refused_unless_said_in_as_many_words() {
    assert_eq!(faults(json!({ "fifo": { "mode": "0622" } })).len(), 1);
    assert_eq!(faults(json!({ "fifo": { "mode": "0020" } })).len(), 1);
    assert_eq!(faults(json!({ "control": { "mode": "0606" } })).len(), 1);
    assert_eq!(faults(json!({ "control": { "mode": 600 } })).len(), 1);
    let open = json!({ "fifo": { "mode": "0622", "insecure_world_writable": true } });
    assert_eq!(check(open).unwrap().fifo().mode, 0o622);
}

#[test]
fn records_above_what_a_pipe_takes_whole_need_a_delimiter() {
    assert_eq!(faults(json!({ "fifo": { "max_record": 4097 } })).len(), 1);
    assert_eq!(
        faults(json!({ "fifo": { "framing": "delimiter" } })).len(),
        1
    );
    assert_eq!(faults(json!({ "fifo": { "delimiter": "\n" } })).len(), 1);
    for (per, has_connections, has_users) in [
        ("connection", true, false),
        ("user", false, true),
        ("both", true, true),
    ] {
        let config = check(json!({ "fifo": { "per": per, "naming": "carbonphp" } })).unwrap();
        let fifo = config.fifo();
        assert_eq!(
            (fifo.has_connections(), fifo.has_users()),
            (has_connections, has_users)
        );
        assert_eq!(fifo.naming, FifoNaming::CarbonPhp);
        let none = json!({ "fifo": { "per": per, "user_fifos": false } });
        let none = check(none).unwrap();
        assert!(!none.fifo().has_connections() && !none.fifo().has_users());
    }
    for key in ["per", "naming", "records"] {
        assert_eq!(faults(json!({ "fifo": { key: "session" } })).len(), 1);
    }
    let fifo =
        json!({ "fifo": { "framing": "delimiter", "delimiter": "--", "max_record": "1MiB" } });
    let config = check(fifo).unwrap();
    assert_eq!(
        config.fifo().framing,
        FifoFraming::Delimiter(b"--".to_vec())
    );
}

#[test]
fn strings_of_the_environment_are_read_as_the_type_of_the_setting() {
    let config = check(json!({
        "server": { "listen": "127.0.0.1:0, [::1]:0", "threads": "2", "auto_port": "true" },
        "limits": { "max_message_size": "4096", "ping_interval": "off" },
    }))
    .unwrap();
    assert_eq!(config.server().listen.len(), 2);
    assert_eq!(config.server().threads.map(Into::into), Some(2));
    assert!(config.server().auto_port);
    assert_eq!(config.limits().max_message_size, 4096);
    assert_eq!(config.limits().ping_interval, None);
}

/// Any tree, often with the names of settings in it.
fn any_raw() -> impl Strategy<Value = RawConfig> {
    let text = prop_oneof![
        any::<String>(),
        Just("off".to_owned()),
        Just("exec".to_owned()),
        "[0-9]{1,20}(ms|s|d|KiB|GiB)?",
        "0?[0-9]{3}",
        "unix:[a-z./]{0,8}",
    ];
    let value = prop_oneof![
        any::<bool>().prop_map(RawValue::from),
        any::<i64>().prop_map(RawValue::from),
        any::<f64>().prop_map(|number| RawKind::Float(number).into()),
        text.prop_map(RawValue::from),
    ]
    .prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3)
                .prop_map(|values| RawKind::List(values).into()),
            prop::collection::btree_map(any::<String>(), inner, 0..3)
                .prop_map(|table| RawKind::Table(table).into()),
        ]
    });
    let known =
        prop::sample::select(settings::SETTINGS).prop_map(|setting| setting.path.to_owned());
    let path = prop_oneof![8 => known, 1 => "[a-z_.]{0,12}", 1 => any::<String>()];
    prop::collection::vec((path, value), 0..12).prop_map(|entries| {
        let mut raw = RawConfig::default();
        for (path, value) in entries {
            raw.set(&path, value);
        }
        raw
    })
}

proptest! {
    #[test]
    fn prop_any_tree_is_checked_without_panic(raw in any_raw()) {
        if let Err(invalid) = Config::from_raw(&raw, "/srv".as_ref()) {
            prop_assert!(!invalid.to_string().is_empty());
        }
        let json = serde_json::to_string(&raw.with_defaults());
        prop_assert!(json.is_ok());
    }
}
