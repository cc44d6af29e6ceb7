//! What is looked at on this host.

use std::fs::{self, File, Metadata};
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{getegid, geteuid, getgroups};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use ws_server::config::{
    AppBackend, CallbackBackend, Config, ExecConfig, StoreAddress, Tls, ValidateBackend,
};
use ws_server::{CertificateWarning, DEFAULT_PATH, TlsAcceptor, shims};

use super::Server;
use super::finding::Finding;
use super::host::{self, Account, Descriptors, Entry, Program};
use super::probe::PATIENCE;
use super::tls::{self, Link};

/// Looks at everything that is of this host.
pub(super) async fn examine(config: &Config, server: &Server) -> Vec<Finding> {
    let pid = server.status.as_ref().map(|status| status.pid);
    let who = pid.and_then(account_of).unwrap_or_else(own_account);
    let mut findings = vec![
        host::judge_descriptors(descriptors(config, pid)),
        host::judge_backlog(number_in(Path::new("/proc/sys/net/core/somaxconn"))),
        host::judge_memory(memory_limit(pid), config.limits().send_queue_total),
    ];
    let state = &config.server().state_dir;
    let judge = |check, path: &Path| {
        let parent = path.parent().and_then(entry);
        host::judge_directory(check, path, entry(path), parent, &who)
    };
    findings.push(judge("state directory", state));
    if config.fifo().enabled {
        findings.push(judge("FIFO directory", &config.fifo().dir));
    }
    findings.push(control_socket(config, server));
    findings.push(store(config, server, &who));
    if let Tls::Files(_) = &config.server().tls {
        findings.extend(certificates(config));
    }
    if let AppBackend::Callback(backend) = &config.app().backend {
        findings.extend(backend_findings("application", backend, &who).await);
    }
    if let ValidateBackend::Callback(backend) = &config.validate().backend {
        findings.extend(backend_findings("validation", backend, &who).await);
    }
    findings
}

/// As whom a process runs.
fn account_of(pid: u32) -> Option<Account> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let numbers = |name: &str| -> Option<Vec<u32>> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().map(|it| it.parse().ok()).collect()
    };
    // Real, effective, saved, and that for files.
    let uid = *numbers("Uid:")?.get(1)?;
    let mut gids = numbers("Groups:").unwrap_or_default();
    gids.push(*numbers("Gid:")?.get(1)?);
    Some(Account { uid, gids })
}

fn own_account() -> Account {
    let groups = getgroups().unwrap_or_default();
    let mut gids: Vec<u32> = groups.into_iter().map(|gid| gid.as_raw()).collect();
    gids.push(getegid().as_raw());
    Account {
        uid: geteuid().as_raw(),
        gids,
    }
}

fn entry(path: &Path) -> Option<Entry> {
    fs::metadata(path).ok().as_ref().map(entry_of)
}

fn entry_of(metadata: &Metadata) -> Entry {
    Entry {
        is_dir: metadata.is_dir(),
        uid: metadata.uid(),
        gid: metadata.gid(),
        mode: metadata.mode(),
    }
}

fn descriptors(config: &Config, pid: Option<u32>) -> Descriptors {
    // The server raises its limit as far as it may.
    let own = || {
        getrlimit(Resource::RLIMIT_NOFILE)
            .ok()
            .map(|(_, hard)| hard)
    };
    let allowed = pid.and_then(open_files_of).or_else(own);
    let fifos = usize::from(config.fifo().enabled && config.fifo().has_connections());
    let is_stream = matches!(
        &config.app().backend,
        AppBackend::Callback(CallbackBackend::Stream(_))
    );
    Descriptors {
        allowed: allowed.filter(|allowed| *allowed != u64::MAX),
        max_connections: config.limits().max_connections.get(),
        per_connection: 1 + fifos + usize::from(is_stream),
        reserved: config.limits().reserved_descriptors,
    }
}

/// How many a process may open; the largest number if any.
fn open_files_of(pid: u32) -> Option<u64> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    let soft = line.split_whitespace().next()?;
    match soft {
        "unlimited" => Some(u64::MAX),
        soft => soft.parse().ok(),
    }
}

fn number_in(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The least limit of the control groups of a process, of either version; `None` is none.
fn memory_limit(pid: Option<u32>) -> Option<u64> {
    let pid = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let root = Path::new("/sys/fs/cgroup");
    let limits = groups.lines().flat_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, kinds, path) = (parts.next(), parts.next(), parts.next());
        let (mount, file) = match kinds {
            Some("") => (root.to_owned(), "memory.max"),
            Some(kinds) if kinds.split(',').any(|kind| kind == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => return Vec::new(),
        };
        let path = Path::new(path.unwrap_or_default().trim_start_matches('/'));
        path.ancestors()
            .filter_map(|path| number_in(&mount.join(path).join(file)))
            .collect()
    });
    // The first version says "any number" by the largest that fits, in pages.
    limits.filter(|limit| *limit < 1 << 60).min()
}

fn control_socket(config: &Config, server: &Server) -> Finding {
    const CHECK: &str = "control socket";
    let path = config.control_socket();
    let shown = path.display();
    if let Some(status) = &server.status {
        let pid = status.pid;
        let who = account_of(pid).map_or_else(String::new, |who| format!(" of user {}", who.uid));
        return Finding::ok(
            CHECK,
            format!("the server, process {pid}{who}, answers at {shown}"),
        );
    }
    if server.was_refused {
        return Finding::warning(CHECK, format!("you may not speak to the server at {shown}"))
            .advise("Run as its user or in the group control.group, or as root.");
    }
    match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Finding::not_checked(
            CHECK,
            format!("there is none at {shown}: no server runs with this state directory"),
        ),
        Err(error) => Finding::warning(CHECK, format!("{shown}: {error}")),
        Ok(metadata) if !metadata.file_type().is_socket() => Finding::fault(
            CHECK,
            format!("{shown} is no socket, so the server does not start"),
        )
        .advise("Move it away."),
        Ok(_) => {
            let why = server.unreachable.as_deref().unwrap_or("no answer");
            Finding::warning(CHECK, format!("nobody answers at {shown}: {why}"))
                .advise("A server that was killed leaves it behind; the next one replaces it.")
        }
    }
}

fn store(config: &Config, server: &Server, who: &Account) -> Finding {
    const CHECK: &str = "session store";
    if let Some(status) = &server.status {
        let store = &status.identity.store;
        return match status.identity.store_answers {
            true => Finding::ok(CHECK, format!("{store} answers the server")),
            false => Finding::fault(CHECK, format!("{store} does not answer the server"))
                .advise("Visitors are answered 503 until it does; the server's log says why."),
        };
    }
    match &config.identity().store {
        StoreAddress::Memory => Finding::ok(CHECK, "in memory: a restart forgets the sessions"),
        StoreAddress::Sqlite(path) => {
            let place = entry(path).or_else(|| entry(path.parent()?));
            match place {
                Some(place) if !place.allows(who, 2) => Finding::fault(
                    CHECK,
                    format!("user {} may not write to {}", who.uid, path.display()),
                )
                .advise(format!("chown {} {}", who.uid, path.display())),
                _ => Finding::ok(CHECK, format!("sqlite:{}", path.display())),
            }
        }
        other => Finding::not_checked(CHECK, format!("{other}: a running server would know")),
    }
}

/// Reads them as the server does.
fn certificates(config: &Config) -> Vec<Finding> {
    const CHECK: &str = "certificates";
    let Tls::Files(files) = &config.server().tls else {
        return Vec::new();
    };
    let paths: Vec<PathBuf> = files.files().map(Path::to_owned).collect();
    let acceptor = match TlsAcceptor::load(files.clone()) {
        Ok(acceptor) => acceptor,
        Err(error) => {
            return vec![
                Finding::fault(CHECK, error.to_string())
                    .advise("The server does not start, or keeps those that it has."),
            ];
        }
    };
    let now = SystemTime::now();
    let warnings = acceptor.warnings(now);
    let mut findings: Vec<Finding> = warnings
        .iter()
        .map(|warning| match warning {
            CertificateWarning::Nameless { .. } => Finding::warning(CHECK, warning.to_string()),
            warning => Finding::fault(CHECK, warning.to_string()).advise("Browsers refuse it."),
        })
        .collect();
    for path in paths {
        let Ok(chain) = chain_in(&path) else {
            continue;
        };
        let Some(first) = chain.first() else {
            continue;
        };
        let shown = path.display();
        if !tls::is_in_order(&chain) {
            let says = format!("the certificates in {shown} do not each issue the one before");
            let finding = Finding::fault(CHECK, says)
                .advise("The server's comes first, behind it the one that issued it, and so on.");
            findings.push(finding);
        } else if tls::lacks_intermediate(&chain) {
            let says = format!("{shown} has no intermediate certificate");
            let finding = Finding::warning(CHECK, says)
                .advise("Right for an authority of yours; else name fullchain.pem.");
            findings.push(finding);
        }
        let days = tls::days_until(first.not_after, now);
        if days >= 0 {
            let names = first.names.join(", ");
            findings.push(Finding::ok(
                CHECK,
                format!("{shown} is for {names}, its key matches, {days} days are left"),
            ));
        }
    }
    findings
}

/// The certificates of a file; none in one of keys.
fn chain_in(path: &Path) -> io::Result<Vec<Link>> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    let pem = fs::read(path)?;
    let certificates = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok);
    Ok(certificates.filter_map(|it| Link::read(&it)).collect())
}

async fn backend_findings(
    check: &'static str,
    backend: &CallbackBackend,
    server: &Account,
) -> Vec<Finding> {
    if let Some(exec) = backend.exec() {
        let who = exec.account.map_or_else(
            || server.clone(),
            |account| Account {
                uid: account.uid(),
                gids: vec![account.gid()],
            },
        );
        return command_findings(check, exec, &who);
    }
    let (CallbackBackend::Scgi(address) | CallbackBackend::FastCgi(address)) = backend else {
        return Vec::new();
    };
    let connecting = async {
        match address.unix_path() {
            Some(path) => UnixStream::connect(path).await.map(drop),
            None => TcpStream::connect(address.to_string()).await.map(drop),
        }
    };
    let late = || io::Error::new(io::ErrorKind::TimedOut, "no answer in 5 s");
    let connected = timeout(PATIENCE, connecting).await;
    let name = backend.name();
    vec![match connected.unwrap_or_else(|_| Err(late())) {
        Ok(()) => Finding::ok(check, format!("{address} accepts connections ({name})")),
        Err(error) => Finding::fault(check, format!("{address} ({name}): {error}")).advise(
            match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    "Its socket must be writable for the server: listen.owner, listen.group and \
                     listen.mode of php-fpm."
                }
                _ => "Start it, php-fpm say, or correct the address.",
            },
        ),
    }]
}

fn command_findings(check: &'static str, exec: &ExecConfig, who: &Account) -> Vec<Finding> {
    let Some(command) = exec.command.first() else {
        return Vec::new();
    };
    let folders = exec.env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
    let (path, program) = find_program(command, folders);
    let interpreter = path.as_deref().and_then(interpreter_of);
    let is_there = interpreter.as_deref().map(|name| {
        let is_there = Path::new(name).exists();
        (name, is_there)
    });
    let mut findings = vec![host::judge_program(check, command, &program, is_there, who)];
    // php fork.php app.php: the shim has to be there, and the application behind it.
    let dir = exec.sandbox.dir.clone().unwrap_or_default();
    let words = exec.command.iter().skip(1);
    let mut words = words.skip_while(|word| {
        let name = Path::new(word).file_name().and_then(|name| name.to_str());
        name.and_then(shims::by_name).is_none()
    });
    for word in words.by_ref().take(2) {
        if !dir.join(word).exists() && !word.starts_with('-') {
            let finding = Finding::fault(check, format!("{word} does not exist"));
            findings.push(match shims::by_name(word) {
                Some(_) => finding.advise(format!("ws shim {word} > {word}")),
                None => finding.advise("A relative path is taken from the server's directory."),
            });
        }
    }
    findings
}

/// Finds a command as a spawner does, in these folders.
fn find_program(command: &str, path: &str) -> (Option<PathBuf>, Program) {
    if command.contains('/') {
        let path = PathBuf::from(command);
        return match entry(&path) {
            Some(entry) => (Some(path), Program::Found(entry)),
            None => (None, Program::Missing),
        };
    }
    let found = std::env::split_paths(path)
        .map(|folder| folder.join(command))
        .find_map(|path| {
            let entry = entry(&path).filter(|it| !it.is_dir && it.mode & 0o111 != 0)?;
            Some((path, entry))
        });
    match found {
        Some((path, entry)) => (Some(path), Program::Found(entry)),
        None => (None, Program::NotInPath),
    }
}

/// The program in the first line of a script.
fn interpreter_of(path: &Path) -> Option<String> {
    let mut begin = Vec::new();
    let file = BufReader::new(File::open(path).ok()?);
    file.take(256).read_until(b'\n', &mut begin).ok()?;
    let line = std::str::from_utf8(&begin).ok()?.strip_prefix("#!")?;
    Some(line.split_whitespace().next()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_by_path_and_by_name() {
        assert!(matches!(
            find_program("sh", DEFAULT_PATH),
            (Some(_), Program::Found(_))
        ));
        assert_eq!(
            find_program("no-such-command", DEFAULT_PATH),
            (None, Program::NotInPath)
        );
        assert_eq!(
            find_program("/no/such/command", DEFAULT_PATH),
            (None, Program::Missing)
        );
    }

    #[test]
    fn the_first_line_names_the_interpreter() {
        let dir = tempfile::TempDir::new().unwrap();
        let script = dir.path().join("script");
        fs::write(&script, "#! /usr/bin/env python3\nprint()\n").unwrap();
        assert_eq!(interpreter_of(&script).as_deref(), Some("/usr/bin/env"));
        fs::write(&script, "\u{7f}ELF").unwrap();
        assert_eq!(interpreter_of(&script), None);
    }

    #[test]
    fn this_process_has_an_account_and_limits() {
        let account = account_of(std::process::id()).unwrap();
        assert_eq!(account.uid, own_account().uid);
        assert!(open_files_of(std::process::id()).is_some());
    }
}
