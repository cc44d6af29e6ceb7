//! The client against php-fpm, where it is installed.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::task::JoinSet;
use ws_ipc::cgi::parse_answer;
use ws_ipc::fastcgi::{FastCgi, FastCgiConfig};
use ws_ipc::{Address, Environment, Failure};

use crate::support::{children_of, eventually};

const LONG: Duration = Duration::from_secs(30);

/// Debian's has its version in its name, others do not.
fn program() -> Option<PathBuf> {
    let folders = ["/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin"];
    let files = folders.iter().filter_map(|it| std::fs::read_dir(it).ok());
    let paths = files.flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let is_php_fpm = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        let version = name.and_then(|name| name.strip_prefix("php-fpm"));
        version.is_some_and(|version| version.bytes().all(|byte| !byte.is_ascii_alphabetic()))
    };
    paths.filter(is_php_fpm).max()
}

/// A php-fpm of the test's own, which ends with it.
struct PhpFpm {
    program: PathBuf,
    process: Child,
    dir: TempDir,
}

impl PhpFpm {
    /// Starts it with so many processes and more settings of the pool; `None` where it is not
    /// installed.
    #[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
    async fn start(processes: usize, settings: &str) -> Option<Self> {
        let Some(program) = program() else {
            eprintln!("skipped: there is no php-fpm");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().display();
        let user = match nix::unistd::geteuid().is_root() {
            true => "user = root",
            false => "",
        };
        let configuration = format!(
            "[global]\n\
             error_log = {at}/log\n\
             daemonize = no\n\
             process_control_timeout = 20\n\
             [test]\n\
             {user}\n\
             listen = {at}/fpm.sock\n\
             pm = static\n\
             pm.max_children = {processes}\n\
             php_admin_flag[log_errors] = on\n\
             php_admin_flag[display_errors] = off\n\
             {settings}\n"
        );
        std::fs::write(dir.path().join("fpm.conf"), configuration).unwrap();
        let process = Self::launch(&program, &dir);
        let fpm = Self {
            program,
            process,
            dir,
        };
        fpm.listens().await;
        Some(fpm)
    }

    fn launch(program: &PathBuf, dir: &TempDir) -> Child {
        Command::new(program)
            .args(["-n", "-F", "-R", "-y"])
            .arg(dir.path().join("fpm.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    async fn listens(&self) {
        let path = self.dir.path().join("fpm.sock");
        eventually("php-fpm listens", || {
            std::os::unix::net::UnixStream::connect(&path).is_ok()
        })
        .await;
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id().try_into().unwrap())
    }

    fn workers(&self) -> Vec<i32> {
        children_of(self.pid().as_raw())
    }

    fn client(&self) -> FastCgi {
        self.client_with(FastCgiConfig::default())
    }

    fn client_with(&self, config: FastCgiConfig) -> FastCgi {
        FastCgi::new(Address::unix(self.dir.path().join("fpm.sock")), config)
    }

    /// Writes a script, to be named in requests.
    fn script(&self, code: &str) -> Script {
        let path = self.dir.path().join("script.php");
        std::fs::write(&path, format!("<?php {code}")).unwrap();
        Script { path }
    }

    /// What scripts wrote to a file beside them.
    fn written(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.path().join("written")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for PhpFpm {
    fn drop(&mut self) {
        // Its processes end with it, at once.
        let _ = kill(self.pid(), Signal::SIGTERM);
        let _ = self.process.wait();
    }
}

#[derive(Clone, Debug)]
struct Script {
    path: PathBuf,
}

/// An answer's status, its body and what went to the log.
type Answered = (u16, Vec<u8>, Vec<String>);

impl Script {
    async fn ask(&self, client: &FastCgi, uri: &str, payload: &[u8]) -> Result<Answered, Failure> {
        let mut env = Environment::new();
        env.set("REQUEST_METHOD", "POST").unwrap();
        env.set("REQUEST_URI", uri).unwrap();
        env.set("SCRIPT_FILENAME", self.path.to_str().unwrap())
            .unwrap();
        env.header("X-Word", "bird").unwrap();
        let payload = Bytes::copy_from_slice(payload);
        let mut stderr = Vec::new();
        let mut each = |line: &str| stderr.push(line.to_owned());
        let answer = client
            .call(&env, &payload, LONG, 4 << 20, &mut each)
            .await?;
        let answer = parse_answer(&answer).unwrap();
        Ok((answer.status(), answer.body().to_vec(), stderr))
    }

    async fn body(&self, client: &FastCgi, uri: &str) -> String {
        let (status, body, stderr) = self.ask(client, uri, b"payload").await.unwrap();
        assert_eq!((status, &stderr[..]), (200, &[][..]));
        String::from_utf8(body).unwrap()
    }
}

#[tokio::test]
async fn script_gets_variables_and_payload() {
    let Some(fpm) = PhpFpm::start(1, "").await else {
        return;
    };
    let script = fpm.script(
        "echo $_SERVER['REQUEST_URI'], ' ', $_SERVER['HTTP_X_WORD'], ' ',
            $_SERVER['CONTENT_LENGTH'], ' ', file_get_contents('php://input');",
    );
    assert_eq!(
        script.body(&fpm.client(), "/a?b=c").await,
        "/a?b=c bird 7 payload"
    );
}

#[tokio::test]
async fn megabyte_passes_both_ways() {
    let Some(fpm) = PhpFpm::start(1, "").await else {
        return;
    };
    let script = fpm.script("echo strrev(file_get_contents('php://input'));");
    let payload: Vec<u8> = (0..1_u32 << 20).map(|at| (at % 251) as u8).collect();
    let client = fpm.client();
    for _ in 0..3 {
        let (_, mut body, _) = script.ask(&client, "/", &payload).await.unwrap();
        body.reverse();
        assert!(body == payload);
    }
}

#[tokio::test]
async fn errors_go_to_the_log_line_by_line() {
    let Some(fpm) = PhpFpm::start(1, "").await else {
        return;
    };
    let script =
        fpm.script("error_log('first'); echo 'a'; error_log(\"second\\nthird\"); echo 'b';");
    let (status, body, stderr) = script.ask(&fpm.client(), "/", b"").await.unwrap();
    assert_eq!((status, &body[..]), (200, &b"ab"[..]));
    assert_eq!(stderr, ["PHP message: first; PHP message: second", "third"]);
}

#[tokio::test]
async fn script_that_fails_answers_500_and_says_why() {
    let Some(fpm) = PhpFpm::start(1, "").await else {
        return;
    };
    let client = fpm.client();
    let script = fpm.script("throw new Exception('no luck');");
    let (status, body, stderr) = script.ask(&client, "/", b"").await.unwrap();
    assert_eq!((status, &body[..]), (500, &b""[..]));
    assert!(
        stderr[0].contains("Uncaught Exception: no luck"),
        "{stderr:?}"
    );
    let script = Script {
        path: fpm.dir.path().join("none.php"),
    };
    let (status, _, stderr) = script.ask(&client, "/", b"").await.unwrap();
    assert_eq!(status, 404);
    assert_eq!(stderr, ["Primary script unknown"]);
}

#[tokio::test]
async fn process_that_dies_loses_its_request_alone() {
    let Some(fpm) = PhpFpm::start(1, "").await else {
        return;
    };
    let client = fpm.client();
    let script = fpm.script(
        "if ($_SERVER['REQUEST_URI'] == '/die') { exec('kill -9 ' . getmypid()); } echo 'alive';",
    );
    for _ in 0..3 {
        assert_eq!(script.ask(&client, "/die", b"").await, Err(Failure::Lost));
        assert_eq!(script.body(&client, "/").await, "alive");
    }
}

/// A script that tells which connection it was asked on, whether it reads the payload or not.
const CONNECTION: &str = "
    if ($_SERVER['REQUEST_URI'] == '/read') { file_get_contents('php://input'); }
    foreach (scandir('/proc/self/fd') as $fd) {
        $target = @readlink(\"/proc/self/fd/$fd\");
        if (str_starts_with($target, 'socket:')) { echo \"$fd $target\\n\"; }
    }";

#[tokio::test]
async fn connection_is_kept_whether_the_payload_is_read_or_not() {
    let Some(fpm) = PhpFpm::start(1, "").await else {
        return;
    };
    let long = FastCgiConfig {
        max_age: LONG,
        ..FastCgiConfig::default()
    };
    let client = fpm.client_with(long);
    let script = fpm.script(CONNECTION);
    let first = script.body(&client, "/read").await;
    for uri in ["/read", "/ignore"].repeat(10) {
        assert_eq!(script.body(&client, uri).await, first);
    }
    drop(client);
    assert_ne!(script.body(&fpm.client(), "/").await, first);
}

#[tokio::test]
async fn clients_share_one_process() {
    let Some(fpm) = PhpFpm::start(1, "").await else {
        return;
    };
    let script = fpm.script("echo getmypid();");
    let (one, two) = (fpm.client(), fpm.client());
    let pid = script.body(&one, "/").await;
    // Until the first's connection is too old, the process waits on it.
    assert_eq!(script.body(&two, "/").await, pid);
    assert_eq!(script.body(&one, "/").await, pid);
}

#[tokio::test]
async fn script_that_goes_on_behind_its_answer_holds_nobody_up() {
    let Some(fpm) = PhpFpm::start(2, "").await else {
        return;
    };
    let client = fpm.client();
    let script = fpm.script(
        "echo 'done';
        if ($_SERVER['REQUEST_URI'] == '/on') { fastcgi_finish_request(); sleep(10); }",
    );
    let begun = Instant::now();
    assert_eq!(script.body(&client, "/on").await, "done");
    assert_eq!(script.body(&client, "/").await, "done");
    assert!(begun.elapsed() < Duration::from_secs(5));
    fpm.signal(Signal::SIGKILL);
    fpm.workers().into_iter().for_each(crate::support::kill);
}

/// A script that takes note of each request before it answers.
const NOTE: &str = "
    $id = file_get_contents('php://input');
    file_put_contents(__DIR__ . '/written', \"$id\\n\", FILE_APPEND | LOCK_EX);
    echo $id;";

/// The number of a request, and what came of it.
type Outcome = (usize, Result<(), Failure>);

/// Asks `count` requests with their numbers as payload, `concurrency` at once, until that many are
/// done or `enough` says so; returns what came of each.
async fn load(
    script: &Script,
    client: &FastCgi,
    concurrency: usize,
    count: usize,
    enough: &Arc<AtomicBool>,
) -> Vec<Outcome> {
    let mut tasks = JoinSet::new();
    for first in 0..concurrency {
        let (script, client, enough) = (script.clone(), client.clone(), Arc::clone(enough));
        tasks.spawn(async move {
            let mut outcomes = Vec::new();
            for number in (first..count).step_by(concurrency) {
                if enough.load(Ordering::Relaxed) {
                    break;
                }
                let payload = number.to_string();
                let outcome = script.ask(&client, "/", payload.as_bytes()).await;
                outcomes.push((
                    number,
                    outcome.map(|(status, body, _)| {
                        assert_eq!((status, body), (200, payload.into_bytes()));
                    }),
                ));
            }
            outcomes
        });
    }
    tasks.join_all().await.concat()
}

/// Each request ran at most once, and exactly once if it was answered.
fn check(fpm: &PhpFpm, outcomes: &[Outcome]) -> Vec<Failure> {
    let mut runs = HashMap::new();
    for number in fpm.written() {
        *runs.entry(number.parse::<usize>().unwrap()).or_insert(0) += 1;
    }
    let mut failures = Vec::new();
    for (number, outcome) in outcomes {
        let runs = runs.get(number).copied().unwrap_or(0);
        match outcome {
            Ok(()) => assert_eq!(runs, 1, "request {number}"),
            Err(failure) => {
                assert!(runs <= 1, "request {number} ran {runs} times");
                failures.push(failure.clone());
            }
        }
    }
    failures
}

#[tokio::test]
async fn inv_18_processes_that_are_replaced_lose_nothing() {
    let Some(fpm) = PhpFpm::start(3, "pm.max_requests = 7").await else {
        return;
    };
    let script = fpm.script(NOTE);
    let forever = Arc::default();
    let outcomes = load(&script, &fpm.client(), 6, 1500, &forever).await;
    assert_eq!(outcomes.len(), 1500);
    assert_eq!(check(&fpm, &outcomes), []);
}

#[tokio::test]
async fn full_pool_serves_one_after_another() {
    let Some(fpm) = PhpFpm::start(1, "").await else {
        return;
    };
    let script = fpm.script(NOTE);
    let forever = Arc::default();
    let outcomes = load(&script, &fpm.client(), 32, 320, &forever).await;
    assert_eq!(outcomes.len(), 320);
    assert_eq!(check(&fpm, &outcomes), []);
}

#[tokio::test]
async fn inv_18_reload_loses_nothing() {
    let Some(fpm) = PhpFpm::start(3, "").await else {
        return;
    };
    let script = fpm.script(NOTE);
    let client = fpm.client();
    let enough = Arc::new(AtomicBool::new(false));
    let reload = async {
        for _ in 0..3 {
            let answered = fpm.written().len();
            let before = fpm.workers();
            eventually("under load", || fpm.written().len() > answered + 50).await;
            fpm.signal(Signal::SIGUSR2);
            eventually("new processes", || {
                let now = fpm.workers();
                now.len() == 3 && !now.iter().any(|pid| before.contains(pid))
            })
            .await;
        }
        enough.store(true, Ordering::Relaxed);
    };
    let (outcomes, ()) = tokio::join!(load(&script, &client, 4, 1_000_000, &enough), reload);
    assert_eq!(check(&fpm, &outcomes), []);
}

#[tokio::test]
async fn inv_18_restart_answers_or_fails_each_request_once() {
    let Some(mut fpm) = PhpFpm::start(3, "").await else {
        return;
    };
    let script = fpm.script(NOTE);
    let client = fpm.client();
    let enough = Arc::new(AtomicBool::new(false));
    let loading = {
        let (script, enough) = (script.clone(), Arc::clone(&enough));
        let client = client.clone();
        tokio::spawn(async move { load(&script, &client, 4, 1_000_000, &enough).await })
    };
    for _ in 0..3 {
        let answered = fpm.written().len();
        eventually("under load", || fpm.written().len() > answered + 50).await;
        fpm.signal(Signal::SIGTERM);
        eventually("the end", || fpm.process.try_wait().unwrap().is_some()).await;
        fpm.process = PhpFpm::launch(&fpm.program, &fpm.dir);
        fpm.listens().await;
    }
    enough.store(true, Ordering::Relaxed);
    let failures = check(&fpm, &loading.await.unwrap());
    // What a process held when it was killed, and what waited in the queue of its socket.
    for failure in &failures {
        assert_eq!(*failure, Failure::Lost);
    }
    assert!(failures.len() <= 3 * 2 * 4, "{failures:?}");
    assert_eq!(script.body(&client, "/").await, "payload");
}
