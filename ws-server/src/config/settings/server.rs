//! The server itself: where it listens, whom it lets in, how much it takes.

use super::{Applies, DefaultValue, Setting};

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        path: "server.listen",
        default: DefaultValue::List(&["127.0.0.1:8888"]),
        applies: Applies::Restart,
        doc: "Where to listen: \"HOST:PORT\" or \"ws://HOST:PORT\" (port 0: any free one), \"wss://HOST:PORT\"\n\
              with TLS, \"unix:/path\", \"systemd:NAME\" for the sockets of a socket unit (by its\n\
              FileDescriptorName=). With \"+proxy\" behind the scheme (\"ws+proxy://HOST:PORT\",\n\
              \"unix+proxy:/path\") each connection must begin with a header of the PROXY protocol, and come\n\
              from a trusted proxy. The default is for this host only; a proxy in front of it faces the\n\
              network.",
    },
    Setting {
        path: "server.auto_port",
        default: DefaultValue::Flag(false),
        applies: Applies::Restart,
        doc: "If a port is taken, try the next ones, at most 1000 up.",
    },
    Setting {
        path: "server.unix_mode",
        default: DefaultValue::Absent("\"0660\""),
        applies: Applies::Restart,
        doc: "Permissions of the Unix sockets in server.listen, octal. Who may write may connect. Default:\n\
              what the umask leaves.",
    },
    Setting {
        path: "server.unix_owner",
        default: DefaultValue::Absent("\"www-data\""),
        applies: Applies::Restart,
        doc: "Owner of these sockets: a name or a number. Needs root. Default: the user of the server.",
    },
    Setting {
        path: "server.unix_group",
        default: DefaultValue::Absent("\"www-data\""),
        applies: Applies::Restart,
        doc: "Group of these sockets, that of a proxy say: a name or a number. Default: the group of the server.",
    },
    Setting {
        path: "server.allowed_hosts",
        default: DefaultValue::List(&[]),
        applies: Applies::Live,
        doc: "What the Host header of a request may say, without its port: names, addresses, and names with a\n\
              wildcard label (\"*.example.org\" is a.example.org, and neither example.org nor\n\
              a.b.example.org). Others get 421 before anything else is looked at. Empty: anything. Behind a\n\
              proxy it is what the proxy sends.",
    },
    Setting {
        path: "server.threads",
        default: DefaultValue::Number(0),
        applies: Applies::Restart,
        doc: "Threads that serve connections, 0 to 1024; 0 is one per core. More than cores gain nothing.",
    },
    Setting {
        path: "server.state_dir",
        default: DefaultValue::Text("tmp"),
        applies: Applies::Restart,
        doc: "Directory of run-time state: control.sock, fifo/. Made if it is not there. The default is in\n\
              the working directory; in a file, relative to the file.",
    },
    Setting {
        path: "server.console",
        default: DefaultValue::Text("auto"),
        applies: Applies::Restart,
        doc: "The page at /: \"on\", \"off\", or \"auto\": with the demo application and --dev only.",
    },
    Setting {
        path: "server.tls.cert",
        default: DefaultValue::Text(""),
        applies: Applies::Live,
        doc: "The certificate that listeners with TLS show: a PEM file, the issuers' certificates behind\n\
              it. Read at the start, when the file changes and on SIGHUP, for the connections that come then.",
    },
    Setting {
        path: "server.tls.key",
        default: DefaultValue::Text(""),
        applies: Applies::Live,
        doc: "Its private key: a PEM file, not encrypted.",
    },
    Setting {
        path: "server.tls.certificates",
        default: DefaultValue::Absent(
            "[{ cert = \"/etc/ws/b-cert.pem\", key = \"/etc/ws/b-key.pem\" }]",
        ),
        applies: Applies::Live,
        doc: "Certificates for other names, each a [[server.tls.certificates]] with cert and key. A client\n\
              gets the first that is valid for the name it asks for (SNI), server.tls.cert among them and\n\
              before them; that one, too, if it asks for another name or for none.",
    },
    Setting {
        path: "server.tls.client_ca",
        default: DefaultValue::Text(""),
        applies: Applies::Live,
        doc: "Clients may show a certificate that one of those in this PEM file has issued; one that does\n\
              not verify is refused. Callbacks find its subject in SSL_CLIENT_S_DN.",
    },
    Setting {
        path: "server.tls.client_auth",
        default: DefaultValue::Absent("\"required\""),
        applies: Applies::Live,
        doc: "With client_ca: whether clients without a certificate are served (\"optional\") or refused\n\
              (\"required\"). Default: \"optional\".",
    },
    Setting {
        path: "server.tls.self_signed",
        default: DefaultValue::Flag(false),
        applies: Applies::Restart,
        doc: "Instead of cert and key: make a certificate for localhost at each start. For development;\n\
              no client trusts it unless told to.",
    },
    Setting {
        path: "server.tls.reload_interval",
        default: DefaultValue::Text("5s"),
        applies: Applies::Restart,
        doc: "How often to look whether the files of certificates, keys and client_ca have changed, 10ms to 1d,\n\
              or \"off\": then only SIGHUP reads them again. Changed files are read at the look after that. If\n\
              they cannot be used, a key does not match say, the former ones stay and the log says why.",
    },
    Setting {
        path: "server.proxy.trusted",
        default: DefaultValue::List(&[]),
        applies: Applies::Live,
        doc: "Proxies whose word about a visitor is believed: addresses (\"10.0.0.5\"), networks\n\
              (\"10.0.0.0/8\"), and \"unix\" for whoever connects to a Unix socket. Of X-Forwarded-For and\n\
              Forwarded the last address that is not one of them is the visitor's; X-Forwarded-Proto,\n\
              or proto in Forwarded, says whether the visitor uses https. From anybody else these headers\n\
              mean nothing. Only they may connect to a listener with \"+proxy\".",
    },
    Setting {
        path: "origin.allow",
        default: DefaultValue::List(&["same-origin"]),
        applies: Applies::Live,
        doc: "Pages that may connect: \"same-origin\", exact origins (\"https://example.org\"), or one label\n\
              as a wildcard (\"https://*.example.org\"). Browsers always say where a page is from.",
    },
    Setting {
        path: "origin.allow_missing",
        default: DefaultValue::Flag(true),
        applies: Applies::Live,
        doc: "Accept clients that send no Origin header: programs do, browsers never.",
    },
    Setting {
        path: "limits.max_message_size",
        default: DefaultValue::Text("1MiB"),
        applies: Applies::Live,
        doc: "Size of a message from a client, 1 to 1GiB; a longer one closes the connection (1009). A\n\
              connection may pin this much memory while a message arrives.",
    },
    Setting {
        path: "limits.max_connections",
        default: DefaultValue::Number(10_000),
        applies: Applies::Live,
        doc: "Open connections, 1 to 1000000; further ones are answered 503. Each costs some KiB of memory\n\
              and a descriptor, with its own FIFO two: the default fits the common hard limit of 20000.",
    },
    Setting {
        path: "limits.max_connections_per_ip",
        default: DefaultValue::Number(100),
        applies: Applies::Live,
        doc: "Open connections of one address, 1 to 1000000, those being validated among them; further ones\n\
              are answered 429. An IPv6 network of 64 bits is one address. Loopback addresses are exempt\n\
              unless this is written, so name your proxy in server.proxy.trusted.",
    },
    Setting {
        path: "limits.max_connections_per_user",
        default: DefaultValue::Number(0),
        applies: Applies::Live,
        doc: "Open connections of one user, 0 to 1000000; further ones are answered 429. 0 is any number.",
    },
    Setting {
        path: "limits.max_handshakes",
        default: DefaultValue::Number(4096),
        applies: Applies::Restart,
        doc: "Accepted sockets that have not said yet what they want, 1 to 1000000; with one more the oldest\n\
              has to go (503). At most half as many as there are descriptors for connections. Each may\n\
              take 16KiB of memory, with TLS 100KiB.",
    },
    Setting {
        path: "limits.reserved_descriptors",
        default: DefaultValue::Number(64),
        applies: Applies::Restart,
        doc: "Descriptors of those that the system allows (ulimit -n) which connections do not get, 8 to\n\
              10000: half for answering 503 when only these are left, half for the control socket and\n\
              the helpers. Beyond the first half nothing is accepted until somebody leaves.",
    },
    Setting {
        path: "limits.handshake_timeout",
        default: DefaultValue::Text("10s"),
        applies: Applies::Live,
        doc: "From accept until the request head is complete, 10ms to 10m. Slow clients hold a place so long.",
    },
    Setting {
        path: "limits.max_head_size",
        default: DefaultValue::Text("16KiB"),
        applies: Applies::Live,
        doc: "Size of a request head, 1KiB to 64KiB; a longer one is answered 431. Whoever has not finished\n\
              his may pin as much. Callbacks take 64KiB of variables in all, the target more than once among\n\
              them; what does not fit is answered 431, too.",
    },
    Setting {
        path: "limits.max_target_size",
        default: DefaultValue::Text("8KiB"),
        applies: Applies::Live,
        doc: "Size of what is asked for in its first line, 64B to 64KiB; a longer one is answered 414.",
    },
    Setting {
        path: "limits.max_header_count",
        default: DefaultValue::Number(64),
        applies: Applies::Live,
        doc: "Headers of a request, 8 to 512; with more it is answered 431.",
    },
    Setting {
        path: "limits.message_timeout",
        default: DefaultValue::Text("30s"),
        applies: Applies::Live,
        doc: "From the first byte of a message to its last, 10ms to 1h; then the connection is closed (1008).",
    },
    Setting {
        path: "limits.max_fragment_count",
        default: DefaultValue::Number(131_072),
        applies: Applies::Live,
        doc: "Fragments of a message from a client, 1 to 16777216; with more the connection is closed (1008).\n\
              They cost no memory, but each some work.",
    },
    Setting {
        path: "limits.max_empty_fragment_count",
        default: DefaultValue::Number(1024),
        applies: Applies::Live,
        doc: "Of these, the empty ones, 0 to 16777216; with more the connection is closed (1008).",
    },
    Setting {
        path: "limits.control_rate",
        default: DefaultValue::Number(32),
        applies: Applies::Live,
        doc: "Pings and pongs a second from one connection, 1 to 100000; who sends more is closed (1008). Each\n\
              ping costs an answer.",
    },
    Setting {
        path: "limits.control_burst",
        default: DefaultValue::Number(64),
        applies: Applies::Live,
        doc: "How many of these may come at once, 1 to 100000, before the rate counts.",
    },
    Setting {
        path: "limits.ping_interval",
        default: DefaultValue::Text("25s"),
        applies: Applies::Live,
        doc: "Silence after which a client is pinged, 10ms to 1h, or \"off\". Below the 60s after which proxies\n\
              cut idle connections. With \"off\" a vanished client is noticed only when something is sent.",
    },
    Setting {
        path: "limits.pong_timeout",
        default: DefaultValue::Text("8s"),
        applies: Applies::Live,
        doc: "Time that a client has to answer a ping, 10ms to 10m; then the connection is dropped.",
    },
    Setting {
        path: "limits.close_timeout",
        default: DefaultValue::Text("5s"),
        applies: Applies::Live,
        doc: "Time that a client has to answer a close, 10ms to 10m; then the connection is dropped.",
    },
    Setting {
        path: "limits.message_rate",
        default: DefaultValue::Number(0),
        applies: Applies::Live,
        doc: "Messages a second from one connection, 0 to 1000000; 0 is any number. Who sends faster is not\n\
              read meanwhile; who does so for 10s is closed (1008).",
    },
    Setting {
        path: "limits.message_rate_per_user",
        default: DefaultValue::Number(0),
        applies: Applies::Live,
        doc: "The same for all connections of one user together.",
    },
    Setting {
        path: "limits.message_burst",
        default: DefaultValue::Number(32),
        applies: Applies::Live,
        doc: "How many of these messages may come at once, 1 to 100000, before the rate counts.",
    },
    Setting {
        path: "limits.send_queue_size",
        default: DefaultValue::Text("1MiB"),
        applies: Applies::Live,
        doc: "Bytes that wait for a slow client, 1 to 1GiB. Above, its messages are not read; pushes to it\n\
              close it (1013). One message of any size is always admitted. A slow client may pin this much.",
    },
    Setting {
        path: "limits.send_queue_total",
        default: DefaultValue::Text("256MiB"),
        applies: Applies::Live,
        doc: "Bytes that wait for all slow clients together, 1 to 1024GiB; a message to many counts once.\n\
              Above, whoever has not read what he was sent is not read either, and a push closes those\n\
              with the longest queues (1013) until it is enough.",
    },
    Setting {
        path: "limits.write_timeout",
        default: DefaultValue::Text("20s"),
        applies: Applies::Live,
        doc: "Time in which a client that is sent something has to take some of it, 10ms to 1h; then it is\n\
              closed (1013). Slow ones that go on reading are not meant.",
    },
    Setting {
        path: "limits.drain_timeout",
        default: DefaultValue::Text("30s"),
        applies: Applies::Live,
        doc: "Upper bound of the shutdown, 0s to 1d. Accepted messages are finished; an idle server ends at once.",
    },
    Setting {
        path: "compression.enabled",
        default: DefaultValue::Flag(false),
        applies: Applies::Live,
        doc: "Agree to permessage-deflate (RFC 7692) with clients that offer it, as browsers do. Whoever can\n\
              put text of his own beside a secret into one message, and see how long it is on the wire,\n\
              guesses the secret bit by bit (BREACH), TLS or not: leave it off where that can happen.",
    },
    Setting {
        path: "compression.level",
        default: DefaultValue::Number(3),
        applies: Applies::Live,
        doc: "How hard to try, 1 (fastest) to 9 (smallest).",
    },
    Setting {
        path: "compression.min_size",
        default: DefaultValue::Text("0B"),
        applies: Applies::Live,
        doc: "Size of the smallest message that is compressed, 0 to 1GiB. By themselves messages below some\n\
              128B hardly shrink; not to compress them saves some microseconds for each.",
    },
    Setting {
        path: "compression.server_context_takeover",
        default: DefaultValue::Flag(false),
        applies: Applies::Live,
        doc: "What the server sends may refer back to its earlier messages: small ones shrink too. 372KiB of\n\
              memory for each connection, and a push to many is compressed for each of them anew.",
    },
    Setting {
        path: "compression.client_context_takeover",
        default: DefaultValue::Flag(false),
        applies: Applies::Live,
        doc: "What a client sends may refer back to its earlier messages. 47KiB of memory for each connection.",
    },
    Setting {
        path: "compression.server_max_window_bits",
        default: DefaultValue::Number(15),
        applies: Applies::Live,
        doc: "How far back the server refers, 8 to 15: two to that power in bytes. Less than 15 compresses\n\
              less; with context takeover a connection then keeps down to 246KiB.",
    },
    Setting {
        path: "compression.client_max_window_bits",
        default: DefaultValue::Number(15),
        applies: Applies::Live,
        doc: "The same for what a client sends, 8 to 15: saves memory there, none here. A client that cannot be\n\
              limited keeps to 15.",
    },
];
