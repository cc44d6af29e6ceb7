//! Real proxies with one thing wrong: the shipped configurations, but for that.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use tempfile::TempDir;

use super::{Found, examine};
use crate::support::{Server, Setup, eventually, free_address};

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Nginx,
    Haproxy,
    Apache,
    Caddy,
}

impl Kind {
    fn program(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Apache => "apache2",
            Self::Caddy => "caddy",
        }
    }

    /// The shipped configuration, and what in it says where to listen.
    fn configuration(self) -> (&'static str, &'static [(&'static str, &'static str)]) {
        match self {
            Self::Nginx => ("nginx.conf", &[("listen 8080", "listen {front}")]),
            Self::Haproxy => ("haproxy.cfg", &[("bind :8080", "bind {front}")]),
            Self::Apache => (
                "apache.conf",
                &[("Listen 8080", "Listen {front}"), ("*:8080", "{front}")],
            ),
            Self::Caddy => ("Caddyfile", &[(":8080 {", "http://{front} {")]),
        }
    }

    /// Where it is. Without it the test says so and is over; in CI it fails.
    #[expect(clippy::print_stderr, reason = "whoever runs the tests is told")]
    fn find(self) -> Option<PathBuf> {
        let program = self.program();
        let folders = ["/usr/local/sbin", "/usr/sbin", "/usr/local/bin", "/usr/bin"];
        let mut paths = folders.iter().map(|folder| Path::new(folder).join(program));
        let found = paths.find(|path| path.exists());
        if found.is_none() {
            // Nothing has to be wrong with Caddy, so it is not asked for.
            let is_needed = !matches!(self, Self::Caddy);
            let is_ci = std::env::var("CI").as_deref() == Ok("true");
            assert!(!(is_ci && is_needed), "{program} is not installed");
            eprintln!("skipped: {program} is not installed");
        }
        found
    }

    fn arguments(self, dir: &str, file: &str) -> Vec<String> {
        let words: &[&str] = match self {
            Self::Nginx => &["-p", dir, "-e", "stderr", "-c", file, "-g", "daemon off;"],
            Self::Haproxy => &["-db", "-f", file],
            Self::Apache if geteuid().is_root() => &[
                "-d",
                dir,
                "-f",
                file,
                "-D",
                "FOREGROUND",
                "-c",
                "User www-data",
                "-c",
                "Group www-data",
            ],
            Self::Apache => &["-d", dir, "-f", file, "-D", "FOREGROUND"],
            Self::Caddy => &["run", "--adapter", "caddyfile", "--config", file],
        };
        words.iter().map(|word| (*word).to_owned()).collect()
    }
}

/// A proxy that runs.
pub(crate) struct Proxy {
    child: Child,
    /// Where it listens.
    pub(crate) front: SocketAddr,
    _dir: TempDir,
}

impl Proxy {
    /// Starts one in front of that address; each of `wrong` is text of the shipped configuration and
    /// what stands there instead. `None` if it is not installed.
    pub(crate) fn start(kind: Kind, backend: &str, wrong: &[(&str, &str)]) -> Option<Self> {
        let (name, _) = kind.configuration();
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/proxies");
        let mut text = std::fs::read_to_string(shipped.join(name)).unwrap();
        for (old, new) in wrong {
            assert!(text.contains(old), "no {old:?} in {name}");
            text = text.replace(old, new);
        }
        Self::start_as(kind, backend, &text)
    }

    /// Starts one in front of that address with a configuration like the shipped one. `None` if it is
    /// not installed.
    pub(crate) fn start_as(kind: Kind, backend: &str, configuration: &str) -> Option<Self> {
        let program = kind.find()?;
        let dir = TempDir::new().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let (name, fronts) = kind.configuration();
        let file = dir.path().join(name);
        // The port was free a moment ago, but it is not held.
        (0..5)
            .find_map(|_| {
                let front = free_address();
                let mut text = configuration.replace("127.0.0.1:8888", backend);
                for (old, new) in fronts {
                    assert!(text.contains(old), "no {old:?} in {name}");
                    text = text.replace(old, &new.replace("{front}", &front.to_string()));
                }
                std::fs::write(&file, text).unwrap();
                let words = kind.arguments(dir.path().to_str().unwrap(), file.to_str().unwrap());
                let log = std::fs::File::create(dir.path().join("log")).unwrap();
                let mut child = Command::new(&program)
                    .args(words)
                    .current_dir(dir.path())
                    .env("HOME", dir.path())
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(log)
                    .spawn()
                    .unwrap();
                let mut is_up = false;
                eventually("the proxy listens, or has ended", || {
                    is_up = TcpStream::connect(front).is_ok();
                    is_up || child.try_wait().unwrap().is_some()
                });
                is_up.then_some((child, front))
            })
            .map(|(child, front)| Self {
                child,
                front,
                _dir: dir,
            })
            .or_else(|| panic!("{kind:?} does not start"))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        let _ = kill(pid, Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// A server that does not believe any proxy, or this host.
fn server(trusts: bool) -> Server {
    let setup = Setup::new().arg("--echo");
    let trusted = if trusts { "'127.0.0.1'" } else { "" };
    let text = format!("[server.proxy]\ntrusted = [{trusted}]\n");
    std::fs::write(setup.dir().join("ws.toml"), text).unwrap();
    setup.start()
}

/// What is found behind a proxy with these things wrong; `None` if it is not installed.
fn behind(kind: Kind, wrong: &[(&str, &str)], args: &[&str]) -> Option<Found> {
    let server = server(true);
    let proxy = Proxy::start(kind, &server.addr.to_string(), wrong);
    let found = proxy.as_ref().map(|proxy| {
        let url = format!("ws://{}/", proxy.front);
        examine(&server, &[&[url.as_str()], args].concat())
    });
    drop(proxy);
    server.finish();
    found
}

const KINDS: [Kind; 4] = [Kind::Nginx, Kind::Haproxy, Kind::Apache, Kind::Caddy];

#[test]
fn shipped_configurations_have_nothing_wrong() {
    for kind in KINDS {
        let Some(found) = behind(kind, &[], &[]) else {
            continue;
        };
        assert_eq!(found.code, Some(0), "{kind:?}: {:#}", found.report);
        for check in ["upgrade", "frames", "visitor"] {
            assert_eq!(
                found.about(check)["verdict"],
                "ok",
                "{kind:?}: {:#}",
                found.report
            );
        }
    }
}

#[test]
fn a_proxy_that_is_not_trusted_is_a_warning() {
    let server = server(false);
    let Some(proxy) = Proxy::start(Kind::Nginx, &server.addr.to_string(), &[]) else {
        return;
    };
    let found = examine(&server, &[&format!("ws://{}/", proxy.front)]);
    found.check(
        "visitor",
        "warning",
        "server.proxy.trusted does not name the proxy",
    );
    found.shows("visitor", "proxy_set_header X-Forwarded-For $remote_addr;");
    assert_eq!(found.code, Some(0));
    drop(proxy);
    server.finish();
}

#[test]
fn nginx_without_the_headers_of_an_upgrade() {
    let headers = [
        ("proxy_set_header Upgrade $http_upgrade;", ""),
        ("proxy_set_header Connection $connection_upgrade;", ""),
    ];
    let Some(found) = behind(Kind::Nginx, &headers, &[]) else {
        return;
    };
    assert_eq!(found.code, Some(1));
    found.check("upgrade", "fault", "426");
    found.check("upgrade", "fault", "nginx/");
    found.shows("upgrade", "proxy_set_header Upgrade $http_upgrade;");
    let version = [headers.as_slice(), &[("proxy_http_version 1.1;", "")]].concat();
    let found = behind(Kind::Nginx, &version, &[]).unwrap();
    found.check("upgrade", "fault", "asked in HTTP/1.0");
}

#[test]
fn nginx_that_changes_the_host() {
    let host = "proxy_set_header Host $http_host;";
    let Some(found) = behind(Kind::Nginx, &[(host, "")], &[]) else {
        return;
    };
    found.check("upgrade", "fault", "says \"ws\" instead of the host");
    found.shows("upgrade", host);
    let found = behind(Kind::Nginx, &[("$http_host", "$host")], &[]).unwrap();
    found.check("upgrade", "fault", "without its port");
    let wrong = [("X-Forwarded-Proto $scheme", "X-Forwarded-Proto https")];
    let found = behind(Kind::Nginx, &wrong, &[]).unwrap();
    found.check("upgrade", "fault", "the other scheme");
    assert_eq!(found.code, Some(1));
}

#[test]
fn nginx_that_answers_itself_or_reaches_nobody() {
    let page = [("proxy_pass http://ws;", "return 200 '<html>hello</html>';")];
    let Some(found) = behind(Kind::Nginx, &page, &[]) else {
        return;
    };
    found.check("upgrade", "fault", "a page instead of an upgrade");
    found.shows("upgrade", "proxy_pass http://ws;");
    let elsewhere = [("server 127.0.0.1:8888;", "server 127.0.0.1:1;")];
    let found = behind(Kind::Nginx, &elsewhere, &[]).unwrap();
    found.check("upgrade", "fault", "502");
    found.check("upgrade", "fault", "ws answers here");
    let secure = [("listen 8080;", "listen 8080; return 301 https://$host/;")];
    let found = behind(Kind::Nginx, &secure, &[]).unwrap();
    found.check("upgrade", "fault", "Connect to wss:// instead");
}

#[test]
fn proxies_that_do_not_bear_silence() {
    for (kind, setting, shorter, named) in [
        (
            Kind::Nginx,
            "proxy_read_timeout 60s;",
            "proxy_read_timeout 1s;",
            "proxy_read_timeout",
        ),
        (
            Kind::Haproxy,
            "timeout tunnel 60s",
            "timeout tunnel 1s",
            "timeout tunnel",
        ),
        (Kind::Apache, "Timeout 60", "Timeout 1", "ProxyTimeout"),
    ] {
        let name = match kind {
            Kind::Haproxy => "haproxy",
            Kind::Apache => "apache",
            _ => "nginx",
        };
        let args = ["--silence", "30s", "--proxy", name];
        let Some(found) = behind(kind, &[(setting, shorter)], &args) else {
            continue;
        };
        assert_eq!(found.code, Some(1), "{kind:?}");
        found.check("silence", "fault", "cut without a close frame, ");
        // The proxy's second begins before the doctor's, and a busy machine tells of its end late.
        let text = found.text("silence");
        let (_, lasted) = text.split_once("a close frame, ").unwrap();
        let (lasted, _) = lasted.split_once(" s after it began").unwrap();
        let lasted: f64 = lasted.parse().unwrap();
        assert!((0.5..10.0).contains(&lasted), "{kind:?}: {text}");
        found.check("silence", "fault", named);
        found.shows("silence", setting);
    }
}

#[test]
fn haproxy_that_deletes_the_upgrade() {
    let rule = "http-request del-header Upgrade\n    default_backend ws";
    let wrong = [("default_backend ws", rule)];
    let Some(found) = behind(Kind::Haproxy, &wrong, &["--proxy", "haproxy"]) else {
        return;
    };
    found.check("upgrade", "fault", "426");
    found.check("upgrade", "fault", "del-header");
    let elsewhere = [("server ws1 127.0.0.1:8888", "server ws1 127.0.0.1:1")];
    let found = behind(Kind::Haproxy, &elsewhere, &[]).unwrap();
    found.check("upgrade", "fault", "HAProxy does not reach ws");
    assert_eq!(found.report["proxy"], "haproxy");
}

#[test]
fn apache_without_upgrades_or_the_host() {
    let Some(found) = behind(Kind::Apache, &[(" upgrade=websocket", "")], &[]) else {
        return;
    };
    found.check("upgrade", "fault", "426");
    assert_eq!(found.report["proxy"], "apache");
    let lines = found.about("upgrade")["lines"].to_string();
    assert!(lines.contains("upgrade=websocket nocanon"), "{lines}");
    // It says the host in X-Forwarded-Host, which is believed of this host.
    let found = behind(Kind::Apache, &[("ProxyPreserveHost On", "")], &[]).unwrap();
    found.check("upgrade", "ok", "101");
    let wrong = [("ProxyPreserveHost On", "ProxyAddHeaders Off")];
    let found = behind(Kind::Apache, &wrong, &[]).unwrap();
    found.check("upgrade", "fault", "instead of the host");
    found.shows("upgrade", "ProxyPreserveHost On");
}
