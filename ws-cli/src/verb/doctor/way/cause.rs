//! What an answer to an opening handshake means.

use std::time::Duration;

use ws_proto::handshake::Rejection;

use crate::verb::doctor::probe::{Answer, Head};

/// Why an opening handshake failed, or that it did not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    Upgraded,
    /// A 101, but its `Sec-WebSocket-Accept` is not the answer to our key.
    WrongAccept,
    /// A 101 without `Upgrade` or `Connection`.
    Incomplete(&'static str),
    /// The server was asked for no upgrade, or in HTTP/1.0.
    UpgradeDropped {
        status: u16,
    },
    /// The server takes the page for another site's.
    Origin,
    /// The server does not go by that name.
    Host(String),
    /// The server wants to know who asks.
    Unrecognised(String),
    /// The server has no room, or goes down.
    Busy(String),
    /// The server refuses for another reason.
    Refused {
        status: u16,
        text: String,
    },
    Redirected {
        status: u16,
        to: String,
    },
    /// A web server has answered with a page.
    Page,
    NotFound,
    /// The proxy does not reach the server.
    BackendDown {
        status: u16,
    },
    /// A hop refuses on its own account.
    RefusedByHop {
        status: u16,
    },
    /// The port speaks TLS, and was not asked in it.
    IsTls,
    NotHttp(String),
    Closed,
    Broken(String),
    Silent(Duration),
}

/// Reads what an answer means.
pub(crate) fn cause(answer: &Answer) -> Cause {
    let (head, accepts) = match answer {
        Answer::Http { head, accepts } => (head, *accepts),
        // RFC 8446 §5.1: an alert.
        Answer::NotHttp(bytes) if matches!(bytes.as_slice(), [21, 3, ..]) => return Cause::IsTls,
        Answer::NotHttp(bytes) => {
            let begin = &bytes[..bytes.len().min(40)];
            return Cause::NotHttp(String::from_utf8_lossy(begin).into_owned());
        }
        Answer::Closed => return Cause::Closed,
        Answer::Broken(error) => return Cause::Broken(error.clone()),
        Answer::Silent(span) => return Cause::Silent(*span),
    };
    if head.status == 101 {
        return match () {
            () if !head.has("Upgrade", "websocket") => Cause::Incomplete("Upgrade: websocket"),
            () if !head.has("Connection", "Upgrade") => Cause::Incomplete("Connection: Upgrade"),
            () if !accepts => Cause::WrongAccept,
            () => Cause::Upgraded,
        };
    }
    let text = head.body.trim();
    if is_of_server(head) {
        return refusal_of_server(head.status, text);
    }
    let status = head.status;
    match status {
        // Whatever is in the body, nobody else asks for an upgrade to this.
        426 => Cause::UpgradeDropped { status },
        300..=399 => Cause::Redirected {
            status,
            to: head.header("Location").unwrap_or("nowhere").to_owned(),
        },
        400 if text.contains("plain HTTP request") => Cause::IsTls,
        200..=299 => Cause::Page,
        404 | 410 => Cause::NotFound,
        502..=504 => Cause::BackendDown { status },
        status => Cause::RefusedByHop { status },
    }
}

fn refusal_of_server(status: u16, text: &str) -> Cause {
    let text = text.to_owned();
    match status {
        426 | 505 => Cause::UpgradeDropped { status },
        403 if text == FOREIGN_PAGE => Cause::Origin,
        421 => Cause::Host(text),
        401 => Cause::Unrecognised(text),
        429 | 503 => Cause::Busy(text),
        status => Cause::Refused { status, text },
    }
}

/// What the server says to a page of another site.
const FOREIGN_PAGE: &str = "this origin may not connect";

/// Whether the server itself has written an answer: by its words, since proxies change headers.
fn is_of_server(head: &Head) -> bool {
    let text = head.body.trim();
    let is_plain = head
        .header("Content-Type")
        .is_some_and(|kind| kind.starts_with("text/plain"));
    let rejections = [
        Rejection::EarlyData,
        Rejection::MethodNotAllowed,
        Rejection::VersionNotSupported,
        Rejection::UpgradeRequired,
        Rejection::WrongWebSocketVersion,
    ];
    let own = [
        FOREIGN_PAGE,
        "only localhost is served here",
        "not recognised",
        "a cookie is required",
        "not possible now",
        "sessions cannot be looked up now",
        "the request headers cannot be passed on",
    ];
    let begins = ["bad request: ", "limits.", "no room: ", "request head over"];
    is_plain
        && (rejections.iter().any(|it| it.to_string() == text)
            || own.contains(&text)
            || begins.iter().any(|begin| text.starts_with(begin))
            || head.status == 421 && !text.is_empty() && !text.contains('\n'))
}
