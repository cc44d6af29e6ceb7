//! SCGI servers that others run.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use ws_ipc::cgi::{CgiError, parse_answer};
use ws_ipc::scgi::{Request, RequestDecoder, ScgiServer};
use ws_ipc::{Address, Environment, Failure};

const LONG: Duration = Duration::from_secs(20);

async fn ask(server: &ScgiServer, timeout: Duration) -> Result<String, Failure> {
    let mut env = Environment::new();
    env.set("REQUEST_URI", "/a").unwrap();
    let payload = Bytes::from_static(b"payload");
    let answer = server.call(&env, &payload, timeout, 1000).await?;
    Ok(String::from_utf8(parse_answer(&answer).unwrap().body().to_vec()).unwrap())
}

/// What comes of one request that is answered by these bytes and the end of the connection.
async fn answered_by(response: &[u8]) -> Result<String, Failure> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("scgi.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let server = ScgiServer::new(Address::unix(path));
    let script = async {
        let mut stream = listener.accept().await.unwrap().0;
        let request = read(&mut stream).await;
        assert_eq!(request.environment().get("REQUEST_URI"), Some(&b"/a"[..]));
        assert_eq!(request.body(), b"payload");
        // The client may have seen enough before the end.
        let _ = stream.write_all(response).await;
    };
    tokio::join!(ask(&server, LONG), script).0
}

async fn read(stream: &mut (impl AsyncReadExt + Unpin)) -> Request {
    let mut decoder = RequestDecoder::new(1000);
    let mut buffer = [0; 100];
    loop {
        let len = stream.read(&mut buffer).await.unwrap();
        assert!(len > 0, "it ended within the request");
        if let Some(request) = decoder.feed(&buffer[..len]).unwrap() {
            return request;
        }
    }
}

#[tokio::test]
async fn answer_without_a_length_ends_with_the_connection() {
    let answer = answered_by(b"Status: 200 OK\r\n\r\nhello").await;
    assert_eq!(answer.unwrap(), "hello");
}

#[tokio::test]
async fn answer_shorter_than_its_length_is_a_failure() {
    let answer = answered_by(b"Content-Length: 6\r\n\r\nhello").await;
    let (announced, received) = (6, 5);
    let error = CgiError::BodyTooShort {
        announced,
        received,
    };
    assert_eq!(answer, Err(Failure::BadAnswer(error)));
}

#[tokio::test]
async fn what_is_no_answer_fails() {
    let empty = answered_by(b"").await;
    assert_eq!(empty, Err(Failure::BadAnswer(CgiError::Empty)));
    let unfinished = answered_by(b"Status: 200\r\n").await;
    assert_eq!(
        unfinished,
        Err(Failure::BadAnswer(CgiError::HeadUnfinished))
    );
    let long = [&b"\n"[..], &[b'x'; 1001]].concat();
    let max = 1000;
    assert_eq!(
        answered_by(&long).await,
        Err(Failure::OutputTooLong { max })
    );
}

#[tokio::test]
async fn server_at_a_tcp_port_is_asked() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: Address = listener.local_addr().unwrap().to_string().parse().unwrap();
    let server = ScgiServer::new(address);
    let script = async {
        let mut stream = listener.accept().await.unwrap().0;
        read(&mut stream).await;
        stream.write_all(b"\nover TCP").await.unwrap();
    };
    let (answer, ()) = tokio::join!(ask(&server, LONG), script);
    assert_eq!(answer.unwrap(), "over TCP");
}

#[tokio::test]
async fn t61_silent_server_is_left_at_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: Address = listener.local_addr().unwrap().to_string().parse().unwrap();
    let server = ScgiServer::new(address);
    let answer = ask(&server, Duration::from_millis(100)).await;
    assert_eq!(answer, Err(Failure::TimedOut));
    let mut stream = listener.accept().await.unwrap().0;
    let mut request = Vec::new();
    stream.read_to_end(&mut request).await.unwrap();
    assert!(request.ends_with(b"payload"));
}

#[tokio::test]
async fn nobody_at_the_port_is_a_failure_of_its_own() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let text = listener.local_addr().unwrap().to_string();
    drop(listener);
    let server = ScgiServer::new(text.parse().unwrap());
    match ask(&server, Duration::from_millis(50)).await {
        Err(Failure::Unreachable { address, reason }) => {
            assert_eq!(address, text);
            assert!(reason.starts_with("Connection refused"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}
