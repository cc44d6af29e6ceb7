//! The rules of the RFCs, and the tests that hold us to them.
//!
//! `requirements.toml` lists what RFC 6455 and RFC 7692 demand of a server or a client. Each entry
//! names tests, as `cargo test` prints them, or says which other layer is responsible.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use toml::{Table, Value};

/// The names of all tests of this crate, with their modules.
fn tests() -> HashSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut names = HashSet::new();
    collect(&root.join("src"), "", "tests::", &mut names);
    collect(&root.join("tests/integration"), "", "", &mut names);
    names
}

/// Adds the tests of the files under `directory`, which are in `module` of their crate; `inner` is
/// the module that they are in within a file.
fn collect(directory: &Path, module: &str, inner: &str, names: &mut HashSet<String>) {
    for entry in fs::read_dir(directory).expect("the sources are there") {
        let path = entry.expect("the sources are there").path();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let stem = stem.expect("a source has a name");
        if path.is_dir() {
            collect(&path, &format!("{module}{stem}::"), inner, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let file = match stem {
                "mod" => module.to_owned(),
                _ => format!("{module}{stem}::"),
            };
            // A file of tests beside the one it tests is that module itself.
            let inner = if stem == "tests" { "" } else { inner };
            let source = fs::read_to_string(&path).expect("a source is text");
            names.extend(test_names(&source).map(|name| format!("{file}{inner}{name}")));
        }
    }
}

/// The functions that `#[test]` stands on, but those that are never run.
fn test_names(source: &str) -> impl Iterator<Item = &str> {
    source.split("#[test]\n").skip(1).filter_map(|rest| {
        let mut lines = rest.lines().map(str::trim);
        let line = lines.find(|line| !line.starts_with("#[") || line.starts_with("#[ignore"))?;
        let (name, _) = line.strip_prefix("fn ")?.split_once('(')?;
        Some(name)
    })
}

/// Says what is wrong with an entry, if anything.
fn fault(entry: &Table, tests: &HashSet<String>) -> Option<String> {
    let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
    let keys = ["rfc", "section", "role", "rule", "tests", "out_of_scope"];
    if let Some(key) = entry.keys().find(|key| !keys.contains(&key.as_str())) {
        return Some(format!("unknown key {key}"));
    }
    if !matches!(entry.get("rfc"), Some(Value::Integer(6455 | 7692))) {
        return Some("rfc is neither 6455 nor 7692".to_owned());
    }
    let numbers = text("section").split('.');
    if numbers.map(str::parse::<u8>).any(|number| number.is_err()) {
        return Some("section is no number".to_owned());
    }
    if !["server", "client", "both"].contains(&text("role")) {
        return Some("role is neither server, client nor both".to_owned());
    }
    let rule = text("rule");
    if rule.trim().is_empty() || rule.contains('\n') {
        return Some("rule is not a line".to_owned());
    }
    match (entry.get("tests"), entry.get("out_of_scope")) {
        (Some(Value::Array(names)), None) if !names.is_empty() => {
            let is_missing =
                |name: &&Value| !name.as_str().is_some_and(|name| tests.contains(name));
            let missing = names.iter().find(is_missing)?;
            Some(format!("no test is called {missing}"))
        }
        (None, Some(Value::String(reason))) if !reason.trim().is_empty() => None,
        _ => Some("neither tests nor out_of_scope, or both".to_owned()),
    }
}

/// All faults of a list of requirements.
fn faults(list: &str, tests: &HashSet<String>) -> Vec<String> {
    let list: Table = list.parse().expect("the list is TOML");
    let entries = list["requirement"].as_array().expect("a list of entries");
    let mut seen = HashSet::new();
    let mut faults = Vec::new();
    for entry in entries {
        let entry = entry.as_table().expect("an entry is a table");
        let text = |key: &str| entry.get(key).map(ToString::to_string).unwrap_or_default();
        let name = format!("{} §{}: {}", text("rfc"), text("section"), text("rule"));
        if let Some(fault) = fault(entry, tests) {
            faults.push(format!("{name}: {fault}"));
        }
        if !seen.insert((text("rfc"), text("section"), text("rule"))) {
            faults.push(format!("{name}: is there twice"));
        }
    }
    faults
}

#[test]
fn every_requirement_names_tests_that_exist_or_who_else_keeps_it() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("requirements.toml");
    let list = fs::read_to_string(path).expect("the list is there");
    let faults = faults(&list, &tests());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn each_fault_of_the_list_is_found() {
    let tests = HashSet::from(["a::b".to_owned()]);
    let found = |entry: &str| faults(&format!("[[requirement]]\n{entry}"), &tests);
    let head = "rfc = 6455\nsection = \"5.1\"\nrole = \"both\"\nrule = \"r\"\n";
    assert_eq!(
        found(&format!("{head}tests = [\"a::b\"]")),
        Vec::<String>::new()
    );
    assert_eq!(
        found(&format!("{head}out_of_scope = \"TLS\"")),
        Vec::<String>::new()
    );
    for tail in [
        "",
        "tests = []",
        "tests = [\"b\"]",
        "tests = [\"a::b\", \"a::c\"]",
        "tests = \"a::b\"",
        "out_of_scope = \" \"",
        "tests = [\"a::b\"]\nout_of_scope = \"TLS\"",
        "tests = [\"a::b\"]\nnote = \"\"",
    ] {
        assert_eq!(found(&format!("{head}{tail}")).len(), 1, "{tail}");
    }
    for (part, wrong) in [
        ("6455", "6456"),
        ("5.1", "five"),
        ("both", "proxy"),
        ("\"r\"", "\"\""),
    ] {
        let entry = format!("{head}tests = [\"a::b\"]").replace(part, wrong);
        assert_eq!(found(&entry).len(), 1, "{wrong}");
    }
    let twice = format!("{head}tests = [\"a::b\"]\n[[requirement]]\n{head}out_of_scope = \"x\"");
    assert_eq!(found(&twice).len(), 1);
}

#[test]
fn tests_are_found_by_their_attribute_and_module() {
    let source = "#[test]\nfn a() {}\nfn b() {}\n    #[test]\n    #[should_panic]\n    \
                  fn c(x: u8) {}\n#[test]\n#[ignore = \"slow\"]\nfn d() {}\n";
    assert_eq!(test_names(source).collect::<Vec<_>>(), ["a", "c"]);
    let tests = tests();
    for name in [
        "close::tests::t27_every_code_is_judged",
        "handshake::extension::tests::broken_grammar_is_refused",
        "utf8::tests::prop_utf8_cut_anywhere_gives_the_same_verdict",
        "requirements::tests_are_found_by_their_attribute_and_module",
    ] {
        assert!(tests.contains(name), "{name}");
    }
}
