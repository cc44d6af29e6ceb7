//! The variables by which all programs are told of a collector of traces.
//!
//! They are weaker than whatever was said to this program alone: file, `WS__` and flags.
//! [Their names](https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/).

use config::ValueKind;
use ws_server::config::{Source, SourceKind};

use super::{Layer, Surroundings};

/// The section that they fill.
const SECTION: &str = "trace";
/// A collector for all signals, to whose address a path is added.
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// One for traces, whose address is taken as it is.
const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";

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

impl Layer {
    /// Fills in what was not written of the section of traces, if there are any.
    pub(super) fn follow_opentelemetry(&mut self, surroundings: &Surroundings) {
        let endpoint = names_collector(surroundings);
        let is_written = self.is_written("endpoint");
        if !is_written && let Some(name) = endpoint {
            self.follow_endpoint(name, surroundings);
        }
        if !is_written && endpoint.is_none() {
            return;
        }
        let mut follow = |key: &str, names: &[&str], read: &dyn Fn(&str) -> String| {
            let mut found = names.iter().filter_map(|name| {
                let text = surroundings.variable(name)?.to_str()?;
                Some((name, text))
            });
            if let Some((name, text)) = found.next() {
                self.fill(key, read(text), name, surroundings);
            }
        };
        let same = |text: &str| text.to_owned();
        follow(
            "headers",
            &[
                "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
                "OTEL_EXPORTER_OTLP_HEADERS",
            ],
            &same,
        );
        follow(
            "timeout",
            &[
                "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
                "OTEL_EXPORTER_OTLP_TIMEOUT",
            ],
            &|text| format!("{text}ms"),
        );
        follow("interval", &["OTEL_BSP_SCHEDULE_DELAY"], &|text| {
            format!("{text}ms")
        });
        follow("queue", &["OTEL_BSP_MAX_QUEUE_SIZE"], &same);
        follow("service_name", &["OTEL_SERVICE_NAME"], &same);
        let resource = "OTEL_RESOURCE_ATTRIBUTES";
        let attributes = surroundings.variable(resource).and_then(|it| it.to_str());
        let named = attributes.into_iter().flat_map(|it| it.split(','));
        let mut named = named.filter_map(|it| it.trim().strip_prefix("service.name="));
        if let Some(name) = named.next() {
            self.fill("service_name", name.to_owned(), resource, surroundings);
        }
        if let Some(attributes) = attributes {
            self.fill("resource", attributes.to_owned(), resource, surroundings);
        }
        self.follow_sampler(surroundings);
    }

    fn follow_endpoint(&mut self, name: &str, surroundings: &Surroundings) {
        let text = |name| surroundings.variable(name).and_then(|it| it.to_str());
        let source = source(name, surroundings);
        let protocol = text("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
            .or_else(|| text("OTEL_EXPORTER_OTLP_PROTOCOL"));
        let Some(endpoint) = text(name) else {
            return self.refuse(
                &[SECTION, "endpoint"],
                "the value is not UTF-8".to_owned(),
                source,
            );
        };
        if protocol == Some("grpc") {
            let why = "the variables ask for gRPC, and traces are sent over HTTP only: name the \
                       collector's address for HTTP (often port 4318) in trace.endpoint";
            return self.refuse(&[SECTION, "endpoint"], why.to_owned(), source);
        }
        let endpoint = match name == ENDPOINT {
            true => format!("{}/v1/traces", endpoint.trim_end_matches('/')),
            false => endpoint.to_owned(),
        };
        self.set(&[SECTION, "endpoint"], endpoint, source);
    }

    /// What cannot be understood is left alone, as the standard asks for.
    fn follow_sampler(&mut self, surroundings: &Surroundings) {
        if self.is_written("sample_ratio") || self.is_written("parent_based") {
            return;
        }
        let name = "OTEL_TRACES_SAMPLER";
        let text = |name| surroundings.variable(name).and_then(|it| it.to_str());
        let Some(sampler) = text(name) else {
            return;
        };
        let (is_parent_based, kind) = match sampler.strip_prefix("parentbased_") {
            Some(kind) => (true, kind),
            None => (false, sampler),
        };
        let ratio = match kind {
            "always_on" => "1",
            "always_off" => "0",
            "traceidratio" => text("OTEL_TRACES_SAMPLER_ARG").unwrap_or("1"),
            _ => return,
        };
        self.fill("sample_ratio", ratio.to_owned(), name, surroundings);
        self.fill(
            "parent_based",
            is_parent_based.to_string(),
            name,
            surroundings,
        );
    }

    fn is_written(&self, key: &str) -> bool {
        match self.values.get(SECTION).map(|section| &section.kind) {
            Some(ValueKind::Table(section)) => section.contains_key(key),
            _ => false,
        }
    }

    fn fill(&mut self, key: &str, value: String, name: &str, surroundings: &Surroundings) {
        if !self.is_written(key) {
            self.set(&[SECTION, key], value, source(name, surroundings));
        }
    }
}

fn source(name: &str, surroundings: &Surroundings) -> Source {
    Source::new(name, &surroundings.directory).of_kind(SourceKind::Environment)
}
