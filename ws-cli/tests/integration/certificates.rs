//! Certificates: when they are read, which one is shown, and whom the clients' make known.

use nix::sys::signal::Signal;

use crate::secure::{Authority, say, shown};
use crate::support::{Server, Setup};

fn reloads(server: &Server) -> (u64, u64) {
    (
        server.figure("certificates.reloads"),
        server.figure("certificates.reloads_failed"),
    )
}

#[tokio::test]
async fn hup_reads_certificates_again_and_touches_no_connection() {
    let authority = Authority::new();
    let setup = authority.server().set("server.tls.reload_interval", "off");
    let server = setup.arg("--echo").start();
    let (mut before, _) = authority.caller().connect(&server).await;
    let new = authority.issue("localhost");
    new.write(server.dir(), "");
    server.signal(Signal::SIGHUP);
    server.until("certificates.reloads", 1);
    let (mut after, _) = authority.caller().connect(&server).await;
    assert_eq!(shown(&after), new.certificate);
    assert_eq!(say(&mut before, "still here").await, "still here");
    assert_eq!(say(&mut after, "new").await, "new");

    std::fs::write(server.dir().join("key.pem"), "garbage").unwrap();
    server.signal(Signal::SIGHUP);
    server.until("certificates.reloads_failed", 1);
    assert_eq!(say(&mut before, "still here").await, "still here");
    let (mut last, _) = authority.caller().connect(&server).await;
    assert_eq!(shown(&last), new.certificate);
    for client in [&mut before, &mut after, &mut last] {
        client.close(None).await.unwrap();
    }
    server.finish();
}

#[tokio::test]
async fn changed_files_are_read_and_no_connection_is_touched() {
    let authority = Authority::new();
    let setup = authority.server().set("server.tls.reload_interval", "10ms");
    let server = setup.arg("--echo").start();
    let (mut before, _) = authority.caller().connect(&server).await;
    let replace = |name: &str| {
        let path = |name: &str| server.dir().join(name);
        std::fs::rename(path(&format!("new-{name}")), path(name)).unwrap();
    };

    // First the certificate alone, for as long as it takes to be refused.
    let new = authority.issue("localhost");
    new.write(server.dir(), "new-");
    replace("cert.pem");
    server.until("certificates.reloads_failed", 1);
    let (mut between, _) = authority.caller().connect(&server).await;
    assert_eq!(shown(&between), shown(&before));
    replace("key.pem");
    server.until("certificates.reloads", 1);
    let (mut after, _) = authority.caller().connect(&server).await;
    assert_eq!(shown(&after), new.certificate);
    for client in [&mut before, &mut between, &mut after] {
        assert_eq!(say(client, "still here").await, "still here");
    }

    std::fs::write(server.dir().join("new-cert.pem"), "garbage").unwrap();
    replace("cert.pem");
    server.until("certificates.reloads_failed", 2);
    let (mut last, _) = authority.caller().connect(&server).await;
    assert_eq!(shown(&last), new.certificate);
    assert_eq!(reloads(&server), (1, 2));
    for client in [&mut before, &mut between, &mut after, &mut last] {
        client.close(None).await.unwrap();
    }
    let log = server.finish();
    let lines = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert_eq!(lines("the former certificates stay in use"), 2, "{log}");
    assert_eq!(lines("does not match the certificate"), 1, "{log}");
    assert_eq!(lines("certificates are read again"), 1, "{log}");
}

#[test]
fn what_is_wrong_with_certificates_is_said_with_78() {
    let output = Setup::new()
        .listen("wss://127.0.0.1:0")
        .arg("--echo")
        .fail();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(
        text.contains("server.listen: wss needs server.tls.cert"),
        "{text}"
    );

    let setup = Authority::new().server();
    std::fs::write(setup.dir().join("key.pem"), "").unwrap();
    let output = setup.arg("--echo").fail();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(text.contains("there is no private key in"), "{text}");
    assert!(text.contains("key.pem"), "{text}");
}
