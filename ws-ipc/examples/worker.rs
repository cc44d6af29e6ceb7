//! A worker whose closure answers a few URIs, one request after another in one process.
//!
//! It expects a listening Unix socket as descriptor 0, on which it is asked in SCGI. The server
//! starts such programs as a `Pool`.

use ws_ipc::forkserver::{Answer, Request};

fn main() -> std::io::Result<()> {
    let mut served = 0_u64;
    let mut kept: Vec<Vec<u8>> = Vec::new();
    ws_ipc::worker::run(|request| {
        served += 1;
        answer(request, served, &mut kept)
    })
}

fn answer(request: &Request, served: u64, kept: &mut Vec<Vec<u8>>) -> Answer {
    match request.variable("REQUEST_URI").unwrap_or("/") {
        "/pid" => Answer::text(std::process::id().to_string()),
        "/served" => Answer::text(served.to_string()),
        "/body" => Answer::binary(request.body()),
        "/keep" => {
            kept.push(vec![1; 1 << 20]);
            Answer::text(kept.len().to_string())
        }
        // What a closure may do wrong.
        "/failure" => Answer::failure(500),
        "/panic" => panic!("as asked"),
        "/flood" => Answer::binary(vec![b'x'; 4 << 20]),
        "/hang" => loop {
            std::thread::park();
        },
        _ => Answer::failure(404),
    }
}
