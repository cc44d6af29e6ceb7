//! An application of CarbonPHP's, which says most of the rest itself.

use super::{Applies, DefaultValue, Setting};

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        path: "carbonphp.index",
        default: DefaultValue::Absent("\"/srv/site/index.php\""),
        applies: Applies::Restart,
        doc: "The index.php of a CarbonPHP application, in the place of a command in [app]: it is run as\n\
              `php index.php websocket`, with the fork server before it that `ws carbonphp bridge` prints; or\n\
              behind php-fpm, if app.backend is \"fastcgi\" and app.params has no SCRIPT_FILENAME. At\n\
              the start it is asked for its host, port, certificate, FIFOs and the rest that it configures:\n\
              that holds unless something else is written (`ws carbonphp check` shows it).",
    },
    Setting {
        path: "carbonphp.php",
        default: DefaultValue::Text("php"),
        applies: Applies::Restart,
        doc: "The PHP that runs it, 8.2 or later with pcntl, posix and sockets, perhaps with options: a list,\n\
              or one string that is split like shell words (\"php8.3 -d memory_limit=1G\").",
    },
    Setting {
        path: "carbonphp.connections",
        default: DefaultValue::Text("auto"),
        applies: Applies::Restart,
        doc: "Whether its callbacks find who is connected in WebSocket::$userConnectionRelationships and the\n\
              like: \"always\", which costs a request to control.sock for each message, \"never\", or \"auto\":\n\
              if its sources name one of these.",
    },
];
