//! Databases of a test's own, here and in the crates above.

#[cfg(feature = "otel")]
mod spans;

use std::ffi::OsStr;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};
use tempfile::TempDir;

#[cfg(feature = "otel")]
pub use self::spans::{ReceivedSpan, received_spans};

/// The longest that a database may take to start.
const PATIENCE: Duration = Duration::from_secs(120);
/// What gets in; tests look for it where it must not be.
pub const PASSWORD: &str = "canary-secret";
/// Neither MariaDB nor PostgreSQL runs as root.
const USER: &str = "nobody";

/// Which database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TestDatabase {
    /// MariaDB, which speaks as MySQL does.
    MariaDb,
    /// PostgreSQL.
    Postgres,
    /// Redis.
    Redis,
}

impl TestDatabase {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::MariaDb, Self::Postgres, Self::Redis];

    fn program(self) -> Option<PathBuf> {
        match self {
            Self::MariaDb => find("mariadbd"),
            Self::Postgres => find("postgres"),
            Self::Redis => find("redis-server"),
        }
    }
}

/// A database server that listens on a socket in a directory of its own, and ends with the thread
/// that started it at the latest.
#[derive(Debug)]
pub struct DatabaseServer {
    database: TestDatabase,
    program: PathBuf,
    dir: TempDir,
    process: Option<Child>,
}

impl DatabaseServer {
    /// Starts one; `None` where it is not installed, which is said aloud.
    ///
    /// # Panics
    ///
    /// If it does not start; if it is not installed and `CI=true`.
    #[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
    pub fn start(database: TestDatabase) -> Option<Self> {
        let Some(program) = database.program() else {
            let is_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
            assert!(!is_ci, "there is no {database:?}");
            eprintln!("skipped: there is no {database:?}");
            return None;
        };
        let dir = tempfile::tempdir().expect("a directory can be made");
        if let Some(user) = other_user() {
            let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
            chown(dir.path(), Some(uid), Some(gid)).expect("root may give it away");
        }
        let mut server = Self {
            database,
            program,
            dir,
            process: None,
        };
        server.prepare();
        server.launch();
        server.let_in();
        Some(server)
    }

    /// Where it is, with what gets in.
    pub fn url(&self) -> String {
        self.url_as("ws", PASSWORD, "ws")
    }

    /// Where it is, for another user or another database. Redis has neither here.
    pub fn url_as(&self, user: &str, password: &str, database: &str) -> String {
        let at = self.dir.path().display();
        match self.database {
            TestDatabase::MariaDb => {
                format!("mysql://{user}:{password}@localhost/{database}?socket={at}/socket")
            }
            TestDatabase::Postgres => {
                format!("postgres://{user}:{password}@localhost/{database}?host={at}")
            }
            TestDatabase::Redis => format!("redis+unix://{at}/socket?pass={password}"),
        }
    }

    /// The Unix socket that it listens at; PostgreSQL has its own name for it, in this directory.
    pub fn socket(&self) -> PathBuf {
        self.path("socket")
    }

    /// Runs statements, or for Redis one command, and returns what is printed.
    ///
    /// # Panics
    ///
    /// If they fail.
    pub fn execute(&self, statements: &str) -> String {
        let output = self.client(statements).output();
        let output = output.expect("the database's own client can be run");
        assert!(
            output.status.success(),
            "{statements}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Kills it.
    pub fn stop(&mut self) {
        let Some(mut process) = self.process.take() else {
            return;
        };
        // PostgreSQL's processes end with the first by this signal.
        let signal = match self.database {
            TestDatabase::Postgres => Signal::SIGQUIT,
            _ => Signal::SIGKILL,
        };
        let _ = kill(pid(&process), signal);
        let _ = process.wait();
    }

    /// Starts it again where it was, with what it had.
    pub fn restart(&mut self) {
        self.stop();
        self.launch();
    }

    /// Sends it a signal: SIGSTOP has it answer nobody.
    ///
    /// # Panics
    ///
    /// If it does not run.
    pub fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("it runs");
        kill(pid(process), signal).expect("it is ours");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes the files that it needs before it starts.
    fn prepare(&self) {
        let data = self.path("data");
        let mut command = match self.database {
            TestDatabase::Redis => return,
            TestDatabase::MariaDb => {
                let program = find("mariadb-install-db").expect("it comes with MariaDB");
                let mut command = self.confined(program);
                command.args(["--no-defaults", "--skip-test-db"]);
                command.arg("--auth-root-authentication-method=normal");
                command.arg(option("--datadir=", &data));
                command
            }
            TestDatabase::Postgres => {
                let password = self.path("password");
                std::fs::write(&password, PASSWORD).expect("the directory is ours");
                let program = self.program.with_file_name("initdb");
                let program = program.exists().then_some(program);
                let program = program.or_else(|| find("initdb"));
                let mut command = self.confined(program.expect("it comes with PostgreSQL"));
                command.args([
                    "-U",
                    "ws",
                    "--auth=scram-sha-256",
                    "--no-sync",
                    "-E",
                    "UTF8",
                ]);
                command
                    .arg(option("--pwfile=", &password))
                    .arg("-D")
                    .arg(data);
                command
            }
        };
        let output = command.output().expect("it can be run");
        assert!(
            output.status.success(),
            "{:?}: {}",
            self.database,
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn launch(&mut self) {
        let mut command = self.confined(self.program.clone());
        let (data, socket) = (self.path("data"), self.path("socket"));
        match self.database {
            TestDatabase::MariaDb => {
                command.args(["--no-defaults", "--skip-networking", "--skip-log-bin"]);
                command.args(["--innodb-buffer-pool-size=8M", "--innodb-log-file-size=4M"]);
                command.arg(option("--datadir=", &data));
                command.arg(option("--socket=", &socket));
                command.arg(option("--pid-file=", &self.path("pid")));
            }
            TestDatabase::Postgres => {
                command.arg("-D").arg(data).arg("-k").arg(self.dir.path());
                command.args(["-c", "listen_addresses=", "-c", "fsync=off"]);
            }
            TestDatabase::Redis => {
                command.args(["--port", "0", "--appendonly", "yes", "--save", ""]);
                command.args(["--requirepass", PASSWORD]);
                command.arg("--unixsocket").arg(socket);
                command.arg("--dir").arg(self.dir.path());
            }
        }
        command.stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Some(command.spawn().expect("it can be run"));
        let deadline = Instant::now() + PATIENCE;
        while !self.answers() {
            assert!(
                Instant::now() < deadline,
                "{:?} never answers",
                self.database
            );
            std::thread::yield_now();
        }
    }

    fn answers(&self) -> bool {
        let question = match self.database {
            TestDatabase::Redis => "PING",
            _ => "SELECT 1",
        };
        let mut client = self.client(question);
        client.stdout(Stdio::null()).stderr(Stdio::null());
        client.status().is_ok_and(|status| status.success())
    }

    /// Makes the user and the database.
    fn let_in(&self) {
        match self.database {
            TestDatabase::MariaDb => {
                self.execute(&format!(
                    "CREATE DATABASE ws; CREATE USER ws@localhost IDENTIFIED BY '{PASSWORD}'; \
                     GRANT ALL ON ws.* TO ws@localhost;"
                ));
            }
            TestDatabase::Postgres => {
                self.execute("CREATE DATABASE ws");
            }
            TestDatabase::Redis => {}
        }
    }

    /// The database's own client.
    fn client(&self, statements: &str) -> Command {
        let mut command;
        match self.database {
            TestDatabase::MariaDb => {
                command = Command::new("mariadb");
                command.args(["--no-defaults", "-N", "-u", "root"]);
                command.arg(option("--socket=", &self.path("socket")));
                command.args(["-e", statements]);
            }
            TestDatabase::Postgres => {
                // The user's own database if there is one yet.
                command = Command::new("psql");
                command
                    .env("PGPASSWORD", PASSWORD)
                    .arg("-h")
                    .arg(self.dir.path());
                command.args(["-X", "-A", "-t", "-U", "ws", "-d"]);
                let is_first =
                    statements.starts_with("CREATE DATABASE") || statements == "SELECT 1";
                command.arg(if is_first { "postgres" } else { "ws" });
                command.args(["-c", statements]);
            }
            TestDatabase::Redis => {
                command = Command::new("redis-cli");
                command.args(["--no-auth-warning", "-e", "-a", PASSWORD]);
                command.arg("-s").arg(self.path("socket"));
                command.args(statements.split(' '));
            }
        }
        command.stdin(Stdio::null());
        command
    }

    /// A program that is killed when we are, and that is not root.
    fn confined(&self, program: PathBuf) -> Command {
        let mut command = Command::new("setpriv");
        // MariaDBs that start at the same time take each other's temporary files for their own.
        command.env("TMPDIR", self.dir.path());
        command.args(["--pdeathsig", "KILL"]);
        if let Some(user) = other_user() {
            command
                .args(["--reuid", USER, "--regid"])
                .arg(user.gid.to_string());
            command.arg("--clear-groups");
        }
        command.arg("--").arg(program);
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }
}

impl Drop for DatabaseServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Whom it runs as instead of root.
fn other_user() -> Option<User> {
    let is_root = nix::unistd::geteuid().is_root();
    is_root.then(|| {
        let user = User::from_name(USER).ok().flatten();
        user.expect("every system has it")
    })
}

fn option(name: &str, path: &Path) -> std::ffi::OsString {
    let mut option = std::ffi::OsString::from(name);
    option.push(path);
    option
}

fn pid(process: &Child) -> Pid {
    Pid::from_raw(process.id().try_into().expect("process ids are positive"))
}

/// Finds a program: in the places of programs, and where Debian puts PostgreSQL's.
fn find(name: impl AsRef<OsStr>) -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> = ["/usr/sbin", "/usr/bin", "/usr/local/bin", "/usr/local/sbin"]
        .map(PathBuf::from)
        .to_vec();
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    folders.extend(versions.filter_map(|version| Some(version.ok()?.path().join("bin"))));
    let programs = folders.into_iter().map(|folder| folder.join(name.as_ref()));
    programs.rev().find(|program| program.exists())
}
