//! `ws man`: the manual pages, made of what `--help` says.

use std::fs;
use std::io;

use anyhow::Context;
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};
use serde_json::json;

use crate::args::{Args, ManArgs};
use crate::failure::{Code, Failure};
use crate::output;

/// The section of programs that users run.
const SECTION: &str = "1";
/// What leads to the example in each help text.
const EXAMPLE: &str = "Example: ";

pub(crate) fn run(args: &ManArgs) -> Result<(), Failure> {
    let mut root = Args::command();
    root.build();
    if let Some(directory) = &args.out {
        let cannot = || format!("cannot write the manual to {}", directory.display());
        fs::create_dir_all(directory).with_context(cannot)?;
        return Ok(pages(&root, &mut |page| {
            fs::write(directory.join(&page.name), &page.text).with_context(cannot)
        })?);
    }
    let mut command = &root;
    for verb in &args.verb {
        let found = command.get_subcommands().find(|sub| sub.get_name() == verb);
        command = found.ok_or_else(|| {
            Failure::new(
                Code::Usage,
                format!("there is no {} {verb}", shown_name(command)),
            )
        })?;
    }
    let page = Page::of(command)?;
    match args.json {
        true => output::json(&json!({ "name": page.name, "text": page.text })),
        false => output::text(&page.text),
    }
}

/// Makes the page of a command, and those of its own.
fn pages(
    command: &Command,
    write: &mut impl FnMut(&Page) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    write(&Page::of(command)?)?;
    let mut verbs = command.get_subcommands();
    verbs.try_for_each(|verb| pages(verb, write))
}

struct Page {
    /// Of its file.
    name: String,
    text: String,
}

impl Page {
    fn of(command: &Command) -> anyhow::Result<Self> {
        let name = command.get_display_name().unwrap_or("ws");
        let source = format!("ws {}", env!("CARGO_PKG_VERSION"));
        let man = Man::new(command.clone().disable_help_subcommand(true))
            .section(SECTION)
            .source(source);
        let mut text = Vec::new();
        man.render_title(&mut text)?;
        man.render_name_section(&mut text)?;
        man.render_synopsis_section(&mut text)?;
        man.render_description_section(&mut text)?;
        render_example(command, &mut text)?;
        man.render_options_section(&mut text)?;
        if command.has_subcommands() {
            man.render_subcommands_section(&mut text)?;
        }
        if command.get_after_help().is_some() {
            man.render_extra_section(&mut text)?;
        }
        Ok(Self {
            name: format!("{name}.{SECTION}"),
            text: String::from_utf8(text)?,
        })
    }
}

fn render_example(command: &Command, text: &mut Vec<u8>) -> io::Result<()> {
    let before = command.get_before_help().map(ToString::to_string);
    let example = before
        .as_deref()
        .and_then(|help| help.strip_prefix(EXAMPLE));
    let Some(example) = example else {
        return Ok(());
    };
    let mut section = Roff::default();
    section.control("SH", ["EXAMPLE"]);
    section.control("EX", []);
    section.text([roman(example)]);
    section.control("EE", []);
    section.to_writer(text)
}

fn shown_name(command: &Command) -> &str {
    command.get_bin_name().unwrap_or("ws")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_a_page_with_its_example() {
        let mut root = Args::command();
        root.build();
        let mut names = Vec::new();
        pages(&root, &mut |page| {
            assert!(
                page.text.contains("\n.SH EXAMPLE\n.EX\nws "),
                "{}",
                page.text
            );
            assert!(page.text.starts_with(".ie"), "{}", page.text);
            assert!(page.text.contains(".SH OPTIONS"), "{}", page.text);
            names.push(page.name.clone());
            Ok(())
        })
        .unwrap();
        for name in [
            "ws.1",
            "ws-serve.1",
            "ws-config-print.1",
            "ws-sessions-revoke.1",
            "ws-man.1",
        ] {
            assert!(names.iter().any(|one| one == name), "{name}: {names:?}");
        }
    }
}
