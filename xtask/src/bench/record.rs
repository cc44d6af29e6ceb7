//! BENCHMARKS.md: the section between two marks is this verb's, the rest is not touched.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::contestant::Programs;
use crate::workspace;

const FILE: &str = "BENCHMARKS.md";
const BEGIN: &str = "<!-- cargo xtask bench --write: begin -->";
const END: &str = "<!-- cargo xtask bench --write: end -->";

/// When, where and how it was measured.
pub(super) fn facts(rounds: u32, is_quick: bool, programs: &Programs) -> Result<String> {
    let told = |program: &str, arguments: &[&str]| -> Result<String> {
        let output = Command::new(program)
            .args(arguments)
            .current_dir(workspace::root())
            .output()
            .with_context(|| format!("cannot start {program}"))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let date = told("date", &["-u", "+%Y-%m-%d"])?;
    let commit = told("git", &["rev-parse", "--short", "HEAD"])?;
    let is_changed = !told("git", &["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    let changed = if is_changed { ", with changes" } else { "" };
    let rustc = told("rustc", &["--version"])?;
    let kernel = told("uname", &["-sr"])?;
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let (model, cores) = processor(&cpuinfo);
    let quick = if is_quick { " --quick" } else { "" };
    let pinned = if programs.is_pinned() {
        "server and load each on a core of their own"
    } else {
        "server and load on the same cores"
    };
    let rounds = if rounds == 1 {
        "1 round".to_owned()
    } else {
        format!("{rounds} rounds")
    };
    Ok(format!(
        "{date}, commit {commit}{changed}: `cargo xtask bench{quick}`, {rounds}, {pinned}.\n\
         {model}, {cores} cores; {kernel}; {rustc}.\n"
    ))
}

/// The processor's name and the number of its cores.
fn processor(cpuinfo: &str) -> (String, usize) {
    let value = |line: &str| Some(line.split_once(':')?.1.trim().to_owned());
    let mut models = cpuinfo
        .lines()
        .filter(|line| line.starts_with("model name"));
    let model = models
        .next()
        .and_then(value)
        .unwrap_or_else(|| "unknown processor".to_owned());
    let cores = cpuinfo
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    (model, cores)
}

/// Replaces the section in the file.
pub(super) fn write(facts: &str, tables: &[String]) -> Result<()> {
    let path = workspace::root().join(FILE);
    let text = fs::read_to_string(&path).context(FILE)?;
    let section = format!("{facts}\n{}", tables.join("\n"));
    fs::write(&path, replaced(&text, &section)?).context(FILE)?;
    println!("{FILE} is written");
    Ok(())
}

/// The text with another section between the marks.
fn replaced(text: &str, section: &str) -> Result<String> {
    let marks = text.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let (before, after) = marks.with_context(|| format!("{FILE} has no {BEGIN} ... {END}"))?;
    ensure!(!after.contains(BEGIN), "{FILE} has {BEGIN} twice");
    Ok(format!(
        "{before}{BEGIN}\n\n{}\n\n{END}{after}",
        section.trim()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn section_is_replaced_and_nothing_else() {
        let text = format!("# A\n\n{BEGIN}\nold\n{END}\n\n# B\n");
        let once = replaced(&text, "new\n").unwrap();
        assert_eq!(once, format!("# A\n\n{BEGIN}\n\nnew\n\n{END}\n\n# B\n"));
        assert_eq!(replaced(&once, "new").unwrap(), once);
    }

    #[test]
    fn missing_or_double_marks_are_errors() {
        assert!(replaced("text", "new").is_err());
        assert!(replaced(BEGIN, "new").is_err());
        assert!(replaced(&format!("{END}{BEGIN}"), "new").is_err());
        assert!(replaced(&format!("{BEGIN}{END}{BEGIN}{END}"), "new").is_err());
    }

    #[test]
    fn the_repository_has_the_marks() {
        let text = fs::read_to_string(workspace::root().join(FILE)).unwrap();
        replaced(&text, "").unwrap();
    }

    #[test]
    fn processor_is_read_from_proc() {
        let cpuinfo = "processor\t: 0\nmodel name\t: A B\n\nprocessor\t: 1\nmodel name\t: A B\n";
        assert_eq!(processor(cpuinfo), ("A B".to_owned(), 2));
        assert_eq!(processor("").1, 0);
    }
}
