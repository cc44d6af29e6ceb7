//! What codes mean, for those who do not know them by heart.

/// What a close code means (RFC 6455 §7.4, and IANA's registry).
pub(super) fn close(code: u16) -> &'static str {
    match code {
        1000 => "normal closure",
        1001 => "going away: the server is going down, or the page was left",
        1002 => "protocol error: this side broke the protocol",
        1003 => "unsupported data: this kind of message is not taken",
        1005 => "no code was given",
        1006 => "no close frame came: the process died, the network was cut, or a proxy gave up",
        1007 => "invalid payload: a text was not UTF-8",
        1008 => "policy violation: a rule of the server",
        1009 => "message too big",
        1010 => "an extension is missing",
        1011 => "internal error of the server",
        1012 => "the server restarts: connect again",
        1013 => "try again later: too much waits, or this side reads too slowly",
        1014 => "bad gateway: a server behind the one that answered",
        1015 => "TLS failed",
        3000 => "unauthorized",
        3003 => "forbidden",
        3008 => "timeout",
        4000..=4999 => "the application's own code",
        code if (3000..4000).contains(&code) => "registered by a library or framework",
        code if (1000..3000).contains(&code) => "reserved: no server should send it",
        _ => "no close code",
    }
}

/// What it may mean, and what to do, that an opening handshake was answered with this status.
pub(super) fn status(code: u16) -> Option<&'static str> {
    Some(match code {
        200..=299 => {
            "That is the answer to a page: no WebSocket is at this path, or a proxy between removes the Upgrade header."
        }
        300..=399 => "It is somewhere else now: connect there.",
        400 => {
            "The handshake did not arrive as it was sent, or lacks something: a proxy may have changed it."
        }
        401 => "It asks who this is: --cookie or --header 'Authorization: ...'.",
        403 => "It does not let this visitor in: --origin, --cookie or --header may be missing.",
        404 => "There is nothing at this path.",
        426 => "It wants another protocol or version: a proxy may have removed the Upgrade header.",
        429 => "Too many connections or attempts: try later.",
        502 | 504 => "A proxy answers, and does not reach the server behind it.",
        503 => "It is full, going down, or does not reach what it needs: try later.",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_words() {
        for code in 0..=u16::MAX {
            assert!(!close(code).is_empty());
        }
        assert_eq!(close(4001), "the application's own code");
        assert_eq!(close(3001), "registered by a library or framework");
        assert_eq!(close(1004), "reserved: no server should send it");
    }
}
