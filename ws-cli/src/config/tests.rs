use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
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

    fn load(&self, flags: Layer) -> Result<Config, Refusal> {
        check(&load(None, &self.surroundings, flags)?, &self.surroundings)
    }

    fn faults(&self) -> String {
        let refusal = self.load(Layer::default()).unwrap_err();
        refusal
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
        "ws.toml:1:1: max_connections: unknown key, did you mean limits.max_connections?",
        "ws.toml:3:17: limits.ping_interval: expected a duration like \"30s\", found an integer",
        "ws.toml:4:1: limits.max_conections: unknown key, did you mean limits.max_connections?",
        "ws.toml:5:2: sever: unknown key, did you mean server?",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn every_item_of_a_list_and_every_entry_of_a_table_is_told_with_its_place() {
    let file = "[origin]\nallow = [\n  'same-origin', 'nowhere',\n  '*', 7]\n[app.env]\nÀ = 1\n";
    let file = file.replace('À', "'9'") + "B = []\n[[server.tls.certificates]]\ncert = 1\n";
    let faults = Place::new(Some(&file), &[]).faults();
    for told in [
        "ws.toml:3:18: origin.allow: \"nowhere\" is not",
        "ws.toml:4:3: origin.allow: \"*\" is not",
        "ws.toml:4:8: origin.allow: expected a string",
        "ws.toml:6:7: app.env: \"9\" is not the name",
        "ws.toml:7:5: app.env: expected a table of strings",
        "ws.toml:9:8: server.tls.certificates[0].cert: expected a string",
    ] {
        assert!(faults.contains(told), "{told}\n{faults}");
    }
}

#[test]
fn broken_toml_is_told_line_by_line() {
    let faults = Place::new(Some("[server]\nlisten = [\n"), &[]).faults();
    assert!(faults.contains("\n  ws.toml:2:"), "{faults}");
    assert!(faults.contains("\n      2 | listen = ..."), "{faults}");
    let faults = Place::new(Some("a = \nb = 1\né = 2\nc = 'd\nb = 2\n"), &[]).faults();
    for line in ["ws.toml:1:", "ws.toml:3:1: ", "ws.toml:4:", "ws.toml:5:"] {
        assert!(faults.contains(line), "{line}\n{faults}");
    }
}

#[test]
fn a_file_that_cannot_be_read_says_why() {
    let unreadable = |prepare: &dyn Fn(&Path)| {
        let place = Place::new(None, &[("WS_CONFIG", "given.toml")]);
        prepare(&place.path("given.toml"));
        place.faults()
    };
    let missing = unreadable(&|_| {});
    assert!(
        missing.contains("cannot read given.toml: No such file"),
        "{missing}"
    );
    let directory = unreadable(&|path| fs::create_dir(path).unwrap());
    assert!(directory.contains("it is a directory"), "{directory}");
    let mode = nix::sys::stat::Mode::S_IRUSR;
    let fifo = unreadable(&|path| nix::unistd::mkfifo(path, mode).unwrap());
    assert!(fifo.contains("it is a FIFO"), "{fifo}");
    let socket = unreadable(&|path| {
        std::os::unix::net::UnixListener::bind(path).unwrap();
    });
    assert!(socket.contains("cannot read given.toml: "), "{socket}");
    let large = unreadable(&|path| fs::write(path, "#".repeat(1 << 20) + "\n").unwrap());
    assert!(large.contains("larger than"), "{large}");
    let latin = unreadable(&|path| fs::write(path, b"# 1\n# \xc3\xa9 \xe9\n").unwrap());
    assert!(
        latin.contains("given.toml:2:5: this is not UTF-8"),
        "{latin}"
    );
    let null = Place::new(None, &[("WS_CONFIG", "/dev/null")]);
    assert!(null.load(Layer::default()).is_ok());
}

#[test]
fn variables_that_are_unknown_doubled_or_not_text_are_refused() {
    let refused = |variables: &[(&[u8], &[u8])]| {
        let mut place = Place::new(None, &[]);
        let text = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
        let variables = variables
            .iter()
            .map(|(name, value)| (text(name), text(value)));
        place.surroundings.variables = variables.collect();
        place.faults()
    };
    for (name, value, told) in [
        (
            &b"WS__SERVER__LISTN"[..],
            &b"x"[..],
            "did you mean server.listen?",
        ),
        (b"WS__SERVER__", b"x", "WS__SERVER__: server.: unknown key"),
        (b"WS____LISTEN", b"x", "WS____LISTEN: : unknown key"),
        (b"WS__SERVER", b"x", "server: expected a table"),
        (b"WS__SERVER__LISTEN__X", b"x", "server.listen: expected"),
        (b"WS__SERVER__LIST\xff", b"x", ": unknown key"),
        (
            b"WS__LOG__LEVEL",
            b"\xff",
            "log.level: the value is not UTF-8",
        ),
        (b"WS__LOG__LEVEL", b"", "log.level: \"\" is not one of"),
        (
            b"WS__APP__QUEUE",
            b"1,2",
            "app.queue: \"1,2\" is not an integer",
        ),
        (
            b"WS__APP__QUEUE",
            b"0x10",
            "app.queue: \"0x10\" is not an integer",
        ),
        (
            b"WS__APP__PING",
            b"yes",
            "app.ping: \"yes\" is not true or false",
        ),
        (
            b"WS__SERVER__TLS__CERTIFICATES",
            b"x",
            "only a file can have",
        ),
        (b"WS__APP__QUEUE_FILE", b"x", "app.queue_file: unknown key"),
    ] {
        let faults = refused(&[(name, value)]);
        assert!(faults.contains(told), "{told}: {faults}");
    }
    let faults = refused(&[(b"WS__log__level", b"info"), (b"WS__LOG__LEVEL", b"warn")]);
    assert!(
        faults.contains("WS__log__level: log.level: WS__LOG__LEVEL is given, too"),
        "{faults}"
    );
    let faults = refused(&[(b"WS__LOG__LEVEL", b"info"), (b"WS__LOG", b"x")]);
    assert!(
        faults.contains("WS__LOG__LEVEL: log.level: WS__LOG is given, too"),
        "{faults}"
    );
}

#[test]
fn lists_numbers_and_flags_stand_in_variables() {
    let variables = [
        ("WS__SERVER__LISTEN", "127.0.0.1:0, unix:a"),
        ("WS__App__Queue", "3"),
        ("WS__APP__PING", "false"),
        ("WS__ORIGIN__ALLOW", ""),
    ];
    let config = Place::new(None, &variables).load(Layer::default()).unwrap();
    assert_eq!(config.server().listen.len(), 2);
    assert_eq!(config.app().queue.get(), 3);
    assert!(!config.app().ping && config.origin().allow.is_empty());
}

#[test]
fn a_secret_stands_in_a_file_that_a_variable_names() {
    let place = |content: &[u8], mode: u32| {
        let place = Place::new(
            Some("identity.store = 'memory'"),
            &[("WS__IDENTITY__STORE_FILE", "secret")],
        );
        fs::write(place.path("secret"), content).unwrap();
        fs::set_permissions(place.path("secret"), Permissions::from_mode(mode)).unwrap();
        place
    };
    let store = |place: &Place| {
        place
            .load(Layer::default())
            .unwrap()
            .identity()
            .store
            .to_string()
    };
    assert_eq!(
        store(&place(b"redis://:canary@host\n", 0o600)),
        "redis://:***@host"
    );
    assert_eq!(store(&place(b"redis://host\r\n", 0o600)), "redis://host");
    assert_eq!(
        exposed(&place(b"redis://host", 0o600).surroundings),
        [] as [PathBuf; 0]
    );
    let open = place(b"redis://host", 0o644);
    assert_eq!(exposed(&open.surroundings), [open.path("secret")]);
    for (content, mode, told) in [
        (
            &b"redis://host"[..],
            0o622,
            "others than its owner may write to it (mode 0622)",
        ),
        (b"\n", 0o600, "it is empty"),
        (b"redis://h\xff", 0o600, "it is not UTF-8"),
        (&[b'x'; 65537], 0o600, "it is larger than 65536 bytes"),
        // What is in it is not repeated.
        (b"canary", 0o600, "secret file: expected"),
    ] {
        let told = told.replace("secret file", "WS__IDENTITY__STORE_FILE: identity.store");
        let faults = place(content, mode).faults();
        assert!(
            faults.contains(&told) && !faults.contains("canary"),
            "{told}: {faults}"
        );
    }
    let missing = Place::new(None, &[("WS__IDENTITY__LOOKUP__SOURCE_FILE", "none")]);
    let faults = missing.faults();
    assert!(
        faults.contains("identity.lookup.source: cannot use none: No such file"),
        "{faults}"
    );
    let both = Place::new(
        None,
        &[
            ("WS__IDENTITY__STORE", "memory"),
            ("WS__IDENTITY__STORE_FILE", "x"),
        ],
    );
    assert!(both.faults().contains("WS__IDENTITY__STORE is given, too"));
}

#[cfg(not(feature = "otel"))]
#[test]
fn a_program_without_traces_says_so_when_it_is_asked_for_them() {
    let place = Place::new(Some("[trace]\nendpoint = 'http://127.0.0.1:4318'\n"), &[]);
    let faults = place.faults();
    assert!(
        faults.contains("ws.toml:2:12: trace.endpoint: this ws was built without traces")
            && faults.contains("cargo build --release -p ws-cli --features otel"),
        "{faults}"
    );
    // What is meant for all programs of the host is no reason not to start.
    let place = Place::new(
        None,
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")],
    );
    assert!(place.load(Layer::default()).unwrap().trace().is_none());
    assert!(names_collector(&place.surroundings).is_some());
}

#[cfg(feature = "otel")]
mod traces {
    use ws_server::config::TraceConfig;

    use super::*;

    const COLLECTOR: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/");

    fn trace(file: Option<&str>, variables: &[(&str, &str)]) -> Option<TraceConfig> {
        let place = Place::new(file, variables);
        place.load(Layer::default()).unwrap().trace().cloned()
    }

    #[test]
    fn the_standard_variables_count_for_what_is_not_written() {
        let variables = [
            COLLECTOR,
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20b, x-other=c"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "250"),
            ("OTEL_BSP_SCHEDULE_DELAY", "100"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "7"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=chat,region=a%2Cb"),
        ];
        let found = trace(None, &variables).unwrap();
        assert_eq!(found.endpoint, "http://collector:4318/v1/traces");
        assert_eq!(found.service_name, "chat");
        assert_eq!(found.timeout, Duration::from_millis(250));
        assert_eq!(found.interval, Duration::from_millis(100));
        assert_eq!(found.queue.get(), 7);
        assert!(
            found
                .resource
                .contains(&("region".to_owned(), "a,b".to_owned()))
        );
        let headers: Vec<_> = found.headers.iter().collect();
        assert_eq!(
            (headers[0].0.as_str(), headers[0].1),
            ("x-key", &"a b".parse().unwrap())
        );
        assert_eq!(headers.len(), 2);

        let file = "[trace]\nendpoint = 'http://own:1/x'\nservice_name = 'own'\ntimeout = '3s'\n";
        let found = trace(Some(file), &variables).unwrap();
        assert_eq!(found.endpoint, "http://own:1/x");
        assert_eq!(found.service_name, "own");
        assert_eq!(found.timeout, Duration::from_secs(3));
        assert_eq!(found.queue.get(), 7);
    }

    #[test]
    fn the_address_for_traces_is_taken_as_it_is_and_before_that_for_all() {
        let one = (
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "https://tenant/otlp/traces",
        );
        let found = trace(None, &[COLLECTOR, one]).unwrap();
        assert_eq!(found.endpoint, "https://tenant/otlp/traces");
    }

    #[test]
    fn what_switches_traces_off_for_all_programs_does_so_here() {
        for off in [
            ("OTEL_SDK_DISABLED", "true"),
            ("OTEL_TRACES_EXPORTER", "none"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
        ] {
            assert!(trace(None, &[COLLECTOR, off]).is_none(), "{off:?}");
        }
        assert!(trace(None, &[("OTEL_SERVICE_NAME", "chat")]).is_none());
        assert!(
            trace(
                None,
                &[COLLECTOR, ("OTEL_TRACES_EXPORTER", "console, otlp")]
            )
            .is_some()
        );
    }

    #[test]
    fn samplers_are_those_of_the_standard() {
        let shown = |sampler: &str| {
            let variables = [
                COLLECTOR,
                ("OTEL_TRACES_SAMPLER", sampler),
                ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
            ];
            let config = Place::new(None, &variables).load(Layer::default()).unwrap();
            let value = |path| {
                let found = config.effective().find(|(known, _)| *known == path);
                serde_json::to_string(&found.unwrap().1).unwrap()
            };
            (value("trace.sample_ratio"), value("trace.parent_based"))
        };
        for (sampler, ratio, parent_based) in [
            ("always_on", "1", "false"),
            ("always_off", "0", "false"),
            ("traceidratio", "\"0.25\"", "false"),
            ("parentbased_always_on", "1", "true"),
            ("parentbased_always_off", "0", "true"),
            ("parentbased_traceidratio", "\"0.25\"", "true"),
            ("what-else", "1", "true"),
        ] {
            let expected = (ratio.to_owned(), parent_based.to_owned());
            assert_eq!(shown(sampler), expected, "{sampler}");
        }
    }

    #[test]
    fn what_cannot_be_is_told_without_what_may_be_secret() {
        for (path, value, why) in [
            (
                "endpoint",
                "http://user:canary@host",
                "a URL without user, password and query",
            ),
            (
                "endpoint",
                "https://host/?key=canary",
                "a URL without user, password and query",
            ),
            ("endpoint", "ftp://host", "\"ftp://host\" is not a URL like"),
            ("endpoint", "http://", "is not a URL like"),
            ("headers", "canary", "expected headers as NAME=VALUE"),
            ("headers", "a b=canary", "expected headers as NAME=VALUE"),
            (
                "headers",
                "x=canary%0d%0a",
                "expected headers as NAME=VALUE",
            ),
            ("sample_ratio", "1.5", "1.5 is not between 0 and 1"),
            ("sample_ratio", "NaN", "NaN is not between 0 and 1"),
            ("resource", "x", "\"x\" is not NAME=VALUE"),
            ("service_name", "", "is not a name of 1 to 255 bytes"),
        ] {
            let name = format!("WS__TRACE__{}", path.to_uppercase());
            let mut variables = vec![(name.as_str(), value)];
            if path != "endpoint" {
                variables.push(("WS__TRACE__ENDPOINT", "http://host"));
            }
            let faults = Place::new(None, &variables).faults();
            let told = format!("{name}: trace.{path}: ");
            assert!(faults.contains(&told) && faults.contains(why), "{faults}");
            assert!(!faults.contains("canary"), "{faults}");
        }
        let faults = Place::new(None, &[("WS__TRACE__QUEUE", "9")]).faults();
        assert!(
            faults.contains("trace.queue: has no effect without trace.endpoint"),
            "{faults}"
        );
    }

    /// What is meant for all programs of a host keeps none of them from starting.
    #[test]
    fn a_standard_variable_that_cannot_be_used_counts_as_absent_and_is_named() {
        for (name, value, has_traces) in [
            ("OTEL_BSP_SCHEDULE_DELAY", "0", true),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", true),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0", true),
            ("OTEL_RESOURCE_ATTRIBUTES", "a=b,c", true),
            ("OTEL_EXPORTER_OTLP_HEADERS", "canary", true),
            ("OTEL_TRACES_SAMPLER_ARG", "abc", true),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317", false),
            (
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
                "http://u:canary@h",
                false,
            ),
        ] {
            let sampler = ("OTEL_TRACES_SAMPLER", "traceidratio");
            let mut variables = vec![(name, value), sampler];
            if !name.ends_with("_ENDPOINT") {
                variables.push(COLLECTOR);
            }
            let place = Place::new(None, &variables);
            let config = place.load(Layer::default()).unwrap();
            assert_eq!(config.trace().is_some(), has_traces, "{name}");
            let told = unheeded(&place.surroundings);
            assert!(told.len() == 1 && told[0].0 == name, "{name}: {told:?}");
            assert!(!told[0].1.contains("canary"), "{told:?}");
        }
        let variables = [COLLECTOR, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")];
        let place = Place::new(None, &variables);
        assert!(place.load(Layer::default()).unwrap().trace().is_none());
        let told = unheeded(&place.surroundings);
        assert!(
            told[0].0 == COLLECTOR.0 && told[0].1.contains("gRPC"),
            "{told:?}"
        );
        assert_eq!(unheeded(&Place::new(None, &[COLLECTOR]).surroundings), []);
    }

    #[test]
    fn t70_headers_for_the_collector_are_shown_nowhere() {
        let variables = [COLLECTOR, ("WS__TRACE__HEADERS", "authorization=canary")];
        let config = Place::new(None, &variables).load(Layer::default()).unwrap();
        let shown = config.effective().map(|(_, value)| value);
        let shown = serde_json::to_string(&shown.collect::<Vec<_>>()).unwrap();
        assert!(
            shown.contains("\"***\"") && !shown.contains("canary"),
            "{shown}"
        );
        let debug = format!("{config:?}");
        assert!(
            debug.contains("authorization") && !debug.contains("canary"),
            "{debug}"
        );

        let place = Place::new(None, &[COLLECTOR, ("WS__TRACE__HEADERS_FILE", "key")]);
        fs::write(place.path("key"), "authorization=canary\n").unwrap();
        fs::set_permissions(place.path("key"), Permissions::from_mode(0o600)).unwrap();
        let config = place.load(Layer::default()).unwrap();
        let (_, value) = config.trace().unwrap().headers.iter().next().unwrap();
        assert_eq!(value, "canary");
    }
}

/// A credential stands above the file and below the environment.
#[test]
fn credentials_of_systemd_are_settings_named_like_them() {
    let file = "[identity]\nstore = 'memory'\n[app]\ncommand = 'cat'\n";
    let mut place = Place::new(Some(file), &[("CREDENTIALS_DIRECTORY", "unset")]);
    let directory = place.path("credentials");
    place.surroundings.variables[0].1 = directory.clone().into();
    let load = |place: &Place| place.load(Layer::default()).unwrap();
    assert_eq!(load(&place).identity().store.to_string(), "memory");
    fs::create_dir(&directory).unwrap();
    for (name, content) in [
        ("identity.store", "redis://host\n"),
        ("app.env.DATABASE.URL", "not a name"),
        ("app.env.DATABASE_URL", "mysql://a:b@c/d"),
        ("control.token_file", "0123456789abcdef0123456789abcdef"),
        ("app.queue", "7"),
        ("others", "x"),
    ] {
        fs::write(directory.join(name), content).unwrap();
    }
    assert!(
        place
            .faults()
            .contains("app.env: \"DATABASE.URL\" is not the name")
    );
    fs::remove_file(directory.join("app.env.DATABASE.URL")).unwrap();
    let faults = place.faults();
    assert!(
        faults.contains("control.token_file: has no effect without"),
        "{faults}"
    );
    place
        .surroundings
        .variables
        .push(("WS__CONTROL__LISTEN".into(), "127.0.0.1:0".into()));
    let config = load(&place);
    assert_eq!(config.identity().store.to_string(), "redis://host");
    let tcp = config.control().tcp.as_ref().unwrap();
    assert_eq!(tcp.token_file, directory.join("control.token_file"));
    assert_eq!(config.app().queue.get(), 16);
    let shown = toml::to_string(&config.shown()).unwrap();
    assert!(shown.contains("DATABASE_URL = \"***\""), "{shown}");
    place
        .surroundings
        .variables
        .push(("WS__IDENTITY__STORE".into(), "memory".into()));
    assert_eq!(load(&place).identity().store.to_string(), "memory");
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
    let mut written = toml::Table::try_from(&from_file).unwrap();
    // A section of which no setting has a default.
    assert!(
        written
            .remove("metrics")
            .is_some_and(|section| section == toml::Table::new().into())
    );
    let defaults = RawConfig::default().with_defaults();
    assert_eq!(written, toml::Table::try_from(&defaults).unwrap());
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
            if let Err(refusal) = place.load(Layer::default()) {
                prop_assert!(!refusal.told().is_empty());
            }
        }
    }

    #[test]
    fn prop_any_variable_is_read_without_panic(name in "[A-Za-z_]{0,20}", value in "[^\0]{0,20}") {
        let place = Place::new(None, &[(&format!("WS__{name}"), &value)]);
        if let Err(refusal) = place.load(Layer::default()) {
            prop_assert!(!refusal.told().is_empty());
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
