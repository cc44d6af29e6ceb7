use std::fs;
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;
use ws_server::config::{AppBackend, CallbackBackend};

use super::*;

/// A working directory, perhaps with a `ws.toml`, and nothing else around.
struct Place {
    directory: TempDir,
    surroundings: Surroundings,
}

impl Place {
    fn new(file: Option<&str>, variables: &[(&str, &str)]) -> Self {
        let directory = TempDir::new().unwrap();
        if let Some(text) = file {
            fs::write(directory.path().join("ws.toml"), text).unwrap();
        }
        let variables = variables
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        let surroundings = Surroundings {
            directory: directory.path().to_owned(),
            variables,
            system_file: directory.path().join("etc.toml"),
        };
        Self {
            directory,
            surroundings,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn load(&self, flags: Layer) -> Result<Config, Failure> {
        check(&load(None, &self.surroundings, flags)?, &self.surroundings)
    }

    fn faults(&self) -> String {
        let failure = self.load(Layer::default()).unwrap_err();
        assert_eq!(failure.code(), Code::Configuration);
        failure
            .to_string()
            .replace(&format!("{}/", self.directory.path().display()), "")
    }
}

fn flag(path: &[&str], value: &str) -> Layer {
    let mut layer = Layer::default();
    layer.set(path, value, Source::new("--flag", "/"));
    layer
}

/// systemd says where a service keeps what must last.
#[test]
fn sessions_lie_in_the_state_directory_unless_another_place_is_named() {
    let store = |file: &str, directory: &str| {
        let place = Place::new(Some(file), &[("STATE_DIRECTORY", directory)]);
        let config = place.load(Layer::default()).unwrap();
        let shown = config.identity().store.to_string();
        shown.replace(&*place.directory.path().to_string_lossy(), "HERE")
    };
    let lasting = "sqlite:/var/lib/ws/sessions.db";
    assert_eq!(store("", "/var/lib/ws"), lasting);
    assert_eq!(store("", "/var/lib/ws:/var/lib/other"), lasting);
    assert_eq!(store("identity.store = 'sqlite'", "/var/lib/ws"), lasting);
    assert_eq!(store("identity.store = 'memory'", "/var/lib/ws"), "memory");
    let named = "identity.store = 'sqlite:a.db'";
    assert_eq!(store(named, "/var/lib/ws"), "sqlite:HERE/a.db");
    assert_eq!(store("", ""), "sqlite:HERE/tmp/sessions.db");
}

#[test]
fn flag_beats_environment_beats_file_beats_default() {
    let file = "[app]\ntimeout = '1s'\nmax_output = '1KiB'\nqueue = 1\n";
    let environment = [
        ("WS__APP__MAX_OUTPUT", "2KiB"),
        ("WS__APP__QUEUE", "2"),
        ("OTHER", "x"),
    ];
    let place = Place::new(Some(file), &environment);
    let config = place.load(flag(&["app", "queue"], "3")).unwrap();
    assert_eq!(config.app().concurrency.get(), 64);
    assert_eq!(config.app().timeout, Duration::from_secs(1));
    assert_eq!(config.app().max_output, 2048);
    assert_eq!(config.app().queue.get(), 3);
}

#[test]
fn all_faults_of_file_and_environment_are_told_at_once() {
    let file = "max_connections = 1\n[limits]\nping_interval = 5\nmax_conections = 3\n[sever]\nlisten = []\n";
    let environment = [
        ("WS__LIMITS__PONG_TIMOUT", "1s"),
        ("WS__LIMITS__PONG_TIMEOUT", "1"),
        ("WS__NONSENSE", "1"),
        ("WS__APP__ENV__9", "x"),
        ("WS__", "1"),
    ];
    let faults = Place::new(Some(file), &environment).faults();
    let mut lines: Vec<&str> = faults.lines().map(str::trim).collect();
    lines.sort_unstable();
    let expected = [
        "WS__: : unknown key",
        "WS__APP__ENV__9: app.env: \"9\" is not the name of an environment variable",
        "WS__LIMITS__PONG_TIMEOUT: limits.pong_timeout: \"1\" is not a duration like \"30s\" (ms, s, m, h, d)",
        "WS__LIMITS__PONG_TIMOUT: limits.pong_timout: unknown key, did you mean limits.pong_timeout?",
        "WS__NONSENSE: nonsense: unknown key",
        "bad configuration",
        "ws.toml: limits.max_conections: unknown key, did you mean limits.max_connections?",
        "ws.toml: limits.ping_interval: expected a duration like \"30s\", found an integer",
        "ws.toml: max_connections: unknown key, did you mean limits.max_connections?",
        "ws.toml: sever: unknown key, did you mean server?",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn broken_toml_is_told_with_its_place() {
    let faults = Place::new(Some("[server]\nlisten = [\n"), &[]).faults();
    assert!(
        faults.starts_with("ws.toml: ") && faults.contains("line"),
        "{faults}"
    );
    let place = Place::new(None, &[("WS_CONFIG", "missing.toml")]);
    assert!(
        place.faults().starts_with("cannot read missing.toml: "),
        "{}",
        place.faults()
    );
    let large = "#".repeat(1 << 20) + "\n";
    assert!(
        Place::new(Some(&large), &[])
            .faults()
            .contains("larger than")
    );
}

#[test]
fn files_are_searched_in_order() {
    let place = Place::new(None, &[("XDG_CONFIG_HOME", ""), ("HOME", "")]);
    let mut surroundings = place.surroundings.clone();
    assert_eq!(surroundings.find_file(None), None);

    fs::write(place.path("etc.toml"), "").unwrap();
    assert_eq!(surroundings.find_file(None), Some(place.path("etc.toml")));
    fs::create_dir_all(place.path(".config/ws")).unwrap();
    fs::write(place.path(".config/ws/ws.toml"), "").unwrap();
    surroundings.variables = vec![("HOME".into(), place.path("").into())];
    assert_eq!(
        surroundings.find_file(None),
        Some(place.path(".config/ws/ws.toml"))
    );
    surroundings
        .variables
        .push(("XDG_CONFIG_HOME".into(), place.path("").into()));
    assert_eq!(surroundings.find_file(None), Some(place.path("etc.toml")));
    fs::create_dir(place.path("ws")).unwrap();
    fs::write(place.path("ws/ws.toml"), "").unwrap();
    assert_eq!(surroundings.find_file(None), Some(place.path("ws/ws.toml")));
    fs::write(place.path("ws.toml"), "").unwrap();
    assert_eq!(surroundings.find_file(None), Some(place.path("ws.toml")));
    surroundings
        .variables
        .push(("WS_CONFIG".into(), "a.toml".into()));
    assert_eq!(surroundings.find_file(None), Some(place.path("a.toml")));
    assert_eq!(
        surroundings.find_file(Some("b.toml".as_ref())),
        Some(place.path("b.toml"))
    );
}

#[test]
fn paths_are_relative_to_where_they_are_written() {
    let place = Place::new(
        None,
        &[("WS_CONFIG", "sub/ws.toml"), ("WS__FIFO__DIR", "fifos")],
    );
    fs::create_dir(place.path("sub")).unwrap();
    let file = "server.state_dir = 'state'\nserver.listen = ['unix:a.sock']\napp.command = 'bin/x'";
    fs::write(place.path("sub/ws.toml"), file).unwrap();
    let config = place.load(Layer::default()).unwrap();
    assert_eq!(config.server().state_dir, place.path("sub/state"));
    let socket = format!("unix:{}", place.path("sub/a.sock").display());
    assert_eq!(config.server().listen[0].to_string(), socket);
    assert_eq!(config.fifo().dir, place.path("fifos"));
    let AppBackend::Callback(CallbackBackend::Exec(exec)) = &config.app().backend else {
        panic!()
    };
    assert_eq!(Path::new(&exec.command[0]), place.path("sub/bin/x"));
    // The default is in the working directory, wherever the file is.
    fs::write(place.path("sub/ws.toml"), "").unwrap();
    assert_eq!(
        place.load(Layer::default()).unwrap().server().state_dir,
        place.path("tmp")
    );
}

#[test]
fn environment_of_callbacks_keeps_its_case_and_merges() {
    let file = "[app]\ncommand = 'cat'\n[app.env]\nA = '1'\nB = '1'\n";
    let place = Place::new(
        Some(file),
        &[("WS__APP__ENV__B", "2"), ("WS__APP__ENV__c__D", "3")],
    );
    let config = place.load(Layer::default()).unwrap();
    let AppBackend::Callback(CallbackBackend::Exec(exec)) = &config.app().backend else {
        panic!()
    };
    let entries: Vec<_> = exec
        .env
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    assert_eq!(entries, ["A=1", "B=2", "c__D=3"]);
}

#[test]
fn the_rendered_defaults_are_the_defaults() {
    let rendered = ws_server::config::defaults();
    let from_file = toml::from_str::<RawConfig>(&rendered).unwrap();
    assert_eq!(from_file, RawConfig::default().with_defaults());
    assert!(Config::from_raw(&from_file, "/".as_ref()).is_ok());

    // The examples of settings without a default are TOML, too, if not all at once valid.
    for line in rendered.lines().filter_map(|line| line.strip_prefix("# ")) {
        let key = line.split_once(" = ").map(|(key, _)| key);
        let is_key = |key: &str| {
            key.bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        };
        if key.is_some_and(is_key) {
            assert!(toml::from_str::<toml::Table>(line).is_ok(), "{line}");
        }
    }
}

#[test]
fn a_quoted_key_is_a_key_and_not_a_path() {
    let faults = Place::new(Some("'server[999999999999]' = 1\n'limits.x' = 2\n"), &[]).faults();
    assert!(
        faults.contains("server[999999999999]: unknown key"),
        "{faults}"
    );
    assert!(faults.contains("limits.x: unknown key"), "{faults}");
}

proptest! {
    #[test]
    fn prop_any_text_as_a_file_is_read_without_panic(text in any::<String>(), toml in any_toml()) {
        for text in [&text, &toml] {
            let place = Place::new(Some(text), &[]);
            if let Err(failure) = place.load(Layer::default()) {
                prop_assert_eq!(failure.code(), Code::Configuration);
            }
        }
    }

    #[test]
    fn prop_any_variable_is_read_without_panic(name in "[A-Za-z_]{0,20}", value in "[^\0]{0,20}") {
        let place = Place::new(None, &[(&format!("WS__{name}"), &value)]);
        if let Err(failure) = place.load(Layer::default()) {
            prop_assert_eq!(failure.code(), Code::Configuration);
        }
    }
}

/// Text made of pieces of TOML, with settings that exist and settings that do not.
fn any_toml() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "[server]\n",
        "[limits]\n",
        "[app.env]\n",
        "[[fifo]]\n",
        "listen",
        "state_dir",
        "max_connections",
        " = ",
        "\"",
        "'",
        "[",
        "]",
        "{",
        "}",
        ",",
        "\n",
        "1",
        "-9223372036854775809",
        "1e400",
        "nan",
        "1979-05-27T07:32:00Z",
        "true",
        "\"30s\"",
        "0x7f",
        ".",
        "\"\\u0000\"",
        "é",
    ]);
    prop::collection::vec(pieces, 0..24).prop_map(|pieces| pieces.concat())
}
