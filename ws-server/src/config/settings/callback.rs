//! How a callback is run: the settings that `[validate]` and `[app]` have alike.

use super::{Applies, DefaultValue, Setting};

/// What is run or asked, and how long a process of it is kept. The command is an example.
macro_rules! command {
    ($section:literal, $command:literal) => {
        &[
            Setting {
                path: concat!($section, ".command"),
                default: DefaultValue::Absent($command),
                applies: Applies::Restart,
                doc: "The command: a list, or one string that is split like shell words (no shell runs). A relative\n\
                      program with a slash in it is a path like any other; one without is looked up in PATH.",
            },
            Setting {
                path: concat!($section, ".address"),
                default: DefaultValue::Absent("\"unix:/run/php/php-fpm.sock\""),
                applies: Applies::Restart,
                doc: "With backend \"scgi\" or \"fastcgi\": where that server listens, unix:PATH or HOST:PORT.",
            },
            Setting {
                path: concat!($section, ".params"),
                default: DefaultValue::Table,
                applies: Applies::Live,
                doc: "Further CGI variables of each request, such as SCRIPT_FILENAME for php-fpm.",
            },
            Setting {
                path: concat!($section, ".processes"),
                default: DefaultValue::Absent("4"),
                applies: Applies::Restart,
                doc: "With backend \"fork\" or \"worker\": how many processes of the command, 1 to 1024. Default: 1\n\
                      fork server; as many workers as there are cores, but 2 at least.",
            },
            Setting {
                path: concat!($section, ".recycle_requests"),
                default: DefaultValue::Number(0),
                applies: Applies::Restart,
                doc: "Replace a process of fork or worker after so many requests, 0 to 1000000000; 0 is never. It\n\
                      costs the start of the program.",
            },
            Setting {
                path: concat!($section, ".recycle_memory"),
                default: DefaultValue::Absent("\"256MiB\""),
                applies: Applies::Restart,
                doc: "Replace a process of fork or worker that holds more resident memory after a request, 1MiB to\n\
                      1024GiB. Default: never.",
            },
            Setting {
                path: concat!($section, ".recycle_age"),
                default: DefaultValue::Absent("\"1h\""),
                applies: Applies::Restart,
                doc: "Replace a process of fork or worker at the first request after this time, 10ms to 365d.\n\
                      Default: never.",
            },
            Setting {
                path: concat!($section, ".load_timeout"),
                default: DefaultValue::Text("60s"),
                applies: Applies::Restart,
                doc: "How long a fresh process of fork or worker may take until it accepts a connection, 10ms to 1h. It\n\
                      is waited for on SIGHUP, by app.watch and when one is recycled; the former ones serve so long,\n\
                      and go on if it ends before or is late.",
            },
            Setting {
                path: concat!($section, ".probation"),
                default: DefaultValue::Text("10s"),
                applies: Applies::Restart,
                doc: "How long the processes of fork or worker that were replaced on SIGHUP or by app.watch are kept, 0s\n\
                      to 1h. They are back at once if a fresh one ends that has answered nothing, if fresh ones end\n\
                      again and again, or if the first three requests fail. It costs the memory of both; 0s keeps\n\
                      nothing.",
            },
            Setting {
                path: concat!($section, ".fork_exit"),
                default: DefaultValue::Text("normal"),
                applies: Applies::Restart,
                doc: "How the children of a fork server end once they have answered: \"normal\", as programs of their\n\
                      language do, or \"kill\", at once. For PHP the latter is several times faster, but destructors\n\
                      do not run; functions registered for the shutdown do. Told to the command in WS_FORK_EXIT.",
            },
        ]
    };
}

/// What it runs as, and what it may do to the host.
macro_rules! confinement {
    ($section:literal) => {
        &[
            Setting {
                path: concat!($section, ".env"),
                default: DefaultValue::Table,
                applies: Applies::Restart,
                doc: "Further environment variables. The environment is built from empty, and nothing is expanded.",
            },
            Setting {
                path: concat!($section, ".user"),
                default: DefaultValue::Absent("\"www-data\""),
                applies: Applies::Restart,
                doc: "User that it runs as: a name or a number. Needs root. Default: the user of the server.",
            },
            Setting {
                path: concat!($section, ".group"),
                default: DefaultValue::Absent("\"www-data\""),
                applies: Applies::Restart,
                doc: "Group that it runs as, with a user only. Default: the primary group of that user.",
            },
            Setting {
                path: concat!($section, ".dir"),
                default: DefaultValue::Absent("\"/srv/app\""),
                applies: Applies::Restart,
                doc: "Working directory. Default: the server's.",
            },
            Setting {
                path: concat!($section, ".umask"),
                default: DefaultValue::Absent("\"0027\""),
                applies: Applies::Restart,
                doc: "Permissions, octal, that files do not get which it makes. Default: as the server.",
            },
            Setting {
                path: concat!($section, ".nice"),
                default: DefaultValue::Number(10),
                applies: Applies::Restart,
                doc: "How much it yields to the server and others when the CPU is short, 0 to 19; at least as much as\n\
                      the server does itself. At 10 the server gets ten times the share of a callback, which leaves\n\
                      it responsive beside many that compute; on an idle machine it changes nothing.",
            },
            Setting {
                path: concat!($section, ".no_new_privs"),
                default: DefaultValue::Flag(true),
                applies: Applies::Restart,
                doc: "Keep it and its descendants from gaining privileges: programs with a set-user-ID bit (sudo, ping)\n\
                      run without it.",
            },
            Setting {
                path: concat!($section, ".max_processes"),
                default: DefaultValue::Absent("64"),
                applies: Applies::Restart,
                doc: "Processes and threads, 1 to 1000000. With cgroup: of one run. Without: those of its user in the\n\
                      whole host, which may be more than one run; the system exempts root. Default: no limit of its own.",
            },
            Setting {
                path: concat!($section, ".max_memory"),
                default: DefaultValue::Absent("\"512MiB\""),
                applies: Applies::Restart,
                doc: "Memory, 1MiB to 1024GiB. With cgroup: what one run uses, all its processes together; beyond, it\n\
                      is killed. Without: the address space of each process, of which some runtimes (Node, Java, Go)\n\
                      reserve far more than they use. Default: no limit of its own.",
            },
            Setting {
                path: concat!($section, ".max_file_size"),
                default: DefaultValue::Absent("\"100MiB\""),
                applies: Applies::Restart,
                doc: "Size of a file that it writes, 0 to 1024GiB; a process that exceeds it is ended. Default: no limit.",
            },
            Setting {
                path: concat!($section, ".max_open_files"),
                default: DefaultValue::Absent("256"),
                applies: Applies::Restart,
                doc: "Descriptors of each process, 8 to 1000000. Default: as the server was started with.",
            },
            Setting {
                path: concat!($section, ".max_cpu_time"),
                default: DefaultValue::Absent("\"10s\""),
                applies: Applies::Restart,
                doc: "CPU time of each process, 1s to 1d, rounded up to seconds; then it is ended. Default: no limit.",
            },
            Setting {
                path: concat!($section, ".cgroup"),
                default: DefaultValue::Absent("\"own\""),
                applies: Applies::Restart,
                doc: "A control group (v2) for each run: nothing it starts can leave it, and all of it is killed at\n\
                      once. \"own\": beneath the server's, as systemd delegates it (Delegate=memory pids); or a\n\
                      directory that is the server's to use. A start costs some 150 us more. Default: none; then\n\
                      the process group and whatever left it are killed one by one.",
            },
            Setting {
                path: concat!($section, ".landlock_read"),
                default: DefaultValue::List(&[]),
                applies: Applies::Restart,
                doc: "Files and directories that it may read, with all that is beneath (Landlock, Linux 5.13). With this\n\
                      or one of the next two it reaches no others. Each path costs a start some 10 us.",
            },
            Setting {
                path: concat!($section, ".landlock_execute"),
                default: DefaultValue::List(&[]),
                applies: Applies::Restart,
                doc: "Those that it may read and execute: its program, interpreter and libraries (\"/usr\", \"/lib\").",
            },
            Setting {
                path: concat!($section, ".landlock_write"),
                default: DefaultValue::List(&[]),
                applies: Applies::Restart,
                doc: "Those that it may read, write, make and remove; /dev/null, if it uses that.",
            },
        ]
    };
}

/// One section's; settings of its own stand between the two.
pub(super) struct Callback {
    pub(super) command: &'static [Setting],
    pub(super) confinement: &'static [Setting],
}

macro_rules! callback {
    ($section:literal, $command:literal) => {
        Callback {
            command: command!($section, $command),
            confinement: confinement!($section),
        }
    };
}

pub(super) const VALIDATE: Callback =
    callback!("validate", "[\"/srv/app/validate\", \"--strict\"]");
pub(super) const APP: Callback = callback!("app", "[\"/srv/app/answer\", \"--verbose\"]");
