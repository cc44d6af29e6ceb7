//! `ws config`: checks and prints the configuration.

use std::collections::BTreeMap;

use serde_json::json;
use ws_server::config::{Config, Position, RawConfig, Source, SourceKind, defaults};

use crate::args::{CheckArgs, ConfigArgs, ConfigVerb, PrintArgs};
use crate::carbonphp::Asking;
use crate::config::{Refusal, Surroundings};
use crate::failure::Failure;
use crate::output;
use crate::verb::serve;

pub(crate) fn run(args: &ConfigArgs) -> Result<(), Failure> {
    match &args.verb {
        ConfigVerb::Check(args) => check(args),
        ConfigVerb::Print(args) => print(args),
    }
}

fn check(args: &CheckArgs) -> Result<(), Failure> {
    let checked = serve::configure(&args.serve, &Surroundings::of_process()?, Asking::Now);
    let checked = checked.and_then(|(config, _)| {
        ws_server::check_files(&config).map_err(|invalid| Refusal::from(&invalid))
    });
    let refusal = checked.err();
    if args.json {
        output::json(&report(refusal.as_ref()))?;
    }
    Ok(refusal.map_or(Ok(()), Err)?)
}

fn report(refusal: Option<&Refusal>) -> serde_json::Value {
    let faults = refusal.map(Refusal::told).unwrap_or_default();
    json!({ "valid": refusal.is_none(), "faults": faults })
}

fn print(args: &PrintArgs) -> Result<(), Failure> {
    if args.default {
        return if args.json {
            output::json(&RawConfig::default().with_defaults())
        } else {
            output::line(defaults().trim_end())
        };
    }
    let surroundings = Surroundings::of_process()?;
    let (config, _) = serve::configure(&args.serve, &surroundings, Asking::Now)?;
    if args.json {
        return output::json(&listed(&config));
    }
    output::line(rendered(&config)?.trim_end())
}

/// The settings as they hold, and where each is from.
fn listed(config: &Config) -> serde_json::Value {
    let sources: BTreeMap<_, _> = config
        .effective()
        .map(|(path, value)| {
            let places: Vec<_> = value.sources().into_iter().map(place_of).collect();
            (path, json!(places))
        })
        .collect();
    json!({ "settings": config.shown(), "sources": sources })
}

fn place_of(source: Option<&Source>) -> serde_json::Value {
    let Some(source) = source else {
        return json!({ "kind": "default" });
    };
    let mut place = json!({ "kind": kind(source), "name": source.name() });
    if let Some(Position { line, column }) = source.position() {
        place["line"] = line.into();
        place["column"] = column.into();
    }
    place
}

fn kind(source: &Source) -> &'static str {
    match source.kind() {
        SourceKind::File => "file",
        SourceKind::Environment => "environment",
        SourceKind::Credential => "credential",
        SourceKind::CommandLine => "flag",
        SourceKind::Application => "application",
    }
}

/// The same as a configuration file with comments.
fn rendered(config: &Config) -> Result<String, Failure> {
    let mut text = String::new();
    let mut section = "";
    for (path, value) in config.effective() {
        let (name, key) = path.rsplit_once('.').unwrap_or(("", path));
        if name != section {
            let gap = if text.is_empty() { "" } else { "\n" };
            text += &format!("{gap}[{name}]\n");
            section = name;
        }
        let shown = toml::Value::try_from(&value).map_err(anyhow::Error::from)?;
        let sources = value.sources().into_iter().map(|source| match source {
            None => "default".to_owned(),
            Some(source) => match source.position() {
                Some(Position { line, .. }) => format!("{}:{line}", source.name()),
                None => source.name().to_owned(),
            },
        });
        let sources = output::printable(&sources.collect::<Vec<_>>().join(", "));
        text += &format!("{key} = {shown}  # {sources}\n");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_can_be_read_again() {
        let mut raw = RawConfig::default();
        raw.set("app.command", vec!["a \"b\"", "c\nd"]);
        raw.set("limits.max_connections", 7_i64);
        let text = "[[server.tls.certificates]]\ncert = 'b'\nkey = 'c'\n";
        let pairs: RawConfig = toml::from_str(text).unwrap();
        let pairs = pairs.get("server.tls.certificates").unwrap().clone();
        raw.set("server.tls.certificates", pairs);
        raw.set("server.tls.cert", "d");
        raw.set("server.tls.key", "e");
        let config = Config::from_raw(&raw, "/".as_ref()).unwrap();
        let again: RawConfig = toml::from_str(&rendered(&config).unwrap()).unwrap();
        assert_eq!(again, raw.with_defaults());
        assert_eq!(
            again,
            toml::from_str(&toml::to_string(&raw.with_defaults()).unwrap()).unwrap()
        );
    }

    #[test]
    fn the_report_lists_every_fault() {
        assert_eq!(report(None), json!({ "valid": true, "faults": [] }));
        let mut raw = RawConfig::default();
        raw.set("server.listn", "x");
        raw.set("log.level", "x");
        let invalid = Config::from_raw(&raw, "/".as_ref()).unwrap_err();
        let report = report(Some(&Refusal::from(&invalid)));
        assert_eq!(report["valid"], false);
        assert_eq!(report["faults"].as_array().map(Vec::len), Some(2));
        assert_eq!(report["faults"][0]["path"], "server.listn");
    }
}
