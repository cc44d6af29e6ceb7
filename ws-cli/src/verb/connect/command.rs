//! What a line means that is typed on a terminal.

/// One line.
#[derive(Debug, PartialEq)]
pub(super) enum Command<'a> {
    /// Sends a message.
    Send(&'a str),
    Ping,
    Close {
        code: u16,
        reason: &'a str,
    },
    Help,
    /// Not as it should be; this says how.
    Wrong(&'static str),
}

pub(super) const HELP: &str = "a line is a message; /ping times a ping; /close [CODE [REASON]] closes; \
    //ping sends /ping; Ctrl-R searches the history, Ctrl-D closes";

impl<'a> Command<'a> {
    /// Reads a line. Only what is a command in full is one: messages often begin with a slash.
    pub(super) fn of(line: &'a str) -> Self {
        let Some(rest) = line.strip_prefix('/') else {
            return Self::Send(line);
        };
        let (word, arguments) = match rest.split_once(' ') {
            Some((word, arguments)) => (word, arguments.trim()),
            None => (rest.trim_end(), ""),
        };
        match (word, arguments) {
            ("ping", "") => Self::Ping,
            ("help", "") => Self::Help,
            ("close", arguments) => {
                let (code, reason) = arguments.split_once(' ').unwrap_or((arguments, ""));
                let code = if code.is_empty() { "1000" } else { code };
                match code.parse() {
                    // RFC 6455 §7.4: what a client may send.
                    Ok(code @ (1000..=1003 | 1007..=1014 | 3000..=4999)) if reason.len() <= 123 => {
                        Self::Close { code, reason }
                    }
                    _ => Self::Wrong(
                        "/close [CODE [REASON]]: 1000 to 1003, 1007 to 1014 or 3000 to 4999, and at most 123 bytes",
                    ),
                }
            }
            // `//ping`, with which the command is sent as a message.
            _ => match rest.strip_prefix('/') {
                Some("ping" | "help") => Self::Send(rest),
                Some(close) if close == "close" || close.starts_with("close ") => Self::Send(rest),
                _ => Self::Send(line),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_whole_commands_are_commands() {
        let close = |code, reason| Command::Close { code, reason };
        for (line, expected) in [
            ("hello", Command::Send("hello")),
            ("", Command::Send("")),
            ("/time", Command::Send("/time")),
            ("/pings", Command::Send("/pings")),
            ("/ping me", Command::Send("/ping me")),
            ("/ping", Command::Ping),
            ("//ping", Command::Send("/ping")),
            ("//x", Command::Send("//x")),
            ("/help", Command::Help),
            ("/close", close(1000, "")),
            ("/close 4001 see you", close(4001, "see you")),
            ("//close 4001", Command::Send("/close 4001")),
        ] {
            assert_eq!(Command::of(line), expected, "{line}");
        }
        for line in ["/close x", "/close 1005", "/close 70000"] {
            assert!(matches!(Command::of(line), Command::Wrong(_)), "{line}");
        }
    }

    proptest! {
        #[test]
        fn prop_every_message_can_be_sent(text in "[/ a-z0-9]{0,12}") {
            let doubled = format!("/{text}");
            let direct = Command::of(&text) == Command::Send(&text);
            prop_assert!(direct || Command::of(&doubled) == Command::Send(&text));
        }
    }
}
