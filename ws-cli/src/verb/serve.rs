//! `ws serve`: runs the server.

use std::path::Path;
use std::sync::Arc;

use config::ValueKind;
use tracing::warn;
use ws_server::config::{AppBackend, Config, RawConfig, RawKind, RawValue, Source};
use ws_server::{ConfigSource, HelperProgram, Host, LogTail, ServeErrorKind};

use crate::args::{LegacyFlags, ServeArgs};
use crate::carbonphp::{self, Asking, Report, Taken};
use crate::config::{
    Layer, Refusal, Surroundings, check, exposed, load, names_collector, unheeded,
};
use crate::failure::{Code, Failure};
use crate::logging::{self, Gate};
use crate::supervision::Supervision;

pub(crate) fn run(args: &ServeArgs) -> Result<(), Failure> {
    let surroundings = Surroundings::of_process()?;
    let (config, application) = configure(args, &surroundings, Asking::Now)?;
    let is_carbonphp = application.is_some();
    // What went wrong is said behind the last line of the log.
    let tail = LogTail::default();
    let log = logging::install(config.log(), tail.clone())?;
    for path in exposed(&surroundings) {
        // Not an error: secrets that are mounted into containers often are.
        warn!(path = %path.display(), "every user of the host may read a secret setting");
    }
    tell_of_opentelemetry(&config, &surroundings);
    for (setting, why) in ws_server::unusable_programs(&config) {
        // Not an error: an application may be installed after its server was started.
        warn!(setting, why, "a callback could not be run now");
    }
    tell_of_legacy(&args.legacy);
    if let Some(application) = &application {
        application.tell();
    }
    let host = Host {
        observer: Arc::new(Supervision::of_process()),
        source: Some(Arc::new(Again {
            args: args.clone(),
            surroundings,
            level: log.level(),
            report: application.map(|application| application.report),
        })),
        log: tail,
    };
    ws_server::run(config, HelperProgram::current(), host).map_err(|error| {
        let code = match error.kind() {
            ServeErrorKind::CannotCreate => Code::CannotCreate,
            ServeErrorKind::Configuration => Code::Configuration,
            ServeErrorKind::NotPermitted => Code::NotPermitted,
            ServeErrorKind::Failure => Code::Failed,
        };
        match is_carbonphp && code == Code::CannotCreate {
            true => {
                let error = anyhow::Error::new(error);
                let note = "exit code 73, where CarbonPHP's server had 18";
                Failure::new(code, format!("{error:#} ({note})"))
            }
            false => Failure::with_code(code, error),
        }
    })
}

/// Says which variables of OpenTelemetry's do not count here. They are meant for all programs of the
/// host, so this is no error.
fn tell_of_opentelemetry(config: &Config, surroundings: &Surroundings) {
    let collector = names_collector(surroundings);
    if cfg!(not(feature = "otel")) {
        if let Some(variable) = collector {
            warn!(
                variable,
                "no traces are recorded, since this ws was built without: \
                 cargo build --release -p ws-cli --features otel"
            );
        }
    } else if collector.is_some() || config.trace().is_some() {
        for (variable, why) in unheeded(surroundings) {
            warn!(
                variable,
                why, "the variable cannot be used and counts as absent"
            );
        }
    }
}

/// Says what to write instead of flags of CarbonPHP's server.
fn tell_of_legacy(flags: &LegacyFlags) {
    let seeks = "server.auto_port = true";
    let seeks_or_not = match flags.open_ports {
        Some(false) => "server.auto_port = false",
        _ => seeks,
    };
    for (is_given, flag, instead) in [
        (flags.any_open_port, "--autoAssignAnyOpenPort", seeks),
        (
            flags.open_ports.is_some(),
            "--autoAssignOpenPorts",
            seeks_or_not,
        ),
        (
            flags.dont_verify_ip,
            "--dontVerifyIP",
            "identity.verify_ip = false",
        ),
    ] {
        if is_given {
            warn!(
                flag,
                instead, "a flag of CarbonPHP's server: write the setting instead"
            );
        }
    }
}

/// Reads the configuration once more, as it was read at the start.
struct Again {
    args: ServeArgs,
    surroundings: Surroundings,
    level: Option<Gate>,
    /// What an application of CarbonPHP's said then. It is not asked again: the server starts no
    /// processes once it serves.
    report: Option<Report>,
}

impl ConfigSource for Again {
    fn read(&self) -> Result<Config, Vec<String>> {
        let asking = Asking::Not(self.report.as_ref());
        let configured = configure(&self.args, &self.surroundings, asking);
        configured.map(|(config, _)| config).map_err(|refusal| {
            let told = refusal.told().iter();
            told.map(ToString::to_string).collect()
        })
    }

    fn applied(&self, config: &Config) {
        if let Some(level) = &self.level {
            level.set(config.log().level);
        }
    }
}

/// Reads what a server that is started like this has for its configuration, and what an application
/// of CarbonPHP's has contributed to it.
///
/// # Errors
///
/// [`Refusal`] with everything that is wrong.
pub(crate) fn configure(
    args: &ServeArgs,
    surroundings: &Surroundings,
    asking: Asking<'_>,
) -> Result<(Config, Option<Taken>), Refusal> {
    let file = args.config.config.as_deref();
    let mut raw = load(file, surroundings, flags(args, surroundings))?;
    if args.echo || args.carbonphp.is_some() {
        // The flag says another backend than the file, which may have a command for its own.
        raw.remove("app.command");
    }
    if args.carbonphp.is_some() {
        raw.remove("app.backend");
    }
    if args.echo || !args.command.is_empty() {
        CARBONPHP.iter().for_each(|path| raw.remove(path));
    }
    let application = carbonphp::prepare(&mut raw, surroundings, asking)?;
    if args.dev {
        set_missing(&mut raw, "log.format", "text", "--dev");
        set_missing(&mut raw, "log.level", "debug", "--dev");
    }
    let mut config = check(&raw, surroundings)?;
    if args.watch && config.app().watch.is_empty() {
        raw.set("app.watch", beside_command(&config)?);
        config = check(&raw, surroundings)?;
    }
    if args.dev {
        config = config
            .for_development()
            .map_err(|invalid| Refusal::from(&invalid))?;
    }
    Ok((config, application))
}

/// The section that a command or a built-in backend of the command line replaces.
const CARBONPHP: [&str; 3] = ["carbonphp.index", "carbonphp.php", "carbonphp.connections"];

/// The directories of the files that the application's command names.
fn beside_command(config: &Config) -> Result<Vec<String>, Refusal> {
    let index = config
        .carbonphp()
        .map(|it| it.index.as_os_str().to_string_lossy());
    let exec = match &config.app().backend {
        AppBackend::Callback(backend) => backend.exec(),
        _ => None,
    };
    let words = exec.map(|exec| exec.command.as_slice()).unwrap_or_default();
    let words = words.iter().map(String::as_str).chain(index.as_deref());
    let files = words.map(Path::new).filter(|path| path.is_file());
    let mut directories: Vec<String> = files
        .filter_map(|path| {
            path.canonicalize()
                .ok()?
                .parent()?
                .to_str()
                .map(str::to_owned)
        })
        .collect();
    directories.dedup();
    if directories.is_empty() {
        let told = "the command names no file; name files or directories in app.watch";
        return Err(Refusal::of_flag("--watch", told));
    }
    Ok(directories)
}

/// Turns flags into settings, which stand above those of file and environment.
fn flags(args: &ServeArgs, surroundings: &Surroundings) -> Layer {
    let mut layer = Layer::default();
    let mut set = |path: &[&str], value: ValueKind, flag: &str| {
        layer.set(path, value, Source::new(flag, &surroundings.directory));
    };
    if !args.listen.is_empty() {
        set(&["server", "listen"], list(&args.listen), "--listen");
    }
    if args.tls_self_signed {
        set(
            &["server", "tls", "self_signed"],
            true.into(),
            "--tls-self-signed",
        );
    }
    if let Some(directory) = &args.state_dir {
        set(
            &["server", "state_dir"],
            directory.as_str().into(),
            "--state-dir",
        );
    }
    if let Some(command) = &args.validate {
        set(
            &["validate", "command"],
            command.as_str().into(),
            "--validate",
        );
        set(&["validate", "backend"], "exec".into(), "--validate");
    }
    if args.echo {
        set(&["app", "backend"], "echo".into(), "--echo");
    }
    if let Some(index) = &args.carbonphp {
        set(
            &["carbonphp", "index"],
            index.as_str().into(),
            "--carbonphp",
        );
    }
    let legacy = &args.legacy;
    let any = || legacy.any_open_port.then_some(true);
    if let Some(seeks) = legacy.open_ports.or_else(any) {
        let flag = "--autoAssignOpenPorts";
        set(&["server", "auto_port"], seeks.into(), flag);
    }
    if legacy.dont_verify_ip {
        let path = ["identity", "verify_ip"];
        set(&path, false.into(), "--dontVerifyIP");
    }
    if !args.command.is_empty() {
        // One string is split like shell words, several are taken as they are.
        let command = match args.command.as_slice() {
            [command] => command.as_str().into(),
            words => list(words),
        };
        set(&["app", "command"], command, "the command line");
        let (backend, flag) = match args {
            ServeArgs { fork: true, .. } => ("fork", "--fork"),
            ServeArgs { worker: true, .. } => ("worker", "--worker"),
            ServeArgs { stream: true, .. } => ("stream", "--stream"),
            _ => ("exec", "the command line"),
        };
        set(&["app", "backend"], backend.into(), flag);
    }
    layer
}

fn list(values: &[String]) -> ValueKind {
    ValueKind::Array(values.iter().map(|value| value.as_str().into()).collect())
}

fn set_missing(raw: &mut RawConfig, path: &str, value: &str, flag: &str) {
    if raw.get(path).is_none() {
        let source = Arc::new(Source::new(flag, ""));
        let kind = RawKind::Text(value.to_owned());
        raw.set(path, RawValue::new(kind, Some(source)));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser;
    use tempfile::TempDir;
    use ws_server::config::{CallbackBackend, LogFormat, LogLevel, ValidateBackend};

    use super::*;
    use crate::args::{Args, Verb};

    fn configured(file: &str, line: &str) -> Result<Config, Refusal> {
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join("ws.toml"), file).unwrap();
        let surroundings = Surroundings {
            directory: "/srv".into(),
            variables: vec![("WS_CONFIG".into(), directory.path().join("ws.toml").into())],
            system_file: "/nonexistent".into(),
        };
        let words = shell_words::split(&format!("ws serve {line}")).unwrap();
        let Some(Verb::Serve(args)) = Args::try_parse_from(words).unwrap().verb else {
            panic!()
        };
        Ok(configure(&args, &surroundings, Asking::Now)?.0)
    }

    fn command(config: &Config) -> &[String] {
        match &config.app().backend {
            AppBackend::Callback(CallbackBackend::Exec(exec)) => &exec.command,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_stand_above_the_file() {
        let file = "[server]\nlisten = ['a:1']\nstate_dir = 'x'\n[app]\nbackend = 'demo'\n\
                    [validate]\nbackend = 'none'\n";
        let line = "--listen 127.0.0.1:0 --listen unix:s --state-dir d --validate 'who \"a b\" $X' -- cat -n";
        let config = configured(file, line).unwrap();
        let listen: Vec<_> = config
            .server()
            .listen
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(listen, ["127.0.0.1:0", "unix:/srv/s"]);
        assert_eq!(config.server().state_dir, Path::new("/srv/d"));
        assert_eq!(command(&config), ["cat", "-n"]);
        let ValidateBackend::Callback(CallbackBackend::Exec(exec)) = &config.validate().backend
        else {
            panic!()
        };
        assert_eq!(exec.command, ["who", "a b", "$X"]);
    }

    #[test]
    fn one_string_is_split_and_several_are_not() {
        let config = configured("", "-- './run \"a b\" *'").unwrap();
        assert_eq!(command(&config), ["/srv/./run", "a b", "*"]);
        let config = configured("", "-- sh -c 'echo $WS_USER_ID'").unwrap();
        assert_eq!(command(&config), ["sh", "-c", "echo $WS_USER_ID"]);
    }

    #[test]
    fn echo_replaces_the_application_of_the_file() {
        let config = configured("[app]\ncommand = 'cat'\n", "--echo").unwrap();
        assert!(matches!(config.app().backend, AppBackend::Echo));
        assert!(!config.app().ping);
    }

    #[test]
    fn flags_say_how_the_command_is_run() {
        let backend = |line| configured("", line).unwrap().app().backend.clone();
        for (line, name) in [
            ("-- cat", "exec"),
            ("--fork -- cat", "fork"),
            ("--worker -- cat", "worker"),
            ("--stream -- cat", "stream"),
        ] {
            assert_eq!(backend(line).name(), name);
        }
    }

    #[test]
    fn development_is_local_and_detailed() {
        let config = configured("", "--dev -- cat").unwrap();
        assert!(config.serves_console() && config.is_local_only());
        assert_eq!(
            (config.log().format, config.log().level),
            (LogFormat::Text, LogLevel::Debug)
        );
        let config = configured("[log]\nlevel = 'warn'\n", "--dev").unwrap();
        assert_eq!(config.log().level, LogLevel::Warn);
        configured("", "--dev --listen 0.0.0.0:0").unwrap_err();
    }

    #[test]
    fn faults_of_flags_name_the_flag() {
        let failure = configured("", "--listen nowhere").unwrap_err();
        assert!(
            failure
                .to_string()
                .contains("--listen: server.listen: \"nowhere\""),
            "{failure}"
        );
    }
}
