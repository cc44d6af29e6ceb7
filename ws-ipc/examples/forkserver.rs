//! A fork server whose closure answers a few URIs, each message in a process of its own.
//!
//! It expects a listening Unix socket as descriptor 0, on which it is asked in SCGI. The server
//! starts such a program as a `Service`; by hand, `systemd-socket-activate --inetd` or any FastCGI
//! launcher does.

use ws_ipc::forkserver::{self, Answer, Request};

fn main() -> std::io::Result<()> {
    forkserver::run(answer)
}

fn answer(request: &Request) -> Answer {
    let uri = request.variable("REQUEST_URI").unwrap_or("/");
    match uri {
        "/pid" => Answer::text(std::process::id().to_string()),
        "/parent" => Answer::text(std::os::unix::process::parent_id().to_string()),
        "/status" => Answer::text(std::fs::read_to_string("/proc/self/status").unwrap_or_default()),
        "/descriptors" => Answer::text(descriptors()),
        "/body" => Answer::binary(request.body()),
        // What a closure may do wrong; each costs this one answer.
        "/panic" => panic!("as asked"),
        "/exit" => std::process::exit(3),
        "/hang" => loop {
            std::thread::park();
        },
        "/leave-behind" => leave_behind(request.variable("COMMAND").unwrap_or("sleep 600")),
        _ => Answer::failure(404),
    }
}

/// The numbers of the open descriptors, and what they are.
fn descriptors() -> String {
    // The directory is closed again before the links are read, so it names one that is gone.
    let names: Vec<_> = std::fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    let links = names.iter().filter_map(|name| {
        let target = std::fs::read_link(name).ok()?;
        Some(format!(
            "{} {}\n",
            name.file_name()?.display(),
            target.display()
        ))
    });
    links.collect()
}

/// Starts a process in a session of its own, as a daemon does.
fn leave_behind(command: &str) -> Answer {
    let status = std::process::Command::new("/bin/sh")
        .args(["-c", "setsid sh -c \"$0\" & exit 0", command])
        .status();
    Answer::text(format!("{status:?}"))
}
