//! The console: the page at `/` in the demo and in development.

use std::borrow::Cow;

use ws_proto::handshake::RequestHead;

/// What the page may do: load its own files and open WebSockets, nothing else.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self' ws: wss:; img-src 'self' data:; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

/// The browser library, one module without dependencies, for programs that serve their pages
/// themselves: a WebSocket that reconnects, queues, and notices connections that have died.
///
/// Its types are in `web/client/ws.d.ts` of this crate, which documents it.
pub const BROWSER_LIBRARY: &str = include_str!("../web/client/ws.js");

const HTML: &str = include_str!("../web/console.html");

/// Path, media type and content of what does not change.
const FILES: [(&str, &str, &str); 6] = [
    (
        "/base.css",
        "text/css; charset=utf-8",
        include_str!("../web/base.css"),
    ),
    (
        "/console.css",
        "text/css; charset=utf-8",
        include_str!("../web/console.css"),
    ),
    (
        "/console.js",
        "text/javascript; charset=utf-8",
        include_str!("../web/console.js"),
    ),
    (
        "/log.js",
        "text/javascript; charset=utf-8",
        include_str!("../web/log.js"),
    ),
    (
        "/dom.js",
        "text/javascript; charset=utf-8",
        include_str!("../web/dom.js"),
    ),
    ("/ws.js", "text/javascript; charset=utf-8", BROWSER_LIBRARY),
];

/// The console's page and its files.
#[derive(Debug)]
pub(crate) struct Page {
    /// Whether the server answers the message `ping` is still to be written into it.
    html: String,
}

impl Page {
    /// The page for a server with the named backend.
    pub(crate) fn new(backend: &str) -> Self {
        Self {
            html: HTML.replace("{{backend}}", backend),
        }
    }

    /// The whole response to a request for a file of the console; `None` for any other. The page
    /// says whether the server answers the message `ping` itself.
    pub(crate) fn answer(&self, head: &RequestHead, answers_ping: bool) -> Option<Vec<u8>> {
        if head.wants_websocket() || !matches!(head.method(), "GET" | "HEAD") {
            return None;
        }
        let path = head.path_and_query().split('?').next().unwrap_or_default();
        let (media_type, content) = match path {
            "/" => {
                let html = self.html.replace("{{ping}}", &answers_ping.to_string());
                ("text/html; charset=utf-8", Cow::Owned(html))
            }
            path => {
                let (_, media_type, content) = FILES.iter().find(|(file, ..)| *file == path)?;
                (*media_type, Cow::Borrowed(*content))
            }
        };
        let mut response = format!(
            "HTTP/1.1 200 OK\r\n\
             Content-Type: {media_type}\r\n\
             Content-Length: {}\r\n\
             Content-Security-Policy: {CONTENT_SECURITY_POLICY}\r\n\
             X-Content-Type-Options: nosniff\r\n\
             Referrer-Policy: no-referrer\r\n\
             Cache-Control: no-cache\r\n\
             Connection: close\r\n\r\n",
            content.len()
        );
        if head.method() == "GET" {
            response.push_str(&content);
        }
        Some(response.into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ws_proto::handshake::{HeadLimits, HeadReader};

    fn answer(request: &str) -> Option<String> {
        let request = format!("{request} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let head = HeadReader::new(HeadLimits::default())
            .read(request.as_bytes())
            .unwrap()
            .unwrap();
        Page::new("demo")
            .answer(&head, true)
            .map(|response| String::from_utf8(response).unwrap())
    }

    #[test]
    fn the_page_says_what_it_is_and_which_backend_answers() {
        let page = answer("GET /").unwrap();
        assert!(page.contains("WebSocket") && page.contains("content=\"demo\""));
        assert!(page.contains("Content-Security-Policy: default-src 'none'"));
        assert!(page.contains("name=\"ws-ping\" content=\"true\""));
        assert!(!page.contains("{{"));
    }

    #[test]
    fn every_file_that_the_page_names_is_served() {
        let page = answer("GET /").unwrap();
        let scripts: String = FILES.iter().map(|(_, _, content)| *content).collect();
        for (path, ..) in FILES {
            assert!(
                page.contains(&path[1..]) || scripts.contains(&path[1..]),
                "{path} is used by nobody"
            );
            assert!(answer(&format!("GET {path}?v=1")).is_some(), "{path}");
        }
    }

    #[test]
    fn head_has_no_body_and_other_paths_and_methods_no_page() {
        assert!(answer("HEAD /").unwrap().ends_with("\r\n\r\n"));
        assert!(answer("GET /console").is_none());
        assert!(answer("POST /").is_none());
    }
}
