//! The ways to push, and what is told.

use super::{Applies, DefaultValue, Setting};

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        path: "fifo.enabled",
        default: DefaultValue::Flag(true),
        applies: Applies::Restart,
        doc: "Offer named pipes: what is written to global_pipe.fifo goes to every connection.",
    },
    Setting {
        path: "fifo.dir",
        default: DefaultValue::Absent("\"/run/ws/fifo\""),
        applies: Applies::Restart,
        doc: "Directory of the FIFOs. Default: fifo in server.state_dir.",
    },
    Setting {
        path: "fifo.user_fifos",
        default: DefaultValue::Flag(true),
        applies: Applies::Restart,
        doc: "A FIFO for each connection, not only the global one. Each costs a descriptor.",
    },
    Setting {
        path: "fifo.per",
        default: DefaultValue::Text("connection"),
        applies: Applies::Restart,
        doc: "Whose the FIFOs of user_fifos are: one for each \"connection\" (USER:IP:PORT.fifo), one for each\n\
              \"user\" (USER.fifo, as long as there is a connection; a record is run once for each), or \"both\".",
    },
    Setting {
        path: "fifo.naming",
        default: DefaultValue::Text("default"),
        applies: Applies::Restart,
        doc: "How ids become names: \"default\" (all but A-Z a-z 0-9 _ - is percent-encoded), or \"carbonphp\": the\n\
              names of connections' FIFOs have : for / and _ for ., so that different ids may look alike. A\n\
              directory that is there already is then tightened to 0750.",
    },
    Setting {
        path: "fifo.records",
        default: DefaultValue::Text("uri"),
        applies: Applies::Live,
        doc: "What is run of the records of users' and connections' FIFOs, and by `ws run`: \"uri\" (others are\n\
              refused) or \"any\": what is not a URI is then a message like one that the browser sends.",
    },
    Setting {
        path: "fifo.framing",
        default: DefaultValue::Text("lines"),
        applies: Applies::Restart,
        doc: "What ends a record: \"lines\" (a newline) or \"delimiter\" (fifo.delimiter).",
    },
    Setting {
        path: "fifo.delimiter",
        default: DefaultValue::Absent("\"\\n--\\n\""),
        applies: Applies::Restart,
        doc: "With framing \"delimiter\": the text that ends a record, 1 to 256 bytes.",
    },
    Setting {
        path: "fifo.max_record",
        default: DefaultValue::Number(4096),
        applies: Applies::Restart,
        doc: "Size of a record with its end, 2 to 4096; with framing \"delimiter\" to 16MiB. A longer one is\n\
              dropped. Writes of several writers interleave above 4096 bytes.",
    },
    Setting {
        path: "fifo.rate",
        default: DefaultValue::Number(0),
        applies: Applies::Restart,
        doc: "Records that are taken from each FIFO in a second, 0 to 1000000; 0 is any number. As many may\n\
              come at once. A writer that is faster waits in its write, nothing is lost.",
    },
    Setting {
        path: "fifo.mode",
        default: DefaultValue::Text("0620"),
        applies: Applies::Restart,
        doc: "Permissions of the FIFOs, octal. Who may write may push.",
    },
    Setting {
        path: "fifo.group",
        default: DefaultValue::Absent("\"www-data\""),
        applies: Applies::Restart,
        doc: "Group of the FIFOs and their directory: a name or a number. Default: the group of the server.",
    },
    Setting {
        path: "fifo.insecure_world_writable",
        default: DefaultValue::Flag(false),
        applies: Applies::Restart,
        doc: "Accept a mode that lets every user of the host write.",
    },
    Setting {
        path: "control.mode",
        default: DefaultValue::Text("0600"),
        applies: Applies::Restart,
        doc: "Permissions of control.sock, octal, nothing for others. Who may write to it controls the server.",
    },
    Setting {
        path: "control.group",
        default: DefaultValue::Absent("\"ws\""),
        applies: Applies::Restart,
        doc: "Group of control.sock: a name or a number. Default: the group of the server.",
    },
    Setting {
        path: "control.listen",
        default: DefaultValue::Absent("\"127.0.0.1:8889\""),
        applies: Applies::Restart,
        doc: "Where the control API listens besides control.sock: \"HOST:PORT\", for programs that cannot\n\
              reach the socket. Needs token_file. Default: nowhere. It speaks HTTP in clear text, so other\n\
              addresses than loopback ones need insecure_listen.",
    },
    Setting {
        path: "control.insecure_listen",
        default: DefaultValue::Flag(false),
        applies: Applies::Restart,
        doc: "Allow control.listen to be an address that other hosts reach: whoever can listen in on the\n\
              network gets the token.",
    },
    Setting {
        path: "control.token_file",
        default: DefaultValue::Absent("\"/etc/ws/control.token\""),
        applies: Applies::Restart,
        doc: "The tokens that control.listen accepts, one in each line (so that one can be replaced while\n\
              the other still holds); empty lines and lines with # are skipped. A token has at least 16\n\
              characters: A-Z a-z 0-9 - . _ ~ + / =. Who has one controls the server, so nobody else should\n\
              read the file (all users: a warning) and nobody but its owner may write to it (an error, also\n\
              for its group). It is read again when it changes; if it then cannot be used, the former tokens hold.",
    },
    Setting {
        path: "control.allowed_hosts",
        default: DefaultValue::List(&[]),
        applies: Applies::Restart,
        doc: "What the Host header of a request to control.listen may say, without its port: names,\n\
              addresses, and names with a wildcard label (\"*.example.org\"). Others get 421: a page whose\n\
              name is rebound to this host does not get in. Empty: localhost, loopback addresses and the\n\
              host of control.listen.",
    },
    Setting {
        path: "control.max_connections",
        default: DefaultValue::Number(64),
        applies: Applies::Restart,
        doc: "Connections to control.listen at once, 1 to 100000; further ones wait. Each may hold a request\n\
              of max_body_size, and a descriptor is set aside for each.",
    },
    Setting {
        path: "control.timeout",
        default: DefaultValue::Text("30s"),
        applies: Applies::Restart,
        doc: "How long the head of a request to control.listen may take to come, and then its body, or the\n\
              next line of a stream; also, how long a connection may be idle, and how long its client may\n\
              take nothing of an answer. 10ms to 1h.",
    },
    Setting {
        path: "control.rate",
        default: DefaultValue::Number(0),
        applies: Applies::Restart,
        doc: "Requests in a second at each of the two doors, control.sock and control.listen; 0 is any number,\n\
              at most 1000000. Further ones get 429 and are told when to come again. As many may come at\n\
              once. A batch is one request, and so is a stream of lines.",
    },
    Setting {
        path: "control.max_body_size",
        default: DefaultValue::Absent("\"8MiB\""),
        applies: Applies::Live,
        doc: "Bytes of the body of a request to the control API, 1KiB to 8GiB; of a stream of lines, those of a\n\
              line. A larger one gets 413. It is in memory while the request is read. Default: room for a\n\
              message of limits.max_message_size, whatever is in it: six times that and 64KiB.",
    },
    Setting {
        path: "control.max_batch",
        default: DefaultValue::Number(1000),
        applies: Applies::Live,
        doc: "Messages in one request to the control API, 1 to 100000. A larger batch gets 413.",
    },
    Setting {
        path: "control.max_targets",
        default: DefaultValue::Number(10_000),
        applies: Applies::Live,
        doc: "Users, sessions and connections that one message may name, 1 to 1000000. More get 413. They are\n\
              looked up while no other push can begin.",
    },
    Setting {
        path: "control.idempotency_ttl",
        default: DefaultValue::Text("5m"),
        applies: Applies::Restart,
        doc: "How long the receipt of a request with an Idempotency-Key is kept: the same request again is\n\
              answered with it, and not carried out again. 1s to 1d.",
    },
    Setting {
        path: "control.idempotency_receipts",
        default: DefaultValue::Number(10_000),
        applies: Applies::Restart,
        doc: "Receipts that are kept for that, and messages with a key that are under way, max_batch to\n\
              10000000. Beyond it the oldest receipts are forgotten; if so many are under way, further ones\n\
              get 503. Each takes about 300 bytes.",
    },
    Setting {
        path: "control.max_listeners",
        default: DefaultValue::Number(64),
        applies: Applies::Live,
        doc: "Clients of GET /v1/events at once, and as many of GET /v1/log, 0 to 10000; another one is\n\
              refused with 503.",
    },
    Setting {
        path: "metrics.listen",
        default: DefaultValue::Absent("\"127.0.0.1:9464\""),
        applies: Applies::Restart,
        doc: "Where figures for Prometheus are besides the control API: \"HOST:PORT\", for GET /metrics, /live\n\
              and /ready, without a token and in clear text. They hold no names, addresses or contents, but\n\
              everybody who reaches the address can read them. Default: nowhere.",
    },
    Setting {
        path: "log.format",
        default: DefaultValue::Text("auto"),
        applies: Applies::Restart,
        doc: "\"text\", \"json\" (one object per line), \"journald\" (text with the severity before it as in\n\
              sd-daemon(3), and without the time, which the journal has), or \"auto\": text on a terminal,\n\
              journald where stderr is the journal ($JOURNAL_STREAM, systemd.exec(5)), else json. To stderr.",
    },
    Setting {
        path: "log.level",
        default: DefaultValue::Text("info"),
        applies: Applies::Live,
        doc: "\"error\", \"warn\", \"info\", \"debug\", \"trace\" or \"off\". RUST_LOG overrides it.",
    },
    Setting {
        path: "log.stats_interval",
        default: DefaultValue::Text("60s"),
        applies: Applies::Live,
        doc: "Interval of the line with counters, 100ms to 1d, or \"off\".",
    },
];
