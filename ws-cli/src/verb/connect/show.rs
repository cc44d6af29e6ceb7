//! How messages look.

use std::fmt::Write;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::args::ConnectArgs;
use crate::output::printable;

/// So much of a binary message is shown on a terminal.
const MAX_DUMP: usize = 4096;

/// For whom messages are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// For programs: a JSON object each.
    Json,
    /// For programs: as they are, binary ones in hexadecimal.
    Plain,
    /// For a terminal, which must not obey what a peer sends: as they are.
    Raw,
    /// For a terminal: JSON laid out, binary ones as a dump.
    Pretty,
}

impl Look {
    pub(super) fn of(args: &ConnectArgs, is_terminal: bool) -> Self {
        match (args.json, is_terminal, args.raw) {
            (true, ..) => Self::Json,
            (false, false, _) => Self::Plain,
            (false, true, true) => Self::Raw,
            (false, true, false) => Self::Pretty,
        }
    }

    /// What is shown of a message; `None` if it is not one of data.
    pub(super) fn message(self, message: &Message) -> Option<String> {
        match message {
            Message::Text(text) => Some(self.text(text)),
            Message::Binary(bytes) => Some(self.binary(bytes)),
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => None,
        }
    }

    fn text(self, text: &str) -> String {
        let lines = |text: &str| {
            let lines: Vec<String> = text.split('\n').map(printable).collect();
            lines.join("\n")
        };
        match self {
            Self::Json => json!({ "type": "text", "text": text }).to_string(),
            Self::Plain => text.to_owned(),
            Self::Raw => lines(text),
            Self::Pretty => laid_out(text).map_or_else(|| lines(text), |text| lines(&text)),
        }
    }

    fn binary(self, bytes: &[u8]) -> String {
        match self {
            Self::Json => {
                json!({ "type": "binary", "base64": BASE64_STANDARD.encode(bytes) }).to_string()
            }
            Self::Plain | Self::Raw => hexadecimal(bytes),
            Self::Pretty => dump(bytes),
        }
    }
}

/// Lays out a JSON object or array, and changes nothing in it: neither the order of its members nor
/// how numbers and strings are written. `None` if the text is no such thing.
fn laid_out(text: &str) -> Option<String> {
    if !text.trim_start().starts_with(['{', '[']) {
        return None;
    }
    serde_json::from_str::<serde::de::IgnoredAny>(text).ok()?;
    let mut shown = String::with_capacity(text.len() * 2);
    let mut depth = 0;
    let mut is_string = false;
    let mut is_escaped = false;
    let mut last = ' ';
    let new_line = |shown: &mut String, depth: usize| {
        shown.push('\n');
        shown.extend(std::iter::repeat_n("  ", depth));
    };
    for c in text.chars() {
        if is_string {
            shown.push(c);
            is_string = is_escaped || c != '"';
            is_escaped = c == '\\' && !is_escaped;
            continue;
        }
        // Between tokens nothing else is white in JSON.
        if matches!(c, ' ' | '\t' | '\r' | '\n') {
            continue;
        }
        let is_end = matches!(c, '}' | ']');
        if is_end {
            depth -= 1;
        }
        let is_empty = is_end && matches!(last, '{' | '[');
        if !is_empty && (is_end || matches!(last, '{' | '[' | ',')) {
            new_line(&mut shown, depth);
        }
        if matches!(c, '{' | '[') {
            depth += 1;
        }
        shown.push(c);
        if c == ':' {
            shown.push(' ');
        }
        is_string = c == '"';
        last = c;
    }
    Some(shown)
}

/// As `hexdump -C` shows them, but each line.
fn dump(bytes: &[u8]) -> String {
    let mut text = String::new();
    let shown = &bytes[..bytes.len().min(MAX_DUMP)];
    for (number, line) in shown.chunks(16).enumerate() {
        let cells: Vec<String> = line.chunks(8).map(hexadecimal).collect();
        let letters: String = line
            .iter()
            .map(|byte| match byte {
                0x20..=0x7e => char::from(*byte),
                _ => '.',
            })
            .collect();
        let _ = writeln!(
            text,
            "{:08x}  {:<49} |{letters}|",
            number * 16,
            cells.join("  ")
        );
    }
    let _ = match bytes.len() - shown.len() {
        0 => write!(text, "{:08x}", bytes.len()),
        more => write!(text, "({more} more bytes; --raw shows them)"),
    };
    text
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 3);
    for byte in bytes {
        let _ = write!(text, "{byte:02x} ");
    }
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn json_is_laid_out_as_it_was_written() {
        let text = r#"{"b":[1.50,{}, [],"a, \"{"],"a":{"x":null}}"#;
        let shown = "{\n  \"b\": [\n    1.50,\n    {},\n    [],\n    \"a, \\\"{\"\n  ],\n  \"a\": {\n    \"x\": null\n  }\n}";
        assert_eq!(Look::Pretty.text(text), shown);
        for other in ["1", "\"x\"", "{", "[1,]", "plain"] {
            assert_eq!(Look::Pretty.text(other), other);
        }
        assert_eq!(Look::Raw.text(text), text);
    }

    #[test]
    fn t71_what_a_peer_sends_is_shown_not_obeyed_on_a_terminal() {
        let text = "a\u{1b}[2J\r\nb\u{9b}";
        let shown = "a\\u{1b}[2J\\u{d}\nb\\u{9b}";
        assert_eq!(Look::Pretty.text(text), shown);
        assert_eq!(Look::Raw.text(text), shown);
        assert_eq!(Look::Pretty.text("[\"\u{9b}\"]"), "[\n  \"\\u{9b}\"\n]");
        // For a program it is what it is.
        assert_eq!(Look::Plain.text(text), text);
    }

    #[test]
    fn bytes_are_shown_in_hexadecimal() {
        assert_eq!(Look::Plain.binary(&[0, 255, 16]), "00 ff 10");
        assert_eq!(Look::Raw.binary(&[]), "");
        let dumped = Look::Pretty.binary(b"hello, world\x1b\x00\xff and more");
        assert_eq!(
            dumped,
            "00000000  68 65 6c 6c 6f 2c 20 77  6f 72 6c 64 1b 00 ff 20  |hello, world... |\n\
             00000010  61 6e 64 20 6d 6f 72 65                           |and more|\n\
             00000018"
        );
        let long = Look::Pretty.binary(&[0; MAX_DUMP + 1]);
        assert!(long.ends_with("\n(1 more bytes; --raw shows them)"));
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::hash_map(any::<String>(), inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn prop_laid_out_json_is_the_same_json(value in values()) {
            let text = value.to_string();
            if let Some(shown) = laid_out(&text) {
                prop_assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), value);
                prop_assert_eq!(laid_out(&shown), Some(shown.clone()));
            }
        }

        #[test]
        fn prop_t71_no_terminal_gets_a_control_character(text in any::<String>()) {
            for look in [Look::Raw, Look::Pretty] {
                prop_assert!(look.text(&text).chars().all(|c| c == '\n' || !c.is_control()));
            }
        }
    }
}
