//! Names that no setting has.

use super::fault::{Fault, Problem};
use super::parse;
use super::raw::{RawConfig, RawKind, RawValue};
use super::settings::{self, SETTINGS};

/// Finds what no setting is called, and sections that are none.
pub(super) fn find(raw: &RawConfig) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (name, value) in raw.sections() {
        find_in(name.to_owned(), value, &mut faults);
    }
    faults
}

fn find_in(path: String, value: &RawValue, faults: &mut Vec<Fault>) {
    if settings::find(&path).is_some() {
        return;
    }
    if !settings::is_section(&path) {
        faults.push(unknown(&path, value));
        return;
    }
    let RawKind::Table(entries) = value.kind() else {
        let problem = match value.kind() {
            RawKind::Unavailable(why) => Problem::Unavailable(why.clone()),
            _ => parse::wrong_type("a table", value),
        };
        faults.push(Fault::new(&path, Some(value), problem));
        return;
    };
    for (name, value) in entries {
        find_in(format!("{path}.{name}"), value, faults);
    }
}

fn unknown(path: &str, value: &RawValue) -> Fault {
    Fault::new(
        path,
        Some(value),
        Problem::UnknownKey {
            nearest: nearest(path),
        },
    )
}

/// Finds the name that was probably meant: a section, a whole path, or a key without its section.
fn nearest(path: &str) -> Option<String> {
    let distance = |name: &str| strsim::osa_distance(path, name);
    let key = path.rsplit('.').next().unwrap_or(path);
    let paths = SETTINGS.iter().map(|setting| {
        let bare = setting.path.rsplit('.').next().unwrap_or(setting.path);
        // In the wrong section, or in none, is a little farther than misspelled in the right one.
        (
            distance(setting.path).min(1 + strsim::osa_distance(key, bare)),
            setting.path,
        )
    });
    let sections = SETTINGS
        .iter()
        .map(|setting| (distance(setting.section()), setting.section()));
    // A section is meant where a section stands.
    let depth = |path: &str| path.matches('.').count();
    let sections = sections.filter(|(_, section)| depth(section) == depth(path));
    let best = sections
        .chain(paths)
        .min_by_key(|(distance, _)| *distance)?;
    (best.0 <= 1 + key.len() / 4).then(|| best.1.to_owned())
}
