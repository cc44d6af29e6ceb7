//! What is run: the validation and the application.

use super::{Applies, DefaultValue, Setting};

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        path: "validate.backend",
        default: DefaultValue::Absent("\"exec\""),
        applies: Applies::Restart,
        doc: "What decides who a client is, before it is connected: \"none\" (the user id is the session id),\n\
              \"app\" (the application, with WS_EVENT=validate), or a callback of its own: \"exec\", \"fork\",\n\
              \"worker\", \"scgi\", \"fastcgi\", as for app.backend. Default: \"exec\" if there is a command,\n\
              else \"none\".",
    },
    Setting {
        path: "validate.command",
        default: DefaultValue::Absent("[\"/srv/app/validate\", \"--strict\"]"),
        applies: Applies::Restart,
        doc: "The command: a list, or one string that is split like shell words (no shell runs). A relative\n\
              program with a slash in it is a path like any other; one without is looked up in PATH.",
    },
    Setting {
        path: "validate.address",
        default: DefaultValue::Absent("\"unix:/run/php/php-fpm.sock\""),
        applies: Applies::Restart,
        doc: "With backend \"scgi\" or \"fastcgi\": where that server listens, unix:PATH or HOST:PORT.",
    },
    Setting {
        path: "validate.params",
        default: DefaultValue::Table,
        applies: Applies::Live,
        doc: "Further CGI variables of each question, such as SCRIPT_FILENAME for php-fpm.",
    },
    Setting {
        path: "validate.processes",
        default: DefaultValue::Absent("4"),
        applies: Applies::Restart,
        doc: "With backend \"fork\" or \"worker\": how many processes of the command, 1 to 1024. Default: 1\n\
              fork server; as many workers as there are cores, but 2 at least.",
    },
    Setting {
        path: "validate.recycle_requests",
        default: DefaultValue::Number(0),
        applies: Applies::Restart,
        doc: "Replace a process of fork or worker after so many requests, 0 to 1000000000; 0 is never. It\n\
              costs the start of the program.",
    },
    Setting {
        path: "validate.recycle_memory",
        default: DefaultValue::Absent("\"256MiB\""),
        applies: Applies::Restart,
        doc: "Replace a process of fork or worker that holds more resident memory after a request, 1MiB to\n\
              1024GiB. Default: never.",
    },
    Setting {
        path: "validate.recycle_age",
        default: DefaultValue::Absent("\"1h\""),
        applies: Applies::Restart,
        doc: "Replace a process of fork or worker at the first request after this time, 10ms to 365d.\n\
              Default: never.",
    },
    Setting {
        path: "validate.load_timeout",
        default: DefaultValue::Text("60s"),
        applies: Applies::Restart,
        doc: "As app.load_timeout, for the validation.",
    },
    Setting {
        path: "validate.probation",
        default: DefaultValue::Text("10s"),
        applies: Applies::Restart,
        doc: "As app.probation, for the validation.",
    },
    Setting {
        path: "validate.fork_exit",
        default: DefaultValue::Text("normal"),
        applies: Applies::Restart,
        doc: "How the children of a fork server end once they have answered: \"normal\", as programs of their\n\
              language do, or \"kill\", at once. For PHP the latter is several times faster, but destructors\n\
              do not run; functions registered for the shutdown do. Told to the command in WS_FORK_EXIT.",
    },
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
    Setting {
        path: "validate.env",
        default: DefaultValue::Table,
        applies: Applies::Restart,
        doc: "Further environment variables. The environment is built from empty, and nothing is expanded.",
    },
    Setting {
        path: "validate.user",
        default: DefaultValue::Absent("\"www-data\""),
        applies: Applies::Restart,
        doc: "User that it runs as: a name or a number. Needs root. Default: the user of the server.",
    },
    Setting {
        path: "validate.group",
        default: DefaultValue::Absent("\"www-data\""),
        applies: Applies::Restart,
        doc: "Group that it runs as, with a user only. Default: the primary group of that user.",
    },
    Setting {
        path: "validate.dir",
        default: DefaultValue::Absent("\"/srv/app\""),
        applies: Applies::Restart,
        doc: "As app.dir, for the validation.",
    },
    Setting {
        path: "validate.umask",
        default: DefaultValue::Absent("\"0027\""),
        applies: Applies::Restart,
        doc: "As app.umask, for the validation.",
    },
    Setting {
        path: "validate.nice",
        default: DefaultValue::Number(10),
        applies: Applies::Restart,
        doc: "As app.nice, for the validation.",
    },
    Setting {
        path: "validate.no_new_privs",
        default: DefaultValue::Flag(true),
        applies: Applies::Restart,
        doc: "As app.no_new_privs, for the validation.",
    },
    Setting {
        path: "validate.max_processes",
        default: DefaultValue::Absent("64"),
        applies: Applies::Restart,
        doc: "As app.max_processes, for the validation.",
    },
    Setting {
        path: "validate.max_memory",
        default: DefaultValue::Absent("\"512MiB\""),
        applies: Applies::Restart,
        doc: "As app.max_memory, for the validation.",
    },
    Setting {
        path: "validate.max_file_size",
        default: DefaultValue::Absent("\"100MiB\""),
        applies: Applies::Restart,
        doc: "As app.max_file_size, for the validation.",
    },
    Setting {
        path: "validate.max_open_files",
        default: DefaultValue::Absent("256"),
        applies: Applies::Restart,
        doc: "As app.max_open_files, for the validation.",
    },
    Setting {
        path: "validate.max_cpu_time",
        default: DefaultValue::Absent("\"10s\""),
        applies: Applies::Restart,
        doc: "As app.max_cpu_time, for the validation.",
    },
    Setting {
        path: "validate.cgroup",
        default: DefaultValue::Absent("\"own\""),
        applies: Applies::Restart,
        doc: "As app.cgroup, for the validation.",
    },
    Setting {
        path: "validate.landlock_read",
        default: DefaultValue::List(&[]),
        applies: Applies::Restart,
        doc: "As app.landlock_read, for the validation.",
    },
    Setting {
        path: "validate.landlock_execute",
        default: DefaultValue::List(&[]),
        applies: Applies::Restart,
        doc: "As app.landlock_execute, for the validation.",
    },
    Setting {
        path: "validate.landlock_write",
        default: DefaultValue::List(&[]),
        applies: Applies::Restart,
        doc: "As app.landlock_write, for the validation.",
    },
    Setting {
        path: "app.backend",
        default: DefaultValue::Absent("\"exec\""),
        applies: Applies::Restart,
        doc: "What answers messages: \"demo\" and \"echo\" (built in); \"exec\" (the command, once per message);\n\
              \"fork\" (the command once, it forks per message) and \"worker\" (the command several times, each\n\
              answers one message after another), which are asked in SCGI over a socket that is their\n\
              descriptor 0; \"scgi\" and \"fastcgi\" (a server at app.address); \"stream\" (the command, once\n\
              per connection). Default: \"exec\" if there is a command, else \"demo\".",
    },
    Setting {
        path: "app.command",
        default: DefaultValue::Absent("[\"/srv/app/answer\", \"--verbose\"]"),
        applies: Applies::Restart,
        doc: "The command: a list, or one string that is split like shell words (no shell runs). A relative\n\
              program with a slash in it is a path like any other; one without is looked up in PATH.",
    },
    Setting {
        path: "app.address",
        default: DefaultValue::Absent("\"unix:/run/php/php-fpm.sock\""),
        applies: Applies::Restart,
        doc: "With backend \"scgi\" or \"fastcgi\": where that server listens, unix:PATH or HOST:PORT.",
    },
    Setting {
        path: "app.params",
        default: DefaultValue::Table,
        applies: Applies::Live,
        doc: "Further CGI variables of each message, such as SCRIPT_FILENAME for php-fpm.",
    },
    Setting {
        path: "app.processes",
        default: DefaultValue::Absent("4"),
        applies: Applies::Restart,
        doc: "With backend \"fork\" or \"worker\": how many processes of the command, 1 to 1024. Default: 1\n\
              fork server; as many workers as there are cores, but 2 at least.",
    },
    Setting {
        path: "app.recycle_requests",
        default: DefaultValue::Number(0),
        applies: Applies::Restart,
        doc: "Replace a process of fork or worker after so many requests, 0 to 1000000000; 0 is never. It\n\
              costs the start of the program.",
    },
    Setting {
        path: "app.recycle_memory",
        default: DefaultValue::Absent("\"256MiB\""),
        applies: Applies::Restart,
        doc: "Replace a process of fork or worker that holds more resident memory after a request, 1MiB to\n\
              1024GiB. Default: never.",
    },
    Setting {
        path: "app.recycle_age",
        default: DefaultValue::Absent("\"1h\""),
        applies: Applies::Restart,
        doc: "Replace a process of fork or worker at the first request after this time, 10ms to 365d.\n\
              Default: never.",
    },
    Setting {
        path: "app.load_timeout",
        default: DefaultValue::Text("60s"),
        applies: Applies::Restart,
        doc: "How long a fresh process of fork or worker may take until it accepts a connection, 10ms to 1h. It\n\
              is waited for on SIGHUP, by app.watch and when one is recycled; the former ones serve so long,\n\
              and go on if it ends before or is late.",
    },
    Setting {
        path: "app.probation",
        default: DefaultValue::Text("10s"),
        applies: Applies::Restart,
        doc: "How long the processes of fork or worker that were replaced on SIGHUP or by app.watch are kept, 0s\n\
              to 1h. They are back at once if a fresh one ends that has answered nothing, if fresh ones end\n\
              again and again, or if the first three requests fail. It costs the memory of both; 0s keeps\n\
              nothing.",
    },
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
        path: "app.fork_exit",
        default: DefaultValue::Text("normal"),
        applies: Applies::Restart,
        doc: "How the children of a fork server end once they have answered: \"normal\", as programs of their\n\
              language do, or \"kill\", at once. For PHP the latter is several times faster, but destructors\n\
              do not run; functions registered for the shutdown do. Told to the command in WS_FORK_EXIT.",
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
    Setting {
        path: "app.env",
        default: DefaultValue::Table,
        applies: Applies::Restart,
        doc: "Further environment variables. The environment is built from empty, and nothing is expanded.",
    },
    Setting {
        path: "app.user",
        default: DefaultValue::Absent("\"www-data\""),
        applies: Applies::Restart,
        doc: "User that it runs as: a name or a number. Needs root. Default: the user of the server.",
    },
    Setting {
        path: "app.group",
        default: DefaultValue::Absent("\"www-data\""),
        applies: Applies::Restart,
        doc: "Group that it runs as, with a user only. Default: the primary group of that user.",
    },
    Setting {
        path: "app.dir",
        default: DefaultValue::Absent("\"/srv/app\""),
        applies: Applies::Restart,
        doc: "Working directory. Default: the server's.",
    },
    Setting {
        path: "app.umask",
        default: DefaultValue::Absent("\"0027\""),
        applies: Applies::Restart,
        doc: "Permissions, octal, that files do not get which it makes. Default: as the server.",
    },
    Setting {
        path: "app.nice",
        default: DefaultValue::Number(10),
        applies: Applies::Restart,
        doc: "How much it yields to the server and others when the CPU is short, 0 to 19; at least as much as\n\
              the server does itself. At 10 the server gets ten times the share of a callback, which leaves\n\
              it responsive beside many that compute; on an idle machine it changes nothing.",
    },
    Setting {
        path: "app.no_new_privs",
        default: DefaultValue::Flag(true),
        applies: Applies::Restart,
        doc: "Keep it and its descendants from gaining privileges: programs with a set-user-ID bit (sudo, ping)\n\
              run without it.",
    },
    Setting {
        path: "app.max_processes",
        default: DefaultValue::Absent("64"),
        applies: Applies::Restart,
        doc: "Processes and threads, 1 to 1000000. With cgroup: of one run. Without: those of its user in the\n\
              whole host, which may be more than one run; the system exempts root. Default: no limit of its own.",
    },
    Setting {
        path: "app.max_memory",
        default: DefaultValue::Absent("\"512MiB\""),
        applies: Applies::Restart,
        doc: "Memory, 1MiB to 1024GiB. With cgroup: what one run uses, all its processes together; beyond, it\n\
              is killed. Without: the address space of each process, of which some runtimes (Node, Java, Go)\n\
              reserve far more than they use. Default: no limit of its own.",
    },
    Setting {
        path: "app.max_file_size",
        default: DefaultValue::Absent("\"100MiB\""),
        applies: Applies::Restart,
        doc: "Size of a file that it writes, 0 to 1024GiB; a process that exceeds it is ended. Default: no limit.",
    },
    Setting {
        path: "app.max_open_files",
        default: DefaultValue::Absent("256"),
        applies: Applies::Restart,
        doc: "Descriptors of each process, 8 to 1000000. Default: as the server was started with.",
    },
    Setting {
        path: "app.max_cpu_time",
        default: DefaultValue::Absent("\"10s\""),
        applies: Applies::Restart,
        doc: "CPU time of each process, 1s to 1d, rounded up to seconds; then it is ended. Default: no limit.",
    },
    Setting {
        path: "app.cgroup",
        default: DefaultValue::Absent("\"own\""),
        applies: Applies::Restart,
        doc: "A control group (v2) for each run: nothing it starts can leave it, and all of it is killed at\n\
              once. \"own\": beneath the server's, as systemd delegates it (Delegate=memory pids); or a\n\
              directory that is the server's to use. A start costs some 150 us more. Default: none; then\n\
              the process group and whatever left it are killed one by one.",
    },
    Setting {
        path: "app.landlock_read",
        default: DefaultValue::List(&[]),
        applies: Applies::Restart,
        doc: "Files and directories that it may read, with all that is beneath (Landlock, Linux 5.13). With this\n\
              or one of the next two it reaches no others. Each path costs a start some 10 us.",
    },
    Setting {
        path: "app.landlock_execute",
        default: DefaultValue::List(&[]),
        applies: Applies::Restart,
        doc: "Those that it may read and execute: its program, interpreter and libraries (\"/usr\", \"/lib\").",
    },
    Setting {
        path: "app.landlock_write",
        default: DefaultValue::List(&[]),
        applies: Applies::Restart,
        doc: "Those that it may read, write, make and remove; /dev/null, if it uses that.",
    },
    Setting {
        path: "app.require_user",
        default: DefaultValue::Flag(false),
        applies: Applies::Restart,
        doc: "Refuse to start as root without app.user.",
    },
];
