//! `[carbonphp]`: an application that says most of the rest itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ws_ipc::shims::CARBONPHP_SETTINGS;

use super::account::{self, Account};
use super::fault::InvalidConfig;
use super::raw::RawConfig;
use super::reader::Reader;

/// `[carbonphp]`: an application of CarbonPHP's, and whom it runs as.
///
/// Nothing of this makes the server run it: who reads the configuration asks the application what it
/// configures, and sets that and [`command`](Self::command) where nothing else is written.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CarbonPhpConfig {
    /// Its `index.php`.
    pub index: PathBuf,
    /// The PHP that runs it, with options.
    pub php: Vec<String>,
    /// Whether its callbacks find who is connected.
    pub connections: CarbonPhpConnections,
    /// What it runs as, `app.user`; `None` is the user of the server.
    pub account: Option<Account>,
    /// Its environment, `app.env`.
    pub env: BTreeMap<String, String>,
}

/// Whether the callbacks of a CarbonPHP application find who is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CarbonPhpConnections {
    /// If its sources ask for it.
    Auto,
    /// With each message.
    Always,
    /// They find nobody.
    Never,
}

impl CarbonPhpConnections {
    /// Returns the name as written in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}

impl CarbonPhpConfig {
    /// The parameter of php-fpm that says which file it runs.
    pub const SCRIPT: &str = "SCRIPT_FILENAME";

    /// Reads which application there is, if any, from a configuration of which the rest is not
    /// known yet.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`] with what is wrong in this section.
    pub fn from_raw(raw: &RawConfig, base_dir: &Path) -> Result<Option<Self>, InvalidConfig> {
        let mut reader = Reader::of_known(raw, base_dir);
        let config = read(&mut reader);
        reader.finish(config)
    }

    /// Returns the command that runs the application behind a bridge, in
    /// [its directory](Self::directory): with the settings of PHP with which it costs least, unless
    /// `php` has them otherwise.
    pub fn command(&self, bridge: &Path) -> Vec<String> {
        let name = self.index.file_name().unwrap_or(self.index.as_os_str());
        let is_given = |name: &str| self.php.iter().any(|word| word.contains(name));
        let cheaper = CARBONPHP_SETTINGS
            .iter()
            .filter(|(name, _)| !is_given(name))
            .flat_map(|(name, value)| ["-d".to_owned(), format!("{name}={value}")]);
        let own = [
            "-d".to_owned(),
            format!("auto_prepend_file={}", bridge.display()),
            name.to_string_lossy().into_owned(),
            "websocket".to_owned(),
        ];
        let php = self.php.iter().cloned();
        php.chain(cheaper).chain(own).collect()
    }

    /// Returns where the bridge is for a server with this state directory.
    pub fn bridge(state_dir: &Path) -> PathBuf {
        state_dir.join("carbonphp-bridge.php")
    }

    /// Returns the directory of its `index.php`.
    pub fn directory(&self) -> &Path {
        self.index.parent().unwrap_or_else(|| Path::new("/"))
    }
}

pub(super) fn read(reader: &mut Reader<'_>) -> Option<CarbonPhpConfig> {
    let index = reader.optional_path("carbonphp.index");
    let php = reader.command("carbonphp.php");
    let connections = reader.choice(
        "carbonphp.connections",
        &[
            ("auto", CarbonPhpConnections::Auto),
            ("always", CarbonPhpConnections::Always),
            ("never", CarbonPhpConnections::Never),
        ],
    );
    if !reader.is_given("carbonphp.index") {
        for path in ["carbonphp.php", "carbonphp.connections"] {
            if reader.is_changed(path) {
                reader.conflict(path, "has no effect without carbonphp.index");
            }
        }
    }
    let mut app = reader.aside();
    let user = app.read_optional("app.user", account::user);
    let group = app.read_optional("app.group", account::group);
    Some(CarbonPhpConfig {
        index: index?,
        php: php.unwrap_or_else(|| vec!["php".to_owned()]),
        connections,
        account: user.and_then(|(uid, primary)| Some(Account::new(uid, group.or(primary)?))),
        env: app.environment("app.env"),
    })
}
