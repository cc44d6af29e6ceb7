//! What an application says of itself, and the settings that become of it.

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use ws_server::config::{
    CarbonPhpConfig, CarbonPhpConnections, RawConfig, RawKind, RawValue, Source, SourceKind,
};

/// The report that the bridge writes.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Report {
    /// The version of the report.
    pub(crate) bridge: u32,
    pub(crate) php: String,
    /// `None` if the version is not to be found out.
    pub(crate) carbonphp: Option<String>,
    /// Where `tmp` is.
    pub(crate) root: String,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: Option<TlsFiles>,
    pub(crate) dev: bool,
    pub(crate) verify_ip: bool,
    pub(crate) stream_select_seconds: u64,
    pub(crate) auto_port: bool,
    pub(crate) fifo_directory: String,
    pub(crate) fifo_delimiter: String,
    pub(crate) callbacks: Callbacks,
    pub(crate) session: Session,
    /// Whether its sources speak of who is connected.
    pub(crate) mentions_lists: bool,
    pub(crate) warnings: Vec<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct TlsFiles {
    pub(crate) cert: String,
    pub(crate) key: String,
}

/// Whose they are: `application` or `default`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Callbacks {
    pub(crate) validate: String,
    pub(crate) message: String,
}

/// The sessions of PHP.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Session {
    pub(crate) configured: bool,
    /// Whether they are in a database.
    pub(crate) remote: bool,
}

/// As long as a day, which is the most that `log.stats_interval` takes.
const LONGEST_INTERVAL: u64 = 86_400;

/// Sets what the report says, and what every application of this kind needs, unless something else
/// is written. Returns what was set.
pub(super) fn apply(
    report: &Report,
    application: &CarbonPhpConfig,
    raw: &mut RawConfig,
    base: &Path,
) -> RawConfig {
    let mut layer = Layer {
        raw,
        index: &application.index,
        root: report.root.as_ref(),
        set: RawConfig::default(),
    };
    layer.set_server(report);
    layer.set_fifos(report);
    layer.set_callbacks(report, application, base);
    layer.set
}

/// The settings below all others.
struct Layer<'a> {
    raw: &'a mut RawConfig,
    index: &'a Path,
    root: &'a Path,
    set: RawConfig,
}

/// What a setting is called that no application can change.
const ALWAYS: &str = "every application";

impl Layer<'_> {
    /// Sets a key that is not written; `from` is what says so in the application.
    fn set(&mut self, path: &str, value: impl Into<RawValue>, from: &str) {
        if self.is_given(path) {
            return;
        }
        let source = Source::new(format!("{} ({from})", self.index.display()), self.root)
            .of_kind(SourceKind::Application);
        let value = value.into();
        let value = RawValue::new(value.kind().clone(), Some(Arc::new(source)));
        self.set.set(path, value.clone());
        self.raw.set(path, value);
    }

    fn is_given(&self, path: &str) -> bool {
        self.raw.get(path).is_some()
    }

    /// Whether a text is written there that is not this one.
    fn is_other(&self, path: &str, text: &str) -> bool {
        let value = self.raw.get(path).map(RawValue::kind);
        value.is_some_and(|kind| !matches!(kind, RawKind::Text(given) if given == text))
    }

    fn set_server(&mut self, report: &Report) {
        let scheme = if report.tls.is_some() { "wss" } else { "ws" };
        let host = match report.host.contains(':') && !report.host.starts_with('[') {
            true => format!("[{}]", report.host),
            false => report.host.clone(),
        };
        let listen = format!("{scheme}://{host}:{}", report.port);
        self.set("server.listen", vec![listen], "SOCKET.HOST, SOCKET.PORT");
        let has_certificate = ["cert", "key", "self_signed"]
            .iter()
            .any(|key| self.is_given(&format!("server.tls.{key}")));
        if let Some(tls) = report.tls.as_ref().filter(|_| !has_certificate) {
            self.set("server.tls.cert", tls.cert.as_str(), "SOCKET.SSL.CERT");
            self.set("server.tls.key", tls.key.as_str(), "SOCKET.SSL.KEY");
        }
        if report.auto_port {
            self.set("server.auto_port", true, "the next free port");
        }
        let state_dir = self.root.join("tmp").to_string_lossy().into_owned();
        self.set("server.state_dir", state_dir, "the root of the application");
        self.set("identity.require_cookie", true, ALWAYS);
        // Whom the validation recognises has a session of PHP's, which lasts; and the root of an
        // application is often that of a web server, which nothing more should lie below.
        self.set("identity.store", "memory", ALWAYS);
        let verify_ip = report.verify_ip;
        self.set("identity.verify_ip", verify_ip, "WebSocket::$verifyIP");
        if (1..=LONGEST_INTERVAL).contains(&report.stream_select_seconds) {
            let interval = format!("{}s", report.stream_select_seconds);
            self.set(
                "log.stats_interval",
                interval,
                "WebSocket::$streamSelectSeconds",
            );
        }
        if report.dev {
            self.set("log.level", "debug", "SOCKET.DEV");
        }
    }

    fn set_fifos(&mut self, report: &Report) {
        let directory = report.fifo_directory.as_str();
        self.set("fifo.dir", directory, "Pipe::$channelDirectory");
        self.set("fifo.naming", "carbonphp", ALWAYS);
        self.set("fifo.records", "any", ALWAYS);
        self.set("fifo.mode", "0660", ALWAYS);
        // Who wants lines cannot have what belongs to the delimiter.
        if !self.is_other("fifo.framing", "delimiter") {
            self.set("fifo.framing", "delimiter", ALWAYS);
            let delimiter = report.fifo_delimiter.as_str();
            self.set("fifo.delimiter", delimiter, "Pipe::$fifoDelimiter");
            self.set("fifo.max_record", "1MiB", ALWAYS);
        }
    }

    fn set_callbacks(&mut self, report: &Report, application: &CarbonPhpConfig, base: &Path) {
        // Who writes another backend has the rest all the same.
        let is_other = self.is_other("app.backend", "fork");
        let state_dir = super::path_of(self.raw, "server.state_dir", base);
        let bridge = CarbonPhpConfig::bridge(&state_dir.unwrap_or_default());
        if !is_other {
            self.set("app.backend", "fork", ALWAYS);
            self.set("app.fork_exit", "kill", ALWAYS);
            let directory = application.directory().to_string_lossy().into_owned();
            self.set("app.dir", directory, "the directory of index.php");
            self.set("app.command", application.command(&bridge), ALWAYS);
            self.set_environment(application);
        } else if !self.is_other("app.backend", "fastcgi") {
            self.set_parameters(report, application, &bridge);
        }
        let is_asked = ["fastcgi", "scgi", "worker"]
            .iter()
            .any(|backend| !self.is_other("app.backend", backend));
        if (!is_other || is_asked) && !self.is_given("validate.command") {
            self.set("validate.backend", "app", ALWAYS);
        }
    }

    /// What the bridge is told, and PHP itself.
    fn set_environment(&mut self, application: &CarbonPhpConfig) {
        self.set_reply("app.env");
        if application.connections != CarbonPhpConnections::Auto {
            let connections = application.connections.as_str();
            let from = "carbonphp.connections";
            self.set("app.env.WS_CARBONPHP_CONNECTIONS", connections, from);
        }
        // It is pages that make a fork dear.
        self.set("app.env.USE_ZEND_ALLOC_HUGE_PAGES", "1", ALWAYS);
    }

    /// What php-fpm is told, unless it is to run a script of somebody's own.
    fn set_parameters(&mut self, report: &Report, application: &CarbonPhpConfig, bridge: &Path) {
        let script = format!("app.params.{}", CarbonPhpConfig::SCRIPT);
        if self.is_given(&script) {
            return;
        }
        let text = |path: &Path| path.to_string_lossy().into_owned();
        self.set(&script, text(bridge), ALWAYS);
        let index = text(&application.index);
        self.set("app.params.WS_CARBONPHP_INDEX", index, "carbonphp.index");
        self.set_reply("app.params");
        // To look for that in all sources takes longer than most messages.
        let (connections, from) = match application.connections {
            CarbonPhpConnections::Auto if report.mentions_lists => ("always", "its sources"),
            CarbonPhpConnections::Auto => ("never", "its sources"),
            written => (written.as_str(), "carbonphp.connections"),
        };
        let path = "app.params.WS_CARBONPHP_CONNECTIONS";
        self.set(path, connections, from);
    }

    /// Who configures a reply for no output gets that, and not one of the original's.
    fn set_reply(&mut self, table: &str) {
        if self.is_given("app.empty_reply") {
            let path = format!("{table}.WS_CARBONPHP_EMPTY");
            self.set(&path, "none", "app.empty_reply");
        }
    }
}

#[cfg(test)]
mod tests {
    use ws_server::config::{AppBackend, CallbackBackend, Config, FifoFraming, ValidateBackend};

    use super::*;

    fn report(changes: &[(&str, serde_json::Value)]) -> Report {
        let mut report = serde_json::json!({
            "bridge": 1, "php": "8.2.36", "carbonphp": "20.3.10", "root": "/srv/site/",
            "host": "localhost", "port": 8888, "tls": null, "dev": false, "verify_ip": true,
            "stream_select_seconds": 10, "auto_port": false,
            "fifo_directory": "/srv/site/tmp/fifo/",
            "fifo_delimiter": "\nCarbonPHP\\Abstracts\\Pipe:29\n",
            "callbacks": { "validate": "application", "message": "default" },
            "session": { "configured": true, "remote": false }, "mentions_lists": false,
            "warnings": [],
        });
        for (key, value) in changes {
            report[key] = value.clone();
        }
        serde_json::from_value(report).unwrap()
    }

    /// Applies a report to a file, and checks what becomes of it.
    fn applied(report: &Report, file: &str) -> (Config, RawConfig) {
        let text = format!("[carbonphp]\nindex = '/srv/site/index.php'\n{file}");
        let mut raw: RawConfig = toml::from_str(&text).unwrap();
        let base = Path::new("/home");
        let application = CarbonPhpConfig::from_raw(&raw, base).unwrap().unwrap();
        let set = apply(report, &application, &mut raw, base);
        (Config::from_raw(&raw, base).unwrap(), set)
    }

    fn command(config: &Config) -> Vec<String> {
        match &config.app().backend {
            AppBackend::Callback(CallbackBackend::Fork(pool)) => pool.exec.command.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_application_alone_is_a_whole_configuration() {
        let (config, _) = applied(&report(&[]), "");
        assert_eq!(config.server().listen[0].to_string(), "localhost:8888");
        assert_eq!(config.server().state_dir, Path::new("/srv/site/tmp"));
        let bridge = "auto_prepend_file=/srv/site/tmp/carbonphp-bridge.php";
        let (opcache, pages) = ("opcache.enable_cli=1", "opcache.huge_code_pages=1");
        assert_eq!(
            command(&config).join(" "),
            format!("php -d {opcache} -d {pages} -d {bridge} index.php websocket")
        );
        assert!(matches!(
            config.validate().backend,
            ValidateBackend::Application
        ));
        let fifo = config.fifo();
        assert_eq!(fifo.dir, Path::new("/srv/site/tmp/fifo"));
        assert_eq!((fifo.mode, fifo.max_record), (0o660, 1 << 20));
        assert!(matches!(&fifo.framing, FifoFraming::Delimiter(mark) if mark.ends_with(b":29\n")));
        assert!(config.identity().require_cookie && config.identity().verify_ip);
    }

    #[test]
    fn what_is_written_stands_above_what_the_application_says() {
        let file = "php = 'php8.3 -n -d opcache.enable_cli=0'\nconnections = 'never'\n\
                    [server]\nlisten = ['127.0.0.1:1']\nstate_dir = '/run/ws'\n\
                    [app]\nempty_reply = 'nothing'\nenv = { A = 'b' }\n\
                    [identity]\nverify_ip = true\n\
                    [fifo]\nframing = 'lines'\n\
                    [validate]\ncommand = '/srv/who'\n";
        let (config, set) = applied(&report(&[("verify_ip", false.into())]), file);
        assert_eq!(config.server().listen[0].to_string(), "127.0.0.1:1");
        let words = command(&config);
        let php = "php8.3 -n -d opcache.enable_cli=0 -d opcache.huge_code_pages=1";
        assert_eq!(words[..6].join(" "), php);
        assert_eq!(words[7], "auto_prepend_file=/run/ws/carbonphp-bridge.php");
        let exec = config.app().backend.callback().unwrap().exec().unwrap();
        let env: Vec<_> = exec
            .env
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(
            env,
            [
                "A=b",
                "USE_ZEND_ALLOC_HUGE_PAGES=1",
                "WS_CARBONPHP_CONNECTIONS=never",
                "WS_CARBONPHP_EMPTY=none"
            ]
        );
        assert!(config.identity().verify_ip);
        assert_eq!(config.fifo().framing, FifoFraming::Lines);
        assert!(config.validate().backend.callback().is_some());
        assert!(set.get("server.listen").is_none() && set.get("fifo.dir").is_some());
    }

    #[test]
    fn a_certificate_makes_it_wss_and_v6_has_its_brackets() {
        let tls = serde_json::json!({ "cert": "/srv/c.pem", "key": "/srv/k.pem" });
        let said = report(&[("tls", tls), ("host", "::1".into()), ("dev", true.into())]);
        let (config, _) = applied(&said, "");
        assert_eq!(config.server().listen[0].to_string(), "wss://[::1]:8888");
        // One's own certificate is not mixed with that of the application.
        let file = "[server.tls]\ncert = '/own/c.pem'\nkey = '/own/k.pem'\n";
        let (_, set) = applied(&said, file);
        assert!(set.get("server.tls.cert").is_none() && set.get("server.tls.key").is_none());
    }

    #[test]
    fn another_backend_has_the_rest() {
        let file = "[app]\nbackend = 'fastcgi'\naddress = 'unix:/run/php/php-fpm.sock'\n";
        let (config, _) = applied(&report(&[]), file);
        assert_eq!(config.app().backend.name(), "fastcgi");
        assert!(matches!(
            config.validate().backend,
            ValidateBackend::Application
        ));
        let told = config.app().params.iter();
        let told: Vec<_> = told
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(
            told,
            [
                "SCRIPT_FILENAME=/srv/site/tmp/carbonphp-bridge.php",
                "WS_CARBONPHP_CONNECTIONS=never",
                "WS_CARBONPHP_INDEX=/srv/site/index.php",
            ]
        );
        // Who writes an entry script has that.
        let own = format!("{file}params = {{ SCRIPT_FILENAME = '/srv/site/ws.php' }}\n");
        let (config, _) = applied(&report(&[]), &own);
        assert_eq!(config.app().params.len(), 1);
        let (config, _) = applied(&report(&[]), "[app]\nbackend = 'echo'\n");
        assert!(matches!(config.validate().backend, ValidateBackend::None));
    }

    #[test]
    fn faults_name_what_says_so_in_the_application() {
        let said = report(&[("host", "".into())]);
        let mut raw = RawConfig::default();
        raw.set("carbonphp.index", "/srv/site/index.php");
        let base = Path::new("/home");
        let application = CarbonPhpConfig::from_raw(&raw, base).unwrap().unwrap();
        apply(&said, &application, &mut raw, base);
        let faults = Config::from_raw(&raw, base).unwrap_err().to_string();
        let expected = "/srv/site/index.php (SOCKET.HOST, SOCKET.PORT): server.listen: ";
        assert!(faults.starts_with(expected), "{faults}");
    }
}
