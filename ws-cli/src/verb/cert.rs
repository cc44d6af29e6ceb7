//! `ws cert`: makes a certificate for development.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use ws_server::{SelfSigned, TlsError};

use crate::args::CertArgs;
use crate::failure::{Code, Failure};
use crate::output;

const DAY: Duration = Duration::from_secs(86_400);
/// Everybody may see the certificate; it is sent to whoever connects.
const CERTIFICATE_MODE: u32 = 0o644;
const KEY_MODE: u32 = 0o600;

pub(crate) fn run(args: &CertArgs) -> Result<(), Failure> {
    let names = match args.name.as_slice() {
        [] => ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into(),
        names => names.to_vec(),
    };
    let made = SelfSigned::new(&names, DAY * args.days).map_err(|error| {
        let code = match error {
            TlsError::InvalidName { .. } => Code::Usage,
            _ => Code::Failed,
        };
        Failure::with_code(code, error)
    })?;
    let files = Files::in_directory(&args.out)?;
    files.write(&made, args.force)?;
    let (cert, key) = (files.cert.to_string_lossy(), files.key.to_string_lossy());
    if args.json {
        return output::json(
            &json!({ "cert": cert, "key": key, "names": names, "days": args.days }),
        );
    }
    output::line(format_args!(
        "# For {}, {} days from now on. No client trusts it unless told to:\n\
         #     curl --cacert {cert} https://{}:8443/\n\
         # This is for ws.toml:\n\
         [server]\n\
         listen = [\"wss://127.0.0.1:8443\"]\n\
         \n\
         [server.tls]\n\
         cert = {}\n\
         key = {}",
        names.join(", "),
        args.days,
        in_url(&names[0]),
        toml::Value::from(&*cert),
        toml::Value::from(&*key),
    ))
}

/// A name as it stands in a URL.
fn in_url(name: &str) -> String {
    match name.contains(':') {
        true => format!("[{name}]"),
        false => name.replacen('*', "any", 1),
    }
}

struct Files {
    cert: PathBuf,
    key: PathBuf,
}

impl Files {
    /// Makes the directory if it is not there.
    fn in_directory(dir: &Path) -> Result<Self, Failure> {
        let absolute = fs::create_dir_all(dir).and_then(|()| dir.canonicalize());
        let dir = absolute.map_err(|error| failed(dir, error))?;
        Ok(Self {
            cert: dir.join("cert.pem"),
            key: dir.join("key.pem"),
        })
    }

    fn write(&self, made: &SelfSigned, force: bool) -> Result<(), Failure> {
        if !force {
            self.refuse_existing()?;
        }
        for (path, text, mode) in [
            (&self.key, made.key_pem(), KEY_MODE),
            (&self.cert, made.certificate_pem(), CERTIFICATE_MODE),
        ] {
            place(path, &text, mode, force).map_err(|error| failed(path, error))?;
        }
        Ok(())
    }

    /// Both are looked at before one is written, so that no pair is left half replaced.
    fn refuse_existing(&self) -> Result<(), Failure> {
        for path in [&self.cert, &self.key] {
            if path.symlink_metadata().is_ok() {
                return Err(failed(path, io::ErrorKind::AlreadyExists.into()));
            }
        }
        Ok(())
    }
}

/// Writes a file that is never seen half written, nor with a wider mode.
fn place(path: &Path, text: &str, mode: u32, force: bool) -> io::Result<()> {
    let new = path.with_extension(format!("pem.{}", std::process::id()));
    let written = create(&new, mode)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| match force {
            true => fs::rename(&new, path),
            // Unlike a rename it fails if there is something.
            false => fs::hard_link(&new, path),
        });
    let _ = fs::remove_file(&new);
    written
}

fn create(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
}

fn failed(path: &Path, error: io::Error) -> Failure {
    let path = path.display();
    let code = match error.kind() {
        io::ErrorKind::AlreadyExists => {
            let text = format!("{path} is there already; --force replaces it");
            return Failure::new(Code::CannotCreate, text);
        }
        io::ErrorKind::PermissionDenied => Code::NotPermitted,
        _ => Code::CannotCreate,
    };
    let error = anyhow::Error::new(error).context(format!("cannot write {path}"));
    Failure::with_code(code, error)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use tempfile::TempDir;

    use super::*;

    fn args(out: &Path, force: bool) -> CertArgs {
        CertArgs {
            name: Vec::new(),
            days: 90,
            out: out.to_owned(),
            force,
            json: false,
        }
    }

    fn names_in(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn nothing_is_overwritten_unless_forced() {
        let dir = TempDir::new().unwrap();
        let path = |name| dir.path().join(name);
        for name in ["cert.pem", "key.pem"] {
            fs::write(path(name), "mine").unwrap();
            let failure = run(&args(dir.path(), false)).unwrap_err();
            assert_eq!(failure.code(), Code::CannotCreate);
            assert!(failure.to_string().contains("--force"), "{failure}");
            assert_eq!(names_in(dir.path()), [name], "and nothing is added");
            assert_eq!(fs::read_to_string(path(name)).unwrap(), "mine");
            fs::remove_file(path(name)).unwrap();
        }
        // Whatever a link points at is not written to either.
        fs::write(path("other"), "mine").unwrap();
        symlink(path("other"), path("key.pem")).unwrap();
        run(&args(dir.path(), false)).unwrap_err();
        run(&args(dir.path(), true)).unwrap();
        assert_eq!(fs::read_to_string(path("other")).unwrap(), "mine");
        assert_eq!(names_in(dir.path()), ["cert.pem", "key.pem", "other"]);
        let mode = path("key.pem").symlink_metadata().unwrap().permissions();
        assert_eq!(mode.mode() & 0o7777, 0o600);
    }

    #[test]
    fn a_directory_is_made_and_a_bad_name_is_a_wrong_command_line() {
        let dir = TempDir::new().unwrap();
        let out = dir.path().join("a/b");
        let mut args = args(&out, false);
        args.name = vec!["not a name".to_owned()];
        assert_eq!(run(&args).unwrap_err().code(), Code::Usage);
        assert!(!out.exists());
        args.name = vec!["*.dev.example".to_owned()];
        run(&args).unwrap();
        assert_eq!(names_in(&out), ["cert.pem", "key.pem"]);
    }

    #[test]
    fn names_stand_in_urls_as_they_must() {
        assert_eq!(in_url("::1"), "[::1]");
        assert_eq!(in_url("*.dev.example"), "any.dev.example");
        assert_eq!(in_url("localhost"), "localhost");
    }
}
