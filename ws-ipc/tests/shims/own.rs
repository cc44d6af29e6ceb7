//! The shims' own tests, each in its language.

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
    if !is_installed(shim) {
        return;
    }
    let mut command = Command::new(shim.interpreter());
    let output = command
        .args(args)
        .current_dir(shims_dir())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&text)
    );
}
