//! `ws status`: shows the counters of the server.

use hyper::Method;
use serde_json::Value;

use crate::args::StatusArgs;
use crate::control;
use crate::failure::Failure;
use crate::output;

pub(crate) fn run(args: &StatusArgs) -> Result<(), Failure> {
    let answer = control::call(&args.client, Method::GET, "/v1/status", None)?;
    if args.client.json {
        return output::json(&answer);
    }
    let mut rows = Vec::new();
    flatten("", &answer, &mut rows);
    output::table(&rows).into_iter().try_for_each(output::line)
}

/// Collects the leaves with their paths: `messages.received`.
fn flatten(path: &str, value: &Value, rows: &mut Vec<[String; 2]>) {
    let join = |key: &str| {
        if path.is_empty() {
            key.to_owned()
        } else {
            format!("{path}.{key}")
        }
    };
    match value {
        Value::Object(keys) => keys
            .iter()
            .for_each(|(key, value)| flatten(&join(key), value, rows)),
        Value::Array(values) => {
            values
                .iter()
                .enumerate()
                .for_each(|(at, value)| flatten(&join(&at.to_string()), value, rows));
        }
        Value::String(text) => rows.push([output::printable(path), output::printable(text)]),
        other => rows.push([output::printable(path), other.to_string()]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nested_counters_have_dotted_names() {
        let mut rows = Vec::new();
        let answer =
            json!({ "connections": 1, "messages": { "received": 2 }, "urls": ["ws://a/"] });
        flatten("", &answer, &mut rows);
        let lines = output::table(&rows);
        assert_eq!(
            lines,
            [
                "connections        1",
                "messages.received  2",
                "urls.0             ws://a/"
            ]
        );
    }
}
