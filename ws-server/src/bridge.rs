//! The bridge to an application of CarbonPHP's: a file of PHP in the state directory.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::config::{AppBackend, CallbackBackend, CarbonPhpConfig, Config};
use crate::error::ServeError;

/// Writes it, if there is such an application, and this server runs it or has php-fpm run it.
pub(crate) fn place(config: &Config) -> Result<(), ServeError> {
    let state_dir = &config.server().state_dir;
    let path = CarbonPhpConfig::bridge(state_dir);
    let (Some(application), AppBackend::Callback(backend)) =
        (config.carbonphp(), &config.app().backend)
    else {
        return Ok(());
    };
    // It is no secret: another user whom the application runs as has to read it.
    let mode = match backend {
        CallbackBackend::Fork(_) if application.account.is_none() => 0o600,
        CallbackBackend::Fork(_) => 0o644,
        CallbackBackend::FastCgi(_) if is_script(config, &path) => 0o644,
        _ => return Ok(()),
    };
    let users = application.account.map(|account| account.uid());
    let written = keep_others_out(state_dir, users);
    let written = written.and_then(|()| write(&path, &ws_ipc::shims::carbonphp_bridge(), mode));
    written.map_err(|source| ServeError::Bridge { path, source })
}

/// Whether this is what php-fpm is asked to run.
fn is_script(config: &Config, path: &Path) -> bool {
    let script = config.app().params.get(CarbonPhpConfig::SCRIPT);
    script.is_some_and(|script| Path::new(script) == path)
}

/// Has nobody but its owner replace what we put into the directory: what is the bridge now is run
/// whenever the application's process is started again. `tmp` of CarbonPHP's is often one that a
/// group, or everybody, may write to.
///
/// The directory may belong to us, to root, or to the user whom the bridge is run as.
fn keep_others_out(dir: &Path, runs_as: Option<u32>) -> io::Result<()> {
    let dir = fs::File::open(dir)?;
    let metadata = dir.metadata()?;
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    let us = nix::unistd::geteuid().as_raw();
    if owner != us && owner != 0 && runs_as != Some(owner) {
        let text = format!(
            "the directory belongs to user {owner}, who could put another program in its place; \
             name one of your own in server.state_dir"
        );
        return Err(io::Error::other(text));
    }
    if mode & OTHERS_WRITE == 0 || mode & STICKY != 0 {
        return Ok(());
    }
    // Who owns neither a file nor its directory can then neither rename nor remove it.
    dir.set_permissions(fs::Permissions::from_mode(mode | STICKY))
        .map_err(|error| {
            let text = format!(
                "others may write to the directory (mode {mode:04o}) and put another program in \
                 its place, and it cannot be made sticky: {error}"
            );
            io::Error::new(error.kind(), text)
        })?;
    tracing::info!(mode = %format_args!("{mode:04o}"), "the state directory is sticky from now on");
    Ok(())
}

/// How old the file says that it is. PHP's opcache leaves out what was changed within the last two
/// seconds, as PHP has it, and then each process has a copy of its own.
const AGE: Duration = Duration::from_secs(60);
const OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// Puts a file in the place of whatever stands there. It is never seen half written, and no link is
/// followed: the application may write to the directory, and the server may be root.
fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let new = path.with_extension(format!("php.{}", std::process::id()));
    let written = create(&new)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.set_modified(SystemTime::now() - AGE)?;
            file.set_permissions(fs::Permissions::from_mode(mode))
        })
        .and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

fn create(path: &Path) -> io::Result<fs::File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    match options.open(path) {
        // Of a server with this number that was killed in between.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            options.open(path)
        }
        opened => opened,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn t41_others_who_may_write_to_the_directory_cannot_replace_the_bridge() {
        let dir = tempfile::tempdir().unwrap();
        for (given, expected) in [
            (0o777, 0o1777),
            (0o775, 0o1775),
            (0o1777, 0o1777),
            (0o755, 0o755),
            (0o700, 0o700),
        ] {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(given)).unwrap();
            keep_others_out(dir.path(), None).unwrap();
            assert_eq!(mode(dir.path()), expected, "{given:o}");
        }
    }

    #[test]
    fn t41_a_directory_of_somebody_else_is_refused() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: only root gives directories away");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(dir.path(), Some(12_345), None).unwrap();
        let error = keep_others_out(dir.path(), None).unwrap_err();
        assert!(error.to_string().contains("user 12345"), "{error}");
        keep_others_out(dir.path(), Some(12_345)).unwrap();
    }

    #[test]
    fn t41_a_link_in_the_place_of_the_bridge_is_replaced_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("bridge.php"), dir.path().join("other"));
        fs::write(&other, "mine").unwrap();
        symlink(&other, &path).unwrap();
        let half = dir
            .path()
            .join(format!("bridge.php.{}", std::process::id()));
        symlink(&other, &half).unwrap();
        write(&path, "<?php", 0o644).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "<?php");
        assert_eq!(fs::read_to_string(&other).unwrap(), "mine");
        let metadata = path.symlink_metadata().unwrap();
        assert!(metadata.is_file() && metadata.permissions().mode() & 0o777 == 0o644);
        assert!(half.symlink_metadata().is_err());
    }

    #[test]
    fn opcache_does_not_take_the_bridge_for_a_file_that_is_being_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bridge.php");
        write(&path, "<?php", 0o600).unwrap();
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        assert!(SystemTime::now().duration_since(modified).unwrap() >= AGE);
    }
}
