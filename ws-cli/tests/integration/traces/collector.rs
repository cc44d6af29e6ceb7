//! A collector of traces that answers as a test wants it to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use ws_server::testing::{ReceivedSpan, received_spans};

use crate::support::eventually;

/// What it answers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answers {
    /// That it took all.
    Taken,
    /// That it did not take one span.
    AllButOne,
    /// A status.
    Status(u16),
    /// That it is busy for an hour.
    Later,
    /// Nothing, ever.
    Nothing,
}

/// A request that it got.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

/// A collector on a port of its own, as long as the test runs.
pub(super) struct Collector {
    pub(super) addr: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Collector {
    pub(super) fn start(answers: Answers) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), answers)
    }

    pub(super) fn on(listener: TcpListener, answers: Answers) -> Self {
        let addr = listener.local_addr().unwrap();
        let requests = Arc::default();
        let kept = Arc::clone(&requests);
        std::thread::spawn(move || {
            // Those that get no answer must not see the end of the stream.
            let mut silent = Vec::new();
            for stream in listener.incoming().map_while(Result::ok) {
                serve(&stream, &kept, answers);
                if matches!(answers, Answers::Nothing) {
                    silent.push(stream);
                }
            }
        });
        Self { addr, requests }
    }

    /// One with the certificate of a directory's `cert.pem` and `key.pem`, for https.
    pub(super) fn secure(dir: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let certificate = CertificateDer::from_pem_file(dir.join("cert.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(dir.join("key.pem")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let tls = Arc::new(tls);
        let requests = Arc::default();
        let kept = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let session = ServerConnection::new(Arc::clone(&tls)).unwrap();
                serve(StreamOwned::new(session, stream), &kept, Answers::Taken);
            }
        });
        Self { addr, requests }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// What it has got so far.
    pub(super) fn spans(&self) -> Vec<ReceivedSpan> {
        let requests = self.requests();
        let spans = requests.iter().map(|it| received_spans(&it.body));
        spans.flatten().collect()
    }

    /// Waits until it has got so many spans.
    pub(super) fn wait_for(&self, count: usize) -> Vec<ReceivedSpan> {
        eventually("the spans arrive", || self.spans().len() >= count);
        self.spans()
    }
}

/// Reads one request, and answers it.
fn serve(mut stream: impl Read + Write, requests: &Mutex<Vec<Request>>, answers: Answers) {
    let mut reader = BufReader::new(&mut stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            return;
        }
    }
    let lower = head.to_lowercase();
    let length = lower.split("content-length: ").nth(1).unwrap();
    let length = length.split("\r\n").next().unwrap().parse().unwrap();
    let mut body = vec![0; length];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    requests.lock().unwrap().push(Request { head, body });
    // ExportTraceServiceResponse { partial_success: { rejected_spans: 1 } }
    let (status, body): (u16, &[u8]) = match answers {
        Answers::Taken => (200, b""),
        Answers::AllButOne => (200, &[0x0a, 0x02, 0x08, 0x01]),
        Answers::Later => (503, b""),
        Answers::Status(status) => (status, b"canary of the collector"),
        Answers::Nothing => return,
    };
    let length = body.len();
    let wait = match answers {
        Answers::Later => "Retry-After: 3600\r\n",
        _ => "",
    };
    let answer = format!("HTTP/1.1 {status} X\r\n{wait}Content-Length: {length}\r\n\r\n");
    let _ = stream.write_all(answer.as_bytes());
    let _ = stream.write_all(body);
    let _ = stream.flush();
}
