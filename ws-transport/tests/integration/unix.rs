//! Binding Unix sockets.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use ws_transport::{BindError, BindOptions, PeerAddr};

use crate::bind_unix;

fn temp_dir() -> TempDir {
    tempfile::tempdir().expect("the temporary directory is writable")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path)
        .expect("the socket exists")
        .permissions()
        .mode()
        & 0o7777
}

/// A socket on which nobody listens any more.
fn leave_stale_socket(path: &Path) {
    drop(UnixListener::bind(path).expect("the path is free"));
}

#[tokio::test]
async fn a_client_connects_and_has_no_address() {
    let dir = temp_dir();
    let path = dir.path().join("ws.sock");
    let listener = bind_unix(&path, &BindOptions::default()).unwrap();
    assert_eq!(listener.url(), format!("ws+unix:{}", path.display()));
    let mut client = UnixStream::connect(&path).unwrap();
    let accepted = listener.accept().await.unwrap();
    assert_eq!(accepted.peer, PeerAddr::Unix);
    assert_eq!(accepted.local.path(), Some(path.as_path()));
    let stream = accepted.socket.register().unwrap();
    client.write_all(b"hello").unwrap();
    stream.readable().await.unwrap();
    let mut buffer = [0; 16];
    assert_eq!(stream.try_read(&mut buffer).unwrap(), 5);
}

#[tokio::test]
async fn no_socket_path_outlives_its_listener() {
    let dir = temp_dir();
    let path = dir.path().join("ws.sock");
    drop(bind_unix(&path, &BindOptions::default()).unwrap());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_path_that_is_no_longer_ours_is_left_alone() {
    let dir = temp_dir();
    let path = dir.path().join("ws.sock");
    let listener = bind_unix(&path, &BindOptions::default()).unwrap();
    fs::remove_file(&path).unwrap();
    let successor = bind_unix(&path, &BindOptions::default()).unwrap();
    drop(listener);
    UnixStream::connect(&path).unwrap();
    drop(successor);
    assert!(!path.exists());
}

#[tokio::test]
async fn the_path_is_removed_even_if_its_directory_was_moved() {
    let dir = temp_dir();
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    fs::create_dir(&old).unwrap();
    let listener = bind_unix(&old.join("ws.sock"), &BindOptions::default()).unwrap();
    fs::rename(&old, &new).unwrap();
    drop(listener);
    assert_eq!(fs::read_dir(&new).unwrap().count(), 0);
}

#[tokio::test]
async fn a_stale_socket_is_replaced() {
    let dir = temp_dir();
    let path = dir.path().join("ws.sock");
    leave_stale_socket(&path);
    let listener = bind_unix(&path, &BindOptions::default()).unwrap();
    UnixStream::connect(&path).unwrap();
    listener.accept().await.unwrap();
}

#[tokio::test]
async fn a_live_socket_is_not_replaced() {
    let dir = temp_dir();
    let path = dir.path().join("ws.sock");
    let first = bind_unix(&path, &BindOptions::default()).unwrap();
    let error = bind_unix(&path, &BindOptions::default()).unwrap_err();
    assert!(matches!(error, BindError::SocketInUse { .. }), "{error}");
    assert!(error.is_cannot_create() && error.is_in_use());
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("cannot listen on unix:{}: ", path.display())),
        "{text}"
    );
    // The probe of the second one is a connection that was closed at once; then the real one.
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"!").unwrap();
    let _probe = first.accept().await.unwrap();
    first.accept().await.unwrap();
}

#[tokio::test]
async fn a_live_datagram_socket_is_not_replaced() {
    let dir = temp_dir();
    let path = dir.path().join("ws.sock");
    let _owner = UnixDatagram::bind(&path).unwrap();
    let error = bind_unix(&path, &BindOptions::default()).unwrap_err();
    assert!(matches!(error, BindError::SocketInUse { .. }), "{error}");
}

#[tokio::test]
async fn a_file_that_is_not_a_socket_is_not_replaced() {
    let dir = temp_dir();
    let path = dir.path().join("ws.sock");
    fs::write(&path, "precious").unwrap();
    let error = bind_unix(&path, &BindOptions::default()).unwrap_err();
    assert!(matches!(error, BindError::NotASocket { .. }), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn a_symbolic_link_to_a_stale_socket_is_not_followed() {
    let dir = temp_dir();
    let (socket, link) = (dir.path().join("socket"), dir.path().join("link"));
    leave_stale_socket(&socket);
    std::os::unix::fs::symlink(&socket, &link).unwrap();
    let error = bind_unix(&link, &BindOptions::default()).unwrap_err();
    assert!(matches!(error, BindError::NotASocket { .. }), "{error}");
    assert!(socket.exists());
}

#[tokio::test]
async fn a_stale_socket_of_another_user_is_not_replaced() {
    if !rustix::process::geteuid().is_root() {
        return; // Only root can give a socket away.
    }
    let dir = temp_dir();
    let path = dir.path().join("ws.sock");
    leave_stale_socket(&path);
    std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
    let error = bind_unix(&path, &BindOptions::default()).unwrap_err();
    assert!(
        matches!(error, BindError::ForeignSocket { owner: 65534, .. }),
        "{error}"
    );
    assert!(path.exists());
}

#[tokio::test]
async fn a_missing_directory_is_named_in_the_error() {
    let dir = temp_dir();
    let path = dir.path().join("missing/ws.sock");
    let error = bind_unix(&path, &BindOptions::default()).unwrap_err();
    let expected = format!(
        "cannot listen on unix:{}: no such file or directory",
        path.display()
    );
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn the_mode_is_the_configured_one_whatever_the_umask() {
    let dir = temp_dir();
    let path = dir.path().join("ws.sock");
    for unix_mode in [0o600, 0o666, 0o777, 0o660] {
        let options = BindOptions {
            unix_mode: Some(unix_mode),
            ..BindOptions::default()
        };
        let _listener = bind_unix(&path, &options).unwrap();
        assert_eq!(mode(&path), unix_mode);
    }
}

#[tokio::test]
async fn the_group_is_the_configured_one() {
    let dir = temp_dir();
    let path = dir.path().join("ws.sock");
    // Its own group is the one that every user may choose.
    let group = fs::metadata(dir.path()).unwrap().gid();
    let group = if rustix::process::geteuid().is_root() {
        65534
    } else {
        group
    };
    let unix_group = Some(group);
    let options = BindOptions {
        unix_mode: Some(0o660),
        unix_group,
        ..BindOptions::default()
    };
    let _listener = bind_unix(&path, &options).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().gid(), group);
    assert_eq!(mode(&path), 0o660);
}

#[tokio::test]
async fn a_failed_bind_leaves_no_socket_behind() {
    if rustix::process::geteuid().is_root() {
        return; // Root may choose every group.
    }
    let dir = temp_dir();
    let options = BindOptions {
        unix_group: Some(0),
        ..BindOptions::default()
    };
    bind_unix(&dir.path().join("ws.sock"), &options).unwrap_err();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// A directory whose sockets have paths of more than 107 bytes.
fn deep_directory(dir: &TempDir) -> PathBuf {
    let deep = dir.path().join("d".repeat(100)).join("e".repeat(100));
    fs::create_dir_all(&deep).expect("the temporary directory is writable");
    deep
}

/// Connects where `sockaddr_un` has no room for the path.
fn connect_deep(deep: &Path, name: &str) -> std::io::Result<UnixStream> {
    use std::os::fd::AsRawFd as _;
    let dir = fs::File::open(deep)?;
    UnixStream::connect(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))
}

#[tokio::test]
async fn a_path_longer_than_a_socket_address_is_bound() {
    let dir = temp_dir();
    let deep = deep_directory(&dir);
    let path = deep.join("ws.sock");
    let options = BindOptions {
        unix_mode: Some(0o600),
        ..BindOptions::default()
    };
    let listener = bind_unix(&path, &options).unwrap();
    assert_eq!(listener.url(), format!("ws+unix:{}", path.display()));
    assert!(fs::metadata(&path).unwrap().file_type().is_socket());
    assert_eq!(mode(&path), 0o600);

    let mut client = connect_deep(&deep, "ws.sock").unwrap();
    let stream = listener.accept().await.unwrap().socket.register().unwrap();
    stream.writable().await.unwrap();
    stream.try_write(b"deep").unwrap();
    drop(stream);
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert_eq!(text, "deep");

    let error = bind_unix(&path, &options).unwrap_err();
    assert!(matches!(error, BindError::SocketInUse { .. }), "{error}");
    drop(listener);
    assert!(!path.exists());
}

#[tokio::test]
async fn the_longest_path_that_fits_is_bound_as_it_is() {
    let dir = temp_dir();
    // The directory and two slashes around its own directory's name, and the socket's.
    let used = dir.path().as_os_str().len() + 2 + "s".len();
    for len in [106, 107, 108, 109] {
        let deep = dir.path().join("d".repeat(len - used));
        fs::create_dir(&deep).unwrap();
        let path = deep.join("s");
        assert_eq!(path.as_os_str().len(), len);
        let _listener = bind_unix(&path, &BindOptions::default()).unwrap();
        connect_deep(&deep, "s").unwrap();
    }
}

#[tokio::test]
async fn a_name_that_fits_nowhere_is_an_error_that_names_it() {
    let dir = temp_dir();
    let path = dir.path().join("s".repeat(200));
    let error = bind_unix(&path, &BindOptions::default()).unwrap_err();
    let expected = format!(
        "cannot listen on unix:{}: file name too long",
        path.display()
    );
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn of_many_that_replace_a_stale_socket_at_once_one_succeeds() {
    let dir = temp_dir();
    let path = dir.path().join("ws.sock");
    for _ in 0..20 {
        leave_stale_socket(&path);
        let runtime = tokio::runtime::Handle::current();
        let start = std::sync::Barrier::new(4);
        let bind = || {
            let _entered = runtime.enter();
            start.wait();
            bind_unix(&path, &BindOptions::default())
        };
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads = [
                scope.spawn(bind),
                scope.spawn(bind),
                scope.spawn(bind),
                scope.spawn(bind),
            ];
            threads.map(|thread| thread.join().unwrap()).into()
        });
        assert_eq!(
            results.iter().filter(|result| result.is_ok()).count(),
            1,
            "{results:?}"
        );
        UnixStream::connect(&path).unwrap();
    }
}

#[tokio::test]
async fn the_owner_may_be_another_and_its_stale_socket_is_replaced() {
    let dir = temp_dir();
    let path = dir.path().join("ws.sock");
    let own = fs::metadata(dir.path()).unwrap().uid();
    // Only root may give files away.
    let owner = if own == 0 { 65534 } else { own };
    let options = BindOptions {
        unix_owner: Some(owner),
        ..BindOptions::default()
    };
    let listener = bind_unix(&path, &options).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().uid(), owner);
    drop(listener);
    leave_stale_socket(&path);
    std::os::unix::fs::chown(&path, Some(owner), None).unwrap();
    bind_unix(&path, &options).unwrap();
}
