//! Runs the application once, to ask it what it configures.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;
use ws_server::config::CarbonPhpConfig;
use ws_server::{DEFAULT_PATH, shims};

use super::report::Report;
use crate::failure::{Code, Failure};
use crate::output::printable;

/// How long an application may take to come to its command.
const DEADLINE: Duration = Duration::from_secs(30);
/// How often to look whether it has ended.
const INTERVAL: Duration = Duration::from_millis(5);
/// How much is shown of what an application said before it ended.
const LAST_LINES: usize = 12;
const LAST_BYTES: u64 = 8192;
/// No report is as large.
const MAX_REPORT_SIZE: u64 = 1 << 20;

/// Runs the application as the server will, but so that it writes a report and ends.
pub(crate) fn describe(application: &CarbonPhpConfig) -> Result<Report, Failure> {
    check_index(&application.index)?;
    let place = Place::new(application).context("cannot make a directory for the report")?;
    let command = application.command(&place.file("bridge.php"));
    let mut run = prepared(application, &command);
    run.env("WS_CARBONPHP_REPORT", place.file("report.json"));
    let (status, said) = place.run(run, &command[0])?;
    if let Some(report) = place.report()? {
        return report.map_err(|error| {
            let index = application.index.display();
            let text = format!("{index}: the report of the application cannot be read: {error}");
            Failure::new(Code::Failed, text)
        });
    }
    Err(match unusable_php(application, &place)? {
        Some(reason) => Failure::new(Code::Configuration, reason),
        None => silent(application, status, &said),
    })
}

fn check_index(index: &Path) -> Result<(), Failure> {
    let problem = match fs::metadata(index) {
        Ok(metadata) if metadata.is_file() => return Ok(()),
        Ok(_) => "is no file".to_owned(),
        Err(error) => error.to_string(),
    };
    let text = format!(
        "carbonphp.index: {}: {problem}; name the index.php of the application",
        index.display()
    );
    Err(Failure::new(Code::Configuration, text))
}

/// A program of the application's, as whom and where it runs; what it says goes to a file.
fn prepared(application: &CarbonPhpConfig, command: &[String]) -> Command {
    let mut run = Command::new(&command[0]);
    run.args(&command[1..])
        .current_dir(application.directory())
        .env_clear()
        .env("PATH", DEFAULT_PATH)
        .envs(&application.env)
        .stdin(Stdio::null())
        .process_group(0);
    if let Some((uid, gid)) = account(application) {
        run.gid(gid).uid(uid);
    }
    run
}

/// User and group to ask it as; `None` is whoever asks. Where nobody says whom it runs as, root asks
/// it as the owner of its code: who may write that would become root otherwise.
fn account(application: &CarbonPhpConfig) -> Option<(u32, u32)> {
    if let Some(account) = application.account {
        return Some((account.uid(), account.gid()));
    }
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let code = fs::metadata(&application.index).ok()?;
    (code.uid() != 0).then(|| (code.uid(), code.gid()))
}

/// Why the PHP cannot run the bridge, if it cannot. In words that each PHP understands.
fn unusable_php(application: &CarbonPhpConfig, place: &Place) -> Result<Option<String>, Failure> {
    const PROBE: &str = "$missing = array(); \
        foreach (array('pcntl_fork' => 'pcntl', 'posix_kill' => 'posix', \
                       'socket_import_stream' => 'sockets') as $function => $extension) { \
            if (!function_exists($function)) { $missing[] = $extension; } \
        } \
        echo \"\\n\", PHP_VERSION_ID, ' ', PHP_VERSION, ' ', implode(', ', $missing);";
    let mut command = application.php.clone();
    command.extend(["-r".to_owned(), PROBE.to_owned()]);
    let (_, said) = place.run(prepared(application, &command), &command[0])?;
    let mut words = said.lines().last().unwrap_or_default().splitn(3, ' ');
    let (Some(Ok(id)), Some(version)) = (words.next().map(str::parse::<u32>), words.next()) else {
        let program = &command[0];
        return Ok(Some(format!(
            "carbonphp.php: {program} is no PHP for the command line"
        )));
    };
    let missing = words.next().unwrap_or_default();
    Ok(match (id < 80_200, missing) {
        (true, _) => Some(format!(
            "carbonphp.php: PHP {version} is too old; 8.2 or later is needed"
        )),
        (false, "") => None,
        (false, missing) => Some(format!(
            "carbonphp.php: PHP {version} lacks {missing}: install or enable what provides it"
        )),
    })
}

/// An application that ended, or did not, without a report.
fn silent(application: &CarbonPhpConfig, status: Option<ExitStatus>, said: &str) -> Failure {
    let how = match status {
        None => format!(
            "did not come to its command websocket within {} s",
            DEADLINE.as_secs()
        ),
        Some(status) if status.success() => {
            "ended without running its command websocket, as `php index.php websocket` does"
                .to_owned()
        }
        Some(status) => format!("ended before it came to its command websocket ({status})"),
    };
    let said = last_lines(said);
    let said = match said.is_empty() {
        true => String::new(),
        false => format!("; it said last:\n{said}"),
    };
    Failure::new(
        Code::Failed,
        format!(
            "{}: the application {how}{said}",
            application.index.display()
        ),
    )
}

/// The end of what an application said, without its colours.
fn last_lines(said: &str) -> String {
    let lines: Vec<&str> = said
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .collect();
    let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
    let shown = last
        .iter()
        .map(|line| format!("  {}", printable(&without_colours(line))));
    shown.collect::<Vec<_>>().join("\n")
}

/// Removes the sequences that set a terminal's colours (ECMA-48, SGR).
fn without_colours(line: &str) -> String {
    let mut pieces = line.split("\u{1b}[");
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let rest = piece.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
        text.push_str(rest.strip_prefix('m').unwrap_or(rest));
    }
    text
}

/// A directory of the application's user with the bridge, where the report comes.
struct Place(TempDir);

impl Place {
    fn new(application: &CarbonPhpConfig) -> io::Result<Self> {
        let place = Self(tempfile::Builder::new().prefix("ws-carbonphp-").tempdir()?);
        let bridge = place.file("bridge.php");
        fs::write(&bridge, shims::carbonphp_bridge())?;
        if let Some((uid, gid)) = account(application) {
            for path in [&bridge, place.0.path()] {
                std::os::unix::fs::chown(path, Some(uid), Some(gid))?;
            }
        }
        Ok(place)
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    /// Runs a program, and returns how it ended, unless it was killed for being late, and the end of
    /// what it said.
    fn run(
        &self,
        mut command: Command,
        program: &str,
    ) -> Result<(Option<ExitStatus>, String), Failure> {
        let mut said = tempfile::tempfile_in(self.0.path()).context("cannot make a file")?;
        let (stdout, stderr) = (said.try_clone(), said.try_clone());
        command
            .stdout(stdout.context("cannot make a file")?)
            .stderr(stderr.context("cannot make a file")?);
        let child = command
            .spawn()
            .map_err(|error| cannot_run(program, error))?;
        let status = wait(child).with_context(|| format!("cannot wait for {program}"))?;
        let said = end_of(&mut said).context("cannot read what the application said")?;
        Ok((status, said))
    }

    /// Reads the report, if there is one.
    fn report(&self) -> Result<Option<serde_json::Result<Report>>, Failure> {
        // The application's user may put anything there.
        let opened = File::options()
            .read(true)
            .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
            .open(self.file("report.json"));
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.context("cannot read the report of the application")?,
        };
        let mut text = Vec::new();
        file.take(MAX_REPORT_SIZE)
            .read_to_end(&mut text)
            .context("cannot read the report of the application")?;
        Ok((!text.is_empty()).then(|| serde_json::from_slice(&text)))
    }
}

fn cannot_run(program: &str, error: io::Error) -> Failure {
    let code = match error.kind() {
        io::ErrorKind::NotFound => {
            let text = format!(
                "carbonphp.php: there is no program {program}; install PHP for the command line \
                 (8.2 or later), or name it"
            );
            return Failure::new(Code::Configuration, text);
        }
        io::ErrorKind::PermissionDenied => Code::NotPermitted,
        _ => Code::Failed,
    };
    let error = anyhow::Error::new(error).context(format!("cannot run {program}"));
    Failure::with_code(code, error)
}

/// Waits for the end of a process that leads its group; kills all of it at the deadline. Nothing
/// else goes on yet, so it is looked at now and then.
fn wait(mut child: Child) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            if let Ok(group) = i32::try_from(child.id()) {
                let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
            }
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(INTERVAL);
    }
}

fn end_of(file: &mut File) -> io::Result<String> {
    let size = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(size.saturating_sub(LAST_BYTES)))?;
    let mut end = Vec::new();
    file.take(LAST_BYTES).read_to_end(&mut end)?;
    Ok(String::from_utf8_lossy(&end).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_shown_without_colours_and_obey_nobody() {
        let said = format!(
            "first\n{}\n\u{1b}[1;31mFatal\u{1b}[0m \u{1b}[2J\n\n",
            "x\n".repeat(20)
        );
        let shown = last_lines(&said);
        assert_eq!(shown.lines().count(), LAST_LINES);
        assert!(shown.ends_with("  x\n  Fatal J"), "{shown}");
        assert_eq!(last_lines("\n\n"), "");
    }
}
