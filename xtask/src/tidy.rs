//! What formatters leave alone: white space, line ends, conflict marks, and files grown too long.
//! And maps whose keys strangers could choose so that they collide.

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};

use crate::workspace;

/// The files that people write, by extension; `run` is `.ci/run`.
const WRITTEN: &[&str] = &[
    "css", "html", "js", "json", "md", "mjs", "php", "pl", "py", "rb", "rs", "run", "sh", "t",
    "toml", "ts", "txt", "yml",
];

/// Hash functions without a secret: whoever knows them can make a map as slow as a list. The maps of
/// the standard library have a key of their own.
const UNKEYED: &[&str] = &[
    "FxHash",
    "rustc_hash",
    "fxhash",
    "ahash",
    "AHash",
    "fnv",
    "Fnv",
    "hashbrown",
    "nohash",
    "foldhash",
    "BuildHasherDefault",
];

/// The one file that has to name them.
const NAMES_THEM: &str = "xtask/src/tidy.rs";

/// A longer source file probably holds two ideas.
const MAX_LINES: usize = 900;

pub(crate) fn run() -> Result<()> {
    let names = workspace::files(&[])?;

    let mut faults = 0;
    let mut count = 0;
    for name in names.split_terminator('\0').filter(|name| is_written(name)) {
        // A file of the index that is deleted in the work tree.
        let Ok(bytes) = fs::read(workspace::root().join(name)) else {
            continue;
        };
        count += 1;
        let Ok(text) = String::from_utf8(bytes) else {
            println!("{name}: is not UTF-8");
            faults += 1;
            continue;
        };
        for fault in faults_in(&text) {
            println!("{name}:{fault}");
            faults += 1;
        }
        if may_not_name_them(name) {
            for fault in unkeyed_in(&text) {
                println!("{name}:{fault}");
                faults += 1;
            }
        }
        let lines = text.lines().count();
        if name.ends_with(".rs") && lines > MAX_LINES {
            println!("{name}: warning: {lines} lines, does it hold two ideas?");
        }
    }
    if faults > 0 {
        bail!("{faults} lines to tidy up");
    }
    println!("{count} files are tidy");
    Ok(())
}

fn is_written(name: &str) -> bool {
    let path = Path::new(name);
    let kind = path.extension().or_else(|| path.file_name());
    kind.and_then(|kind| kind.to_str())
        .is_some_and(|kind| WRITTEN.contains(&kind))
        && path
            .file_name()
            .is_none_or(|name| name != "package-lock.json")
}

/// Line number and fault for each line that has one.
fn faults_in(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for (index, line) in text.split('\n').enumerate() {
        let mut fault = |what| faults.push(format!("{}: {what}", index + 1));
        if line.ends_with('\r') {
            fault("carriage return at the end");
        } else if line.ends_with([' ', '\t']) {
            fault("white space at the end");
        }
        if line.starts_with("<<<<<<< ") || line.starts_with(">>>>>>> ") {
            fault("conflict mark");
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        faults.push(format!("{}: no newline at the end", text.lines().count()));
    }
    if text.ends_with("\n\n") {
        faults.push(format!("{}: empty line at the end", text.lines().count()));
    }
    faults
}

/// Whether a file is source or a manifest of ours.
fn may_not_name_them(name: &str) -> bool {
    (name.ends_with(".rs") || name.ends_with("Cargo.toml")) && name != NAMES_THEM
}

/// Whether a line is about the table that is told each hash, by a map that has a key. Without the
/// crate's features no hash function comes with it.
fn hashes_nothing(line: &str) -> bool {
    let is_bare = line.starts_with("hashbrown = ") && line.contains("default-features = false");
    is_bare || ["use hashbrown::HashTable;", "hashbrown.workspace = true"].contains(&line)
}

/// Line number and name for each hash function without a key.
fn unkeyed_in(text: &str) -> Vec<String> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut faults = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if hashes_nothing(line) {
            continue;
        }
        let mut words = line.split(|c| !is_word(c));
        // `FxHash` stands for `FxHashMap` as well; crates are named in whole words.
        let found = words.find_map(|word| {
            let is_it = |name: &&&str| match name.starts_with(char::is_uppercase) {
                true => word.starts_with(**name),
                false => word == **name,
            };
            UNKEYED.iter().find(is_it)
        });
        if let Some(name) = found {
            faults.push(format!("{}: {name} hashes without a key", index + 1));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tidy_text_has_no_faults() {
        assert_eq!(faults_in(""), Vec::<String>::new());
        assert_eq!(faults_in("a\n\n  b\n"), Vec::<String>::new());
    }

    #[test]
    fn each_fault_is_found_on_its_line() {
        assert_eq!(faults_in("a\nb \n"), ["2: white space at the end"]);
        assert_eq!(faults_in("a\t\n"), ["1: white space at the end"]);
        assert_eq!(faults_in("a\r\n"), ["1: carriage return at the end"]);
        assert_eq!(faults_in("a\nb"), ["2: no newline at the end"]);
        assert_eq!(faults_in("a\n\n"), ["2: empty line at the end"]);
        assert_eq!(faults_in("\n<<<<<<< ours\n"), ["2: conflict mark"]);
    }

    #[test]
    fn t35_hash_functions_without_a_key_are_found() {
        for line in [
            "use rustc_hash::FxHashMap;",
            "let map: FxHashSet<u8> = FxHashSet::default();",
            "ahash.workspace = true",
            "hashbrown = \"0.17.1\"",
            "use hashbrown::HashMap;",
            "type Map = HashMap<K, V, BuildHasherDefault<Hasher>>;",
        ] {
            let faults = unkeyed_in(&format!("\n{line}\n"));
            assert_eq!(faults.len(), 1, "{line}");
            assert!(faults[0].starts_with("2: "), "{faults:?}");
        }
        let bare = "hashbrown = { version = \"0.17.1\", default-features = false }\n";
        assert_eq!(unkeyed_in(bare), Vec::<String>::new());
        let fine = "use std::collections::HashMap;\nfn hash(suffix: u8) {} // a hash, fnvlike\n";
        assert_eq!(unkeyed_in(fine), Vec::<String>::new());
        assert!(may_not_name_them("ws-server/src/places.rs"));
        assert!(!may_not_name_them("CHANGELOG.md"));
    }

    #[test]
    fn only_written_files_are_looked_at() {
        assert!(is_written("ws-proto/src/lib.rs"));
        assert!(is_written(".ci/run"));
        assert!(!is_written("Cargo.lock"));
        assert!(!is_written("ws-proto/fuzz/corpus/frame/0a1b"));
    }

    proptest::proptest! {
        #[test]
        fn prop_trimming_every_line_leaves_no_fault(lines in proptest::collection::vec("[ -~\t]{0,9}", 0..9)) {
            let text: String = lines
                .iter()
                .map(|line| format!("{}.\n", line.replace(['<', '>'], "")))
                .collect();
            proptest::prop_assert_eq!(faults_in(&text), Vec::<String>::new());
        }
    }
}
