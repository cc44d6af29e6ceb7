//! Certificates: which one is shown, who is asked for one, and what may be wrong with the files.

use std::fs;
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DistinguishedName, DnType, date_time_ymd};
use ws_transport::{
    CertificateWarning, ClientAuth, OpenError, Reload, SelfSigned, TlsAcceptor, TlsConfig,
    TlsError, TlsFile,
};

use crate::secure::{Authority, BOTH, Client, connect, listen, open};

#[tokio::test]
async fn a_certificate_is_chosen_by_name() {
    let authority = Authority::new();
    let first = authority.issue_for("first", "first.example");
    let second = authority.issue_for("second", "*.second.example");
    let config = authority
        .config("first")
        .with_certificate(authority.path("second.pem"), authority.path("second.key"));
    let listener = listen(&TlsAcceptor::load(config).unwrap());
    let client_config = Arc::new(authority.client(&BOTH, None));
    for (name, certificate) in [
        ("first.example", &first),
        ("a.second.example", &second),
        // The default, which this client then refuses.
        ("third.example", &first),
    ] {
        let client = connect(&listener, &client_config, name);
        let opened = open(&listener).await;
        match client.join().unwrap() {
            Ok(client) => {
                assert_eq!(&client.conn.peer_certificates().unwrap()[0], certificate);
                opened.unwrap();
            }
            Err(error) => {
                assert_eq!(name, "third.example");
                assert!(error.to_string().contains("not valid for name"), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn what_the_handshake_tells_of_a_client_is_known() {
    let authority = Authority::new();
    let mut params = CertificateParams::new([]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "Example, \"Inc\"");
    params
        .distinguished_name
        .push(DnType::CommonName, "alice\r\nX: 1");
    let (certificate, key) = authority.issue("alice", params);
    let config = authority
        .localhost()
        .with_client_ca(authority.path("ca.pem"), ClientAuth::Optional);
    let listener = listen(&TlsAcceptor::load(config).unwrap());
    for version in BOTH {
        let identity = Some((certificate.clone(), &key));
        let with = Arc::new(authority.client(&[version], identity));
        let client = connect(&listener, &with, "localhost");
        let peer = open(&listener).await.unwrap().tls.unwrap();
        let client_certificate = peer.client.unwrap();
        // The last first, and nothing in it that could end a line.
        assert_eq!(
            client_certificate.subject.as_deref(),
            Some("CN=alice\\0d\\0aX: 1,O=Example\\, \\\"Inc\\\"")
        );
        assert_eq!(peer.server_name.as_deref(), Some("localhost"));
        let spoken = format!("{:?}", version.version).replace('_', ".");
        assert_eq!(peer.version, spoken);
        client.join().unwrap().unwrap();

        let without = Arc::new(authority.client(&[version], None));
        let client = connect(&listener, &without, "localhost");
        let peer = open(&listener).await.unwrap().tls.unwrap();
        assert_eq!(peer.client, None);
        client.join().unwrap().unwrap();
    }

    let stranger = Authority::new();
    let (certificate, key) = stranger.issue("mallory", CertificateParams::new([]).unwrap());
    let forged = Arc::new(authority.client(&BOTH, Some((certificate, &key))));
    let client = connect(&listener, &forged, "localhost");
    let error = open(&listener).await.unwrap_err();
    assert!(matches!(error, OpenError::Tls(_)), "{error}");
    drop(client.join());
}

#[tokio::test]
async fn a_reload_is_for_new_connections() {
    let authority = Authority::new();
    let old = authority.issue_for("localhost", "localhost");
    let acceptor = TlsAcceptor::load(authority.config("localhost")).unwrap();
    let listener = listen(&acceptor);
    let config = Arc::new(authority.client(&BOTH, None));
    let visit = async || {
        let client = connect(&listener, &config, "localhost");
        let stream = open(&listener).await.unwrap().stream;
        (client.join().unwrap().unwrap(), stream)
    };
    let shown = |client: &Client| client.conn.peer_certificates().unwrap()[0].clone();
    let (mut client, stream) = visit().await;
    assert_eq!(shown(&client), old);

    let new = authority.issue_for("localhost", "localhost");
    acceptor.reload().unwrap();
    client.write_all(b"still here").unwrap();
    stream.readable().await.unwrap();
    assert_eq!(stream.try_read(&mut [0; 32]).unwrap(), 10);
    assert_eq!(shown(&visit().await.0), new);

    fs::write(authority.path("localhost.pem"), "garbage").unwrap();
    let error = acceptor.reload().unwrap_err();
    assert!(matches!(error, TlsError::NoCertificate { .. }), "{error}");
    assert_eq!(shown(&visit().await.0), new);
}

#[tokio::test]
async fn changed_files_are_read_once_they_are_whole() {
    let authority = Authority::new();
    let old = authority.issue_for("localhost", "localhost");
    let acceptor = TlsAcceptor::load(authority.config("localhost")).unwrap();
    let listener = listen(&acceptor);
    let config = Arc::new(authority.client(&BOTH, None));
    let shown = async || {
        let client = connect(&listener, &config, "localhost");
        open(&listener).await.unwrap();
        let client = client.join().unwrap().unwrap();
        client.conn.peer_certificates().unwrap()[0].clone()
    };
    let look = || acceptor.reload_if_changed();
    assert_eq!(look().unwrap(), Reload::NotNeeded);

    // The certificate without its key, for so long that it is taken for the whole.
    let new = authority.issue_for("new", "localhost");
    let replace = |from: &str, to: &str| fs::rename(authority.path(from), authority.path(to));
    replace("new.pem", "localhost.pem").unwrap();
    assert_eq!(look().unwrap(), Reload::NotNeeded, "it may still change");
    let error = look().unwrap_err();
    assert!(matches!(error, TlsError::Mismatch { .. }), "{error}");
    assert_eq!(look().unwrap(), Reload::NotNeeded, "it is said once");
    assert_eq!(shown().await, old);
    replace("new.key", "localhost.key").unwrap();
    assert_eq!(look().unwrap(), Reload::NotNeeded);
    assert_eq!(look().unwrap(), Reload::Done);
    assert_eq!(look().unwrap(), Reload::NotNeeded);
    assert_eq!(shown().await, new);

    // Gone, and back again.
    replace("localhost.key", "away").unwrap();
    assert_eq!(look().unwrap(), Reload::NotNeeded);
    let error = look().unwrap_err();
    assert!(matches!(error, TlsError::Unreadable { .. }), "{error}");
    assert_eq!(look().unwrap(), Reload::NotNeeded);
    replace("away", "localhost.key").unwrap();
    assert_eq!(look().unwrap(), Reload::NotNeeded);
    assert_eq!(look().unwrap(), Reload::Done);

    // What was read because somebody asked for it is not read again.
    let newest = authority.issue_for("localhost", "localhost");
    acceptor.reload().unwrap();
    for _ in 0..2 {
        assert_eq!(look().unwrap(), Reload::NotNeeded);
    }
    assert_eq!(shown().await, newest);
}

#[test]
fn every_fault_names_its_file() {
    let authority = Authority::new();
    authority.issue_for("a", "localhost");
    authority.issue_for("b", "localhost");
    let path = |name: &str| authority.path(name);
    let fault = |certificate: &str, key: &str| {
        TlsAcceptor::load(TlsConfig::new(path(certificate), path(key))).unwrap_err()
    };
    let names = |error: &TlsError, name: &str| {
        let text = error.to_string();
        assert!(text.contains(path(name).to_str().unwrap()), "{text}");
    };

    let error = fault("missing.pem", "a.key");
    assert!(matches!(
        error,
        TlsError::Unreadable {
            file: TlsFile::Certificate,
            ..
        }
    ));
    names(&error, "missing.pem");
    assert!(
        error.to_string().ends_with(": no such file or directory"),
        "{error}"
    );

    let error = fault("a.pem", "missing.key");
    assert!(matches!(
        error,
        TlsError::Unreadable {
            file: TlsFile::Key,
            ..
        }
    ));
    names(&error, "missing.key");

    fs::write(
        path("bad.pem"),
        "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    let error = fault("bad.pem", "a.key");
    assert!(matches!(error, TlsError::Unreadable { .. }), "{error}");
    names(&error, "bad.pem");

    // What would be waited for, or never end.
    let mode = nix::sys::stat::Mode::S_IRWXU;
    nix::unistd::mkfifo(&path("fifo"), mode).unwrap();
    fs::create_dir(path("directory")).unwrap();
    for name in ["fifo", "directory", "/dev/zero"] {
        for error in [fault(name, "a.key"), fault("a.pem", name)] {
            names(&error, name);
            let text = error.to_string();
            assert!(text.ends_with(": it is not a regular file"), "{text}");
        }
    }
    let endless = fs::File::create(path("endless")).unwrap();
    endless.set_len(1 << 40).unwrap();
    let error = fault("endless", "a.key");
    names(&error, "endless");
    assert!(error.to_string().ends_with("larger than 16 MiB"), "{error}");

    let error = fault("a.key", "a.key");
    assert!(matches!(error, TlsError::NoCertificate { .. }), "{error}");
    names(&error, "a.key");

    let error = fault("a.pem", "a.pem");
    assert!(matches!(error, TlsError::NoKey { .. }), "{error}");
    names(&error, "a.pem");

    let error = fault("a.pem", "b.key");
    assert!(matches!(error, TlsError::Mismatch { .. }), "{error}");
    names(&error, "a.pem");
    names(&error, "b.key");

    for text in [
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n\
         AAAA\n-----END RSA PRIVATE KEY-----\n",
    ] {
        fs::write(path("locked.key"), text).unwrap();
        let error = fault("a.pem", "locked.key");
        assert!(matches!(error, TlsError::EncryptedKey { .. }), "{error}");
        names(&error, "locked.key");
    }

    fs::write(
        path("odd.key"),
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    )
    .unwrap();
    let error = fault("a.pem", "odd.key");
    assert!(matches!(error, TlsError::UnusableKey { .. }), "{error}");
    names(&error, "odd.key");

    fs::write(path("v1.pem"), FIRST_VERSION).unwrap();
    let error = fault("v1.pem", "a.key");
    assert!(matches!(error, TlsError::FirstVersion { .. }), "{error}");
    names(&error, "v1.pem");

    let config = authority
        .config("a")
        .with_client_ca(path("a.key"), ClientAuth::Optional);
    let error = TlsAcceptor::load(config).unwrap_err();
    assert!(matches!(
        error,
        TlsError::NoCertificate {
            file: TlsFile::ClientCa,
            ..
        }
    ));
    names(&error, "a.key");
}

#[test]
fn certificates_out_of_their_time_are_warned_of() {
    let authority = Authority::new();
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2021, 1, 1);
    authority.issue("old", params);
    let acceptor = TlsAcceptor::load(authority.config("old")).unwrap();
    let at = |days: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400);
    let (from, until) = (at(18_262), at(18_628));
    let day = Duration::from_secs(86_400);
    let path = authority.path("old.pem");
    assert_eq!(acceptor.warnings(from + day), []);
    assert_eq!(
        acceptor.warnings(until + day),
        [CertificateWarning::Expired {
            path: path.clone(),
            since: until
        }]
    );
    assert_eq!(
        acceptor.warnings(from - day),
        [CertificateWarning::NotYetValid { path, until: from }]
    );
}

#[test]
fn certificates_that_nobody_can_ask_for_are_warned_of() {
    let authority = Authority::new();
    authority.issue("nameless", CertificateParams::new([]).unwrap());
    let alone = TlsAcceptor::load(authority.config("nameless")).unwrap();
    assert_eq!(alone.warnings(SystemTime::now()), []);
    let path = authority.path("nameless.pem");
    let config = authority
        .localhost()
        .with_certificate(&path, authority.path("nameless.key"));
    assert_eq!(
        TlsAcceptor::load(config)
            .unwrap()
            .warnings(SystemTime::now()),
        [CertificateWarning::Nameless { path }]
    );
}

#[tokio::test]
async fn clients_without_a_certificate_are_refused_where_one_is_required() {
    let authority = Authority::new();
    let (certificate, key) = authority.issue("alice", CertificateParams::new([]).unwrap());
    let config = authority
        .localhost()
        .with_client_ca(authority.path("ca.pem"), ClientAuth::Required);
    let listener = listen(&TlsAcceptor::load(config).unwrap());
    for version in BOTH {
        let identity = Some((certificate.clone(), &key));
        let with = Arc::new(authority.client(&[version], identity));
        let client = connect(&listener, &with, "localhost");
        open(&listener).await.unwrap();
        client.join().unwrap().unwrap();

        let without = Arc::new(authority.client(&[version], None));
        let client = connect(&listener, &without, "localhost");
        let error = open(&listener).await.unwrap_err();
        assert!(error.to_string().contains("no certificates"), "{error}");
        drop(client.join());
    }
}

#[tokio::test]
async fn a_certificate_for_development_is_made_on_the_spot() {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = SelfSigned::new(&names, Duration::from_secs(3600)).unwrap();
    let acceptor = TlsAcceptor::self_signed(&made, [b"http/1.1"]).unwrap();
    assert!(acceptor.files().is_empty());
    assert_eq!(acceptor.warnings(SystemTime::now()), []);
    let listener = listen(&acceptor);
    acceptor.reload().unwrap();
    let config = Arc::new(Authority::new().client(&BOTH, None));
    let client = connect(&listener, &config, "localhost");
    // Nobody knows the issuer.
    open(&listener).await.unwrap_err();
    let error = client.join().unwrap().unwrap_err();
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
}

/// For "localhost", as `openssl x509 -req` makes it: of version 1.
const FIRST_VERSION: &str = "\
-----BEGIN CERTIFICATE-----
MIIBJDCBygITH8HS/6tx4BTAYxpwNAHg9Z7vfzAKBggqhkjOPQQDAjAUMRIwEAYD
VQQDDAlsb2NhbGhvc3QwIBcNMjYxMTI2MTEyMTE3WhgPMjEyNjExMDIxMTIxMTda
MBQxEjAQBgNVBAMMCWxvY2FsaG9zdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IA
BLFsv4fYmAxm833GpNfrC6J0ee12CN205nVtUttXjN+Y0cEFXyqMjxekV9187Pa/
w0oDR5SqdKI4XvECPLwUHx8wCgYIKoZIzj0EAwIDSQAwRgIhAJq0DtyfND3dDiCr
xFCqJsE1rBQRUkInYoaAFTkhMF84AiEAyS0dFrYyWsjXfj5aJ58VtWhUajFpi/6T
2YGOUIajubA=
-----END CERTIFICATE-----
";
