//! The bridge to an application of CarbonPHP's: a file of PHP in the state directory.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::config::{AppBackend, CallbackBackend, CarbonPhpConfig, Config};
use crate::error::ServeError;

/// Writes it, if there is such an application and this server runs it.
pub(crate) fn place(config: &Config) -> Result<(), ServeError> {
    let (Some(application), AppBackend::Callback(CallbackBackend::Fork(_))) =
        (config.carbonphp(), &config.app().backend)
    else {
        return Ok(());
    };
    // It is no secret: another user whom the application runs as has to read it.
    let mode = match application.account {
        Some(_) => 0o644,
        None => 0o600,
    };
    let path = config.server().state_dir.join(CarbonPhpConfig::BRIDGE);
    let written = write(&path, &ws_ipc::shims::carbonphp_bridge(), mode);
    written.map_err(|source| ServeError::Bridge { path, source })
}

/// Puts a file in the place of whatever stands there. It is never seen half written, and no link is
/// followed: the application may write to the directory, and the server may be root.
fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let new = path.with_extension(format!("php.{}", std::process::id()));
    let written = create(&new)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
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
}
