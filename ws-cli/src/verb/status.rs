//! `ws status`: shows how the server does.

mod report;

use std::io;

use hyper::Method;
use serde_json::Value;

use crate::args::StatusArgs;
use crate::control::{self, Caller};
use crate::failure::Failure;
use crate::figures::Figures;
use crate::output;
use crate::paint::Paint;

pub(crate) use self::report::complaints;

pub(crate) fn run(args: &StatusArgs) -> Result<(), Failure> {
    if args.client.json || args.all {
        let answer = control::call(&args.client, Method::GET, "/v1/status", None)?;
        if args.client.json {
            return output::json(&answer);
        }
        let mut rows = Vec::new();
        flatten("", &answer, &mut rows);
        return output::table(&rows).into_iter().try_for_each(output::line);
    }
    let mut caller = Caller::new(&args.client)?;
    let figures = control::runtime()?.block_on(async {
        let figures = Figures::take(&mut caller).await;
        figures.map_err(|error| caller.failure(error))
    })?;
    let lines = report::lines(&figures, Paint::on(&io::stdout()));
    lines.into_iter().try_for_each(output::line)
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
