//! `ws config`: checks and prints the configuration.

use serde_json::json;
use ws_server::config::{
    Config, InvalidConfig, RawConfig, RawKind, RawValue, defaults, without_secrets,
};

use crate::args::{CheckArgs, ConfigArgs, ConfigFile, ConfigVerb, PrintArgs};
use crate::config::{self, Layer, Surroundings};
use crate::failure::Failure;
use crate::output;

pub(crate) fn run(args: &ConfigArgs) -> Result<(), Failure> {
    match &args.verb {
        ConfigVerb::Check(args) => check(args),
        ConfigVerb::Print(args) => print(args),
    }
}

fn check(args: &CheckArgs) -> Result<(), Failure> {
    let (raw, surroundings) = load(&args.config)?;
    let checked = Config::from_raw(&raw, &surroundings.directory);
    if args.json {
        output::json(&report(checked.as_ref().err()))?;
    }
    checked
        .map(drop)
        .map_err(|invalid| config::refuse(&invalid))
}

/// Reads what a server started here would read, apart from its flags.
fn load(file: &ConfigFile) -> Result<(RawConfig, Surroundings), Failure> {
    let surroundings = Surroundings::of_process()?;
    let raw = config::load(file.config.as_deref(), &surroundings, Layer::default())?;
    Ok((raw, surroundings))
}

fn report(invalid: Option<&InvalidConfig>) -> serde_json::Value {
    let faults = invalid.map(InvalidConfig::faults).unwrap_or_default();
    let faults: Vec<_> = faults
        .iter()
        .map(|fault| {
            let problem = fault.problem().to_string();
            json!({ "source": fault.source(), "path": fault.path(), "problem": problem })
        })
        .collect();
    json!({ "valid": invalid.is_none(), "faults": faults })
}

/// The settings that may hold a password.
const DATABASES: [&str; 2] = ["identity.store", "identity.lookup.source"];

fn print(args: &PrintArgs) -> Result<(), Failure> {
    if args.default {
        return if args.json {
            output::json(&RawConfig::default().with_defaults())
        } else {
            output::line(defaults().trim_end())
        };
    }
    let (raw, surroundings) = load(&args.config)?;
    config::check(&raw, &surroundings)?;
    let mut whole = raw.with_defaults();
    for path in DATABASES {
        if let Some(RawKind::Text(database)) = whole.get(path).map(RawValue::kind) {
            let shown = without_secrets(database);
            whole.set(path, shown.as_str());
        }
    }
    if args.json {
        return output::json(&whole);
    }
    let text = toml::to_string(&whole).map_err(anyhow::Error::from)?;
    output::line(text.trim_end())
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
        let whole = raw.with_defaults();
        let text = toml::to_string(&whole).unwrap();
        assert_eq!(toml::from_str::<RawConfig>(&text).unwrap(), whole);
    }

    #[test]
    fn the_report_lists_every_fault() {
        assert_eq!(report(None), json!({ "valid": true, "faults": [] }));
        let mut raw = RawConfig::default();
        raw.set("server.listn", "x");
        raw.set("log.level", "x");
        let invalid = Config::from_raw(&raw, "/".as_ref()).unwrap_err();
        let report = report(Some(&invalid));
        assert_eq!(report["valid"], false);
        assert_eq!(report["faults"].as_array().map(Vec::len), Some(2));
        assert_eq!(report["faults"][0]["path"], "server.listn");
    }
}
