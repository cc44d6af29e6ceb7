//! Miri over ws-proto: its own code has nothing unsafe, but it hands slices to crates that have.
//!
//! Miri is a component of nightly toolchains only, and of not all of them. Here it is looked for and
//! never installed: what rustup would do about a missing toolchain or component is not asked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::{NotHere, process, workspace};

/// The unit tests, and of the others those that are done in a moment.
const RUNS: &[&[&str]] = &[
    &["--lib"],
    &[
        "--test",
        "integration",
        "--",
        "closing::",
        "control::",
        "frames::",
        "handshake_client::",
        "text::",
        // The inflater's unsafe code, without the larger messages.
        "deflate::message_in",
        "deflate::later_message",
        "deflate::stored_block",
        "deflate::empty_message",
        "deflate::t24_bad_and_truncated",
        "--skip",
        "prop_",
    ],
];

/// An interpreter runs some hundred times as long.
const LIMIT: Duration = Duration::from_secs(1800);

pub(crate) fn run() -> Result<()> {
    let toolchain = toolchain()?;
    for arguments in RUNS {
        let mut miri = Command::new("cargo");
        miri.current_dir(workspace::root())
            .args([&format!("+{toolchain}"), "miri", "test", "--quiet"])
            .args(["--locked", "--package", "ws-proto"])
            .args(*arguments)
            // The clock, for a test needs some instant to begin with, and the variables below.
            .env("MIRIFLAGS", "-Zmiri-disable-isolation")
            .env("PROPTEST_CASES", "4")
            .env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "true");
        passive(&mut miri);
        let status = process::run(&mut miri, LIMIT)?;
        if !status.success() {
            bail!("cargo miri test {}: {status}", arguments.join(" "));
        }
    }
    println!("miri of {toolchain} found nothing");
    Ok(())
}

/// Keeps rustup from installing anything, and from using the toolchain that runs this program.
fn passive(command: &mut Command) {
    command
        .env("RUSTUP_AUTO_INSTALL", "0")
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO")
        .env_remove("RUSTC");
}

/// The name of a nightly toolchain that has all that Miri needs.
fn toolchain() -> Result<String> {
    let mut list = Command::new("rustup");
    list.args(["toolchain", "list", "--verbose"]);
    passive(&mut list);
    let Ok(output) = list.output() else {
        return Err(NotHere("no rustup, so no toolchain to look for miri in".into()).into());
    };
    let nightlies = nightlies(&String::from_utf8_lossy(&output.stdout));
    if nightlies.is_empty() {
        return Err(NotHere("miri needs a nightly toolchain".into()).into());
    }
    let Some((name, _)) = nightlies.iter().find(|(_, folder)| has_miri(folder)) else {
        let reason = "no nightly toolchain has the components miri and rust-src";
        return Err(NotHere(reason.into()).into());
    };
    // Files may be there and not work.
    let mut version = Command::new("cargo");
    version.args([&format!("+{name}"), "miri", "--version"]);
    passive(&mut version);
    let output = version.output().context("cannot start cargo")?;
    if !output.status.success() {
        return Err(NotHere(format!("cargo +{name} miri does not start")).into());
    }
    Ok(name.clone())
}

/// The nightly toolchains in what rustup lists: names, marks such as `(default)`, folders.
fn nightlies(list: &str) -> Vec<(String, PathBuf)> {
    list.lines()
        .filter(|line| line.starts_with("nightly"))
        .filter_map(|line| {
            let name = line.split_ascii_whitespace().next()?;
            let folder = &line[line.find('/')?..];
            Some((name.to_owned(), folder.trim_end().into()))
        })
        .collect()
}

/// Whether the components are there. Without the sources of std, `cargo miri` would ask rustup for
/// them, and in CI without asking anybody.
fn has_miri(toolchain: &Path) -> bool {
    let sources = toolchain.join("lib/rustlib/src/rust/library/Cargo.toml");
    fs::exists(toolchain.join("bin/cargo-miri")).is_ok_and(|it| it)
        && fs::exists(sources).is_ok_and(|it| it)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nightly_toolchains_are_found_whatever_marks_they_have() {
        let list = "stable-x86_64-unknown-linux-gnu (active, default) /root/.rustup/stable\n\
                    nightly-2026-05-19-x86_64-unknown-linux-gnu /home/a b/nightly\n\
                    nightly-x86_64-unknown-linux-gnu (override) /root/nightly\n";
        let expected = [
            (
                "nightly-2026-05-19-x86_64-unknown-linux-gnu",
                "/home/a b/nightly",
            ),
            ("nightly-x86_64-unknown-linux-gnu", "/root/nightly"),
        ]
        .map(|(name, folder)| (name.to_owned(), PathBuf::from(folder)));
        assert_eq!(nightlies(list), expected);
        assert_eq!(nightlies("no installed toolchains\n"), []);
    }

    #[test]
    fn toolchain_needs_both_components() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        assert!(!has_miri(folder.path()));
        put("bin/cargo-miri");
        assert!(!has_miri(folder.path()));
        put("lib/rustlib/src/rust/library/Cargo.toml");
        assert!(has_miri(folder.path()));
    }
}
