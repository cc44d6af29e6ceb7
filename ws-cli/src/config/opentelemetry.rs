//! The variables by which all programs are told of a collector of traces.
//!
//! They are weaker than whatever was said to this program alone: file, `WS__` and flags.
//! [Their names](https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/).

use std::path::Path;

use config::ValueKind;
use ws_server::config::{Config, RawConfig, Source, SourceKind};

use super::{Layer, Surroundings};

/// The section that they fill.
const SECTION: &str = "trace";
/// A collector for all signals, to whose address a path is added.
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// One for traces, whose address is taken as it is.
const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const RESOURCE: &str = "OTEL_RESOURCE_ATTRIBUTES";
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLER_ARG: &str = "OTEL_TRACES_SAMPLER_ARG";

/// Returns the variable that names a collector, if one does and nothing switches traces off.
pub(crate) fn names_collector(surroundings: &Surroundings) -> Option<&'static str> {
    let text = |name| surroundings.variable(name)?.to_str();
    let is_disabled = text("OTEL_SDK_DISABLED").is_some_and(|it| it.eq_ignore_ascii_case("true"));
    let exporters = text("OTEL_TRACES_EXPORTER");
    let is_elsewhere = exporters.is_some_and(|it| it.split(',').all(|it| it.trim() != "otlp"));
    let mut names = [TRACES_ENDPOINT, ENDPOINT].into_iter();
    names
        .find(|name| surroundings.variable(name).is_some())
        .filter(|_| !is_disabled && !is_elsewhere)
}

/// What one of the variables says for a setting.
struct Given {
    key: &'static str,
    variable: &'static str,
    value: Result<String, String>,
}

/// Returns the variables that cannot be read, and why. They count as absent: they are meant for all
/// programs of a host, and no reason for one of them not to start.
pub(crate) fn unheeded(surroundings: &Surroundings) -> Vec<(&'static str, String)> {
    let given = given(surroundings).into_iter();
    given
        .filter_map(|it| Some((it.variable, it.value.err()?)))
        .collect()
}

/// Returns what the variables say, of several for one setting the stronger first.
fn given(surroundings: &Surroundings) -> Vec<Given> {
    let mut given = Vec::new();
    if let Some(variable) = names_collector(surroundings) {
        let endpoint = endpoint(variable, surroundings);
        given.push(Given {
            key: "endpoint",
            variable,
            value: endpoint.and_then(|value| usable("endpoint", value)),
        });
    }
    for (key, names, unit) in FOLLOWED {
        let mut names = names.iter();
        let found = names.find(|name| surroundings.variable(name).is_some());
        let Some(variable) = found else {
            continue;
        };
        let value = text(variable, surroundings);
        given.push(Given {
            key,
            variable,
            value: value.and_then(|value| usable(key, value + unit)),
        });
    }
    let resource = given.iter().find(|it| it.key == "resource");
    let attributes = resource.and_then(|it| it.value.as_deref().ok());
    let mut attributes = attributes.into_iter().flat_map(|it| it.split(','));
    let name = attributes.find_map(|it| it.trim().strip_prefix("service.name="));
    if let Some(name) = name {
        let value = usable("service_name", name.to_owned());
        given.push(Given {
            key: "service_name",
            variable: RESOURCE,
            value,
        });
    }
    given.extend(sampling(surroundings));
    given
}

/// Settings, the variables that stand for them, the stronger first, and the unit of these.
const FOLLOWED: [(&str, &[&str], &str); 6] = [
    (
        "headers",
        &[
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
            "OTEL_EXPORTER_OTLP_HEADERS",
        ],
        "",
    ),
    (
        "timeout",
        &[
            "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
            "OTEL_EXPORTER_OTLP_TIMEOUT",
        ],
        "ms",
    ),
    ("interval", &["OTEL_BSP_SCHEDULE_DELAY"], "ms"),
    ("queue", &["OTEL_BSP_MAX_QUEUE_SIZE"], ""),
    ("service_name", &["OTEL_SERVICE_NAME"], ""),
    ("resource", &[RESOURCE], ""),
];

fn endpoint(variable: &str, surroundings: &Surroundings) -> Result<String, String> {
    let protocol = surroundings
        .variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
        .or_else(|| surroundings.variable("OTEL_EXPORTER_OTLP_PROTOCOL"));
    if protocol.is_some_and(|it| it == "grpc") {
        let why = "the variables ask for gRPC, and traces are sent over HTTP only: name the \
                   collector's address for HTTP (often port 4318) in trace.endpoint";
        return Err(why.to_owned());
    }
    let endpoint = text(variable, surroundings)?;
    Ok(match variable == ENDPOINT {
        true => format!("{}/v1/traces", endpoint.trim_end_matches('/')),
        false => endpoint,
    })
}

fn sampling(surroundings: &Surroundings) -> Vec<Given> {
    if surroundings.variable(SAMPLER).is_none() {
        return Vec::new();
    }
    let ratio = |variable, value| Given {
        key: "sample_ratio",
        variable,
        value,
    };
    let sampler = match text(SAMPLER, surroundings) {
        Ok(sampler) => sampler,
        Err(why) => return vec![ratio(SAMPLER, Err(why))],
    };
    let (is_parent_based, kind) = match sampler.strip_prefix("parentbased_") {
        Some(kind) => (true, kind),
        None => (false, &*sampler),
    };
    let has_argument = surroundings.variable(SAMPLER_ARG).is_some();
    let ratio = match kind {
        "always_on" => ratio(SAMPLER, Ok("1".to_owned())),
        "always_off" => ratio(SAMPLER, Ok("0".to_owned())),
        "traceidratio" if has_argument => {
            let argument = text(SAMPLER_ARG, surroundings);
            let value = argument.and_then(|it| usable("sample_ratio", it));
            ratio(SAMPLER_ARG, value)
        }
        "traceidratio" => ratio(SAMPLER, Ok("1".to_owned())),
        _ => {
            let why = format!("no sampler {sampler:?} is known here");
            return vec![ratio(SAMPLER, Err(why))];
        }
    };
    let parent_based = Given {
        key: "parent_based",
        variable: SAMPLER,
        value: Ok(is_parent_based.to_string()),
    };
    vec![ratio, parent_based]
}

fn text(variable: &str, surroundings: &Surroundings) -> Result<String, String> {
    let value = surroundings.variable(variable).unwrap_or_default();
    let text = value.to_str().map(str::to_owned);
    text.ok_or_else(|| "the value is not UTF-8".to_owned())
}

/// Has the server check a value by itself.
fn usable(key: &str, value: String) -> Result<String, String> {
    let path = format!("{SECTION}.{key}");
    let mut raw = RawConfig::default();
    raw.set("trace.endpoint", "http://localhost");
    raw.set(&path, value.as_str());
    let checked = Config::from_raw(&raw, Path::new("/"));
    let invalid = checked.err();
    let mut faults = invalid.iter().flat_map(|invalid| invalid.faults());
    match faults.find(|fault| fault.path() == path) {
        Some(fault) => Err(fault.problem().to_string()),
        None => Ok(value),
    }
}

impl Layer {
    /// Fills in what was not written of the section of traces, if there are any.
    pub(super) fn follow_opentelemetry(&mut self, surroundings: &Surroundings) {
        let given = given(surroundings);
        let names_one = |it: &Given| it.key == "endpoint" && it.value.is_ok();
        if !self.is_written("endpoint") && !given.iter().any(names_one) {
            return;
        }
        // These two go together.
        let has_sampling = self.is_written("sample_ratio") || self.is_written("parent_based");
        for Given {
            key,
            variable,
            value,
        } in given
        {
            let is_sampling = matches!(key, "sample_ratio" | "parent_based");
            if let Ok(value) = value
                && !(is_sampling && has_sampling)
                && !self.is_written(key)
            {
                let source = Source::new(variable, &surroundings.directory);
                let source = source.of_kind(SourceKind::Environment);
                self.set(&[SECTION, key], value, source);
            }
        }
    }

    fn is_written(&self, key: &str) -> bool {
        match self.values.get(SECTION).map(|section| &section.kind) {
            Some(ValueKind::Table(section)) => section.contains_key(key),
            _ => false,
        }
    }
}
