//! The documentation: whether what it links to is there, and the book that mdbook makes of it.
//!
//! The sources are checked always, the book is built where mdbook is: `--install` gets it, and CI has it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use pulldown_cmark::{CodeBlockKind, Event, LinkType, Options, Parser, Tag, TagEnd};

use crate::{install, process, workspace};

const BOOK: &str = "docs";
const SUMMARY: &str = "docs/SUMMARY.md";

const LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Installs what PyPI has of mdbook first, in the build directory
    #[arg(long)]
    install: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let pages = read_pages()?;
    let faults = faults_in(&pages);
    for fault in &faults {
        println!("{fault}");
    }
    if !faults.is_empty() {
        bail!("{} faults in the documentation", faults.len());
    }
    if arguments.install {
        install::python()?;
    }
    let links: usize = pages.values().map(|page| page.links.len()).sum();
    let sound = format!("{links} links in {} pages are sound", pages.len());
    match workspace::find("mdbook") {
        None => {
            let is_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
            ensure!(!is_ci, "{sound}, but there is no mdbook");
            println!("{sound}; no book without mdbook (cargo xtask book --install gets it)");
        }
        Some(mdbook) => {
            let book = build(&mdbook)?;
            println!("{sound}; the book is {}", book.join("index.html").display());
        }
    }
    Ok(())
}

/// A page of Markdown, by what is of interest here.
#[derive(Debug, Default)]
struct Page {
    /// What headings are called in links.
    anchors: BTreeSet<String>,
    /// Line and destination of each link, and of each picture.
    links: Vec<(usize, String)>,
    /// Lines of code without a fence, which could not say what they are for.
    bare_code: Vec<usize>,
}

/// Every page of the repository, by its path in it.
fn read_pages() -> Result<BTreeMap<PathBuf, Page>> {
    let names = workspace::files(&["*.md"])?;
    let mut pages = BTreeMap::new();
    for name in names.split_terminator('\0') {
        // A file of the index that is deleted in the work tree.
        if let Ok(text) = fs::read_to_string(workspace::root().join(name)) {
            pages.insert(PathBuf::from(name), Page::parse(&text));
        }
    }
    Ok(pages)
}

impl Page {
    fn parse(text: &str) -> Self {
        let mut page = Self::default();
        let mut heading: Option<String> = None;
        let mut counts = HashMap::new();
        let options = Options::ENABLE_TABLES;
        for (event, range) in Parser::new_ext(text, options).into_offset_iter() {
            let line = || text[..range.start].matches('\n').count() + 1;
            match event {
                Event::Start(Tag::CodeBlock(CodeBlockKind::Indented)) => {
                    page.bare_code.push(line());
                }
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    let anchor = anchor_of(&heading.take().unwrap_or_default());
                    let count: &mut usize = counts.entry(anchor.clone()).or_default();
                    let unique = match *count {
                        0 => anchor,
                        count => format!("{anchor}-{count}"),
                    };
                    *count += 1;
                    page.anchors.insert(unique);
                }
                Event::Text(text) | Event::Code(text) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&text);
                    }
                }
                Event::Start(
                    Tag::Link {
                        dest_url,
                        link_type,
                        ..
                    }
                    | Tag::Image {
                        dest_url,
                        link_type,
                        ..
                    },
                ) if link_type != LinkType::Email => {
                    page.links.push((line(), dest_url.into_string()));
                }
                _ => {}
            }
        }
        page
    }
}

/// What a heading is called in links, by GitHub and by mdbook.
fn anchor_of(heading: &str) -> String {
    let kept = heading.chars().filter_map(|it| match it {
        ' ' => Some('-'),
        '-' | '_' => Some(it),
        it if it.is_alphanumeric() => Some(it),
        _ => None,
    });
    kept.flat_map(char::to_lowercase).collect()
}

fn faults_in(pages: &BTreeMap<PathBuf, Page>) -> Vec<String> {
    let mut faults = Vec::new();
    for (path, page) in pages {
        for (line, link) in &page.links {
            if let Some(fault) = fault_of(pages, path, link) {
                faults.push(format!("{}:{line}: {link}: {fault}", path.display()));
            }
        }
        for line in page.bare_code.iter().filter(|_| path.starts_with(BOOK)) {
            faults.push(format!("{}:{line}: code without a fence", path.display()));
        }
    }
    let Some(summary) = pages.get(Path::new(SUMMARY)) else {
        faults.push(format!("{SUMMARY} is missing"));
        return faults;
    };
    let listed = summary.links.iter().map(|(_, link)| link.as_str());
    let listed: BTreeSet<PathBuf> = listed.map(|link| Path::new(BOOK).join(link)).collect();
    let in_book = |path: &&PathBuf| path.starts_with(BOOK) && *path != Path::new(SUMMARY);
    for path in pages.keys().filter(in_book) {
        if !listed.contains(path) {
            faults.push(format!("{}: not in {SUMMARY}", path.display()));
        }
    }
    faults
}

/// What is wrong with a link on a page.
fn fault_of(pages: &BTreeMap<PathBuf, Page>, path: &Path, link: &str) -> Option<&'static str> {
    // A chapter of the book that is not written yet.
    if is_elsewhere(link) || (link.is_empty() && path == Path::new(SUMMARY)) {
        return None;
    }
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = match file {
        "" => path.to_owned(),
        file => match resolved(path, file) {
            Some(target) => target,
            None => return Some("leads out of the repository"),
        },
    };
    if !workspace::root().join(&target).exists() {
        return Some("is not there");
    }
    let is_known = |page: &Page| anchor.is_empty() || page.anchors.contains(anchor);
    let is_sound = pages.get(&target).map_or(anchor.is_empty(), is_known);
    (!is_sound).then_some("has no such heading")
}

fn is_elsewhere(link: &str) -> bool {
    ["http://", "https://", "mailto:"]
        .iter()
        .any(|it| link.starts_with(it))
}

/// The path in the repository of a file that a page names.
fn resolved(page: &Path, file: &str) -> Option<PathBuf> {
    let mut path = page.parent()?.to_owned();
    for component in Path::new(file).components() {
        match component {
            Component::ParentDir => {
                if !path.pop() {
                    return None;
                }
            }
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(path)
}

/// Builds the book, and returns where it is.
fn build(mdbook: &Path) -> Result<PathBuf> {
    let (source, book) = (
        workspace::scratch().join("book-source"),
        workspace::scratch().join("book"),
    );
    if source.exists() {
        fs::remove_dir_all(&source)?;
    }
    copy(&workspace::root().join(BOOK), &source)?;
    let mut command = Command::new(mdbook);
    command
        .arg("build")
        .arg(&source)
        .arg("--dest-dir")
        .arg(&book);
    let log = workspace::scratch().join("mdbook.log");
    let status = process::run_logged(&mut command, &log, LIMIT)?;
    let said = fs::read_to_string(&log).unwrap_or_default();
    let is_clean = !said.contains("WARN") && !said.contains("ERROR");
    ensure!(
        status.success() && is_clean,
        "mdbook ended with {status}:\n{said}"
    );
    Ok(book)
}

/// Copies the sources of the book, as [`for_readers`] has them.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let copied = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            copy(&path, &copied)?;
        } else if path.extension().is_some_and(|it| it == "md") {
            let text = fs::read_to_string(&path)?;
            fs::write(&copied, for_readers(&text))?;
        } else {
            fs::copy(&path, &copied)?;
        }
    }
    Ok(())
}

/// A page without what is not for readers of the book: links out of it, which they cannot follow,
/// become the path of the file in the repository; comments, and what blocks say to the tests that
/// carry them out, go. The search of the book takes a key like `app.timeout` for one word, so under
/// a heading that is one its last part is added for whoever looks for that.
fn for_readers(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut end = 0;
    for (event, range) in Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter() {
        let source = &text[range.clone()];
        let (instead, length) = match event {
            Event::Start(Tag::Link { dest_url, .. }) => {
                let Some(path) = dest_url.strip_prefix("../") else {
                    continue;
                };
                let label = source
                    .strip_prefix('[')
                    .and_then(|link| link.rsplit_once("]("));
                let label = label.map_or(source, |(label, _)| label);
                let is_named = label.contains(path);
                let path = if is_named {
                    String::new()
                } else {
                    format!(" (`{path}`)")
                };
                (format!("{label}{path}"), source.len())
            }
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(info))) => {
                let fence = source.lines().next().unwrap_or_default();
                let (language, _) = info.split_once(' ').unwrap_or((&info, ""));
                let marks = fence.trim_end().len() - (info.len() - language.len());
                (fence[..marks].to_owned(), fence.len())
            }
            Event::Start(Tag::Heading { .. }) => {
                let Some(name) = setting_in(source) else {
                    continue;
                };
                (
                    format!("{source}\n<span hidden>{name}</span>\n"),
                    source.len(),
                )
            }
            Event::Start(Tag::HtmlBlock) if source.starts_with("<!--") => {
                (String::new(), source.len())
            }
            _ => continue,
        };
        result.push_str(&text[end..range.start]);
        result.push_str(&instead);
        end = range.start + length;
    }
    result + &text[end..]
}

/// The last part of the key that is all of a heading.
fn setting_in(heading: &str) -> Option<&str> {
    let key = heading.trim().trim_start_matches('#').trim_start();
    let key = key.strip_prefix('`')?.strip_suffix('`')?;
    let (_, name) = key.rsplit_once('.')?;
    let is_name = |it: char| it.is_ascii_lowercase() || it == '_';
    name.chars().all(is_name).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(texts: &[(&str, &str)]) -> BTreeMap<PathBuf, Page> {
        let parsed = texts
            .iter()
            .map(|(path, text)| (path.into(), Page::parse(text)));
        parsed.collect()
    }

    #[test]
    fn headings_are_called_as_github_calls_them() {
        assert_eq!(anchor_of("GET /v1/users"), "get-v1users");
        assert_eq!(anchor_of("ws send, ws run"), "ws-send-ws-run");
        assert_eq!(anchor_of("Größe: max_size"), "größe-max_size");
        let page = Page::parse("# A `b`\n## A b\n```\n# no\n```\n");
        assert_eq!(page.anchors, BTreeSet::from(["a-b".into(), "a-b-1".into()]));
    }

    #[test]
    fn links_that_lead_nowhere_are_found_with_their_lines() {
        let text = "# One\n\n[a](#one) [b](#two)\n[c](../README.md) [d](../nothing.md)\n\
            [e](callbacks.md#nothing) [f](../../../x) <https://example.org> `[g](no.md)`\n\
            ![h](no.png)\n[i]\n\n[i]: no/where.md\n";
        let pages = pages(&[
            ("docs/callbacks.md", text),
            ("README.md", "# ws\n"),
            (SUMMARY, "[a](callbacks.md)\n[later]()\n"),
        ]);
        assert_eq!(
            faults_in(&pages),
            [
                "docs/callbacks.md:3: #two: has no such heading",
                "docs/callbacks.md:4: ../nothing.md: is not there",
                "docs/callbacks.md:5: callbacks.md#nothing: has no such heading",
                "docs/callbacks.md:5: ../../../x: leads out of the repository",
                "docs/callbacks.md:6: no.png: is not there",
                "docs/callbacks.md:7: no/where.md: is not there",
            ]
        );
    }

    #[test]
    fn a_page_that_the_book_does_not_have_is_found() {
        let pages = pages(&[("docs/push.md", ""), (SUMMARY, "[ws](README.md)\n")]);
        assert_eq!(faults_in(&pages), ["docs/push.md: not in docs/SUMMARY.md"]);
    }

    #[test]
    fn code_without_a_fence_is_found() {
        let pages = pages(&[
            ("docs/push.md", "a\n\n    b\n"),
            (SUMMARY, "[a](push.md)\n"),
        ]);
        assert_eq!(faults_in(&pages), ["docs/push.md:3: code without a fence"]);
    }

    #[test]
    fn links_out_of_the_book_become_paths() {
        assert_eq!(
            for_readers("a [b](../c/d.sh), [`c/d.sh`](../c/d.sh) [e](f.md)\n"),
            "a b (`c/d.sh`), `c/d.sh` [e](f.md)\n"
        );
    }

    #[test]
    fn a_setting_is_found_by_its_last_part() {
        assert_eq!(
            for_readers("## `[a]`\n\n### `a.b_c`\n\nd\n"),
            "## `[a]`\n\n### `a.b_c`\n\n<span hidden>b_c</span>\n\nd\n"
        );
    }

    #[test]
    fn readers_of_the_book_are_spared_what_is_for_tests() {
        assert_eq!(
            for_readers(
                "a\n\n```sh run needs=\"b c\"\nd\n```\n\n<!-- e\n```sh run\nf\n```\n-->\n\n- g\n\n  \
                 ```json\n  h\n  ```\n"
            ),
            "a\n\n```sh\nd\n```\n\n\n- g\n\n  ```json\n  h\n  ```\n"
        );
    }
}
