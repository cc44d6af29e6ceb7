//! BENCHMARKS.md: the section between two marks is this verb's, the rest is not touched.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::workspace;

const FILE: &str = "BENCHMARKS.md";
const BEGIN: &str = "<!-- cargo xtask bench --write: begin -->";
const END: &str = "<!-- cargo xtask bench --write: end -->";

/// How it was measured.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) is_quick: bool,
    /// Rounds, if they were asked for.
    pub(super) rounds: Option<u32>,
    /// Whether server and load each had a core of their own.
    pub(super) is_pinned: bool,
    /// The load of the machine before.
    pub(super) load: String,
}

/// The processes that ran or wanted to on an average of a minute, as the kernel counts.
pub(super) fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let minute = load.split_ascii_whitespace().next();
    minute.unwrap_or("unknown").to_owned()
}

/// When, where and how it was measured.
pub(super) fn facts(run: &Run) -> Result<String> {
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
    let quick = if run.is_quick { " --quick" } else { "" };
    let rounds = run.rounds.map(|it| format!(" --rounds {it}"));
    let rounds = rounds.unwrap_or_default();
    let pinned = if run.is_pinned {
        "server and load each on a core of their own"
    } else {
        "server and load on the same cores"
    };
    let load = &run.load;
    Ok(format!(
        "{date}, commit {commit}{changed}: `cargo xtask bench{quick}{rounds}`, {pinned}; load {load} before.\n\
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
    rewrite(|text| replaced(text, &format!("{facts}\n{}", tables.join("\n"))))
}

/// Replaces these tables in the file's section. As they are of another run than the others, each
/// says how it was measured.
pub(super) fn write_some(facts: &str, tables: &[String]) -> Result<()> {
    rewrite(|text| {
        let (_, section, _) = parted(text)?;
        let tables = tables.iter().map(|table| {
            let (title, rest) = table.split_once('\n').unwrap_or((table, ""));
            format!("{title}\n\n{facts}\n{}", rest.trim_start())
        });
        let section = tables.fold(section.to_owned(), |all, one| with_table(&all, &one));
        replaced(text, &section)
    })
}

fn rewrite(change: impl FnOnce(&str) -> Result<String>) -> Result<()> {
    let path = workspace::root().join(FILE);
    let text = fs::read_to_string(&path).context(FILE)?;
    fs::write(&path, change(&text)?).context(FILE)?;
    println!("{FILE} is written");
    Ok(())
}

/// The section with one table more, in the place of that of the same title if there is one.
fn with_table(section: &str, table: &str) -> String {
    let title = table.lines().next().unwrap_or(table);
    let mut parts = section.trim().split("\n### ");
    let mut all = parts.next().unwrap_or_default().trim_end().to_owned();
    let mut table = Some(table.trim());
    for part in parts {
        let part = format!("### {}", part.trim_end());
        let is_same = part.lines().next() == Some(title);
        let part = if is_same { table.take() } else { Some(&*part) };
        part.into_iter()
            .for_each(|part| all += &format!("\n\n{part}"));
    }
    if let Some(table) = table {
        all += &format!("\n\n{table}");
    }
    all
}

/// The text with another section between the marks.
fn replaced(text: &str, section: &str) -> Result<String> {
    let (before, _, after) = parted(text)?;
    Ok(format!(
        "{before}{BEGIN}\n\n{}\n\n{END}{after}",
        section.trim()
    ))
}

/// What is before, between and behind the marks.
fn parted(text: &str) -> Result<(&str, &str, &str)> {
    let parts = text.split_once(BEGIN).and_then(|(before, rest)| {
        let (section, after) = rest.split_once(END)?;
        Some((before, section, after))
    });
    let (before, section, after) =
        parts.with_context(|| format!("{FILE} has no {BEGIN} ... {END}"))?;
    ensure!(!after.contains(BEGIN), "{FILE} has {BEGIN} twice");
    Ok((before, section, after))
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
    fn table_takes_the_place_of_its_title_or_comes_last() {
        let section = "facts\n\n### A\n\n| a |\n\n### B\n\n| b |\n";
        let with = with_table(section, "### A\n\n| new |\n");
        assert_eq!(with, "facts\n\n### A\n\n| new |\n\n### B\n\n| b |");
        assert_eq!(with_table(&with, "### A\n\n| new |\n"), with);
        let with = with_table(section, "### C\n\n| c |\n");
        assert!(with.ends_with("| b |\n\n### C\n\n| c |"), "{with}");
        assert_eq!(with_table("", "### C\n").trim(), "### C");
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
