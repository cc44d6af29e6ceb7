//! Traces: where spans go, and what is in them.

use super::{Applies, DefaultValue, Setting};

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        path: "trace.endpoint",
        default: DefaultValue::Absent("\"http://127.0.0.1:4318\""),
        applies: Applies::Restart,
        doc: "Where traces go: the URL at which a collector takes OTLP over HTTP (protobuf), http or https;\n\
              without a path in it, /v1/traces. Default: nowhere. Needs a ws that was built with the\n\
              feature otel. If it is not written, OTEL_EXPORTER_OTLP_ENDPOINT counts, as the other standard\n\
              variables do for what is not written of this section.",
    },
    Setting {
        path: "trace.headers",
        default: DefaultValue::Absent("\"authorization=Bearer%20...\""),
        applies: Applies::Restart,
        doc: "Headers of the requests to the collector, such as a key: NAME=VALUE, separated by commas; in\n\
              values, commas and spaces are percent-encoded. It is neither printed nor logged.",
    },
    Setting {
        path: "trace.sample_ratio",
        default: DefaultValue::Number(1),
        applies: Applies::Live,
        doc: "Which part of the traces that begin here is recorded, 0 to 1, such as 0.01. It depends on the\n\
              id, so all programs with one ratio record the same traces. Those that are not cost next to\n\
              nothing.",
    },
    Setting {
        path: "trace.parent_based",
        default: DefaultValue::Flag(true),
        applies: Applies::Live,
        doc: "The trace that the traceparent of a handshake names goes on here, recorded or not as its sampled\n\
              flag says, if who connects is one of server.proxy.trusted. For anybody else, and with false for\n\
              all, the handshake begins a trace of its own, with a link to that, and sample_ratio decides. A\n\
              trusted proxy that does not trace passes on what anybody sends: have it drop the header, or\n\
              write false.",
    },
    Setting {
        path: "trace.messages",
        default: DefaultValue::Text("auto"),
        applies: Applies::Live,
        doc: "Which trace the messages of a connection are in: \"linked\": each in one of its own, which begins\n\
              with a link to the handshake; \"joined\": all in that of the handshake, for connections with few\n\
              messages (viewers of traces choke on thousands of spans); \"auto\": joined if the handshake goes\n\
              on in a caller's trace (see parent_based), else linked.",
    },
    Setting {
        path: "trace.personal",
        default: DefaultValue::Flag(false),
        applies: Applies::Live,
        doc: "Put into spans who it was: client.address, client.port, user.id, session.id.",
    },
    Setting {
        path: "trace.service_name",
        default: DefaultValue::Text("ws"),
        applies: Applies::Restart,
        doc: "What this server is called in traces (service.name), 1 to 255 bytes.",
    },
    Setting {
        path: "trace.resource",
        default: DefaultValue::List(&[]),
        applies: Applies::Restart,
        doc: "What else traces say of this server, each NAME=VALUE (\"deployment.environment.name=production\");\n\
              in values, commas and spaces may be percent-encoded.",
    },
    Setting {
        path: "trace.interval",
        default: DefaultValue::Text("5s"),
        applies: Applies::Restart,
        doc: "How long spans wait to be sent together, 10ms to 1h; 512 are sent sooner.",
    },
    Setting {
        path: "trace.timeout",
        default: DefaultValue::Text("10s"),
        applies: Applies::Restart,
        doc: "How long the collector may take to take them, 10ms to 10m, further attempts included. What it\n\
              has not taken then is lost and counted; nothing else waits for it.",
    },
    Setting {
        path: "trace.queue",
        default: DefaultValue::Number(2048),
        applies: Applies::Restart,
        doc: "Spans that wait to be sent, 1 to 100000. Further ones are dropped and counted. Each takes\n\
              about 1KiB, a third of it from the start on.",
    },
];
