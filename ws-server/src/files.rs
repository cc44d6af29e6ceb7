//! Whether the files that a configuration names can be used, asked before the server starts.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::{AccessFlags, access};
use ws_transport::{TlsAcceptor, TlsError, TlsFile};

use crate::config::{Config, ExecConfig, Fault, InvalidConfig, Problem, Tls};
use crate::doors;
use crate::error::ServeError;
use crate::identify;
use crate::visitor::DEFAULT_PATH;

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
    for Unusable {
        setting,
        why,
        is_named,
    } in programs(config)
    {
        // What has to be looked up may be found where the server runs.
        if !is_named {
            note(setting, why);
        }
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

/// Opens a file that stays, as one has to that is read again whenever it changes: nothing that is
/// waited for, as a FIFO is until somebody writes to it.
///
/// # Errors
///
/// The system's, and one of its own for what is no regular file.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let mut options = File::options();
    let file = options.read(true).custom_flags(flags.bits()).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is not a regular file")),
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

/// Finds the programs of callbacks that could not be run if they were asked for now: the setting
/// that names each, and why not. They may yet come, so a server that starts only warns of them.
pub fn unusable_programs(config: &Config) -> Vec<(&'static str, String)> {
    let found = programs(config).into_iter();
    found.map(|it| (it.setting, it.why)).collect()
}

/// A program that could not be run.
struct Unusable {
    setting: &'static str,
    why: String,
    /// It is looked up by its name, in the `PATH` that its callback has.
    is_named: bool,
}

fn programs(config: &Config) -> Vec<Unusable> {
    let (app, validate) = (&config.app().backend, &config.validate().backend);
    let callbacks = [
        ("app.command", app.callback()),
        ("validate.command", validate.callback()),
    ];
    callbacks
        .into_iter()
        .filter_map(|(setting, callback)| unusable(setting, callback?.exec()?))
        .collect()
}

fn unusable(setting: &'static str, exec: &ExecConfig) -> Option<Unusable> {
    let program = exec.command.first()?;
    let usable = find(program, exec).and_then(|path| is_usable(&path));
    let why = usable.err()?;
    Some(Unusable {
        setting,
        why: format!("cannot run {program}: {why}"),
        is_named: !program.contains('/'),
    })
}

fn find(program: &str, exec: &ExecConfig) -> Result<PathBuf, String> {
    if program.contains('/') {
        return Ok(PathBuf::from(program));
    }
    let path = exec.env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
    std::env::split_paths(path)
        .map(|dir| dir.join(program))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| format!("it is not in {path}"))
}

fn is_usable(path: &Path) -> Result<(), String> {
    if let Ok(metadata) = path.metadata() {
        if metadata.is_dir() {
            return Err("it is a directory".to_owned());
        }
        if !metadata.is_file() {
            return Err("it is not a regular file".to_owned());
        }
        if metadata.permissions().mode() & 0o111 == 0 {
            return Err("it is not executable (chmod +x)".to_owned());
        }
    }
    access(path, AccessFlags::X_OK).map_err(|errno| errno.desc().to_owned())?;
    match interpreter(path) {
        // The system calls the script missing, which is there for everybody to see.
        Some(interpreter) => access(Path::new(&interpreter), AccessFlags::X_OK)
            .map_err(|errno| format!("its first line names {interpreter:?}: {}", errno.desc())),
        None => Ok(()),
    }
}

/// What the first line of a script names. A carriage return at its end belongs to the name, as the
/// kernel has it.
fn interpreter(path: &Path) -> Option<String> {
    let mut start = [0; 256];
    let length = open_regular(path).ok()?.read(&mut start).ok()?;
    let line = start[..length].strip_prefix(b"#!")?;
    let line = line.split(|byte| *byte == b'\n').next()?;
    let line = String::from_utf8_lossy(line);
    let words = line.trim_start_matches([' ', '\t']);
    words.split([' ', '\t']).next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Why a file with this content and mode cannot be run.
    fn refusal(content: &str, mode: u32) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("callback");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        is_usable(&path).err()
    }

    #[test]
    fn what_keeps_a_script_from_running_is_said_in_its_own_words() {
        assert_eq!(refusal("#!/bin/sh\necho\n", 0o755), None);
        assert_eq!(refusal("#! /usr/bin/env sh\n", 0o755), None);
        assert_eq!(refusal("\u{7f}ELF", 0o755), None);
        assert_eq!(
            refusal("#!/bin/sh\n", 0o644).unwrap(),
            "it is not executable (chmod +x)"
        );
        assert_eq!(
            refusal("#!/no/such/php -q\n", 0o755).unwrap(),
            "its first line names \"/no/such/php\": No such file or directory"
        );
        // Saved with the line ends of another system.
        assert_eq!(
            refusal("#!/bin/sh\r\necho\r\n", 0o755).unwrap(),
            "its first line names \"/bin/sh\\r\": No such file or directory"
        );
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(is_usable(dir.path()).unwrap_err(), "it is a directory");
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(is_usable(&fifo).unwrap_err(), "it is not a regular file");
        assert_eq!(
            is_usable(&dir.path().join("none")).unwrap_err(),
            "No such file or directory"
        );
    }
}
