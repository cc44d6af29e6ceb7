//! Every setting: its name, its default and what it means. The one place that defaults live in.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::raw::{RawKind, RawValue};

/// What holds when a setting is not written.
#[derive(Clone, Copy, Debug)]
pub(super) enum DefaultValue {
    Flag(bool),
    Number(i64),
    Text(&'static str),
    List(&'static [&'static str]),
    Table,
    /// Nothing, or what the description says; an example in TOML.
    Absent(&'static str),
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting {
    pub(super) path: &'static str,
    pub(super) default: DefaultValue,
    /// Meaning, unit, range, and the cost of raising it.
    pub(super) doc: &'static str,
}

impl Setting {
    pub(super) fn default_value(&self) -> Option<RawValue> {
        Some(match self.default {
            DefaultValue::Flag(value) => value.into(),
            DefaultValue::Number(value) => value.into(),
            DefaultValue::Text(value) => value.into(),
            DefaultValue::List(values) => values.to_vec().into(),
            DefaultValue::Table => RawKind::Table(BTreeMap::new()).into(),
            DefaultValue::Absent(_) => return None,
        })
    }

    pub(super) fn section(&self) -> &'static str {
        self.split().0
    }

    fn split(&self) -> (&'static str, &'static str) {
        self.path
            .rsplit_once('.')
            .expect("every path is section.key")
    }
}

pub(super) fn find(path: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.path == path)
}

/// Whether the path is that of a section: `server`, or `server.proxy` inside it.
pub(super) fn is_section(path: &str) -> bool {
    SETTINGS.iter().any(|setting| setting.section() == path)
}

/// The paths of the settings in a section.
pub(super) fn paths_in(section: &str) -> impl Iterator<Item = &'static str> {
    let settings = SETTINGS.iter();
    let settings = settings.filter(move |setting| setting.section() == section);
    settings.map(|setting| setting.path)
}

/// Whether the path is that of a setting, such as `app.env`.
pub fn is_setting(path: &str) -> bool {
    find(path).is_some()
}

/// Returns where the first setting of that kind stands in the table; behind all if there is none.
pub(super) fn position(is_wanted: impl Fn(&Setting) -> bool) -> usize {
    SETTINGS
        .iter()
        .position(is_wanted)
        .unwrap_or(SETTINGS.len())
}

/// Renders a configuration file that states every default and what each setting means.
pub fn defaults() -> String {
    let mut text = HEAD.to_owned();
    let mut section = "";
    for setting in SETTINGS {
        let (name, key) = setting.split();
        if name != section {
            section = name;
            write_line(&mut text, format_args!("\n[{section}]"));
        }
        write_line(&mut text, format_args!(""));
        for line in setting.doc.lines() {
            write_line(&mut text, format_args!("# {line}"));
        }
        match setting.default {
            DefaultValue::Flag(value) => write_line(&mut text, format_args!("{key} = {value}")),
            DefaultValue::Number(value) => write_line(&mut text, format_args!("{key} = {value}")),
            // Debug writes lists and strings as TOML does; defaults are plain ASCII.
            DefaultValue::Text(value) => write_line(&mut text, format_args!("{key} = {value:?}")),
            DefaultValue::List(value) => write_line(&mut text, format_args!("{key} = {value:?}")),
            DefaultValue::Table => write_line(&mut text, format_args!("{key} = {{}}")),
            DefaultValue::Absent(example) => {
                write_line(&mut text, format_args!("# {key} = {example}"));
            }
        }
    }
    text
}

fn write_line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("writing to a string does not fail");
}

const HEAD: &str = "\
# The configuration of ws: every setting with its default. Lines with `# key = value` show settings
# that have no fixed default.
#
# Durations are whole numbers with a unit: ms, s, m, h, d. Sizes are bytes, or have a unit: B, KiB,
# MiB, GiB. Relative paths are relative to this file. Each setting can also be given as an
# environment variable: WS__SERVER__LISTEN for server.listen (lists separated by commas).
";

/// In the order of the rendered file: keys of a section stand together.
pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        path: "server.listen",
        default: DefaultValue::List(&["127.0.0.1:8888"]),
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
        doc: "If a port is taken, try the next ones, at most 1000 up.",
    },
    Setting {
        path: "server.unix_mode",
        default: DefaultValue::Absent("\"0660\""),
        doc: "Permissions of the Unix sockets in server.listen, octal. Who may write may connect. Default:\n\
              what the umask leaves.",
    },
    Setting {
        path: "server.unix_owner",
        default: DefaultValue::Absent("\"www-data\""),
        doc: "Owner of these sockets: a name or a number. Needs root. Default: the user of the server.",
    },
    Setting {
        path: "server.unix_group",
        default: DefaultValue::Absent("\"www-data\""),
        doc: "Group of these sockets, that of a proxy say: a name or a number. Default: the group of the server.",
    },
    Setting {
        path: "server.allowed_hosts",
        default: DefaultValue::List(&[]),
        doc: "What the Host header of a request may say, without its port: names, addresses, and names with a\n\
              wildcard label (\"*.example.org\" is a.example.org, and neither example.org nor\n\
              a.b.example.org). Others get 421 before anything else is looked at. Empty: anything. Behind a\n\
              proxy it is what the proxy sends.",
    },
    Setting {
        path: "server.threads",
        default: DefaultValue::Number(0),
        doc: "Threads that serve connections, 0 to 1024; 0 is one per core. More than cores gain nothing.",
    },
    Setting {
        path: "server.state_dir",
        default: DefaultValue::Text("tmp"),
        doc: "Directory of run-time state: control.sock, fifo/. Made if it is not there. The default is in\n\
              the working directory; in a file, relative to the file.",
    },
    Setting {
        path: "server.console",
        default: DefaultValue::Text("auto"),
        doc: "The page at /: \"on\", \"off\", or \"auto\": with the demo application and --dev only.",
    },
    Setting {
        path: "server.tls.cert",
        default: DefaultValue::Text(""),
        doc: "The certificate that listeners with TLS show: a PEM file, the issuers' certificates behind\n\
              it. Read at the start, when the file changes and on SIGHUP, for the connections that come then.",
    },
    Setting {
        path: "server.tls.key",
        default: DefaultValue::Text(""),
        doc: "Its private key: a PEM file, not encrypted.",
    },
    Setting {
        path: "server.tls.certificates",
        default: DefaultValue::Absent(
            "[{ cert = \"/etc/ws/b-cert.pem\", key = \"/etc/ws/b-key.pem\" }]",
        ),
        doc: "Certificates for other names, each a [[server.tls.certificates]] with cert and key. A client\n\
              gets the first that is valid for the name it asks for (SNI), server.tls.cert among them and\n\
              before them; that one, too, if it asks for another name or for none.",
    },
    Setting {
        path: "server.tls.client_ca",
        default: DefaultValue::Text(""),
        doc: "Clients may show a certificate that one of those in this PEM file has issued; one that does\n\
              not verify is refused. Callbacks find its subject in SSL_CLIENT_S_DN.",
    },
    Setting {
        path: "server.tls.client_auth",
        default: DefaultValue::Absent("\"required\""),
        doc: "With client_ca: whether clients without a certificate are served (\"optional\") or refused\n\
              (\"required\"). Default: \"optional\".",
    },
    Setting {
        path: "server.tls.self_signed",
        default: DefaultValue::Flag(false),
        doc: "Instead of cert and key: make a certificate for localhost at each start. For development;\n\
              no client trusts it unless told to.",
    },
    Setting {
        path: "server.tls.reload_interval",
        default: DefaultValue::Text("5s"),
        doc: "How often to look whether the files of certificates, keys and client_ca have changed, 10ms to 1d,\n\
              or \"off\": then only SIGHUP reads them again. Changed files are read at the look after that. If\n\
              they cannot be used, a key does not match say, the former ones stay and the log says why.",
    },
    Setting {
        path: "server.proxy.trusted",
        default: DefaultValue::List(&[]),
        doc: "Proxies whose word about a visitor is believed: addresses (\"10.0.0.5\"), networks\n\
              (\"10.0.0.0/8\"), and \"unix\" for whoever connects to a Unix socket. Of X-Forwarded-For and\n\
              Forwarded the last address that is not one of them is the visitor's; X-Forwarded-Proto\n\
              says whether the visitor uses https. From anybody else these headers mean nothing. Only\n\
              they may connect to a listener with \"+proxy\".",
    },
    Setting {
        path: "origin.allow",
        default: DefaultValue::List(&["same-origin"]),
        doc: "Pages that may connect: \"same-origin\", exact origins (\"https://example.org\"), or one label\n\
              as a wildcard (\"https://*.example.org\"). Browsers always say where a page is from.",
    },
    Setting {
        path: "origin.allow_missing",
        default: DefaultValue::Flag(true),
        doc: "Accept clients that send no Origin header: programs do, browsers never.",
    },
    Setting {
        path: "limits.max_message_size",
        default: DefaultValue::Text("1MiB"),
        doc: "Size of a message from a client, 1 to 1GiB; a longer one closes the connection (1009). A\n\
              connection may pin this much memory while a message arrives.",
    },
    Setting {
        path: "limits.max_connections",
        default: DefaultValue::Number(10_000),
        doc: "Open connections, 1 to 1000000; further ones are answered 503. Each costs some KiB of memory\n\
              and a descriptor, with its own FIFO two: the default fits the common hard limit of 20000.",
    },
    Setting {
        path: "limits.max_connections_per_ip",
        default: DefaultValue::Number(100),
        doc: "Open connections of one address, 1 to 1000000, those being validated among them; further ones\n\
              are answered 429. An IPv6 network of 64 bits is one address. Loopback addresses are exempt\n\
              unless this is written, so name your proxy in server.proxy.trusted.",
    },
    Setting {
        path: "limits.max_connections_per_user",
        default: DefaultValue::Number(0),
        doc: "Open connections of one user, 0 to 1000000; further ones are answered 429. 0 is any number.",
    },
    Setting {
        path: "limits.max_handshakes",
        default: DefaultValue::Number(4096),
        doc: "Accepted sockets that have not said yet what they want, 1 to 1000000; with one more the oldest\n\
              has to go (503). At most half as many as there are descriptors for connections. Each may\n\
              take 16KiB of memory, with TLS 100KiB.",
    },
    Setting {
        path: "limits.reserved_descriptors",
        default: DefaultValue::Number(64),
        doc: "Descriptors of those that the system allows (ulimit -n) which connections do not get, 8 to\n\
              10000: half for answering 503 when only these are left, half for the control socket and\n\
              the helpers. Beyond the first half nothing is accepted until somebody leaves.",
    },
    Setting {
        path: "limits.handshake_timeout",
        default: DefaultValue::Text("10s"),
        doc: "From accept until the request head is complete, 10ms to 10m. Slow clients hold a place so long.",
    },
    Setting {
        path: "limits.message_timeout",
        default: DefaultValue::Text("30s"),
        doc: "From the first byte of a message to its last, 10ms to 1h; then the connection is closed (1008).",
    },
    Setting {
        path: "limits.ping_interval",
        default: DefaultValue::Text("25s"),
        doc: "Silence after which a client is pinged, 10ms to 1h, or \"off\". Below the 60s after which proxies\n\
              cut idle connections. With \"off\" a vanished client is noticed only when something is sent.",
    },
    Setting {
        path: "limits.pong_timeout",
        default: DefaultValue::Text("8s"),
        doc: "Time that a client has to answer a ping, 10ms to 10m; then the connection is dropped.",
    },
    Setting {
        path: "limits.close_timeout",
        default: DefaultValue::Text("5s"),
        doc: "Time that a client has to answer a close, 10ms to 10m; then the connection is dropped.",
    },
    Setting {
        path: "limits.message_rate",
        default: DefaultValue::Number(0),
        doc: "Messages a second from one connection, 0 to 1000000; 0 is any number. Who sends faster is not\n\
              read meanwhile; who does so for 10s is closed (1008).",
    },
    Setting {
        path: "limits.message_rate_per_user",
        default: DefaultValue::Number(0),
        doc: "The same for all connections of one user together.",
    },
    Setting {
        path: "limits.message_burst",
        default: DefaultValue::Number(32),
        doc: "How many of these messages may come at once, 1 to 100000, before the rate counts.",
    },
    Setting {
        path: "limits.send_queue_size",
        default: DefaultValue::Text("1MiB"),
        doc: "Bytes that wait for a slow client, 1 to 1GiB. Above, its messages are not read; pushes to it\n\
              close it (1013). One message of any size is always admitted. A slow client may pin this much.",
    },
    Setting {
        path: "limits.send_queue_total",
        default: DefaultValue::Text("256MiB"),
        doc: "Bytes that wait for all slow clients together, 1 to 1024GiB; a message to many counts once.\n\
              Above, whoever has not read what he was sent is not read either, and a push closes those\n\
              with the longest queues (1013) until it is enough.",
    },
    Setting {
        path: "limits.write_timeout",
        default: DefaultValue::Text("20s"),
        doc: "Time in which a client that is sent something has to take some of it, 10ms to 1h; then it is\n\
              closed (1013). Slow ones that go on reading are not meant.",
    },
    Setting {
        path: "limits.drain_timeout",
        default: DefaultValue::Text("30s"),
        doc: "Upper bound of the shutdown, 0s to 1d. Accepted messages are finished; an idle server ends at once.",
    },
    Setting {
        path: "compression.enabled",
        default: DefaultValue::Flag(false),
        doc: "Agree to permessage-deflate (RFC 7692) with clients that offer it, as browsers do. Whoever can\n\
              put text of his own beside a secret into one message, and see how long it is on the wire,\n\
              guesses the secret bit by bit (BREACH), TLS or not: leave it off where that can happen.",
    },
    Setting {
        path: "compression.level",
        default: DefaultValue::Number(3),
        doc: "How hard to try, 1 (fastest) to 9 (smallest).",
    },
    Setting {
        path: "compression.min_size",
        default: DefaultValue::Text("0B"),
        doc: "Size of the smallest message that is compressed, 0 to 1GiB. By themselves messages below some\n\
              128B hardly shrink; not to compress them saves some microseconds for each.",
    },
    Setting {
        path: "compression.server_context_takeover",
        default: DefaultValue::Flag(false),
        doc: "What the server sends may refer back to its earlier messages: small ones shrink too. 372KiB of\n\
              memory for each connection, and a push to many is compressed for each of them anew.",
    },
    Setting {
        path: "compression.client_context_takeover",
        default: DefaultValue::Flag(false),
        doc: "What a client sends may refer back to its earlier messages. 47KiB of memory for each connection.",
    },
    Setting {
        path: "compression.server_max_window_bits",
        default: DefaultValue::Number(15),
        doc: "How far back the server refers, 8 to 15: two to that power in bytes. Less than 15 compresses\n\
              less; with context takeover a connection then keeps down to 246KiB.",
    },
    Setting {
        path: "compression.client_max_window_bits",
        default: DefaultValue::Number(15),
        doc: "The same for what a client sends, 8 to 15: saves memory there, none here. A client that cannot be\n\
              limited keeps to 15.",
    },
    Setting {
        path: "identity.cookie",
        default: DefaultValue::Text("ws_session"),
        doc: "Name of the session cookie.",
    },
    Setting {
        path: "identity.require_cookie",
        default: DefaultValue::Flag(false),
        doc: "Refuse (401) clients that bring no cookie at all.",
    },
    Setting {
        path: "identity.verify_ip",
        default: DefaultValue::Flag(true),
        doc: "A session that comes from another network than it was made for counts as unknown, and is logged\n\
              and counted. Users of changing networks lose their session.",
    },
    Setting {
        path: "identity.ip_prefix_v4",
        default: DefaultValue::Number(32),
        doc: "Bits of an IPv4 address that are its network for that, 1 to 32. Fewer let a session move among\n\
              neighbours, whoever took it too.",
    },
    Setting {
        path: "identity.ip_prefix_v6",
        default: DefaultValue::Number(64),
        doc: "The same of an IPv6 address, 1 to 128: a provider gives 64 bits or fewer to one customer.",
    },
    Setting {
        path: "identity.ttl",
        default: DefaultValue::Text("24h"),
        doc: "Time that an unused session is known, 1s to 365d. A stolen cookie is good for as long.",
    },
    Setting {
        path: "identity.max_age",
        default: DefaultValue::Text("off"),
        doc: "Time that a session lives however much it is used, 1s to 3650d, or off: as long as it is used.\n\
              When it is over, its connections are closed within a second.",
    },
    Setting {
        path: "identity.max_sessions",
        default: DefaultValue::Number(100_000),
        doc: "Sessions in memory, and in a store of \"sqlite\" or \"memory\", 1 to 100000000; the one without a\n\
              connection that was used least recently is forgotten first. Some 200 bytes of memory each.",
    },
    Setting {
        path: "identity.store",
        default: DefaultValue::Text("sqlite"),
        doc: "Where sessions are kept beyond the life of the server: \"sqlite\" (sessions.db in the state\n\
              directory, or in $STATE_DIRECTORY), \"sqlite:PATH\", \"mysql://USER:PASSWORD@HOST/DATABASE\",\n\
              \"postgres://...\", \"redis://...\", \"redis+unix:///PATH\"; \"memory\" keeps them nowhere. See\n\
              docs/sessions.md.",
    },
    Setting {
        path: "identity.store_timeout",
        default: DefaultValue::Text("2s"),
        doc: "Time that the store may take to find a session, 10ms to 1m; then the visitor is turned away (503).",
    },
    Setting {
        path: "identity.check_interval",
        default: DefaultValue::Text("off"),
        doc: "How often the store is asked whether the sessions of those connected are still there, 1s to 1d, or\n\
              off. Whose session somebody removed from it is closed then; so is everybody if it is emptied.",
    },
    Setting {
        path: "identity.close_code",
        default: DefaultValue::Number(1008),
        doc: "Close code for the connections of a session that has ended: revoked or over.",
    },
    Setting {
        path: "identity.close_reason",
        default: DefaultValue::Text("the session has ended"),
        doc: "The reason that goes with it, at most 123 bytes.",
    },
    Setting {
        path: "identity.required",
        default: DefaultValue::Flag(false),
        doc: "Refuse (401) clients whom neither a source below nor a validation callback names a user for.\n\
              Without it their user id is the session id.",
    },
    Setting {
        path: "identity.token.secret_file",
        default: DefaultValue::Absent("\"/etc/ws/token-secret\""),
        doc: "Signed tokens (JWT, RFC 7519): clients that bring one are whom it names, and no callback is\n\
              asked. This file holds the secret of HS256: at least 32 bytes; a newline at its end does not\n\
              count. Whoever has it can sign.",
    },
    Setting {
        path: "identity.token.public_key_file",
        default: DefaultValue::Absent("\"/etc/ws/token-key.pem\""),
        doc: "Public keys, each a PUBLIC KEY in PEM: RSA of 2048 to 8192 bits (RS256), P-256 (ES256) or\n\
              Ed25519 (EdDSA). While a key is being replaced, both can stand here.",
    },
    Setting {
        path: "identity.token.jwks_file",
        default: DefaultValue::Absent("\"/etc/ws/jwks.json\""),
        doc: "Keys as a JWK Set (RFC 7517); a token's kid chooses among them. Fetched from a server, it is a\n\
              file all the same: a timer fetches it. At most 32 keys.",
    },
    Setting {
        path: "identity.token.algorithms",
        default: DefaultValue::Absent("[\"EdDSA\"]"),
        doc: "What tokens may be signed with: \"HS256\", \"RS256\", \"ES256\", \"EdDSA\". A key serves the\n\
              algorithm that it is for and no other, whatever a token says. Default: those of the keys.",
    },
    Setting {
        path: "identity.token.from",
        default: DefaultValue::List(&["header:Authorization"]),
        doc: "Where tokens are looked for; the first place that holds one decides: \"cookie:NAME\",\n\
              \"header:NAME\" (behind Bearer in Authorization), \"subprotocol:NAME\" for pages, which cannot\n\
              set headers: new WebSocket(url, [NAME, token]).",
    },
    Setting {
        path: "identity.token.user_claim",
        default: DefaultValue::Text("sub"),
        doc: "The claim that is the user id: a string, or a whole number.",
    },
    Setting {
        path: "identity.token.session_claim",
        default: DefaultValue::Absent("\"sid\""),
        doc: "The claim that names the session, if it is there. Default: the session of the cookie.",
    },
    Setting {
        path: "identity.token.issuer",
        default: DefaultValue::List(&[]),
        doc: "Issuers (iss) that are believed; tokens of others, and those of nobody, are refused. Empty: the\n\
              key is enough.",
    },
    Setting {
        path: "identity.token.audience",
        default: DefaultValue::List(&[]),
        doc: "What this server is called in tokens (aud): they must be for one of these. Empty: they must\n\
              not be for anybody in particular.",
    },
    Setting {
        path: "identity.token.leeway",
        default: DefaultValue::Text("0s"),
        doc: "How far the clocks of this host and of the issuer may be apart, 0s to 1h. Tokens are good for\n\
              so much longer.",
    },
    Setting {
        path: "identity.token.require_exp",
        default: DefaultValue::Flag(true),
        doc: "Refuse tokens without an end (exp). Without it a stolen one is good until the key is replaced.",
    },
    Setting {
        path: "identity.token.close_code",
        default: DefaultValue::Number(1008),
        doc: "How a connection is closed when its token has reached its end: 1000 to 1003, 1007 to 1014, 3000\n\
              to 4999.",
    },
    Setting {
        path: "identity.token.close_reason",
        default: DefaultValue::Text("token expired"),
        doc: "The reason that goes with it, at most 123 bytes.",
    },
    Setting {
        path: "identity.token.reload_interval",
        default: DefaultValue::Text("10s"),
        doc: "How often the files of keys are looked at, 10ms to 24h, or \"off\"; SIGHUP reads them too. New\n\
              ones that cannot be used leave the former in use. No connection is touched.",
    },
    Setting {
        path: "identity.php.save_path",
        default: DefaultValue::Absent("\"/var/lib/php/sessions\""),
        doc: "PHP's session.save_path: clients with a session in one of its files are whom the session names,\n\
              and no callback is asked. The server must be able to read the files.",
    },
    Setting {
        path: "identity.php.cookie",
        default: DefaultValue::Text("PHPSESSID"),
        doc: "PHP's session.name.",
    },
    Setting {
        path: "identity.php.user_key",
        default: DefaultValue::List(&["id"]),
        doc: "The variable that is the user id, $_SESSION['id'] say: an integer or a string. What lies in\n\
              arrays and objects is reached with dots: \"user.id\". Of several the first that is set counts;\n\
              null, false, \"\" and 0 are not logged in.",
    },
    Setting {
        path: "identity.php.serialize_handler",
        default: DefaultValue::Text("php"),
        doc: "PHP's session.serialize_handler: \"php\", \"php_binary\" or \"php_serialize\".",
    },
    Setting {
        path: "identity.php.owner",
        default: DefaultValue::Absent("\"www-data\""),
        doc: "The user that PHP runs as: a name or a number. A file of anybody else but root and the user of\n\
              the server is not believed, nor one that its group or others may write.",
    },
    Setting {
        path: "identity.php.max_idle",
        default: DefaultValue::Text("off"),
        doc: "Time after which a session that PHP has not written is over, 1s to 365d (PHP's\n\
              session.gc_maxlifetime is 24m), or \"off\": when PHP removes the file.",
    },
    Setting {
        path: "identity.php.max_size",
        default: DefaultValue::Text("1MiB"),
        doc: "The largest session, 1B to 16MiB; a larger one is refused (503).",
    },
    Setting {
        path: "identity.php.timeout",
        default: DefaultValue::Text("2s"),
        doc: "How long PHP may keep a session to itself, 10ms to 1h: it locks the file from session_start()\n\
              to the end of the page or session_write_close(). After that 503.",
    },
    Setting {
        path: "identity.php.concurrency",
        default: DefaultValue::Number(16),
        doc: "Sessions read at once, 1 to 1000, each by a thread.",
    },
    Setting {
        path: "identity.php.recheck",
        default: DefaultValue::Text("5m"),
        doc: "How often the session of one who is connected is read again, 1s to 24h, or \"off\": whoever has\n\
              logged out, or is another user now, is closed with 1008. Each costs the connection a timer.",
    },
    Setting {
        path: "identity.lookup.source",
        default: DefaultValue::Absent("\"mysql://ws@localhost/app\""),
        doc: "A database with the sessions of another application: \"sqlite:PATH\", \"mysql://...\",\n\
              \"postgres://...\" or \"redis://...\". Clients with one of them are whom it names, and no\n\
              callback is asked. Down, it is 503 for those who bring the cookie, and nobody's connection\n\
              is touched. Give it a user that may read this table and nothing else.",
    },
    Setting {
        path: "identity.lookup.cookie",
        default: DefaultValue::Absent("\"app_session\""),
        doc: "The cookie of that application, whose value is looked up.",
    },
    Setting {
        path: "identity.lookup.query",
        default: DefaultValue::Absent("\"SELECT user_id FROM sessions WHERE session_id = ?\""),
        doc: "The statement, with one parameter for the cookie's value (? or, in PostgreSQL, $1). One column:\n\
              text or an integer. No row, NULL and 0 are not logged in; several rows or another type are\n\
              503.",
    },
    Setting {
        path: "identity.lookup.key",
        default: DefaultValue::Absent("\"app:session:{cookie}\""),
        doc: "The key in Redis, with {cookie} where the cookie's value belongs.",
    },
    Setting {
        path: "identity.lookup.field",
        default: DefaultValue::Absent("\"user_id\""),
        doc: "The field, if a hash is at the key.",
    },
    Setting {
        path: "identity.lookup.format",
        default: DefaultValue::Text("plain"),
        doc: "What is found there: \"plain\" (the user id), \"json\", \"php\" (serialized, also twice) or\n\
              \"php+base64\".",
    },
    Setting {
        path: "identity.lookup.user_key",
        default: DefaultValue::List(&[]),
        doc: "Where the user id is in JSON or in what PHP has serialized, as for identity.php.user_key. Empty:\n\
              it is the whole of it.",
    },
    Setting {
        path: "identity.lookup.cookie_hash",
        default: DefaultValue::Text("none"),
        doc: "\"sha256\" if the application stores the SHA-256 of the cookie's value, in hexadecimal digits.",
    },
    Setting {
        path: "identity.lookup.timeout",
        default: DefaultValue::Text("2s"),
        doc: "How long an answer may take, 10ms to 1h. After that 503.",
    },
    Setting {
        path: "identity.lookup.concurrency",
        default: DefaultValue::Number(8),
        doc: "Questions at once, 1 to 1000; in SQL each needs a connection to the database.",
    },
    Setting {
        path: "identity.lookup.recheck",
        default: DefaultValue::Text("5m"),
        doc: "How often it is asked again about one who is connected, 1s to 24h, or \"off\": whoever has logged\n\
              out, or is another user now, is closed with 1008. Each costs the connection a timer.",
    },
    Setting {
        path: "validate.backend",
        default: DefaultValue::Absent("\"exec\""),
        doc: "What decides who a client is, before it is connected: \"none\" (the user id is the session id),\n\
              \"app\" (the application, with WS_EVENT=validate), or a callback of its own: \"exec\", \"fork\",\n\
              \"worker\", \"scgi\", \"fastcgi\", as for app.backend. Default: \"exec\" if there is a command,\n\
              else \"none\".",
    },
    Setting {
        path: "validate.command",
        default: DefaultValue::Absent("[\"/srv/app/validate\", \"--strict\"]"),
        doc: "The command: a list, or one string that is split like shell words (no shell runs). A relative\n\
              program with a slash in it is a path like any other; one without is looked up in PATH.",
    },
    Setting {
        path: "validate.address",
        default: DefaultValue::Absent("\"unix:/run/php/php-fpm.sock\""),
        doc: "With backend \"scgi\" or \"fastcgi\": where that server listens, unix:PATH or HOST:PORT.",
    },
    Setting {
        path: "validate.params",
        default: DefaultValue::Table,
        doc: "Further CGI variables of each question, such as SCRIPT_FILENAME for php-fpm.",
    },
    Setting {
        path: "validate.processes",
        default: DefaultValue::Absent("4"),
        doc: "With backend \"fork\" or \"worker\": how many processes of the command, 1 to 1024. Default: 1\n\
              fork server; as many workers as there are cores, but 2 at least.",
    },
    Setting {
        path: "validate.recycle_requests",
        default: DefaultValue::Number(0),
        doc: "Replace a process of fork or worker after so many requests, 0 to 1000000000; 0 is never. It\n\
              costs the start of the program.",
    },
    Setting {
        path: "validate.recycle_memory",
        default: DefaultValue::Absent("\"256MiB\""),
        doc: "Replace a process of fork or worker that holds more resident memory after a request, 1MiB to\n\
              1024GiB. Default: never.",
    },
    Setting {
        path: "validate.recycle_age",
        default: DefaultValue::Absent("\"1h\""),
        doc: "Replace a process of fork or worker at the first request after this time, 10ms to 365d.\n\
              Default: never.",
    },
    Setting {
        path: "validate.fork_exit",
        default: DefaultValue::Text("normal"),
        doc: "How the children of a fork server end once they have answered: \"normal\", as programs of their\n\
              language do, or \"kill\", at once. For PHP the latter is several times faster, but functions\n\
              registered for the shutdown do not run. Told to the command in WS_FORK_EXIT.",
    },
    Setting {
        path: "validate.timeout",
        default: DefaultValue::Text("10s"),
        doc: "Time that it may take, 10ms to 1h; then it is killed and the client is answered 503.",
    },
    Setting {
        path: "validate.concurrency",
        default: DefaultValue::Number(64),
        doc: "Processes at once, 1 to 10000; further clients wait. The host pays for each.",
    },
    Setting {
        path: "validate.output",
        default: DefaultValue::Text("plain"),
        doc: "What it writes: \"plain\" (the user id) or \"cgi\" (header lines, X-WS-User among them).",
    },
    Setting {
        path: "validate.env",
        default: DefaultValue::Table,
        doc: "Further environment variables. The environment is built from empty, and nothing is expanded.",
    },
    Setting {
        path: "validate.user",
        default: DefaultValue::Absent("\"www-data\""),
        doc: "User that it runs as: a name or a number. Needs root. Default: the user of the server.",
    },
    Setting {
        path: "validate.group",
        default: DefaultValue::Absent("\"www-data\""),
        doc: "Group that it runs as, with a user only. Default: the primary group of that user.",
    },
    Setting {
        path: "validate.dir",
        default: DefaultValue::Absent("\"/srv/app\""),
        doc: "As app.dir, for the validation.",
    },
    Setting {
        path: "validate.umask",
        default: DefaultValue::Absent("\"0027\""),
        doc: "As app.umask, for the validation.",
    },
    Setting {
        path: "validate.nice",
        default: DefaultValue::Number(0),
        doc: "As app.nice, for the validation.",
    },
    Setting {
        path: "validate.no_new_privs",
        default: DefaultValue::Flag(true),
        doc: "As app.no_new_privs, for the validation.",
    },
    Setting {
        path: "validate.max_processes",
        default: DefaultValue::Absent("64"),
        doc: "As app.max_processes, for the validation.",
    },
    Setting {
        path: "validate.max_memory",
        default: DefaultValue::Absent("\"512MiB\""),
        doc: "As app.max_memory, for the validation.",
    },
    Setting {
        path: "validate.max_file_size",
        default: DefaultValue::Absent("\"100MiB\""),
        doc: "As app.max_file_size, for the validation.",
    },
    Setting {
        path: "validate.max_open_files",
        default: DefaultValue::Absent("256"),
        doc: "As app.max_open_files, for the validation.",
    },
    Setting {
        path: "validate.max_cpu_time",
        default: DefaultValue::Absent("\"10s\""),
        doc: "As app.max_cpu_time, for the validation.",
    },
    Setting {
        path: "validate.cgroup",
        default: DefaultValue::Absent("\"own\""),
        doc: "As app.cgroup, for the validation.",
    },
    Setting {
        path: "validate.landlock_read",
        default: DefaultValue::List(&[]),
        doc: "As app.landlock_read, for the validation.",
    },
    Setting {
        path: "validate.landlock_execute",
        default: DefaultValue::List(&[]),
        doc: "As app.landlock_execute, for the validation.",
    },
    Setting {
        path: "validate.landlock_write",
        default: DefaultValue::List(&[]),
        doc: "As app.landlock_write, for the validation.",
    },
    Setting {
        path: "app.backend",
        default: DefaultValue::Absent("\"exec\""),
        doc: "What answers messages: \"demo\" and \"echo\" (built in); \"exec\" (the command, once per message);\n\
              \"fork\" (the command once, it forks per message) and \"worker\" (the command several times, each\n\
              answers one message after another), which are asked in SCGI over a socket that is their\n\
              descriptor 0; \"scgi\" and \"fastcgi\" (a server at app.address); \"stream\" (the command, once\n\
              per connection). Default: \"exec\" if there is a command, else \"demo\".",
    },
    Setting {
        path: "app.command",
        default: DefaultValue::Absent("[\"/srv/app/answer\", \"--verbose\"]"),
        doc: "The command: a list, or one string that is split like shell words (no shell runs). A relative\n\
              program with a slash in it is a path like any other; one without is looked up in PATH.",
    },
    Setting {
        path: "app.address",
        default: DefaultValue::Absent("\"unix:/run/php/php-fpm.sock\""),
        doc: "With backend \"scgi\" or \"fastcgi\": where that server listens, unix:PATH or HOST:PORT.",
    },
    Setting {
        path: "app.params",
        default: DefaultValue::Table,
        doc: "Further CGI variables of each message, such as SCRIPT_FILENAME for php-fpm.",
    },
    Setting {
        path: "app.processes",
        default: DefaultValue::Absent("4"),
        doc: "With backend \"fork\" or \"worker\": how many processes of the command, 1 to 1024. Default: 1\n\
              fork server; as many workers as there are cores, but 2 at least.",
    },
    Setting {
        path: "app.recycle_requests",
        default: DefaultValue::Number(0),
        doc: "Replace a process of fork or worker after so many requests, 0 to 1000000000; 0 is never. It\n\
              costs the start of the program.",
    },
    Setting {
        path: "app.recycle_memory",
        default: DefaultValue::Absent("\"256MiB\""),
        doc: "Replace a process of fork or worker that holds more resident memory after a request, 1MiB to\n\
              1024GiB. Default: never.",
    },
    Setting {
        path: "app.recycle_age",
        default: DefaultValue::Absent("\"1h\""),
        doc: "Replace a process of fork or worker at the first request after this time, 10ms to 365d.\n\
              Default: never.",
    },
    Setting {
        path: "app.watch",
        default: DefaultValue::List(&[]),
        doc: "Files and directories: when one changes, the processes of fork and worker are replaced by fresh\n\
              ones; what they have in hand is finished. For development; SIGHUP does the same once.",
    },
    Setting {
        path: "app.spare",
        default: DefaultValue::Number(2),
        doc: "Connections that are made to each fork server before there are messages for them, 0 to 64: it\n\
              has forked the child then, and the fork is no part of the answer's time. Each such child waits\n\
              with the memory that it does not share.",
    },
    Setting {
        path: "app.fork_exit",
        default: DefaultValue::Text("normal"),
        doc: "How the children of a fork server end once they have answered: \"normal\", as programs of their\n\
              language do, or \"kill\", at once. For PHP the latter is several times faster, but functions\n\
              registered for the shutdown do not run. Told to the command in WS_FORK_EXIT.",
    },
    Setting {
        path: "app.stream",
        default: DefaultValue::Text("text"),
        doc: "With backend \"stream\", what the program writes: \"text\" (each line is a message) or \"binary\"\n\
              (each piece that is read, at most 64KiB, is a binary message). Whatever it is, it reads a text\n\
              message as a line, a binary one as it is.",
    },
    Setting {
        path: "app.stream_grace",
        default: DefaultValue::Text("250ms"),
        doc: "With backend \"stream\": time that the program has when its connection has ended, 10ms to 1h,\n\
              from the end of its input to SIGTERM, and again to SIGKILL. The place of the connection is\n\
              taken so long.",
    },
    Setting {
        path: "app.timeout",
        default: DefaultValue::Text("30s"),
        doc: "Time that one message may take, 10ms to 1d; then its process group is ended. No limit of stream.",
    },
    Setting {
        path: "app.concurrency",
        default: DefaultValue::Number(64),
        doc: "Processes at once in the whole server, 1 to 10000; further messages wait. The host pays for each.\n\
              Those of stream are as many as there are connections: see limits.max_connections.",
    },
    Setting {
        path: "app.per_connection",
        default: DefaultValue::Number(1),
        doc: "Processes at once for one connection, 1 to 1000. Above 1, messages of one client overlap.",
    },
    Setting {
        path: "app.queue",
        default: DefaultValue::Number(16),
        doc: "Messages of one connection that wait, 1 to 100000; then its socket is not read. Each may have\n\
              max_message_size.",
    },
    Setting {
        path: "app.unordered",
        default: DefaultValue::Flag(false),
        doc: "With per_connection above 1: send replies as they come, not in the order of the messages.",
    },
    Setting {
        path: "app.max_output",
        default: DefaultValue::Text("1MiB"),
        doc: "Size of an answer, 1 to 1GiB; a process that writes more is killed. Each process may pin this much.\n\
              Of lines and stream it is the size of one line.",
    },
    Setting {
        path: "app.output",
        default: DefaultValue::Text("plain"),
        doc: "What it writes: \"plain\" (the reply), \"cgi\" (header lines, an empty line, the reply), or with\n\
              exec \"lines\": each line is a message, sent as soon as it is written.",
    },
    Setting {
        path: "app.trim",
        default: DefaultValue::Text("newlines"),
        doc: "With plain output, what is cut off the reply: \"newlines\" (at its end), \"all\" (white space at\n\
              both ends), \"none\".",
    },
    Setting {
        path: "app.empty_reply",
        default: DefaultValue::Absent("\"done\""),
        doc: "Reply to a message whose answer is empty. Default: no reply.",
    },
    Setting {
        path: "app.error_reply",
        default: DefaultValue::Absent("\"error\""),
        doc: "Reply to a message whose answer failed. Default: no reply.",
    },
    Setting {
        path: "app.on_disconnect",
        default: DefaultValue::Text("finish"),
        doc: "Accepted messages of a client that is gone: \"finish\" or \"cancel\".",
    },
    Setting {
        path: "app.events",
        default: DefaultValue::List(&[]),
        doc: "What the application is run for besides messages: \"open\" and \"close\" of a connection, as\n\
              WS_EVENT says. Messages wait for the end of open; close comes after the last of them.",
    },
    Setting {
        path: "app.ping",
        default: DefaultValue::Absent("true"),
        doc: "Answer the text message ping with pong, without the application. Default: true, but\n\
              for echo and stream.",
    },
    Setting {
        path: "app.env",
        default: DefaultValue::Table,
        doc: "Further environment variables. The environment is built from empty, and nothing is expanded.",
    },
    Setting {
        path: "app.user",
        default: DefaultValue::Absent("\"www-data\""),
        doc: "User that it runs as: a name or a number. Needs root. Default: the user of the server.",
    },
    Setting {
        path: "app.group",
        default: DefaultValue::Absent("\"www-data\""),
        doc: "Group that it runs as, with a user only. Default: the primary group of that user.",
    },
    Setting {
        path: "app.dir",
        default: DefaultValue::Absent("\"/srv/app\""),
        doc: "Working directory. Default: the server's.",
    },
    Setting {
        path: "app.umask",
        default: DefaultValue::Absent("\"0027\""),
        doc: "Permissions, octal, that files do not get which it makes. Default: as the server.",
    },
    Setting {
        path: "app.nice",
        default: DefaultValue::Number(0),
        doc: "How much it yields to the server and others when the CPU is short, 0 to 19.",
    },
    Setting {
        path: "app.no_new_privs",
        default: DefaultValue::Flag(true),
        doc: "Keep it and its descendants from gaining privileges: programs with a set-user-ID bit (sudo, ping)\n\
              run without it.",
    },
    Setting {
        path: "app.max_processes",
        default: DefaultValue::Absent("64"),
        doc: "Processes and threads, 1 to 1000000. With cgroup: of one run. Without: those of its user in the\n\
              whole host, which may be more than one run; the system exempts root. Default: no limit of its own.",
    },
    Setting {
        path: "app.max_memory",
        default: DefaultValue::Absent("\"512MiB\""),
        doc: "Memory, 1MiB to 1024GiB. With cgroup: what one run uses, all its processes together; beyond, it\n\
              is killed. Without: the address space of each process, of which some runtimes (Node, Java, Go)\n\
              reserve far more than they use. Default: no limit of its own.",
    },
    Setting {
        path: "app.max_file_size",
        default: DefaultValue::Absent("\"100MiB\""),
        doc: "Size of a file that it writes, 0 to 1024GiB; a process that exceeds it is ended. Default: no limit.",
    },
    Setting {
        path: "app.max_open_files",
        default: DefaultValue::Absent("256"),
        doc: "Descriptors of each process, 8 to 1000000. Default: as the server was started with.",
    },
    Setting {
        path: "app.max_cpu_time",
        default: DefaultValue::Absent("\"10s\""),
        doc: "CPU time of each process, 1s to 1d, rounded up to seconds; then it is ended. Default: no limit.",
    },
    Setting {
        path: "app.cgroup",
        default: DefaultValue::Absent("\"own\""),
        doc: "A control group (v2) for each run: nothing it starts can leave it, and all of it is killed at\n\
              once. \"own\": beneath the server's, as systemd delegates it (Delegate=memory pids); or a\n\
              directory that is the server's to use. A start costs some 150 us more. Default: none; then\n\
              the process group and whatever left it are killed one by one.",
    },
    Setting {
        path: "app.landlock_read",
        default: DefaultValue::List(&[]),
        doc: "Files and directories that it may read, with all that is beneath (Landlock, Linux 5.13). With this\n\
              or one of the next two it reaches no others. Each path costs a start some 10 us.",
    },
    Setting {
        path: "app.landlock_execute",
        default: DefaultValue::List(&[]),
        doc: "Those that it may read and execute: its program, interpreter and libraries (\"/usr\", \"/lib\").",
    },
    Setting {
        path: "app.landlock_write",
        default: DefaultValue::List(&[]),
        doc: "Those that it may read, write, make and remove; /dev/null, if it uses that.",
    },
    Setting {
        path: "app.require_user",
        default: DefaultValue::Flag(false),
        doc: "Refuse to start as root without app.user.",
    },
    Setting {
        path: "fifo.enabled",
        default: DefaultValue::Flag(true),
        doc: "Offer named pipes: what is written to global_pipe.fifo goes to every connection.",
    },
    Setting {
        path: "fifo.dir",
        default: DefaultValue::Absent("\"/run/ws/fifo\""),
        doc: "Directory of the FIFOs. Default: fifo in server.state_dir.",
    },
    Setting {
        path: "fifo.user_fifos",
        default: DefaultValue::Flag(true),
        doc: "A FIFO for each connection, not only the global one. Each costs a descriptor.",
    },
    Setting {
        path: "fifo.per",
        default: DefaultValue::Text("connection"),
        doc: "Whose the FIFOs of user_fifos are: one for each \"connection\" (USER:IP:PORT.fifo), one for each\n\
              \"user\" (USER.fifo, as long as there is a connection; a record is run once for each), or \"both\".",
    },
    Setting {
        path: "fifo.naming",
        default: DefaultValue::Text("default"),
        doc: "How ids become names: \"default\" (all but A-Z a-z 0-9 _ - is percent-encoded), or \"carbonphp\": the\n\
              names of connections' FIFOs have : for / and _ for ., so that different ids may look alike.",
    },
    Setting {
        path: "fifo.framing",
        default: DefaultValue::Text("lines"),
        doc: "What ends a record: \"lines\" (a newline) or \"delimiter\" (fifo.delimiter).",
    },
    Setting {
        path: "fifo.delimiter",
        default: DefaultValue::Absent("\"\\n--\\n\""),
        doc: "With framing \"delimiter\": the text that ends a record, 1 to 256 bytes.",
    },
    Setting {
        path: "fifo.max_record",
        default: DefaultValue::Number(4096),
        doc: "Size of a record with its end, 2 to 4096; with framing \"delimiter\" to 16MiB. A longer one is\n\
              dropped. Writes of several writers interleave above 4096 bytes.",
    },
    Setting {
        path: "fifo.mode",
        default: DefaultValue::Text("0620"),
        doc: "Permissions of the FIFOs, octal. Who may write may push.",
    },
    Setting {
        path: "fifo.group",
        default: DefaultValue::Absent("\"www-data\""),
        doc: "Group of the FIFOs and their directory: a name or a number. Default: the group of the server.",
    },
    Setting {
        path: "fifo.insecure_world_writable",
        default: DefaultValue::Flag(false),
        doc: "Accept a mode that lets every user of the host write.",
    },
    Setting {
        path: "control.mode",
        default: DefaultValue::Text("0600"),
        doc: "Permissions of control.sock, octal, nothing for others. Who may write to it controls the server.",
    },
    Setting {
        path: "control.group",
        default: DefaultValue::Absent("\"ws\""),
        doc: "Group of control.sock: a name or a number. Default: the group of the server.",
    },
    Setting {
        path: "control.listen",
        default: DefaultValue::Absent("\"127.0.0.1:8889\""),
        doc: "Where the control API listens besides control.sock: \"HOST:PORT\", for programs that cannot\n\
              reach the socket. Needs token_file. Default: nowhere. It speaks HTTP in clear text, so other\n\
              addresses than loopback ones need insecure_listen.",
    },
    Setting {
        path: "control.insecure_listen",
        default: DefaultValue::Flag(false),
        doc: "Allow control.listen to be an address that other hosts reach: whoever can listen in on the\n\
              network gets the token.",
    },
    Setting {
        path: "control.token_file",
        default: DefaultValue::Absent("\"/etc/ws/control.token\""),
        doc: "The tokens that control.listen accepts, one in each line (so that one can be replaced while\n\
              the other still holds); empty lines and lines with # are skipped. A token has at least 16\n\
              characters: A-Z a-z 0-9 - . _ ~ + / =. Who has one controls the server, so nobody else should\n\
              read the file (a warning) and nobody else may write to it (an error). It is read again when\n\
              it changes; if it then cannot be used, the former tokens hold.",
    },
    Setting {
        path: "control.allowed_hosts",
        default: DefaultValue::List(&[]),
        doc: "What the Host header of a request to control.listen may say, without its port: names,\n\
              addresses, and names with a wildcard label (\"*.example.org\"). Others get 421: a page whose\n\
              name is rebound to this host does not get in. Empty: localhost, loopback addresses and the\n\
              host of control.listen.",
    },
    Setting {
        path: "control.max_connections",
        default: DefaultValue::Number(64),
        doc: "Connections to control.listen at once, 1 to 100000; further ones wait. Each may hold a request\n\
              of max_body_size, and a descriptor is set aside for each.",
    },
    Setting {
        path: "control.timeout",
        default: DefaultValue::Text("30s"),
        doc: "How long the head of a request to control.listen may take to come, and then its body; also,\n\
              how long a connection may be idle. 10ms to 1h.",
    },
    Setting {
        path: "control.rate",
        default: DefaultValue::Number(0),
        doc: "Requests in a second at each of the two doors, control.sock and control.listen; 0 is any number,\n\
              at most 1000000. Further ones get 429 and are told when to come again. As many may come at\n\
              once. A batch is one request, and so is a stream of lines.",
    },
    Setting {
        path: "control.max_body_size",
        default: DefaultValue::Absent("\"8MiB\""),
        doc: "Bytes of the body of a request to the control API, 1KiB to 8GiB; of a stream of lines, those of a\n\
              line. A larger one gets 413. It is in memory while the request is read. Default: room for a\n\
              message of limits.max_message_size, whatever is in it: six times that and 64KiB.",
    },
    Setting {
        path: "control.max_batch",
        default: DefaultValue::Number(1000),
        doc: "Messages in one request to the control API, 1 to 100000. A larger batch gets 413.",
    },
    Setting {
        path: "control.max_targets",
        default: DefaultValue::Number(10_000),
        doc: "Users, sessions and connections that one message may name, 1 to 1000000. More get 413. They are\n\
              looked up while no other push can begin.",
    },
    Setting {
        path: "control.idempotency_ttl",
        default: DefaultValue::Text("5m"),
        doc: "How long the receipt of a request with an Idempotency-Key is kept: the same request again is\n\
              answered with it, and not carried out again. 1s to 1d.",
    },
    Setting {
        path: "control.idempotency_receipts",
        default: DefaultValue::Number(10_000),
        doc: "Receipts that are kept for that, max_batch to 10000000; beyond it the oldest are forgotten. Each\n\
              takes about 300 bytes.",
    },
    Setting {
        path: "control.max_listeners",
        default: DefaultValue::Number(64),
        doc: "Clients of GET /v1/events at once, 0 to 10000; another one is refused with 503.",
    },
    Setting {
        path: "log.format",
        default: DefaultValue::Text("auto"),
        doc: "\"text\", \"json\" (one object per line), or \"auto\": text on a terminal, else json. To stderr.",
    },
    Setting {
        path: "log.level",
        default: DefaultValue::Text("info"),
        doc: "\"error\", \"warn\", \"info\", \"debug\", \"trace\" or \"off\". RUST_LOG overrides it.",
    },
    Setting {
        path: "log.stats_interval",
        default: DefaultValue::Text("60s"),
        doc: "Interval of the line with counters, 100ms to 1d, or \"off\".",
    },
];
