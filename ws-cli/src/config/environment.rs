//! Settings in environment variables, and in the files that some of them name.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use nix::fcntl::OFlag;
use ws_server::config::{Source, SourceKind, is_secret, is_setting};

use super::refusal::{Refusal, Told};
use super::{Layer, Surroundings};

const PREFIX: &str = "WS__";
/// Behind the variable of a secret setting: the value is the path of the file that holds it.
const FILE_SUFFIX: &str = "_file";
/// Where systemd puts what `LoadCredential=` and its like name.
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";
/// The settings that name a file, which may be a credential.
const FILES: [&str; 5] = [
    "server.tls.cert",
    "server.tls.key",
    "control.token_file",
    "identity.token.secret_file",
    "identity.token.public_key_file",
];
/// The largest secret.
const MAX_SECRET_SIZE: u64 = 64 * 1024;

/// Takes `WS__SECTION__KEY` and `WS__SECTION__SECTION__KEY`; names inside a table
/// (`WS__APP__ENV__PATH`) keep their case. What is wrong with one is said where its value would be.
pub(super) fn read(surroundings: &Surroundings) -> Layer {
    let mut variables: Vec<_> = variables(surroundings).collect();
    // A variable stands before those that go on where it ends.
    variables.sort();
    let mut layer = Layer::default();
    let mut given: HashMap<Vec<String>, String> = HashMap::new();
    for (name, value) in variables {
        let (mut path, is_file) = path_of(&name);
        let source = Source::new(&name, &surroundings.directory).of_kind(SourceKind::Environment);
        let other = (1..=path.len()).find_map(|len| given.get(&path[..len]));
        let value = match (other, value.to_str()) {
            (Some(other), _) => Err(format!("{other} is given, too")),
            (None, None) => Err("the value is not UTF-8".to_owned()),
            (None, Some(value)) if is_file => read_secret(&surroundings.directory.join(value))
                .map_err(|error| format!("{error:#}")),
            (None, Some(value)) => Ok(value.to_owned()),
        };
        let keys: Vec<&str> = path.iter().map(String::as_str).collect();
        match value {
            Ok(value) => layer.set(&keys, value, source),
            Err(why) => layer.refuse(&keys, why, source),
        }
        path.shrink_to_fit();
        given.entry(path).or_insert(name);
    }
    layer
}

/// Takes the credentials that systemd has for a service: those named like a secret setting are its
/// value, those named like a setting that names a file are that file.
///
/// # Errors
///
/// [`Refusal`] if the directory cannot be read.
pub(super) fn read_credentials(surroundings: &Surroundings) -> Result<Layer, Refusal> {
    let mut layer = Layer::default();
    let Some(directory) = surroundings.variable(CREDENTIALS_DIRECTORY).map(Path::new) else {
        return Ok(layer);
    };
    let unreadable = |error: io::Error| {
        let told = format!("cannot read {}: {error}", directory.display());
        Refusal::from(Told::new(told).in_source(CREDENTIALS_DIRECTORY))
    };
    let entries = match fs::read_dir(directory) {
        // Who was started by a service has its environment, though not its credentials.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(layer),
        entries => entries.map_err(unreadable)?,
    };
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        // Others are somebody else's.
        let Some(name) = path.file_name().and_then(OsStr::to_str) else {
            continue;
        };
        let keys: Vec<&str> = name.splitn(3, '.').collect();
        let source =
            Source::new(path.display().to_string(), directory).of_kind(SourceKind::Credential);
        if FILES.contains(&name) {
            match path.to_str() {
                Some(path) => layer.set(&keys, path, source),
                None => layer.refuse(&keys, "its path is not UTF-8".to_owned(), source),
            }
        } else if is_secret(name) {
            match read_secret(&path) {
                Ok(value) => layer.set(&keys, value, source),
                Err(error) => layer.refuse(&keys, format!("{error:#}"), source),
            }
        }
    }
    Ok(layer)
}

/// Returns the files of secrets that every user of the host may read.
pub(crate) fn exposed(surroundings: &Surroundings) -> Vec<PathBuf> {
    let named = variables(surroundings).filter(|(name, _)| path_of(name).1);
    let paths = named.map(|(_, value)| surroundings.directory.join(value));
    paths
        .filter(|path| {
            fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
        })
        .collect()
}

/// Returns the variables that are ours; a name that is not UTF-8 is none that is known.
fn variables(surroundings: &Surroundings) -> impl Iterator<Item = (String, &OsStr)> {
    let variables = surroundings.variables.iter();
    variables
        .filter(|(name, _)| name.as_bytes().starts_with(PREFIX.as_bytes()))
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.as_os_str()))
}

/// Returns the path of the setting that a variable is for, and whether it names the file with the
/// value.
fn path_of(name: &str) -> (Vec<String>, bool) {
    let mut parts = name[PREFIX.len()..].splitn(3, "__");
    let mut path: Vec<String> = parts.by_ref().take(2).map(str::to_lowercase).collect();
    // Inside a table names are the user's own; inside a section they are ours.
    let is_table = is_setting(&path.join("."));
    if let Some(rest) = parts.next() {
        path.push(match is_table {
            true => return (push(path, rest.to_owned()), false),
            false => rest.to_lowercase(),
        });
    }
    let whole = path.join(".");
    let is_file = !is_setting(&whole) && whole.strip_suffix(FILE_SUFFIX).is_some_and(is_secret);
    if is_file && let Some(last) = path.last_mut() {
        last.truncate(last.len() - FILE_SUFFIX.len());
    }
    (path, is_file)
}

fn push(mut path: Vec<String>, last: String) -> Vec<String> {
    path.push(last);
    path
}

/// Reads the file of a secret; a newline at its end does not count.
fn read_secret(path: &Path) -> anyhow::Result<String> {
    let read = || -> anyhow::Result<String> {
        // A FIFO that nobody writes to must not keep the server from starting.
        let mut options = OpenOptions::new();
        let options = options.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
        let file: File = options.open(path)?;
        let metadata = file.metadata()?;
        ensure!(metadata.is_file(), "it is not a regular file");
        let mode = metadata.permissions().mode() & 0o7777;
        ensure!(
            mode & 0o022 == 0,
            "others than its owner may write to it (mode {mode:04o})"
        );
        let mut bytes = Vec::new();
        file.take(MAX_SECRET_SIZE + 1).read_to_end(&mut bytes)?;
        ensure!(
            bytes.len() as u64 <= MAX_SECRET_SIZE,
            "it is larger than {MAX_SECRET_SIZE} bytes"
        );
        let Ok(mut text) = String::from_utf8(bytes) else {
            bail!("it is not UTF-8")
        };
        let trimmed = text.strip_suffix('\n').unwrap_or(&text);
        let len = trimmed.strip_suffix('\r').unwrap_or(trimmed).len();
        text.truncate(len);
        ensure!(!text.is_empty(), "it is empty");
        Ok(text)
    };
    read().with_context(|| format!("cannot use {}", path.display()))
}
