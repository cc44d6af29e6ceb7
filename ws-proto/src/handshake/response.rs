//! Answers other than the 101.

use super::field::{is_field_value, is_token};

/// Makes a whole HTTP response that closes the connection.
///
/// It has `Connection: close` and a `Content-Length`; the body is `text/plain` unless
/// `extra_headers` say otherwise. With an `Upgrade` among them, `Connection` names it too, as
/// [RFC 9110 §7.8](https://www.rfc-editor.org/rfc/rfc9110#section-7.8) asks. An extra header that
/// could split the response, or that this function sets itself, is left out.
///
/// ```
/// let answer = ws_proto::handshake::response(503, &[("Retry-After", "5")], "overloaded\n");
/// assert!(answer.starts_with(b"HTTP/1.1 503 Service Unavailable\r\n"));
/// assert!(answer.ends_with(b"\r\n\r\noverloaded\n"));
/// ```
#[must_use]
pub fn response(status: u16, extra_headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let has = |name: &str| {
        extra_headers
            .iter()
            .any(|(other, _)| other.eq_ignore_ascii_case(name))
    };
    let connection = if has("Upgrade") {
        "close, Upgrade"
    } else {
        "close"
    };
    let mut head = format!(
        "HTTP/1.1 {status} {}\r\nConnection: {connection}\r\nContent-Length: {}\r\n",
        reason(status),
        body.len(),
    );
    if !body.is_empty() && !has("Content-Type") {
        head.push_str("Content-Type: text/plain; charset=utf-8\r\n");
    }
    for (name, value) in extra_headers {
        let is_ours = ["Connection", "Content-Length", "Transfer-Encoding"]
            .iter()
            .any(|ours| ours.eq_ignore_ascii_case(name));
        if !is_ours && is_token(name.as_bytes()) && is_field_value(value.as_bytes()) {
            push_header(&mut head, name, value);
        }
    }
    head.push_str("\r\n");
    head.push_str(body);
    head.into_bytes()
}

/// Appends a header line.
pub(super) fn push_header(head: &mut String, name: &str, value: &str) {
    for part in [name, ": ", value, "\r\n"] {
        head.push_str(part);
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        421 => "Misdirected Request",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        // RFC 9112 §4: the phrase may be empty, the space before it may not be missing.
        _ => "",
    }
}
