//! Programs that make a script a fork server or a worker, one for each language.
//!
//! Each is a single file without dependencies, `shims/` in the source, which tells at its beginning
//! what it is and how an application looks. Started with a listening Unix socket as descriptor 0,
//! as a [`Service`](crate::Service) does, it loads the application that its argument names, once,
//! and then speaks SCGI.
//!
//! ```
//! use ws_ipc::shims;
//!
//! let shim = shims::by_name("fork.php").expect("it is shipped");
//! assert_eq!(shim.interpreter(), "php");
//! assert!(shim.source().starts_with("<?php\n"));
//!
//! // An application is run by the shim that knows its kind of file.
//! assert_eq!(shims::for_application("chat.php".as_ref()), Some(shim));
//! assert_eq!(shims::for_application("chat.exe".as_ref()), None);
//! ```

use std::path::Path;

/// A shim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shim {
    name: &'static str,
    interpreter: &'static str,
    extensions: &'static [&'static str],
    forks: bool,
    fork_environment: &'static [(&'static str, &'static str)],
    source: &'static str,
}

impl Shim {
    /// The name of its file: `fork.php`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The program that runs it, as it is found on the `PATH`.
    #[must_use]
    pub const fn interpreter(&self) -> &'static str {
        self.interpreter
    }

    /// Whether it forks for each request; one that does not is a worker only.
    ///
    /// Those that fork are workers, too, with `--worker` before the application.
    #[must_use]
    pub const fn forks(&self) -> bool {
        self.forks
    }

    /// Variables of the environment with which its interpreter forks more cheaply.
    ///
    /// They put its memory on pages of 2 MiB, where the kernel leaves that to programs
    /// (`/sys/kernel/mm/transparent_hugepage/enabled` says `madvise`). A large application is forked
    /// in a fraction of the time then: it is pages that cost.
    #[must_use]
    pub const fn fork_environment(&self) -> &'static [(&'static str, &'static str)] {
        self.fork_environment
    }

    /// The text of its file.
    #[must_use]
    pub const fn source(&self) -> &'static str {
        self.source
    }
}

/// glibc 2.35 and later then asks for large pages for what `malloc` gives away.
const HUGE_PAGES: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");

/// For PHP 8.2 and later, with pcntl, posix and sockets.
pub const PHP: Shim = Shim {
    name: "fork.php",
    interpreter: "php",
    extensions: &["php"],
    forks: true,
    fork_environment: &[("USE_ZEND_ALLOC_HUGE_PAGES", "1")],
    source: include_str!("../shims/fork.php"),
};

/// For Python 3.9 and later.
pub const PYTHON: Shim = Shim {
    name: "fork.py",
    interpreter: "python3",
    extensions: &["py"],
    forks: true,
    fork_environment: &[HUGE_PAGES, ("PYTHONMALLOC", "malloc")],
    source: include_str!("../shims/fork.py"),
};

/// For Ruby 3.0 and later.
pub const RUBY: Shim = Shim {
    name: "fork.rb",
    interpreter: "ruby",
    extensions: &["rb"],
    forks: true,
    // It asks the kernel for small pages itself.
    fork_environment: &[],
    source: include_str!("../shims/fork.rb"),
};

/// For Perl 5.14 and later.
pub const PERL: Shim = Shim {
    name: "fork.pl",
    interpreter: "perl",
    extensions: &["pl", "pm"],
    forks: true,
    fork_environment: &[HUGE_PAGES],
    source: include_str!("../shims/fork.pl"),
};

/// For Node 18 and later, which cannot fork.
pub const NODE: Shim = Shim {
    name: "worker.js",
    interpreter: "node",
    extensions: &["js", "cjs", "mjs"],
    forks: false,
    fork_environment: &[],
    source: include_str!("../shims/worker.js"),
};

/// Settings of PHP (`-d NAME=VALUE`) with which a message takes a third less CPU time.
///
/// Its children share what one of them has compiled, and PHP's code is on pages of 2 MiB where the
/// kernel leaves that to programs. Without opcache they mean nothing to PHP.
pub const CARBONPHP_SETTINGS: &[(&str, &str)] = &[
    ("opcache.enable_cli", "1"),
    ("opcache.huge_code_pages", "1"),
];

/// The source of the bridge for CarbonPHP, without what it has in common with [`PHP`].
const CARBONPHP: &str = include_str!("../shims/carbonphp.php");

/// How that asks for what they have in common.
const REQUIRES_PHP: &str = "namespace ws;\n\nrequire __DIR__ . '/fork.php';\n";

/// Where what makes a program of [`PHP`] begins; all before is for both.
const PHP_PROGRAM: &str = "\nif (get_included_files()[0] === __FILE__) {\n";

/// Returns the bridge for CarbonPHP, one file, which runs an application of it unedited.
///
/// It is named to PHP by `auto_prepend_file`, and tells at its beginning what an application finds
/// in it: `php -d auto_prepend_file=bridge.php index.php websocket`, with a listening Unix socket
/// as descriptor 0, and best with [`CARBONPHP_SETTINGS`]. It forks for each message and takes the
/// environment of [`PHP`].
///
/// ```
/// let bridge = ws_ipc::shims::carbonphp_bridge();
/// assert!(bridge.starts_with("<?php\n"));
/// assert!(bridge.contains("namespace CarbonPHP\\Programs;"));
/// ```
#[must_use]
pub fn carbonphp_bridge() -> String {
    let (library, _) = PHP
        .source
        .split_once(PHP_PROGRAM)
        .expect("fork.php ends with its program");
    let start = library
        .find("namespace ws;\n")
        .expect("fork.php has a namespace");
    let (before, after) = CARBONPHP
        .split_once(REQUIRES_PHP)
        .expect("the bridge requires fork.php");
    [before, &library[start..], after].concat()
}

/// All of them.
pub const ALL: &[Shim] = &[PHP, PYTHON, RUBY, PERL, NODE];

/// Returns the shim whose file has this name.
#[must_use]
pub fn by_name(name: &str) -> Option<Shim> {
    ALL.iter().find(|shim| shim.name == name).copied()
}

/// Returns the shim for an application, by the extension of its file.
#[must_use]
pub fn for_application(file: &Path) -> Option<Shim> {
    let extension = file.extension()?.to_str()?;
    ALL.iter()
        .find(|shim| shim.extensions.contains(&extension))
        .copied()
}
