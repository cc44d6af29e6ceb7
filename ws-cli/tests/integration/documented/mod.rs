//! The documentation, carried out: commands, programs and configurations in it do what it says.
//!
//! What a fenced block is for, its info string says behind the language. A block that says nothing
//! fails the test of its page, so what is added to a page is either carried out or says why not.
//!
//! | mark | meaning |
//! |---|---|
//! | `file=NAME` | the content of a file, as an editor saves it: it stays executable if it was. A `ws.toml` is checked |
//! | `config` | a configuration that `ws config check` takes, also with each line `# key = ...` of it in the place of that key |
//! | `run`, `fails` | commands, or a program, that succeed, or do not |
//! | `serve` | the server from here on; the one before is stopped with Ctrl-C, and ends with 0. With `listen=ADDR` it listens there, with `listen=own` where its configuration says |
//! | `connect=NAME` | a client of the server in a terminal of its own |
//! | `typed=NAME` | what is typed there |
//! | `shown=NAME` | what is shown there next; `shown` alone is what the last `run` or `fails` printed |
//! | `console` | commands, each behind `$ `, and what they print, in which other figures may stand |
//! | `beside=NAME` | what runs beside the server until `ended=NAME`, or else to the end; with `until=ADDR` it is waited for until it listens there |
//! | `set=NAME` | commands; what they print stands for the word NAME in what follows |
//! | `by=STEP` | what [`steps`] knows how to carry out |
//! | `part=FILE` | lines of that file of the repository, which has tests of its own |
//! | `browser=NAME` | carried out in Chromium, by `ws-server/web/tests/documented.mjs` |
//! | `unrun="WHY"` | not carried out |
//!
//! Further words: `needs=PROGRAM,...` ends the story where one is not installed (in CI it fails),
//! with `alone` only this block is left out, since nothing behind depends on it;
//! `asked=TEXT answered=TEXT` has the server, or one with this program or configuration, asked
//! something, `cookie=COOKIE` by a visitor who has that; `like` allows other figures in what is
//! shown, `unordered` another order of the lines, `among` others between them, also in an answer.
//!
//! In what is shown, `...` stands for anything but nothing. All of a page happens in one directory,
//! in which the repository's directories are links. Addresses and absolute paths of a page are stood in for:
//! ports by free ones, paths by ones below that directory. What a page need not show to those who
//! read it, the test finds in comments (`<!-- ... -->`).

mod block;
mod likeness;
mod steps;
mod story;
mod terminal;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use self::story::Story;

/// The pages, each a test of its own.
macro_rules! pages {
    ($($(#[$condition:meta])? $test:ident: $page:literal,)*) => {
        const PAGES: &[&str] = &[$($page),*];
        $(
            $(#[$condition])?
            #[test]
            fn $test() {
                Story::tell($page);
            }
        )*
    };
}

pages! {
    the_readme_works_as_printed: "README.md",
    the_tutorial_works_as_printed: "docs/tutorial.md",
    the_front_page_works_as_printed: "docs/README.md",
    backends_work_as_printed: "docs/backends.md",
    identity_works_as_printed: "docs/identity.md",
    sessions_work_as_printed: "docs/sessions.md",
    pushing_works_as_printed: "docs/push.md",
    presence_works_as_printed: "docs/presence.md",
    pages_in_the_browser_work_as_printed: "docs/browser.md",
    carbonphp_works_as_printed: "docs/carbonphp.md",
    proxies_work_as_printed: "docs/proxies.md",
    doctor_works_as_printed: "docs/doctor.md",
    the_service_works_as_printed: "docs/service.md",
    operating_works_as_printed: "docs/operator.md",
    monitoring_works_as_printed: "docs/monitoring.md",
    #[cfg(feature = "otel")]
    traces_are_as_printed: "docs/traces.md",
    measuring_works_as_printed: "docs/bench.md",
    callbacks_work_as_printed: "docs/callbacks.md",
    the_command_line_works_as_printed: "docs/cli.md",
    configuring_works_as_printed: "docs/configuration.md",
    every_setting_is_as_printed: "docs/reference/configuration.md",
    the_explanation_is_as_printed: "docs/how-it-works.md",
    chaos_is_as_printed: "docs/chaos.md",
    the_summary_is_as_printed: "docs/SUMMARY.md",
    the_package_of_the_library_works_as_printed: "ws-server/web/client/README.md",
}

#[test]
fn every_page_has_its_test() {
    let elsewhere = ["README.md", "ws-server/web/client/README.md"];
    let mut found = BTreeSet::from(elsewhere.map(str::to_owned));
    let mut folders = vec![repository().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "md") {
                let name = path.strip_prefix(repository()).unwrap();
                found.insert(name.to_str().unwrap().to_owned());
            }
        }
    }
    let listed: BTreeSet<String> = PAGES.iter().map(|page| (*page).to_owned()).collect();
    assert_eq!(found, listed);
}

/// The repository that the tests are of.
fn repository() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    root.unwrap().to_owned()
}

fn page(name: &str) -> String {
    let path = repository().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"))
}
