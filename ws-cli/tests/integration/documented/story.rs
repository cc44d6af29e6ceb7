//! A page that is being carried out.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::block::{Block, blocks};
use super::likeness::{is_like, shape};
use super::terminal::Terminal;
use super::{page, repository, steps};
use crate::support::{control, eventually, figure, free_address};

/// Where the pages say that the server listens.
const USUAL_ADDR: &str = "127.0.0.1:8888";
/// What else listens on the pages: the control API, the metrics, a collector, proxies, Redis.
const OTHER_ADDRS: [&str; 5] = [
    "127.0.0.1:8889",
    "127.0.0.1:9464",
    "127.0.0.1:4318",
    "127.0.0.1:8080",
    "127.0.0.1:6379",
];

/// Whom Debian's web servers run as, and so the pages.
const WEB_USER: &str = "www-data";

/// Directories of a whole system.
const DIRECTORIES: [&str; 6] = [
    "/etc/ws",
    "/run/php",
    "/run/mysqld",
    "/run/ws",
    "/srv",
    "/var/lib/php",
];

/// The repository's, which a page may name.
const LINKS: [&str; 3] = ["ws-cli", "ws-ipc", "ws-server"];

/// What stands on a page, and what is carried out in its place.
const STAND_INS: &[(&str, &[(&str, &str)])] = &[
    ("README.md", &[("cargo build -p ws-cli\n", "")]),
    (
        "docs/bench.md",
        &[
            ("ws bench ", "ws bench --duration 200ms "),
            (
                "--duration 200ms ws://127.0.0.1:8888/ handshakes",
                "ws://127.0.0.1:8888/ handshakes",
            ),
            ("-c 5000", "-c 50"),
            ("-c 9000", "-c 90"),
            ("-c 1000", "-c 10"),
        ],
    ),
    ("docs/carbonphp.md", &[("localhost:8888", USUAL_ADDR)]),
    (
        "docs/doctor.md",
        &[("wss://chat.example/", "ws://127.0.0.1:8888/")],
    ),
    (
        "docs/identity.md",
        &[("https://login.example.org/.well-known", "file:///srv")],
    ),
];

/// How a story ends.
enum End {
    /// Everything was carried out.
    Good,
    /// A program is not installed.
    Early,
}

/// A page that is being carried out.
pub(super) struct Story {
    page: &'static str,
    dir: TempDir,
    server: Option<Terminal>,
    /// What it says that it listens at.
    url: String,
    clients: Vec<(String, Terminal)>,
    beside: Vec<(String, Terminal)>,
    /// What else runs to the end.
    pub(super) kept: Vec<Box<dyn std::any::Any>>,
    /// What the last commands printed, as far as nothing was said of it yet.
    printed: String,
    /// What stands on the page, and what for; the first is looked for first.
    stand_ins: Vec<(String, String)>,
    /// Words of the page, and what was printed that they stand for.
    values: BTreeMap<String, String>,
    /// Those of [`STAND_INS`] that were found.
    used: BTreeMap<&'static str, bool>,
}

impl Story {
    pub(super) fn tell(name: &'static str) {
        let text = page(name);
        let all: Vec<Block> = blocks(&text).collect();
        for block in &all {
            let (line, fault) = (block.line, block.fault());
            assert!(
                fault.is_none(),
                "{name}:{line}: {fault:?}; the words are those that \
                 ws-cli/tests/integration/documented/mod.rs explains"
            );
        }
        let mut story = Self::new(name);
        let end = all.iter().find_map(|block| match story.carry_out(block) {
            End::Good => None,
            End::Early => Some(()),
        });
        story.stop();
        let unused = story.used.iter().find(|(_, is_used)| !**is_used);
        assert!(end.is_some() || unused.is_none(), "{name}: no {unused:?}");
    }

    fn new(page: &'static str) -> Self {
        let dir = TempDir::new().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let root = dir.path().to_str().unwrap();
        let mut stand_ins = Vec::new();
        for directory in DIRECTORIES {
            fs::create_dir_all(format!("{root}{directory}")).unwrap();
            stand_ins.push((format!("{directory}/"), format!("{root}{directory}/")));
        }
        for addr in OTHER_ADDRS {
            stand_ins.push((addr.to_owned(), free_address().to_string()));
        }
        stand_ins.push(("/tmp/proxy".to_owned(), format!("{root}/proxy")));
        // As root, of whom it does not like to serve pages.
        let foreground = "-D FOREGROUND";
        let as_other = format!("{foreground} -c 'User www-data' -c 'Group www-data'");
        if nix::unistd::geteuid().is_root() {
            stand_ins.push((foreground.to_owned(), as_other));
        }
        for link in LINKS {
            symlink(repository().join(link), dir.path().join(link)).unwrap();
        }
        let own = STAND_INS.iter().filter(|(name, _)| *name == page);
        let own = own.flat_map(|(_, pairs)| pairs.iter());
        Self {
            page,
            dir,
            server: None,
            url: format!("ws://{USUAL_ADDR}/"),
            clients: Vec::new(),
            beside: Vec::new(),
            kept: Vec::new(),
            printed: String::new(),
            stand_ins,
            values: BTreeMap::new(),
            used: own.map(|(old, _)| (*old, false)).collect(),
        }
    }

    /// The directory that everything happens in.
    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn carry_out(&mut self, block: &Block) -> End {
        let place = self.place(block);
        let text = self.stood_in(&block.text);
        if let Some(missing) = missing(block, &text) {
            // A configuration is checked, and nothing else comes of it.
            if block.word("alone").is_some() || block.verb == "config" {
                say_that_it_is_skipped(&format!("only {place}"), missing);
                return End::Good;
            }
            say_that_it_is_skipped(&format!("from {place} on"), missing);
            return End::Early;
        }
        let name = self.stood_in(&block.name);
        match &*block.verb {
            "file" => self.write(&name, &text),
            "config" => self.check_variants(&text, &place),
            "run" | "fails" | "set" => self.run(block, &text, &place),
            "serve" => self.serve(block, &text, &place),
            "connect" => self.connect(&name, &block.language, &text, &place),
            "typed" => self.client(&name, &place).types(&text),
            "shown" if name.is_empty() => self.check_printed(block, &text, &place),
            "shown" => self.check_shown(&name, block, &text, &place),
            "console" => self.check_console(&text, &place),
            "beside" => {
                let mut program = Terminal::open(self.program(&block.language, &text));
                if let Some(addr) = block.word("until") {
                    program.until_it_listens(&self.stood_in(addr), &place);
                }
                self.beside.push((name.clone(), program));
            }
            "ended" => {
                let count = self.beside.len();
                self.beside.retain(|(other, _)| *other != name);
                assert!(self.beside.len() < count, "{place}: what is {name}?");
            }
            "by" => {
                if !steps::carry_out(self, block, &text, &place) {
                    return End::Early;
                }
            }
            "part" => {
                let file = page(&name);
                assert!(
                    file.contains(&block.text),
                    "{place}: {name} has other lines"
                );
            }
            "browser" => {
                let tests = page("ws-server/web/tests/documented.mjs");
                let begins = |line: &str, with: &str| line.trim_start().starts_with(with);
                let (test, quoted) = (format!("{name}: async"), format!("\"{name}\": async"));
                let mut lines = tests.lines();
                let is_test = |line: &str| begins(line, &test) || begins(line, &quoted);
                assert!(lines.any(is_test), "{place}: no test {name}");
                let page = format!("\"{}\"", self.page);
                let is_among_pages =
                    |line: &str| begins(line, "const PAGES") && line.contains(&page);
                assert!(
                    tests.lines().any(is_among_pages),
                    "{place}: no page of the tests"
                );
            }
            "unrun" => assert!(name.len() > 10, "{place}: why is it not run?"),
            verb => panic!("{place}: what is {verb}?"),
        }
        if let (Some(asked), Some(answered)) = (block.word("asked"), block.word("answered")) {
            if block.verb == "file" {
                self.serve_file(block, &name, &place);
            }
            self.ask(block, asked, answered, &place);
        }
        End::Good
    }

    fn place(&self, block: &Block) -> String {
        format!("{}:{}", self.page, block.line)
    }

    /// Replaces what stands on the page by what stands for it here.
    pub(super) fn stood_in(&mut self, text: &str) -> String {
        let own = STAND_INS.iter().filter(|(page, _)| *page == self.page);
        let mut text = text.to_owned();
        for (old, new) in own.flat_map(|(_, pairs)| pairs.iter()) {
            if text.contains(old) {
                self.used.insert(old, true);
                text = text.replace(old, new);
            }
        }
        for (old, new) in &self.stand_ins {
            text = text.replace(old, new);
        }
        for (word, value) in &self.values {
            text = replace_word(&text, word, value);
        }
        text.replace(USUAL_ADDR, self.addr())
    }

    /// The other way round: what is printed here as a page would show it.
    fn as_on_the_page(&self, text: &str) -> String {
        let mut text = text.replace(self.addr(), USUAL_ADDR);
        for addr in &self.stand_ins {
            if OTHER_ADDRS.contains(&&*addr.0) {
                text = text.replace(&addr.1, &addr.0);
            }
        }
        text.replace(self.dir().to_str().unwrap(), "")
    }

    /// Where the server listens, without the scheme.
    fn addr(&self) -> &str {
        let (_, addr) = self.url.split_once("://").unwrap();
        addr.trim_end_matches('/')
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // A script that is running stays what it is.
        let draft = path.with_file_name(".draft");
        fs::write(&draft, text).unwrap();
        if let Ok(metadata) = fs::metadata(&path) {
            fs::set_permissions(&draft, metadata.permissions()).unwrap();
        }
        fs::rename(&draft, &path).unwrap();
        if path.file_name().is_some_and(|name| name == "ws.toml") {
            self.check(&path, name);
        }
    }

    /// Has the configuration checked, and others with each line that is commented out instead of
    /// the one that it is an alternative to.
    fn check_variants(&self, text: &str, place: &str) {
        let mut variants = vec![text.to_owned()];
        for line in text.lines() {
            let Some((key, _)) = line
                .strip_prefix("# ")
                .and_then(|line| line.split_once(" = "))
            else {
                continue;
            };
            let is_other = |other: &&str| other.split(" = ").next() != Some(key);
            let mut lines: Vec<&str> = text.lines().filter(is_other).collect();
            let at = lines.iter().position(|other| *other == line).unwrap();
            lines[at] = line.strip_prefix("# ").unwrap();
            variants.push(lines.join("\n"));
        }
        let file = self.dir().join("checked.toml");
        for variant in variants {
            fs::write(&file, &variant).unwrap();
            self.check(&file, place);
        }
        fs::remove_file(&file).unwrap();
    }

    fn check(&self, file: &Path, place: &str) {
        let command = format!("ws config check --config {}", file.display());
        let output = self.program("sh", &command).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {place}: {said}", self.page);
    }

    fn run(&mut self, block: &Block, text: &str, place: &str) {
        let program = Terminal::open(self.program(&block.language, text));
        let (status, printed, said) = program.end(place);
        let fails = block.verb == "fails";
        assert_eq!(status.success(), !fails, "{place}: {printed}\n{said}");
        self.printed = if fails { printed + &said } else { printed };
        if block.verb == "set" {
            let value = std::mem::take(&mut self.printed);
            assert!(!value.trim().is_empty(), "{place}: nothing is printed");
            self.values
                .insert(block.name.clone(), value.trim().to_owned());
        }
    }

    /// A shell or an interpreter in the directory of the page, which finds `ws` and no settings of
    /// ours.
    fn program(&self, language: &str, text: &str) -> Command {
        let bin = Path::new(env!("CARGO_BIN_EXE_ws")).parent().unwrap();
        let path = std::env::var("PATH").unwrap();
        let (interpreter, args) = interpreter(language);
        assert!(!interpreter.is_empty(), "what runs {language}?");
        let mut program = Command::new(find(interpreter).unwrap());
        program
            .args(args)
            .arg(text.trim_end())
            .current_dir(self.dir())
            .env("PATH", format!("{}:{path}:/usr/sbin", bin.display()))
            .env("XDG_CONFIG_HOME", self.dir())
            .env("XDG_STATE_HOME", self.dir())
            .env("PYTHONUNBUFFERED", "1");
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("WS_") || name == "RUST_LOG" {
                program.env_remove(&*name);
            }
        }
        program
    }

    fn serve(&mut self, block: &Block, commands: &str, place: &str) {
        self.stop();
        // The shell itself outlives Ctrl-C, as one that a person types into.
        let commands = format!("trap : INT\n{commands}");
        let mut shell = self.program("sh", &commands);
        match block.word("listen") {
            Some("own") => {}
            listen => {
                shell.env("WS__SERVER__LISTEN", listen.unwrap_or("127.0.0.1:0"));
            }
        }
        let mut server = Terminal::open(shell);
        // Other commands may come before it.
        self.url = loop {
            let line = server.line(place);
            if line.starts_with("ws") && line.contains("://") {
                break line;
            }
        };
        self.server = Some(server);
    }

    /// Serves a program, or by a configuration.
    fn serve_file(&mut self, block: &Block, name: &str, place: &str) {
        if block.language == "toml" {
            return self.serve(block, &format!("ws serve --config {name}"), place);
        }
        let path = self.dir().join(name);
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        self.serve(block, &format!("ws serve -- ./{name}"), place);
    }

    fn ask(&mut self, block: &Block, asked: &str, answered: &str, place: &str) {
        let cookie = block.word("cookie").map_or_else(String::new, |cookie| {
            format!("--cookie '{}'", self.stood_in(cookie))
        });
        let command = format!(
            "printf '%s\\n' '{asked}' | ws connect --insecure {cookie} {}",
            self.url
        );
        let client = Terminal::open(self.program("sh", &command));
        let (status, printed, said) = client.end(place);
        assert!(status.success(), "{place}: {printed}\n{said}");
        let answered = self.stood_in(answered);
        let is_answered = if block.word("among").is_some() {
            printed.lines().any(|line| is_like(line, &answered))
        } else {
            is_like(&printed, &answered)
        };
        assert!(is_answered, "{place}: {printed}");
    }

    /// Opens a client, and waits until the server knows of it.
    fn connect(&mut self, name: &str, language: &str, text: &str, place: &str) {
        let mut arrivals = None;
        for (call, path) in [
            ("ws connect", "connections.opened"),
            ("ws events", "events.listeners"),
            ("/v1/events", "events.listeners"),
        ] {
            if text.contains(call) {
                arrivals = Some(path);
            }
        }
        let arrivals = arrivals.map(|path| {
            let before = self.figure(path);
            (path, before.unwrap_or_else(|| panic!("{place}: no {path}")))
        });
        let mut client = Terminal::open(self.program(language, text));
        if let Some((path, before)) = arrivals {
            let mut is_known = false;
            eventually(&format!("{place}: it is connected"), || {
                // Asked before, as it may arrive and end meanwhile.
                let has_ended = client.has_ended();
                is_known = self.figure(path).is_some_and(|now| now > before);
                is_known || has_ended
            });
            if !is_known {
                let (status, printed, said) = client.end(place);
                panic!("{place}: it has ended, {status}: {printed}\n{said}");
            }
        }
        self.clients.push((name.to_owned(), client));
    }

    /// A figure of the server's, if it is found where it is usually.
    fn figure(&self, path: &str) -> Option<u64> {
        let socket = self.dir().join("tmp/control.sock");
        let (_, answer) = control(&socket, "GET", "/v1/status", "").ok()?;
        Some(figure(&serde_json::from_str(&answer).ok()?, path))
    }

    /// Compares what the last commands have printed.
    fn check_printed(&mut self, block: &Block, text: &str, place: &str) {
        let printed = std::mem::take(&mut self.printed);
        let (printed, expected) = (self.as_on_the_page(&printed), self.as_on_the_page(text));
        let is_it = is_as_expected(block, printed.trim_end(), expected.trim_end());
        assert!(is_it, "{place}: {printed}");
    }

    /// Compares what is shown in the terminal of a client, line by line.
    fn check_shown(&mut self, name: &str, block: &Block, text: &str, place: &str) {
        let mut expected: Vec<&str> = text.lines().collect();
        while !expected.is_empty() {
            let shown = self.client(name, place).line(place);
            let is_in_order = block.word("unordered").is_none();
            let mut candidates = expected
                .iter()
                .take(if is_in_order { 1 } else { usize::MAX });
            let found = candidates.position(|line| is_as_expected(block, &shown, line));
            match found {
                Some(found) => drop(expected.remove(found)),
                None => assert!(block.word("among").is_some(), "{place}: {shown}"),
            }
        }
    }

    /// Carries out commands, each behind `$ `, and compares what they print with what follows.
    fn check_console(&mut self, text: &str, place: &str) {
        let (before, commands) = text.split_once("$ ").unwrap_or((text, ""));
        assert_eq!(before, "", "{place}: nothing is asked");
        for command in commands.split("\n$ ") {
            let (command, expected) = command.split_once('\n').unwrap_or((command, ""));
            let both = format!("{{ {command}\n}} 2>&1 || true");
            let (_, printed, _) = Terminal::open(self.program("sh", &both)).end(place);
            let (printed, expected) = (shape(&printed), shape(expected));
            let is_it = is_like(printed.trim_end(), expected.trim_end());
            assert!(is_it, "{place}: {printed}\nis not like\n{expected}");
        }
    }

    /// Ctrl-C in the terminal of the server; clients end with their connections.
    fn stop(&mut self) {
        let Some(mut server) = self.server.take() else {
            return;
        };
        let (code, log) = server.interrupt();
        assert_eq!(code, Some(0), "{}: {log}", self.page);
        self.clients.clear();
    }

    fn client(&mut self, name: &str, place: &str) -> &mut Terminal {
        let found = self.clients.iter_mut().find(|(other, _)| other == name);
        &mut found
            .unwrap_or_else(|| panic!("{place}: no client {name}"))
            .1
    }
}

/// A program or a user that a block takes and this system lacks.
fn missing<'a>(block: &'a Block, text: &str) -> Option<&'a str> {
    let needs = block.word("needs").unwrap_or_default().split(',');
    let mut programs = needs
        .chain([interpreter(&block.language).0])
        .filter(|it| !it.is_empty());
    if let Some(program) = programs.find(|program| find(program).is_none()) {
        return Some(program);
    }
    let is_only_read = ["unrun", "part"].contains(&&*block.verb);
    let lacks_user = text.contains(WEB_USER) && !is_only_read && !is_known(WEB_USER);
    lacks_user.then_some(WEB_USER)
}

/// Whether there is a user and a group of that name.
fn is_known(name: &str) -> bool {
    let user = nix::unistd::User::from_name(name);
    let group = nix::unistd::Group::from_name(name);
    user.is_ok_and(|it| it.is_some()) && group.is_ok_and(|it| it.is_some())
}

/// Replaces a word where it stands alone: `ID` is none of the letters of `IDs` or `WS_ID`.
fn replace_word(text: &str, word: &str, value: &str) -> String {
    let is_part = |it: char| it.is_ascii_alphanumeric() || it == '_';
    let mut result = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once(word) {
        let is_whole = !before.ends_with(is_part) && !behind.starts_with(is_part);
        result.push_str(before);
        result.push_str(if is_whole { value } else { word });
        rest = behind;
    }
    result + rest
}

/// Whether a text is what a block says, or with the word `like` has its shape.
fn is_as_expected(block: &Block, text: &str, expected: &str) -> bool {
    let is_like_it = || block.word("like").is_some() && is_like(&shape(text), &shape(expected));
    is_like(text, expected) || is_like_it()
}

/// What carries out blocks in this language, and the arguments before their text.
fn interpreter(language: &str) -> (&'static str, &'static [&'static str]) {
    match language {
        "sh" | "console" => ("sh", &["-e", "-c"]),
        "python" => ("python3", &["-c"]),
        "php" => ("php", &["-r"]),
        "js" => ("node", &["--input-type=module", "--eval"]),
        _ => ("", &[]),
    }
}

/// Finds a program, also where Debian keeps daemons.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// Says so; in CI it fails.
#[expect(clippy::print_stderr, reason = "whoever runs the tests is told")]
pub(super) fn say_that_it_is_skipped(place: &str, missing: &str) {
    let is_ci = std::env::var("CI").as_deref() == Ok("true");
    assert!(!is_ci, "{place}: there is no {missing}");
    eprintln!("skipped: {place}: there is no {missing}");
}

#[test]
fn a_value_stands_for_whole_words_only() {
    let replaced = replace_word("ID, ID1 IDs WS_ID --session ID\nID", "ID", "7");
    assert_eq!(replaced, "7, ID1 IDs WS_ID --session 7\n7");
    assert_eq!(
        replace_word("token=TOKEN", "TOKEN", "TOKEN."),
        "token=TOKEN."
    );
}
