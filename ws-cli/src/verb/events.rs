//! `ws events`: tells who comes and goes, as it happens.

use std::io::{self, Write};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::args::EventsArgs;
use crate::control;
use crate::failure::Failure;
use crate::output;

pub(crate) fn run(args: &EventsArgs) -> Result<(), Failure> {
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let mut path = format!("/v1/events?events={}", args.only.join(","));
    if let Some(user) = &args.user {
        path.push_str(&format!("&user={}", encode(user)));
    }
    let mut parser = Parser::default();
    control::stream(&args.client, &path, |bytes| {
        for event in parser.feed(bytes) {
            match args.client.json {
                true => output::json(&event.json()),
                false => output::line(event.line()),
            }?;
        }
        // Whoever reads it through a pipe does not wait for the next.
        Ok(io::stdout().flush()?)
    })
}

/// One event.
#[derive(Debug, PartialEq)]
struct Event {
    name: String,
    data: Value,
}

impl Event {
    /// The data with the event's name.
    fn json(&self) -> Value {
        let mut json = json!({ "event": self.name });
        if let (Some(json), Some(data)) = (json.as_object_mut(), self.data.as_object()) {
            json.extend(data.clone());
        }
        json
    }

    /// The name, then what there is of user, number of connections, connection, code and cause.
    fn line(&self) -> String {
        let keys = [
            "user",
            "connections",
            "connection",
            "code",
            "cause",
            "missed",
        ];
        let values = keys.iter().filter_map(|key| self.data.get(key));
        let shown = values.map(|value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        });
        let mut words = vec![self.name.clone()];
        words.extend(shown);
        output::printable(&words.join(" "))
    }
}

/// Takes events from a stream of server-sent events (HTML §9.2.6), wherever that is cut. Comments,
/// ids and what has no data are passed over.
#[derive(Debug, Default)]
struct Parser {
    /// The line that has begun.
    line: Vec<u8>,
    name: String,
    data: String,
}

impl Parser {
    fn feed(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for byte in bytes {
            match byte {
                b'\n' => {
                    let line = std::mem::take(&mut self.line);
                    events.extend(self.take_line(&String::from_utf8_lossy(&line)));
                }
                byte => self.line.push(*byte),
            }
        }
        events
    }

    fn take_line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let (name, data) = (
                std::mem::take(&mut self.name),
                std::mem::take(&mut self.data),
            );
            let data = serde_json::from_str(&data).ok()?;
            return Some(Event { name, data });
        }
        match line.split_once(": ") {
            Some(("event", name)) => name.clone_into(&mut self.name),
            Some(("data", data)) => self.data.push_str(data),
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "retry: 1000\nid: 4\n\n:\nid: 4\n\nevent: open\ndata: {\"user\":\"al: ice\",\
        \"connection\":\"0a\",\"connections\":1}\n\nevent: lagged\ndata: {\"missed\":7}\nid: 5\n\n";

    #[test]
    fn events_are_the_same_wherever_the_stream_is_cut() {
        for size in 1..=STREAM.len() {
            let mut parser = Parser::default();
            let events: Vec<Event> = STREAM
                .as_bytes()
                .chunks(size)
                .flat_map(|chunk| parser.feed(chunk))
                .collect();
            let lines: Vec<String> = events.iter().map(Event::line).collect();
            assert_eq!(lines, ["open al: ice 1 0a", "lagged 7"], "{size}");
            let json = json!({
                "event": "open", "user": "al: ice", "connection": "0a", "connections": 1
            });
            assert_eq!(events[0].json(), json);
        }
    }

    #[test]
    fn t71_what_a_user_is_called_is_shown_not_obeyed() {
        let event = Event {
            name: "open".to_owned(),
            data: json!({ "user": "\u{202e}x" }),
        };
        assert_eq!(event.line(), "open \\u{202e}x");
    }
}
