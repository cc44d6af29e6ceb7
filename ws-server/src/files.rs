//! Whether the files that a configuration names can be used, asked before the server starts.

use std::path::Path;

use nix::unistd::{AccessFlags, access};
use ws_transport::{TlsAcceptor, TlsError, TlsFile};

use crate::config::{CallbackBackend, Config, Fault, InvalidConfig, Problem, Tls};
use crate::doors;
use crate::error::ServeError;
use crate::identify;

/// Reads the certificates, keys and tokens that a configuration names, as the start of the server
/// does, and looks whether its programs can be run. Nothing is connected to.
///
/// # Errors
///
/// [`InvalidConfig`] with each that cannot be used. What is in them is not repeated.
pub fn check_files(config: &Config) -> Result<(), InvalidConfig> {
    let mut faults = Vec::new();
    let mut note = |path: &'static str, why: String| {
        faults.push(Fault::new(
            path,
            config.written(path),
            Problem::Unavailable(why),
        ));
    };
    if let Tls::Files(files) = &config.server().tls
        && let Err(error) = TlsAcceptor::load(files.clone())
    {
        note(setting_of(&error), error.to_string());
    }
    if let Some(tcp) = &config.control().tcp
        && let Err(why) = doors::check_tokens(&tcp.token_file)
    {
        note(
            "control.token_file",
            format!("cannot use {}: {why}", tcp.token_file.display()),
        );
    }
    for error in identify::check_files(config.identity()) {
        match error {
            ServeError::Identity {
                setting,
                path,
                source,
            } => {
                note(setting, format!("cannot use {}: {source}", path.display()));
            }
            error => note("identity", error.to_string()),
        }
    }
    let (app, validate) = (&config.app().backend, &config.validate().backend);
    if let Some(why) = app.callback().and_then(unusable_program) {
        note("app.command", why);
    }
    if let Some(why) = validate.callback().and_then(unusable_program) {
        note("validate.command", why);
    }
    for path in &config.app().watch {
        if let Err(error) = std::fs::metadata(path) {
            note(
                "app.watch",
                format!("cannot watch {}: {error}", path.display()),
            );
        }
    }
    match faults.is_empty() {
        true => Ok(()),
        false => Err(InvalidConfig::new(faults)),
    }
}

fn setting_of(error: &TlsError) -> &'static str {
    match error {
        TlsError::Unreadable { file, .. }
        | TlsError::NoCertificate { file, .. }
        | TlsError::UnusableCertificate { file, .. } => match file {
            TlsFile::Key => "server.tls.key",
            TlsFile::ClientCa => "server.tls.client_ca",
            _ => "server.tls.cert",
        },
        TlsError::NoKey { .. }
        | TlsError::EncryptedKey { .. }
        | TlsError::UnusableKey { .. }
        | TlsError::Mismatch { .. } => "server.tls.key",
        _ => "server.tls.cert",
    }
}

/// Says why a program that is named by its path cannot be run. One without a slash is looked up in
/// the `PATH` that its callback has.
fn unusable_program(backend: &CallbackBackend) -> Option<String> {
    let program = backend.exec()?.command.first()?;
    let path = program.contains('/').then(|| Path::new(program))?;
    let usable = match path.is_dir() {
        true => Err("it is a directory".to_owned()),
        false => access(path, AccessFlags::X_OK).map_err(|errno| errno.desc().to_owned()),
    };
    let why = usable.err()?;
    Some(format!("cannot run {program}: {why}"))
}
