//! Certificates: when they are read, which one is shown, and whom the clients' make known.

use nix::sys::signal::Signal;
use rcgen::{CertificateParams, DistinguishedName, DnType};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::version::{TLS12, TLS13};

use crate::secure::{Authority, Caller, leave, say, shown};
use crate::support::{Server, Setup};
use crate::wire::Wire;

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
    let (last, _) = authority.caller().connect(&server).await;
    assert_eq!(shown(&last), new.certificate);
    for client in [before, after, last] {
        leave(client).await;
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
    let (last, _) = authority.caller().connect(&server).await;
    assert_eq!(shown(&last), new.certificate);
    assert_eq!(reloads(&server), (1, 2));
    for client in [before, between, after, last] {
        leave(client).await;
    }
    let log = server.finish();
    let lines = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert_eq!(lines("the former certificates stay in use"), 2, "{log}");
    assert_eq!(lines("does not match the certificate"), 1, "{log}");
    assert_eq!(lines("certificates are read again"), 1, "{log}");
}

#[tokio::test]
async fn a_certificate_is_chosen_by_name() {
    let authority = Authority::new();
    let setup = authority.server();
    let of = ["a", "b"].map(|name| {
        let issued = authority.issue(&format!("{name}.example"));
        issued.write(setup.dir(), &format!("{name}-"));
        issued.certificate
    });
    let file = "[[server.tls.certificates]]\ncert = 'a-cert.pem'\nkey = 'a-key.pem'\n\
                [[server.tls.certificates]]\ncert = 'b-cert.pem'\nkey = 'b-key.pem'\n";
    std::fs::write(setup.dir().join("ws.toml"), file).unwrap();
    let server = setup.app("cat >/dev/null; echo \"$SSL_TLS_SNI\"").start();
    for (name, certificate) in [("a.example", &of[0]), ("b.example", &of[1])] {
        let caller = authority.caller().asking_for(name);
        let (mut client, _) = caller.connect(&server).await;
        assert_eq!(&shown(&client), certificate);
        assert_eq!(say(&mut client, "?").await, name);
        leave(client).await;
    }
    // For another name, and for none, as who asks for an address sends none, it is the first.
    for name in ["c.example", "127.0.0.1"] {
        let refused = authority.caller().asking_for(name).shake_hands(&server);
        let error = refused.await.unwrap_err().to_string();
        assert!(error.contains("not valid for name"), "{error}");
        assert!(error.contains("localhost"), "{error}");
    }
    server.until("sockets.refused_by.tls", 2);
    server.finish();
}

const WHO: &str = r#"printf '%s' "${SSL_PROTOCOL-none} ${SSL_TLS_SNI-none}" \
    " ${SSL_CLIENT_VERIFY-none} ${SSL_CLIENT_S_DN-none}""#;

#[tokio::test]
async fn callbacks_know_the_client_s_certificate_and_take_no_header_for_it() {
    let authority = Authority::new();
    let mut params = CertificateParams::new([]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    for (kind, value) in [
        (DnType::OrganizationName, "Example"),
        (DnType::CommonName, "alice"),
    ] {
        params.distinguished_name.push(kind, value);
    }
    let alice = authority.sign(&params);
    let setup = authority.server().set("server.tls.client_ca", "ca.pem");
    std::fs::write(setup.dir().join("ca.pem"), authority.pem()).unwrap();
    let validate = r#"printf '%s' "${SSL_CLIENT_S_DN:-nobody}""#;
    let server = setup
        .validate(validate)
        .app(&format!("cat >/dev/null; {WHO} \" $REMOTE_USER\""))
        .start();
    let forged = [
        ("SSL-Client-S-DN", "CN=mallory"),
        ("SSL_CLIENT_S_DN", "CN=mallory"),
        ("SSL-Client-Verify", "SUCCESS"),
        ("X-SSL-Client-S-DN", "CN=mallory"),
    ];
    for (version, spoken) in [(&TLS12, "TLSv1.2"), (&TLS13, "TLSv1.3")] {
        let versions = [version];
        let caller = authority.caller().speaking(&versions);
        for (caller, known) in [
            (
                caller.showing(&alice),
                "SUCCESS CN=alice,O=Example CN=alice,O=Example",
            ),
            (caller, "none none nobody"),
        ] {
            for headers in [&[][..], &forged] {
                let (mut client, _) = caller.connect_with(&server, headers).await.unwrap();
                let said = say(&mut client, "who?").await;
                assert_eq!(said, format!("{spoken} localhost {known}"));
                leave(client).await;
            }
        }
    }

    // One that this authority has not issued does not even get as far as HTTP.
    let mallory = Authority::new().sign(&params);
    let refused = authority.caller().showing(&mallory);
    assert!(refused.connect_with(&server, &[]).await.is_err());
    server.until("sockets.refused_by.tls", 1);
    server.finish();
}

#[tokio::test]
async fn clients_may_be_required_to_have_a_certificate() {
    let authority = Authority::new();
    let alice = authority.issue("alice.example");
    let setup = authority
        .server()
        .set("server.tls.client_ca", "ca.pem")
        .set("server.tls.client_auth", "required");
    std::fs::write(setup.dir().join("ca.pem"), authority.pem()).unwrap();
    let server = setup.arg("--echo").start();
    let without = authority.caller().connect_with(&server, &[]).await;
    assert!(without.is_err());
    server.until("sockets.refused_by.tls", 1);
    let (mut client, _) = authority.caller().showing(&alice).connect(&server).await;
    assert_eq!(say(&mut client, "hello").await, "hello");
    leave(client).await;
    server.finish();
}

#[test]
fn plain_connections_have_no_variables_of_tls() {
    let server = Setup::new().app(&format!("cat >/dev/null; {WHO}")).start();
    let forged = ["SSL-Client-S-DN: CN=mallory", "SSL_PROTOCOL: TLSv1.3"];
    let (mut wire, response) = Wire::over(server.raw_stream(), &forged);
    assert_eq!(response.status, 101);
    wire.say("who?");
    assert_eq!(wire.hear(), "none none none none");
    wire.bye();
    server.finish();
}

#[test]
fn certificates_by_name_are_not_for_the_environment() {
    let setup = Authority::new().server();
    let output = setup.set("server.tls.certificates", "a.pem").fail();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{text}");
    let said = "WS__SERVER__TLS__CERTIFICATES: server.tls.certificates: expected a list of tables";
    assert!(text.contains(said), "{text}");
}

#[tokio::test]
async fn a_certificate_for_development_works_as_it_is_printed() {
    let setup = Setup::new().listen("wss://127.0.0.1:0");
    let cert = |args: &[&str]| {
        std::process::Command::new(env!("CARGO_BIN_EXE_ws"))
            .arg("cert")
            .args(args)
            .current_dir(setup.dir())
            .output()
            .unwrap()
    };
    let made = cert(&["--out", "tls", "--name", "localhost", "--days", "2"]);
    assert!(made.status.success(), "{made:?}");
    std::fs::write(setup.dir().join("ws.toml"), &made.stdout).unwrap();
    let again = cert(&["--out", "tls"]);
    assert_eq!(again.status.code(), Some(73), "{again:?}");
    assert_eq!(again.stdout, b"");
    let json = cert(&["--out", "tls", "--force", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    let path = json["cert"].as_str().unwrap().to_owned();
    assert_eq!(cert(&["--name", "a b"]).status.code(), Some(2));
    assert_eq!(cert(&["--days", "0"]).status.code(), Some(2));

    let server = setup.arg("--echo").start();
    let trusted = CertificateDer::from_pem_file(path).unwrap();
    let (mut client, _) = Caller::trusting(&trusted).connect(&server).await;
    assert_eq!(say(&mut client, "hello").await, "hello");
    leave(client).await;
    server.finish();
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
