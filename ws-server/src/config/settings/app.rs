//! What answers messages, but for what [`callback`](super::callback) has.

use super::{Applies, DefaultValue, Setting};

pub(super) const BACKEND: &[Setting] = &[Setting {
    path: "app.backend",
    default: DefaultValue::Absent("\"exec\""),
    applies: Applies::Restart,
    doc: "What answers messages: \"demo\" and \"echo\" (built in); \"exec\" (the command, once per message);\n\
              \"fork\" (the command once, it forks per message) and \"worker\" (the command several times, each\n\
              answers one message after another), which are asked in SCGI over a socket that is their\n\
              descriptor 0; \"scgi\" and \"fastcgi\" (a server at app.address); \"stream\" (the command, once\n\
              per connection). Default: \"exec\" if there is a command, else \"demo\".",
}];

pub(super) const MESSAGES: &[Setting] = &[
    Setting {
        path: "app.watch",
        default: DefaultValue::List(&[]),
        applies: Applies::Restart,
        doc: "Files and directories: when one changes, the processes of fork and worker are replaced by fresh\n\
              ones; what they have in hand is finished. For development; SIGHUP does the same once.",
    },
    Setting {
        path: "app.spare",
        default: DefaultValue::Number(2),
        applies: Applies::Restart,
        doc: "Connections that are made to each fork server before there are messages for them, 0 to 64: it\n\
              has forked the child then, and the fork is no part of the answer's time. Each such child waits\n\
              with the memory that it does not share.",
    },
    Setting {
        path: "app.stream",
        default: DefaultValue::Text("text"),
        applies: Applies::Live,
        doc: "With backend \"stream\", what the program writes: \"text\" (each line is a message) or \"binary\"\n\
              (each piece that is read, at most 64KiB, is a binary message). Whatever it is, it reads a text\n\
              message as a line, a binary one as it is.",
    },
    Setting {
        path: "app.stream_grace",
        default: DefaultValue::Text("250ms"),
        applies: Applies::Live,
        doc: "With backend \"stream\": time that the program has when its connection has ended, 10ms to 1h,\n\
              from the end of its input to SIGTERM, and again to SIGKILL. The place of the connection is\n\
              taken so long.",
    },
    Setting {
        path: "app.timeout",
        default: DefaultValue::Text("30s"),
        applies: Applies::Live,
        doc: "Time that one message may take, 10ms to 1d; then its process group is ended. No limit of stream.",
    },
    Setting {
        path: "app.concurrency",
        default: DefaultValue::Number(64),
        applies: Applies::Restart,
        doc: "Processes at once in the whole server, 1 to 10000; further messages wait. The host pays for each.\n\
              Those of stream are as many as there are connections: see limits.max_connections.",
    },
    Setting {
        path: "app.per_connection",
        default: DefaultValue::Number(1),
        applies: Applies::Live,
        doc: "Processes at once for one connection, 1 to 1000. Above 1, messages of one client overlap.",
    },
    Setting {
        path: "app.queue",
        default: DefaultValue::Number(16),
        applies: Applies::Live,
        doc: "Messages of one connection that wait, 1 to 100000; then its socket is not read. Each may have\n\
              max_message_size.",
    },
    Setting {
        path: "app.unordered",
        default: DefaultValue::Flag(false),
        applies: Applies::Live,
        doc: "With per_connection above 1: send replies as they come, not in the order of the messages.",
    },
    Setting {
        path: "app.max_output",
        default: DefaultValue::Text("1MiB"),
        applies: Applies::Live,
        doc: "Size of an answer, 1 to 1GiB; a process that writes more is killed. Each process may pin this much.\n\
              Of lines and stream it is the size of one line.",
    },
    Setting {
        path: "app.output",
        default: DefaultValue::Text("plain"),
        applies: Applies::Restart,
        doc: "What it writes: \"plain\" (the reply), \"cgi\" (header lines, an empty line, the reply), or with\n\
              exec \"lines\": each line is a message, sent as soon as it is written.",
    },
    Setting {
        path: "app.trim",
        default: DefaultValue::Text("newlines"),
        applies: Applies::Live,
        doc: "With plain output, what is cut off the reply: \"newlines\" (at its end), \"all\" (white space at\n\
              both ends), \"none\".",
    },
    Setting {
        path: "app.empty_reply",
        default: DefaultValue::Absent("\"done\""),
        applies: Applies::Live,
        doc: "Reply to a message whose answer is empty. Default: no reply.",
    },
    Setting {
        path: "app.error_reply",
        default: DefaultValue::Absent("\"error\""),
        applies: Applies::Live,
        doc: "Reply to a message whose answer failed. Default: no reply.",
    },
    Setting {
        path: "app.on_disconnect",
        default: DefaultValue::Text("finish"),
        applies: Applies::Live,
        doc: "Accepted messages of a client that is gone: \"finish\" or \"cancel\".",
    },
    Setting {
        path: "app.events",
        default: DefaultValue::List(&[]),
        applies: Applies::Live,
        doc: "What the application is run for besides messages: \"open\" and \"close\" of a connection, as\n\
              WS_EVENT says. Messages wait for the end of open; close comes after the last of them.",
    },
    Setting {
        path: "app.ping",
        default: DefaultValue::Absent("true"),
        applies: Applies::Live,
        doc: "Answer the text message ping with pong, without the application. Default: true, but\n\
              for echo and stream.",
    },
];

pub(super) const ACCOUNT: &[Setting] = &[Setting {
    path: "app.require_user",
    default: DefaultValue::Flag(false),
    applies: Applies::Restart,
    doc: "Refuse to start as root without app.user.",
}];
