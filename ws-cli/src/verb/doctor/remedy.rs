//! The lines of a proxy's configuration that put something right: those of `docs/proxies`, of which
//! there is no second copy.

use clap::ValueEnum;

/// A proxy whose configuration is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Proxy {
    /// nginx
    Nginx,
    /// HAProxy
    Haproxy,
    /// Apache
    Apache,
    /// Caddy
    Caddy,
}

impl Proxy {
    /// Recognises one by the `Server` or `Via` header of its answer, or by its own error page.
    pub(super) fn recognise(server: Option<&str>, via: Option<&str>, body: &str) -> Option<Self> {
        let said = format!("{} {}", server.unwrap_or(""), via.unwrap_or("")).to_ascii_lowercase();
        // What is behind nginx may say its own name in the body, so the headers go first.
        if said.contains("caddy") {
            return Some(Self::Caddy);
        }
        if said.contains("nginx") || said.contains("openresty") {
            return Some(Self::Nginx);
        }
        if said.contains("apache") {
            return Some(Self::Apache);
        }
        let is_page_of_haproxy = body.contains("No server is available to handle this request")
            || body.contains("The server didn't respond in time");
        (said.contains("haproxy") || is_page_of_haproxy).then_some(Self::Haproxy)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Apache => "apache",
            Self::Caddy => "caddy",
        }
    }

    /// What its makers write.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Apache => "Apache",
            Self::Caddy => "Caddy",
        }
    }

    /// Where its whole configuration is.
    pub(super) fn file(self) -> &'static str {
        match self {
            Self::Nginx => "docs/proxies/nginx.conf",
            Self::Haproxy => "docs/proxies/haproxy.cfg",
            Self::Apache => "docs/proxies/apache.conf",
            Self::Caddy => "docs/proxies/Caddyfile",
        }
    }

    fn configuration(self) -> &'static str {
        match self {
            Self::Nginx => include_str!("../../../../docs/proxies/nginx.conf"),
            Self::Haproxy => include_str!("../../../../docs/proxies/haproxy.cfg"),
            Self::Apache => include_str!("../../../../docs/proxies/apache.conf"),
            Self::Caddy => include_str!("../../../../docs/proxies/Caddyfile"),
        }
    }

    /// The setting that bounds how long a connection may be silent, and what it is by default.
    pub(super) fn idle_setting(self) -> &'static str {
        match self {
            Self::Nginx => "proxy_read_timeout (60s by default)",
            Self::Haproxy => "timeout tunnel, or else timeout client and timeout server",
            Self::Apache => {
                "Timeout, or ProxyTimeout (60 by default, 300 in Debian's apache2.conf)"
            }
            Self::Caddy => "stream_timeout (none by default) or a proxy behind it",
        }
    }
}

/// What is to be put right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// The headers of an upgrade are passed on.
    Upgrade,
    /// The host that the browser asked for is passed on.
    Host,
    /// Whether the browser used TLS is passed on.
    Scheme,
    /// Who the visitor is.
    Visitor,
    /// How long a connection may be silent.
    Idle,
    /// Requests go to the server.
    Backend,
}

#[cfg(test)]
const REMEDIES: [Remedy; 6] = [
    Remedy::Upgrade,
    Remedy::Host,
    Remedy::Scheme,
    Remedy::Visitor,
    Remedy::Idle,
    Remedy::Backend,
];

/// Whether there are lines for it, whichever the proxy is.
pub(super) fn is_shown_for_any(remedy: Remedy) -> bool {
    PROXIES
        .iter()
        .any(|proxy| !starts(*proxy, remedy).is_empty())
}

const PROXIES: [Proxy; 4] = [Proxy::Nginx, Proxy::Haproxy, Proxy::Apache, Proxy::Caddy];

/// How the lines begin.
fn starts(proxy: Proxy, remedy: Remedy) -> &'static [&'static str] {
    match (proxy, remedy) {
        (Proxy::Nginx, Remedy::Upgrade) => &[
            "map $http_upgrade",
            "proxy_pass",
            "proxy_http_version",
            "proxy_set_header Upgrade",
            "proxy_set_header Connection",
        ],
        (Proxy::Nginx, Remedy::Host) => &["proxy_set_header Host"],
        (Proxy::Nginx, Remedy::Scheme) => &["proxy_set_header X-Forwarded-Proto"],
        (Proxy::Nginx, Remedy::Visitor) => &["proxy_set_header X-Forwarded-For"],
        (Proxy::Nginx, Remedy::Idle) => &["proxy_read_timeout"],
        (Proxy::Nginx, Remedy::Backend) => &["upstream ws", "proxy_pass"],
        // Upgrades and hosts it passes on as they are, unless told otherwise.
        (Proxy::Haproxy, Remedy::Host) => &[],
        (Proxy::Haproxy, Remedy::Upgrade) => &["mode http"],
        (Proxy::Haproxy, Remedy::Scheme) => &["http-request set-header X-Forwarded-Proto"],
        (Proxy::Haproxy, Remedy::Visitor) => &["http-request set-header X-Forwarded-For"],
        (Proxy::Haproxy, Remedy::Idle) => &["timeout tunnel"],
        (Proxy::Haproxy, Remedy::Backend) => &["default_backend", "backend ws", "server ws1"],
        (Proxy::Apache, Remedy::Upgrade | Remedy::Backend) => &[
            "LoadModule proxy_module",
            "LoadModule proxy_http_module",
            "AllowEncodedSlashes",
            "ProxyPass ",
        ],
        (Proxy::Apache, Remedy::Host) => &["ProxyPreserveHost"],
        (Proxy::Apache, Remedy::Scheme) => &["RequestHeader set X-Forwarded-Proto"],
        // It appends the visitor by itself.
        (Proxy::Apache, Remedy::Visitor) => &["ProxyPass "],
        (Proxy::Apache, Remedy::Idle) => &["Timeout"],
        (Proxy::Caddy, Remedy::Host) => &["header_up Host"],
        (Proxy::Caddy, Remedy::Upgrade | Remedy::Backend) => &["reverse_proxy"],
        (Proxy::Caddy, Remedy::Scheme | Remedy::Visitor | Remedy::Idle) => &[],
    }
}

/// Takes the lines out of the shipped configuration. A line that opens a block comes with it.
pub(super) fn lines(proxy: Proxy, remedy: Remedy, backend: Option<&str>) -> Vec<String> {
    let mut shown = Vec::new();
    let mut lines = proxy.configuration().lines();
    while let Some(line) = lines.next() {
        let trimmed = line.trim_start();
        let is_wanted = starts(proxy, remedy)
            .iter()
            .any(|start| trimmed.starts_with(start));
        if !is_wanted {
            continue;
        }
        let indent = line.len() - trimmed.len();
        let mut take = |line: &str| {
            let line = line.get(indent..).unwrap_or_else(|| line.trim_start());
            shown.push(match backend {
                Some(backend) => line.replace(SHIPPED_BACKEND, backend),
                None => line.to_owned(),
            });
        };
        take(line);
        if !opens_block(trimmed) {
            continue;
        }
        let mut depth = 1;
        while depth > 0
            && let Some(line) = lines.next()
        {
            let inner = line.trim();
            if inner == "}" {
                depth -= 1;
            } else if opens_block(inner) {
                depth += 1;
            }
            if !inner.is_empty() && !inner.starts_with('#') {
                take(line);
            }
        }
    }
    shown
}

/// Where the shipped configurations have the server.
const SHIPPED_BACKEND: &str = "127.0.0.1:8888";

fn opens_block(line: &str) -> bool {
    let code = line.split('#').next().unwrap_or_default();
    code.trim_end().ends_with('{')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_in_the_shipped_configuration() {
        for proxy in PROXIES {
            for remedy in REMEDIES {
                let lines = lines(proxy, remedy, None).join("\n");
                for start in starts(proxy, remedy) {
                    assert!(
                        lines.contains(start),
                        "{proxy:?} {remedy:?} {start}: {lines}"
                    );
                }
            }
        }
    }

    #[test]
    fn blocks_are_whole_and_the_backend_is_the_servers() {
        let lines = lines(Proxy::Nginx, Remedy::Backend, Some("127.0.0.1:9000"));
        assert_eq!(
            lines,
            [
                "upstream ws {",
                "    server 127.0.0.1:9000;  # or unix:/run/ws/ws.sock",
                "}",
                "proxy_pass http://ws;"
            ]
        );
    }

    #[test]
    fn proxies_are_known_by_what_they_say() {
        let know = |server, via, body| Proxy::recognise(server, via, body);
        assert_eq!(know(Some("nginx/1.22.1"), None, ""), Some(Proxy::Nginx));
        assert_eq!(know(Some("openresty"), None, ""), Some(Proxy::Nginx));
        assert_eq!(
            know(Some("Apache/2.4.71 (Debian)"), None, ""),
            Some(Proxy::Apache)
        );
        assert_eq!(know(Some("Caddy"), None, ""), Some(Proxy::Caddy));
        assert_eq!(know(None, Some("1.1 Caddy"), ""), Some(Proxy::Caddy));
        let page = "<html><body><h1>503 Service Unavailable</h1>\n\
                    No server is available to handle this request.\n</body></html>\n";
        assert_eq!(know(None, None, page), Some(Proxy::Haproxy));
        assert_eq!(know(Some("cloudflare"), None, ""), None);
        assert_eq!(know(None, None, "no upgrade to websocket"), None);
    }
}
