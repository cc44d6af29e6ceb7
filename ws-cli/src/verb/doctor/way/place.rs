//! Where a client connects, and what a proxy may make of that.

/// Where a client connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) is_secure: bool,
    /// Without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Path and query.
    pub(crate) target: String,
}

impl Place {
    /// Reads a URL; `https` and `http` mean `wss` and `ws`.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").ok_or("not a ws:// or wss:// URL")?;
        let is_secure = match scheme.to_ascii_lowercase().as_str() {
            "ws" | "http" => false,
            "wss" | "https" => true,
            _ => return Err("not a ws:// or wss:// URL".to_owned()),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(at);
        let is_printable = |c: char| c.is_ascii_graphic();
        if authority.contains('@') || !rest.chars().all(is_printable) {
            return Err("has a user or characters that no URL has".to_owned());
        }
        let uri: hyper::Uri = format!("http://{authority}/")
            .parse()
            .map_err(|error| format!("{error}"))?;
        let host = uri
            .host()
            .filter(|host| !host.is_empty())
            .ok_or("no host")?;
        let target = match target {
            "" => "/".to_owned(),
            query if query.starts_with('?') => format!("/{query}"),
            target => target.to_owned(),
        };
        Ok(Self {
            is_secure,
            host: host.trim_matches(['[', ']']).to_ascii_lowercase(),
            port: uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 }),
            target,
        })
    }

    fn bracketed(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        }
    }

    /// What a browser says in `Host`: without the port that the scheme has anyway.
    pub(crate) fn authority(&self) -> String {
        let usual = if self.is_secure { 443 } else { 80 };
        match self.port == usual {
            true => self.bracketed(),
            false => format!("{}:{}", self.bracketed(), self.port),
        }
    }

    /// What a page of the same place says in `Origin`.
    pub(crate) fn origin(&self) -> String {
        let scheme = if self.is_secure { "https" } else { "http" };
        format!("{scheme}://{}", self.authority())
    }

    /// The path and the query, with one more parameter, which tells a connection from others.
    pub(crate) fn marked(&self, mark: &str) -> String {
        let sign = if self.target.contains('?') { '&' } else { '?' };
        format!("{}{sign}{mark}", self.target)
    }

    /// Other origins that the server takes for its own if a proxy changed what was asked for, with
    /// what that means.
    pub(crate) fn origins_of_rewriting_proxies(
        &self,
        backends: &[String],
    ) -> Vec<(String, Rewritten)> {
        let other_scheme = if self.is_secure { "http" } else { "https" };
        let mut origins = vec![(
            format!("{other_scheme}://{}", self.authority()),
            Rewritten::Scheme,
        )];
        // A host without its port is the same place with the usual port.
        let (scheme, usual) = if self.is_secure {
            ("https", 443)
        } else {
            ("http", 80)
        };
        if self.port != usual {
            origins.push((format!("{scheme}://{}", self.bracketed()), Rewritten::Port));
        }
        for backend in backends {
            for scheme in ["http", "https"] {
                let origin = format!("{scheme}://{backend}");
                if origin != self.origin() {
                    origins.push((origin, Rewritten::Host(backend.clone())));
                }
            }
        }
        origins
    }
}

/// What a proxy has changed, so that a page is taken for one of another site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rewritten {
    /// `X-Forwarded-Proto` says the other one.
    Scheme,
    /// The `Host` has lost its port.
    Port,
    /// The `Host` is this one.
    Host(String),
}
