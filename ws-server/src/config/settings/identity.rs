//! Sessions, and whose word about a visitor is taken.

use super::{Applies, DefaultValue, Setting};

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        path: "identity.cookie",
        default: DefaultValue::Text("ws_session"),
        applies: Applies::Live,
        doc: "Name of the session cookie.",
    },
    Setting {
        path: "identity.require_cookie",
        default: DefaultValue::Flag(false),
        applies: Applies::Live,
        doc: "Refuse (401) clients that bring no cookie at all.",
    },
    Setting {
        path: "identity.verify_ip",
        default: DefaultValue::Flag(true),
        applies: Applies::Restart,
        doc: "A session that comes from another network than it was made for counts as unknown, and is logged\n\
              and counted. Users of changing networks lose their session.",
    },
    Setting {
        path: "identity.ip_prefix_v4",
        default: DefaultValue::Number(32),
        applies: Applies::Restart,
        doc: "Bits of an IPv4 address that are its network for that, 1 to 32. Fewer let a session move among\n\
              neighbours, whoever took it too.",
    },
    Setting {
        path: "identity.ip_prefix_v6",
        default: DefaultValue::Number(64),
        applies: Applies::Restart,
        doc: "The same of an IPv6 address, 1 to 128: a provider gives 64 bits or fewer to one customer.",
    },
    Setting {
        path: "identity.ttl",
        default: DefaultValue::Text("24h"),
        applies: Applies::Restart,
        doc: "Time that an unused session is known, 1s to 365d. A stolen cookie is good for as long.",
    },
    Setting {
        path: "identity.max_age",
        default: DefaultValue::Text("off"),
        applies: Applies::Restart,
        doc: "Time that a session lives however much it is used, 1s to 3650d, or off: as long as it is used.\n\
              When it is over, its connections are closed within a second.",
    },
    Setting {
        path: "identity.max_sessions",
        default: DefaultValue::Number(100_000),
        applies: Applies::Restart,
        doc: "Sessions in memory, and in a store of \"sqlite\" or \"memory\", 1 to 100000000; the one without a\n\
              connection that was used least recently is forgotten first. Some 200 bytes of memory each.",
    },
    Setting {
        path: "identity.store",
        default: DefaultValue::Text("sqlite"),
        applies: Applies::Restart,
        doc: "Where sessions are kept beyond the life of the server: \"sqlite\" (sessions.db in the state\n\
              directory, or in $STATE_DIRECTORY), \"sqlite:PATH\", \"mysql://USER:PASSWORD@HOST/DATABASE\",\n\
              \"postgres://...\", \"redis://...\", \"redis+unix:///PATH\"; \"memory\" keeps them nowhere. See\n\
              docs/sessions.md.",
    },
    Setting {
        path: "identity.store_timeout",
        default: DefaultValue::Text("2s"),
        applies: Applies::Restart,
        doc: "Time that the store may take to find a session, 10ms to 1m; then the visitor is turned away (503).",
    },
    Setting {
        path: "identity.check_interval",
        default: DefaultValue::Text("off"),
        applies: Applies::Restart,
        doc: "How often the store is asked whether the sessions of those connected are still there, 1s to 1d, or\n\
              off. Whose session somebody removed from it is closed then; so is everybody if it is emptied.",
    },
    Setting {
        path: "identity.close_code",
        default: DefaultValue::Number(1008),
        applies: Applies::Live,
        doc: "Close code for the connections of a session that has ended: revoked or over.",
    },
    Setting {
        path: "identity.close_reason",
        default: DefaultValue::Text("the session has ended"),
        applies: Applies::Live,
        doc: "The reason that goes with it, at most 123 bytes.",
    },
    Setting {
        path: "identity.required",
        default: DefaultValue::Flag(false),
        applies: Applies::Live,
        doc: "Refuse (401) clients whom neither a source below nor a validation callback names a user for.\n\
              Without it their user id is the session id.",
    },
    Setting {
        path: "identity.token.secret_file",
        default: DefaultValue::Absent("\"/etc/ws/token-secret\""),
        applies: Applies::Restart,
        doc: "Signed tokens (JWT, RFC 7519): clients that bring one are whom it names, and no callback is\n\
              asked. This file holds the secret of HS256: at least 32 bytes; a newline at its end does not\n\
              count, and PEM is no secret. Whoever has it can sign: all users should not read it (a\n\
              warning). This and the next two files nobody but their owner may write to, not their group\n\
              either (an error; if they are read again, the former keys hold).",
    },
    Setting {
        path: "identity.token.public_key_file",
        default: DefaultValue::Absent("\"/etc/ws/token-key.pem\""),
        applies: Applies::Restart,
        doc: "Public keys, each a PUBLIC KEY in PEM: RSA of 2048 to 8192 bits (RS256), P-256 (ES256) or\n\
              Ed25519 (EdDSA). While a key is being replaced, both can stand here.",
    },
    Setting {
        path: "identity.token.jwks_file",
        default: DefaultValue::Absent("\"/etc/ws/jwks.json\""),
        applies: Applies::Restart,
        doc: "Keys as a JWK Set (RFC 7517); a token's kid chooses among them. Fetched from a server, it is a\n\
              file all the same: a timer fetches it. At most 32 keys.",
    },
    Setting {
        path: "identity.token.algorithms",
        default: DefaultValue::Absent("[\"EdDSA\"]"),
        applies: Applies::Restart,
        doc: "What tokens may be signed with: \"HS256\", \"RS256\", \"ES256\", \"EdDSA\". A key serves the\n\
              algorithm that it is for and no other, whatever a token says. Default: those of the keys.",
    },
    Setting {
        path: "identity.token.from",
        default: DefaultValue::List(&["header:Authorization"]),
        applies: Applies::Restart,
        doc: "Where tokens are looked for; the first place that holds one decides: \"cookie:NAME\",\n\
              \"header:NAME\" (behind Bearer in Authorization), \"subprotocol:NAME\" for pages, which cannot\n\
              set headers: new WebSocket(url, [NAME, token]).",
    },
    Setting {
        path: "identity.token.user_claim",
        default: DefaultValue::Text("sub"),
        applies: Applies::Restart,
        doc: "The claim that is the user id: a string, or a whole number.",
    },
    Setting {
        path: "identity.token.session_claim",
        default: DefaultValue::Absent("\"sid\""),
        applies: Applies::Restart,
        doc: "The claim that names the session, if it is there. Default: the session of the cookie.",
    },
    Setting {
        path: "identity.token.issuer",
        default: DefaultValue::List(&[]),
        applies: Applies::Restart,
        doc: "Issuers (iss) that are believed; tokens of others, and those of nobody, are refused. Empty: the\n\
              key is enough.",
    },
    Setting {
        path: "identity.token.audience",
        default: DefaultValue::List(&[]),
        applies: Applies::Restart,
        doc: "What this server is called in tokens (aud): they must be for one of these. Empty: they must\n\
              not be for anybody in particular.",
    },
    Setting {
        path: "identity.token.leeway",
        default: DefaultValue::Text("0s"),
        applies: Applies::Restart,
        doc: "How far the clocks of this host and of the issuer may be apart, 0s to 1h. Tokens are good for\n\
              so much longer.",
    },
    Setting {
        path: "identity.token.require_exp",
        default: DefaultValue::Flag(true),
        applies: Applies::Restart,
        doc: "Refuse tokens without an end (exp). Without it a stolen one is good until the key is replaced.",
    },
    Setting {
        path: "identity.token.close_code",
        default: DefaultValue::Number(1008),
        applies: Applies::Live,
        doc: "How a connection is closed when its token has reached its end: 1000 to 1003, 1007 to 1014, 3000\n\
              to 4999.",
    },
    Setting {
        path: "identity.token.close_reason",
        default: DefaultValue::Text("token expired"),
        applies: Applies::Live,
        doc: "The reason that goes with it, at most 123 bytes.",
    },
    Setting {
        path: "identity.token.reload_interval",
        default: DefaultValue::Text("10s"),
        applies: Applies::Restart,
        doc: "How often the files of keys are looked at, 10ms to 24h, or \"off\"; SIGHUP reads them too. New\n\
              ones that cannot be used leave the former in use. No connection is touched.",
    },
    Setting {
        path: "identity.php.save_path",
        default: DefaultValue::Absent("\"/var/lib/php/sessions\""),
        applies: Applies::Restart,
        doc: "PHP's session.save_path: clients with a session in one of its files are whom the session names,\n\
              and no callback is asked. The server must be able to read the files.",
    },
    Setting {
        path: "identity.php.cookie",
        default: DefaultValue::Text("PHPSESSID"),
        applies: Applies::Restart,
        doc: "PHP's session.name.",
    },
    Setting {
        path: "identity.php.user_key",
        default: DefaultValue::List(&["id"]),
        applies: Applies::Restart,
        doc: "The variable that is the user id, $_SESSION['id'] say: an integer or a string. What lies in\n\
              arrays and objects is reached with dots: \"user.id\". Of several the first that is set counts;\n\
              null, false, \"\" and 0 are not logged in.",
    },
    Setting {
        path: "identity.php.serialize_handler",
        default: DefaultValue::Text("php"),
        applies: Applies::Restart,
        doc: "PHP's session.serialize_handler: \"php\", \"php_binary\" or \"php_serialize\".",
    },
    Setting {
        path: "identity.php.owner",
        default: DefaultValue::Absent("\"www-data\""),
        applies: Applies::Restart,
        doc: "The user that PHP runs as: a name or a number. A file of anybody else but root and the user of\n\
              the server is not believed, nor one that its group or others may write.",
    },
    Setting {
        path: "identity.php.max_idle",
        default: DefaultValue::Text("off"),
        applies: Applies::Restart,
        doc: "Time after which a session that PHP has not written is over, 1s to 365d (PHP's\n\
              session.gc_maxlifetime is 24m), or \"off\": when PHP removes the file.",
    },
    Setting {
        path: "identity.php.max_size",
        default: DefaultValue::Text("1MiB"),
        applies: Applies::Restart,
        doc: "The largest session, 1B to 16MiB; a larger one is refused (503).",
    },
    Setting {
        path: "identity.php.timeout",
        default: DefaultValue::Text("2s"),
        applies: Applies::Restart,
        doc: "How long PHP may keep a session to itself, 10ms to 1h: it locks the file from session_start()\n\
              to the end of the page or session_write_close(). After that 503.",
    },
    Setting {
        path: "identity.php.concurrency",
        default: DefaultValue::Number(16),
        applies: Applies::Restart,
        doc: "Sessions read at once, 1 to 1000, each by a thread.",
    },
    Setting {
        path: "identity.php.recheck",
        default: DefaultValue::Text("5m"),
        applies: Applies::Restart,
        doc: "How often the session of one who is connected is read again, 1s to 24h, or \"off\": whoever has\n\
              logged out, or is another user now, is closed with 1008; a session that cannot be read three\n\
              times in a row, while others can, with 1013. Each costs the connection a timer.",
    },
    Setting {
        path: "identity.lookup.source",
        default: DefaultValue::Absent("\"mysql://ws@localhost/app\""),
        applies: Applies::Restart,
        doc: "A database with the sessions of another application: \"sqlite:PATH\", \"mysql://...\",\n\
              \"postgres://...\" or \"redis://...\". Clients with one of them are whom it names, and no\n\
              callback is asked. Down, it is 503 for those who bring the cookie, and nobody's connection\n\
              is touched. Give it a user that may read this table and nothing else.",
    },
    Setting {
        path: "identity.lookup.cookie",
        default: DefaultValue::Absent("\"app_session\""),
        applies: Applies::Restart,
        doc: "The cookie of that application, whose value is looked up.",
    },
    Setting {
        path: "identity.lookup.query",
        default: DefaultValue::Absent("\"SELECT user_id FROM sessions WHERE session_id = ?\""),
        applies: Applies::Restart,
        doc: "The statement, with one parameter for the cookie's value (? or, in PostgreSQL, $1). One column:\n\
              text or an integer. No row, NULL and 0 are not logged in; several rows or another type are\n\
              503.",
    },
    Setting {
        path: "identity.lookup.key",
        default: DefaultValue::Absent("\"app:session:{cookie}\""),
        applies: Applies::Restart,
        doc: "The key in Redis, with {cookie} where the cookie's value belongs. Its prefix must be the\n\
              sessions' own: who brings a cookie chooses the key. Without cookie_hash a cookie is 16 to 256\n\
              letters, digits, _, - or a comma; any other is refused (401).",
    },
    Setting {
        path: "identity.lookup.field",
        default: DefaultValue::Absent("\"user_id\""),
        applies: Applies::Restart,
        doc: "The field, if a hash is at the key.",
    },
    Setting {
        path: "identity.lookup.format",
        default: DefaultValue::Text("plain"),
        applies: Applies::Restart,
        doc: "What is found there: \"plain\" (the user id), \"json\", \"php\" (serialized, also twice) or\n\
              \"php+base64\".",
    },
    Setting {
        path: "identity.lookup.user_key",
        default: DefaultValue::List(&[]),
        applies: Applies::Restart,
        doc: "Where the user id is in JSON or in what PHP has serialized, as for identity.php.user_key. Empty:\n\
              it is the whole of it.",
    },
    Setting {
        path: "identity.lookup.cookie_hash",
        default: DefaultValue::Text("none"),
        applies: Applies::Restart,
        doc: "\"sha256\" if the application stores the SHA-256 of the cookie's value, in hexadecimal digits.",
    },
    Setting {
        path: "identity.lookup.timeout",
        default: DefaultValue::Text("2s"),
        applies: Applies::Restart,
        doc: "How long an answer may take, 10ms to 1h. After that 503.",
    },
    Setting {
        path: "identity.lookup.concurrency",
        default: DefaultValue::Number(8),
        applies: Applies::Restart,
        doc: "Questions at once, 1 to 1000; in SQL each needs a connection to the database.",
    },
    Setting {
        path: "identity.lookup.recheck",
        default: DefaultValue::Text("5m"),
        applies: Applies::Restart,
        doc: "How often it is asked again about one who is connected, 1s to 24h, or \"off\": whoever has logged\n\
              out, or is another user now, is closed with 1008; one whose session cannot be read three times\n\
              in a row, while others can, with 1013. Each costs the connection a timer.",
    },
];
