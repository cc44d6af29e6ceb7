//! Every setting: its name, its default and what it means. The one place that defaults live in.

mod app;
mod callback;
mod carbonphp;
mod doors;
mod identity;
mod server;
mod trace;
mod validate;

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use super::raw::{RawKind, RawValue};

/// What holds when a setting is not written.
#[derive(Clone, Copy, Debug)]
pub(super) enum DefaultValue {
    Flag(bool),
    Number(i64),
    Text(&'static str),
    List(&'static [&'static str]),
    Table,
    /// Nothing, or what the description says; an example in TOML.
    Absent(&'static str),
}

/// In TOML, as what is written behind the key.
impl fmt::Display for DefaultValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(value) => value.fmt(f),
            Self::Number(value) => value.fmt(f),
            // Debug writes lists and strings as TOML does; defaults are plain ASCII.
            Self::Text(value) => write!(f, "{value:?}"),
            Self::List(value) => write!(f, "{value:?}"),
            Self::Table => f.write_str("{}"),
            Self::Absent(example) => f.write_str(example),
        }
    }
}

/// When a change of a setting is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applies {
    /// After a reload: for what begins then, and where it can be, for what is there already.
    Live,
    /// After a restart.
    Restart,
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting {
    pub(super) path: &'static str,
    pub(super) default: DefaultValue,
    pub(super) applies: Applies,
    /// Meaning, unit, range, and the cost of raising it.
    pub(super) doc: &'static str,
}

impl Setting {
    pub(super) fn default_value(&self) -> Option<RawValue> {
        Some(match self.default {
            DefaultValue::Flag(value) => value.into(),
            DefaultValue::Number(value) => value.into(),
            DefaultValue::Text(value) => value.into(),
            DefaultValue::List(values) => values.to_vec().into(),
            DefaultValue::Table => RawKind::Table(BTreeMap::new()).into(),
            DefaultValue::Absent(_) => return None,
        })
    }

    pub(super) fn section(&self) -> &'static str {
        self.split().0
    }

    fn split(&self) -> (&'static str, &'static str) {
        self.path
            .rsplit_once('.')
            .expect("every path is section.key")
    }
}

pub(super) fn find(path: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.path == path)
}

/// The path of a setting that several sections have.
pub(super) fn path_in(section: &str, key: &str) -> &'static str {
    let setting = SETTINGS.iter().find(|it| it.split() == (section, key));
    setting.expect("the section has such a setting").path
}

/// Whether the path is that of a section: `server`, or `server.proxy` inside it.
pub(super) fn is_section(path: &str) -> bool {
    SETTINGS.iter().any(|setting| setting.section() == path)
}

/// The paths of the settings in a section.
pub(super) fn paths_in(section: &str) -> impl Iterator<Item = &'static str> {
    let settings = SETTINGS.iter();
    let settings = settings.filter(move |setting| setting.section() == section);
    settings.map(|setting| setting.path)
}

/// Whether the path is that of a setting, such as `app.env`.
pub fn is_setting(path: &str) -> bool {
    find(path).is_some()
}

/// Whether what a setting says, or a variable in it (`app.env.PASSWORD`), may be a secret: it is
/// neither printed nor logged.
pub fn is_secret(path: &str) -> bool {
    let inside = |table| {
        path.strip_prefix(table)
            .and_then(|rest: &str| rest.strip_prefix('.'))
    };
    SECRETS.contains(&path)
        || SECRET_TABLES
            .into_iter()
            .any(|table| inside(table).is_some())
}

/// Settings that may hold a password.
const SECRETS: [&str; 3] = ["identity.store", "identity.lookup.source", "trace.headers"];
/// Tables of variables, any of which may be one.
const SECRET_TABLES: [&str; 4] = ["app.env", "app.params", "validate.env", "validate.params"];

/// Returns where the first setting of that kind stands in the table; behind all if there is none.
pub(super) fn position(is_wanted: impl Fn(&Setting) -> bool) -> usize {
    SETTINGS
        .iter()
        .position(is_wanted)
        .unwrap_or(SETTINGS.len())
}

/// Renders a configuration file that states every default and what each setting means.
pub fn defaults() -> String {
    let mut text = HEAD.to_owned();
    let mut section = "";
    for setting in SETTINGS {
        let (name, key) = setting.split();
        if name != section {
            section = name;
            write_line(&mut text, format_args!("\n[{section}]"));
        }
        write_line(&mut text, format_args!(""));
        for line in setting.doc.lines() {
            write_line(&mut text, format_args!("# {line}"));
        }
        if setting.applies == Applies::Live {
            write_line(&mut text, format_args!("# Applied on SIGHUP."));
        }
        let mark = match setting.default {
            DefaultValue::Absent(_) => "# ",
            _ => "",
        };
        write_line(&mut text, format_args!("{mark}{key} = {}", setting.default));
    }
    text
}

/// Renders the reference of the settings, as the documentation has it.
pub fn reference() -> String {
    let mut text = REFERENCE_HEAD.to_owned();
    let mut section = "";
    for setting in SETTINGS {
        let (name, _) = setting.split();
        if name != section {
            section = name;
            write_line(&mut text, format_args!("\n## `[{section}]`"));
        }
        let path = setting.path;
        let variable = path.to_uppercase().replace('.', "__");
        write_line(
            &mut text,
            format_args!("\n### `{path}`\n\n{}\n", plain(setting.doc)),
        );
        match setting.default {
            DefaultValue::Absent(example) => {
                write_line(&mut text, format_args!("- For example: `{example}`"));
            }
            default => write_line(&mut text, format_args!("- Default: `{default}`")),
        }
        // Lists of tables and names within tables have no variable of their own.
        match setting.default {
            DefaultValue::Absent(example) if example.starts_with("[{") => {}
            DefaultValue::Table => {
                write_line(
                    &mut text,
                    format_args!("- Variables: `WS__{variable}__NAME`"),
                );
            }
            _ => write_line(&mut text, format_args!("- Variable: `WS__{variable}`")),
        }
        if SECRETS.contains(&path) {
            write_line(
                &mut text,
                format_args!("- Or its file: `WS__{variable}_FILE`, the credential `{path}`"),
            );
        }
        let applies = match setting.applies {
            Applies::Live => "on SIGHUP",
            Applies::Restart => "after a restart",
        };
        write_line(&mut text, format_args!("- A change is applied {applies}"));
    }
    text
}

/// Makes a text of Markdown what it is without.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if "\\`*_<>[]|#".contains(c) {
            plain.push('\\');
        }
        plain.push(c);
    }
    plain
}

fn write_line(text: &mut String, line: fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("writing to a string does not fail");
}

const HEAD: &str = "\
# The configuration of ws: every setting with its default. Lines with `# key = value` show settings
# that have no fixed default.
#
# Durations are whole numbers with a unit: ms, s, m, h, d. Sizes are bytes, or have a unit: B, KiB,
# MiB, GiB. Relative paths are relative to this file. Each setting can also be given as an
# environment variable: WS__SERVER__LISTEN for server.listen (lists separated by commas).
#
# The server reads this file again on SIGHUP. Settings of which it is not said here that they are
# applied then need a restart; the log names those that were changed.
";

const REFERENCE_HEAD: &str = "\
# Reference of the configuration

<!-- Generated from ws-server/src/config/settings: UPDATE_REFERENCE=1 cargo test -p ws-server reference -->

Every setting, as `ws config print --default` explains it, too. [How the configuration is read, and
what the sections are for](../configuration.md).

Durations are whole numbers with a unit: ms, s, m, h, d. Sizes are bytes, or have a unit: B, KiB, MiB,
GiB. Relative paths are relative to the file. Lists in variables have commas.
";

/// In the order of the rendered file: keys of a section stand together.
pub(super) const SETTINGS: &[Setting] = &joined::<{ count() }>();

const PARTS: [&[Setting]; 14] = [
    server::SETTINGS,
    identity::SETTINGS,
    validate::BACKEND,
    callback::VALIDATE.command,
    validate::QUESTIONS,
    callback::VALIDATE.confinement,
    app::BACKEND,
    callback::APP.command,
    app::MESSAGES,
    callback::APP.confinement,
    app::ACCOUNT,
    carbonphp::SETTINGS,
    doors::SETTINGS,
    trace::SETTINGS,
];

const fn count() -> usize {
    let mut count = 0;
    let mut part = 0;
    while part < PARTS.len() {
        count += PARTS[part].len();
        part += 1;
    }
    count
}

const fn joined<const COUNT: usize>() -> [Setting; COUNT] {
    let mut joined = [PARTS[0][0]; COUNT];
    let mut at = 0;
    let mut part = 0;
    while part < PARTS.len() {
        let mut place = 0;
        while place < PARTS[part].len() {
            joined[at] = PARTS[part][place];
            at += 1;
            place += 1;
        }
        part += 1;
    }
    joined
}
