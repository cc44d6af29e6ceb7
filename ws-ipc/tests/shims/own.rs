//! The shims' own tests, each in its language.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use ws_ipc::shims::{self, Shim};

use crate::setup::{is_installed, shims as shims_dir};

#[test]
fn php_tests_pass() {
    run(
        shims::PHP,
        &["-d", "zend.assertions=1", "tests/test_fork.php"],
    );
}

/// As it is printed, on the stand-in for CarbonPHP or what `WS_CARBONPHP_ROOT` names.
#[test]
fn carbonphp_tests_pass() {
    let dir = tempfile::tempdir().unwrap();
    let bridge = dir.path().join("bridge.php");
    std::fs::write(&bridge, shims::carbonphp_bridge()).unwrap();
    let arguments = ["-d", "zend.assertions=1", "tests/test_carbonphp.php"];
    let variables = [("WS_BRIDGE", bridge.as_path())];
    run_with(shims::PHP, &arguments, &variables);
}

#[test]
fn python_tests_pass() {
    run(shims::PYTHON, &["-B", "tests/test_fork.py"]);
}

#[test]
fn ruby_tests_pass() {
    run(shims::RUBY, &["tests/test_fork.rb"]);
}

#[test]
fn perl_tests_pass() {
    run(shims::PERL, &["tests/test_fork.t"]);
}

#[test]
fn node_tests_pass() {
    run(shims::NODE, &["--test", "tests/"]);
}

fn run(shim: Shim, args: &[&str]) {
    run_with(shim, args, &[]);
}

fn run_with(shim: Shim, args: &[&str], variables: &[(&str, &Path)]) {
    if !is_installed(shim) {
        return;
    }
    let mut command = Command::new(shim.interpreter());
    let output = command
        .args(args)
        .envs(variables.iter().copied())
        .current_dir(shims_dir())
        .output()
        .unwrap();
    for line in String::from_utf8_lossy(&output.stderr).lines() {
        if line.starts_with("skipped: ") {
            // Not by a macro, whose output the harness keeps to itself.
            let mut stderr = std::io::stderr();
            writeln!(stderr, "{line}").unwrap();
        }
    }
    let text = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&text)
    );
}
