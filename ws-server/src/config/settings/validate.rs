//! Who a client is, but for what [`callback`](super::callback) has.

use super::{Applies, DefaultValue, Setting};

pub(super) const BACKEND: &[Setting] = &[Setting {
    path: "validate.backend",
    default: DefaultValue::Absent("\"exec\""),
    applies: Applies::Restart,
    doc: "What decides who a client is, before it is connected: \"none\" (the user id is the session id),\n\
              \"app\" (the application, with WS_EVENT=validate), or a callback of its own: \"exec\", \"fork\",\n\
              \"worker\", \"scgi\", \"fastcgi\", as for app.backend. Default: \"exec\" if there is a command,\n\
              else \"none\".",
}];

pub(super) const QUESTIONS: &[Setting] = &[
    Setting {
        path: "validate.timeout",
        default: DefaultValue::Text("10s"),
        applies: Applies::Live,
        doc: "Time that it may take, 10ms to 1h; then it is killed and the client is answered 503.",
    },
    Setting {
        path: "validate.concurrency",
        default: DefaultValue::Number(64),
        applies: Applies::Restart,
        doc: "Processes at once, 1 to 10000; further clients wait. The host pays for each.",
    },
    Setting {
        path: "validate.output",
        default: DefaultValue::Text("plain"),
        applies: Applies::Restart,
        doc: "What it writes: \"plain\" (the user id) or \"cgi\" (header lines, X-WS-User among them).",
    },
];
