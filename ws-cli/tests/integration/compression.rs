//! permessage-deflate (RFC 7692): agreed to only if it is enabled, and then on every way that a
//! message takes.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use ws_proto::handshake::{ClientHandshake, HeadLimits};
use ws_proto::{
    CloseFrame, Config, Connection, DeflateConfig, DeflateParams, Event, Input, MessageKind,
    WindowBits,
};

use crate::support::*;
use crate::wire::{Wire, frame};

/// The largest message that the peer takes.
const MAX_SIZE: usize = 64 << 20;

/// A client that compresses, driven by hand.
#[derive(Debug)]
struct Peer {
    stream: TcpStream,
    machine: Connection,
    agreed: Option<DeflateParams>,
    heard: VecDeque<String>,
    close: Option<Option<CloseFrame>>,
    /// Bytes that were read since the handshake.
    read: usize,
}

impl Peer {
    /// Connects, and offers compression on these terms, if any.
    fn open(server: &Server, offer: Option<DeflateConfig>) -> Self {
        let mut stream = server.raw_stream();
        stream.set_nodelay(true).unwrap();
        let mut handshake = ClientHandshake::new("localhost", "/", [1; 16]).unwrap();
        if let Some(offer) = offer {
            handshake = handshake.with_deflate(offer);
        }
        stream.write_all(&handshake.request()).unwrap();
        let mut reader = handshake.response_reader(HeadLimits::default());
        let accepted = loop {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            if let Some(accepted) = reader.read(&byte).unwrap() {
                break accepted;
            }
        };
        let config = Config::default()
            .with_deflate(offer)
            .with_max_message_size(MAX_SIZE);
        let mut machine = Connection::client(Arc::new(config), [7; 32], Instant::now());
        if let Some(agreed) = accepted.deflate {
            machine = machine.with_deflate(agreed);
        }
        Self {
            stream,
            machine,
            agreed: accepted.deflate,
            heard: VecDeque::new(),
            close: None,
            read: 0,
        }
    }

    /// Sends a text message and returns how many bytes it took.
    fn say(&mut self, text: &str) -> usize {
        let mut out = Vec::new();
        self.encode(text, &mut out);
        self.stream.write_all(&out).unwrap();
        out.len()
    }

    /// Appends the frame of a text message, which must be sent.
    fn encode(&mut self, text: &str, out: &mut Vec<u8>) {
        self.machine
            .send(MessageKind::Text, text.as_bytes(), out)
            .unwrap();
    }

    /// The next message, which is text; `None` at the server's close frame.
    fn next(&mut self) -> Option<String> {
        while self.heard.is_empty() && self.close.is_none() {
            assert!(self.receive(), "the stream ended without a close frame");
        }
        self.heard.pop_front()
    }

    fn hear(&mut self) -> String {
        self.next().expect("a message, not a close frame")
    }

    /// The next message, and how many bytes it took; nothing else may be under way.
    fn hear_counted(&mut self) -> (String, usize) {
        let before = self.read;
        let text = self.hear();
        assert!(self.heard.is_empty());
        (text, self.read - before)
    }

    /// Reads once; `false` at the end of the stream.
    fn receive(&mut self) -> bool {
        let mut buffer = vec![0; 64 * 1024];
        let read = self.stream.read(&mut buffer).expect("no reset");
        self.read += read;
        let now = Instant::now();
        let mut input = Input::new(&mut buffer[..read]);
        let mut out = Vec::new();
        while let Some(event) = self.machine.receive(&mut input, now) {
            match event {
                Event::Message(message) => {
                    let text = message.as_text().expect("text");
                    self.heard.push_back(text.to_owned());
                }
                Event::Close(frame) => self.close = Some(frame),
                Event::Failed(error) => panic!("{error}"),
                Event::Ping(_) | Event::Pong(_) => {}
            }
            self.machine.poll_transmit(&mut out);
        }
        // Whoever has closed need not take our pong or close frame.
        let _ = self.stream.write_all(&out);
        read > 0
    }

    /// Expects the server's close frame, behind what was heard, and returns its code.
    fn close_code(&mut self) -> u16 {
        assert_eq!(self.next(), None);
        let frame = self.close.as_ref().unwrap();
        frame.as_ref().map_or(1005, |frame| frame.code.as_u16())
    }

    /// Closes in good order.
    fn bye(mut self) {
        let mut out = Vec::new();
        self.machine.close(None, Instant::now());
        self.machine.poll_transmit(&mut out);
        self.stream.write_all(&out).unwrap();
        assert_eq!(self.close_code(), 1005);
    }
}

fn enabled(setup: Setup) -> Setup {
    setup.set("compression.enabled", "true")
}

/// Compression with a memory, both ways.
fn with_takeover(setup: Setup) -> Setup {
    enabled(setup)
        .set("compression.server_context_takeover", "true")
        .set("compression.client_context_takeover", "true")
}

fn echo() -> Setup {
    Setup::new().arg("--echo")
}

fn plain_offer() -> Option<DeflateConfig> {
    Some(DeflateConfig::default())
}

fn takeover_offer() -> DeflateConfig {
    DeflateConfig::default()
        .with_server_context_takeover(true)
        .with_client_context_takeover(true)
}

/// Text that hardly compresses by itself: hexadecimal digits without a pattern.
fn noise(seed: u64, len: usize) -> String {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let digit = || {
        // Xorshift (Marsaglia).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from_digit((state >> 60) as u32, 16).unwrap()
    };
    std::iter::repeat_with(digit).take(len).collect()
}

/// What the server answers to an offer.
fn answer(server: &Server, offer: &str) -> Option<String> {
    let line = format!("Sec-WebSocket-Extensions: {offer}");
    let (wire, response) = Wire::over(server.raw_stream(), &[&line]);
    wire.bye();
    response
        .header("Sec-WebSocket-Extensions")
        .map(str::to_owned)
}

#[test]
fn t24_offers_are_declined_by_silence_unless_it_is_enabled() {
    let server = echo().start();
    let offer = "permessage-deflate; client_max_window_bits";
    assert_eq!(answer(&server, offer), None);
    // The bit has no meaning then: RFC 6455 §5.2.
    for first in [0xC1, 0xC2, 0xC0, 0xC9] {
        let line = format!("Sec-WebSocket-Extensions: {offer}");
        let (mut wire, _) = Wire::over(server.raw_stream(), &[&line]);
        wire.send(frame(first, [0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00]));
        wire.ends_with(1002);
    }
    assert_eq!(server.figure("compression.connections"), 0);
    server.finish();
}

#[test]
fn offers_are_answered_as_configured() {
    const NO_TAKEOVER: &str =
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    let server = enabled(echo()).start();
    let ours = |more: &str| Some(format!("{NO_TAKEOVER}{more}"));
    // That of Chromium and Firefox, that of Safari, that of Python's websockets.
    let of_browsers = answer(&server, "permessage-deflate; client_max_window_bits");
    assert_eq!(of_browsers, ours("; client_max_window_bits=15"));
    assert_eq!(answer(&server, "permessage-deflate"), ours(""));
    assert_eq!(
        answer(
            &server,
            "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"
        ),
        ours("; server_max_window_bits=12; client_max_window_bits=12")
    );
    // The first that makes sense, or none.
    assert_eq!(
        answer(
            &server,
            "x-webkit-deflate-frame, permessage-deflate; nonsense, permessage-deflate"
        ),
        ours("")
    );
    for nonsense in [
        "permessage-deflate; nonsense",
        "permessage-deflate; server_max_window_bits=16",
        "x-webkit-deflate-frame",
    ] {
        assert_eq!(answer(&server, nonsense), None, "{nonsense}");
    }
    let (wire, response) = Wire::over(server.raw_stream(), &[]);
    assert_eq!(response.header("Sec-WebSocket-Extensions"), None);
    wire.bye();
    assert_eq!(server.figure("compression.connections"), 4);
    server.finish();

    let server = with_takeover(echo())
        .set("compression.server_max_window_bits", "10")
        .set("compression.client_max_window_bits", "11")
        .start();
    assert_eq!(
        answer(&server, "permessage-deflate; client_max_window_bits").unwrap(),
        "permessage-deflate; server_max_window_bits=10; client_max_window_bits=11"
    );
    server.finish();
}

#[test]
fn echoes_replies_and_pushes_are_compressed() {
    let text = "All work and no play makes Jack a dull boy. ".repeat(50);
    for setup in [echo(), Setup::new().app("exec cat")] {
        let server = enabled(setup).start();
        let mut peer = Peer::open(&server, plain_offer());
        assert!(peer.say(&text) < text.len() / 10);
        let (reply, size) = peer.hear_counted();
        assert_eq!(reply, text);
        assert!(size < text.len() / 10, "a reply took {size} bytes");

        server.send(json!({ "all": true }), &text);
        let (push, size) = peer.hear_counted();
        assert_eq!(push, text);
        assert!(size < text.len() / 10, "a push took {size} bytes");

        let mut fifo = std::fs::File::options()
            .write(true)
            .open(server.state("fifo/global_pipe.fifo"))
            .unwrap();
        writeln!(fifo, "{text}").unwrap();
        let (record, size) = peer.hear_counted();
        assert_eq!(record, text);
        assert!(size < text.len() / 10, "a record took {size} bytes");

        let status = server.status();
        let figure = |name| figure(&status, &format!("compression.{name}"));
        assert_eq!(figure("connections"), 1);
        assert_eq!(figure("payload_bytes"), 3 * text.len() as u64);
        assert_eq!(figure("frame_bytes"), peer.read as u64);
        peer.bye();
        server.finish();
    }
}

#[test]
fn compression_does_not_change_what_an_application_gets() {
    let server = enabled(Setup::new().app("wc -c; env | grep -i -e deflate -e extensions")).start();
    let mut peer = Peer::open(&server, plain_offer());
    peer.say(&"x".repeat(5000));
    assert_eq!(
        peer.hear(),
        "5000\nHTTP_SEC_WEBSOCKET_EXTENSIONS=permessage-deflate; server_no_context_takeover; \
         client_no_context_takeover; client_max_window_bits"
    );
    peer.say("ping");
    assert_eq!(peer.hear(), "pong");
    peer.bye();
    server.finish();
}

#[test]
fn messages_below_the_smallest_size_go_as_they_are() {
    let server = enabled(echo()).set("compression.min_size", "200").start();
    let mut peer = Peer::open(&server, plain_offer());
    peer.say(&"x".repeat(199));
    // Two bytes, and two for the length.
    assert_eq!(peer.hear_counted().1, 199 + 4);
    peer.say(&"x".repeat(200));
    assert!(peer.hear_counted().1 < 20);
    peer.bye();
    server.finish();
}

#[test]
fn context_is_kept_over_many_messages_whoever_sends_them() {
    let server = with_takeover(Setup::new().app("exec cat")).start();
    let mut peer = Peer::open(&server, Some(takeover_offer()));
    // Known from the first message on, so the others are short on the wire, both ways.
    let known = noise(1, 2000);
    peer.say(&known);
    assert_eq!(peer.hear(), known);
    for number in 0..100 {
        let text = format!("{number} {known} {number}");
        let pushes = number % 3 == 0;
        if pushes {
            server.send(json!({ "all": true }), &text);
        } else {
            let said = peer.say(&text);
            assert!(said < 200, "{said} bytes");
        }
        let (heard, size) = peer.hear_counted();
        assert_eq!(heard, text);
        assert!(size < 200, "{size} bytes, a push: {pushes}");
    }
    peer.bye();
    server.finish();
}

#[test]
fn pushes_among_echoes_stay_in_the_order_of_the_stream() {
    const COUNT: usize = 300;
    let server = with_takeover(echo()).start();
    let mut peer = Peer::open(&server, Some(takeover_offer()));
    let text = |name: &str, number: usize| format!("{name} {number} {}", noise(7, 1000));
    let echo = std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..COUNT {
                server.send(json!({ "all": true }), &text("push", number));
            }
        });
        for number in 0..COUNT {
            peer.say(&text("echo", number));
        }
        let (mut echoes, mut pushes) = (0, 0);
        while echoes + pushes < 2 * COUNT {
            // One that is out of order, or lost, does not inflate to what it was.
            let heard = peer.hear();
            match heard.starts_with("push") {
                true => {
                    assert_eq!(heard, text("push", pushes));
                    pushes += 1;
                }
                false => {
                    assert_eq!(heard, text("echo", echoes));
                    echoes += 1;
                }
            }
        }
        echoes
    });
    assert_eq!(echo, COUNT);
    peer.bye();
    server.finish();
}

#[test]
fn a_push_reaches_everybody_whatever_was_agreed_upon() {
    let server = with_takeover(Setup::new().app("exec cat")).start();
    let plain = DeflateConfig::default();
    let nine = WindowBits::new(9).unwrap();
    let offers = [
        None,
        Some(plain),
        Some(plain.with_server_context_takeover(true)),
        Some(takeover_offer()),
        Some(plain.with_server_max_window_bits(nine)),
        Some(takeover_offer().with_server_max_window_bits(nine)),
        Some(takeover_offer().with_client_max_window_bits(WindowBits::MIN)),
    ];
    let mut peers: Vec<Peer> = offers
        .iter()
        .map(|offer| Peer::open(&server, *offer))
        .collect();
    for (peer, offer) in peers.iter().zip(&offers) {
        assert_eq!(peer.agreed.is_some(), offer.is_some(), "{peer:?}");
    }
    let texts = [
        String::new(),
        "short".to_owned(),
        "x".repeat(100_000),
        noise(1, 3000),
        noise(2, 200_000),
        "Grüße, мир, 世界 ".repeat(1000),
    ];
    for _ in 0..3 {
        for text in &texts {
            let receipt = server.send(json!({ "all": true }), text);
            assert_eq!(receipt["connections"], peers.len());
            for peer in &mut peers {
                assert!(peer.hear() == *text, "{:?}", peer.agreed);
            }
        }
        // Between pushes each goes its own way.
        for (number, peer) in peers.iter_mut().enumerate() {
            let own = format!("{number} {}", noise(number as u64, 500));
            peer.say(&own);
            assert_eq!(peer.hear(), own);
        }
    }
    peers.into_iter().for_each(Peer::bye);
    server.finish();
}

#[test]
fn t24_bombs_are_refused_and_cost_no_memory() {
    let server = enabled(echo())
        .set("limits.max_message_size", "64KiB")
        .start();
    let mut bomb = Vec::new();
    Peer::open(&server, plain_offer()).encode(&"\0".repeat(10 << 20), &mut bomb);
    assert!(bomb.len() < 64 << 10, "too big on the wire already");
    let explode = || {
        let mut peer = Peer::open(&server, plain_offer());
        peer.stream.write_all(&bomb).unwrap();
        assert_eq!(peer.close_code(), 1009);
    };
    explode();
    let before = peak_memory(&server);
    for _ in 0..20 {
        explode();
    }
    let growth = peak_memory(&server) - before;
    assert!(growth < 1024, "{growth} KiB");
    // The limit is that of what it inflates to, to the byte.
    let mut peer = Peer::open(&server, plain_offer());
    let exact = "x".repeat(64 << 10);
    peer.say(&exact);
    assert_eq!(peer.hear(), exact);
    peer.say(&(exact + "x"));
    assert_eq!(peer.close_code(), 1009);
    drop(peer);
    server.finish();
}

/// The most memory that the server ever had, in KiB (proc(5), status).
fn peak_memory(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let kib = line.trim().strip_suffix(" kB").unwrap();
    kib.parse().unwrap()
}

#[test]
fn what_is_not_deflate_data_fails_with_1007() {
    let server = enabled(echo()).set("compression.min_size", "6").start();
    let open = || {
        Wire::over(
            server.raw_stream(),
            &["Sec-WebSocket-Extensions: permessage-deflate"],
        )
    };
    let (mut wire, _) = open();
    wire.send(frame(0xC1, [0xFF; 10]));
    wire.ends_with(1007);
    // The bit stands on the first frame of a data message and nowhere else: RFC 7692 §6.1.
    let (mut wire, _) = open();
    wire.send(frame(0x01, "a"));
    wire.send(frame(0xC0, "b"));
    wire.ends_with(1002);
    let (mut wire, _) = open();
    wire.send(frame(0xC9, ""));
    wire.ends_with(1002);
    // What was not compressed is taken as it is.
    let (mut wire, _) = open();
    wire.say("short");
    assert_eq!(wire.hear(), "short");
    wire.bye();
    server.finish();
}

/// A few KiB on the wire that are MiB: read in shares, kept where there is no room, and
/// answered one by one.
#[test]
fn inv05_a_flood_of_compressed_messages_is_answered_in_order() {
    const COUNT: usize = 500;
    let server = with_takeover(echo())
        .set("server.threads", "1")
        .set("limits.send_queue_size", "4KiB")
        .start();
    let mut peer = Peer::open(&server, Some(takeover_offer()));
    let text = |number: usize| format!("{number:0>8192}");
    let mut bytes = Vec::new();
    for number in 0..COUNT {
        peer.encode(&text(number), &mut bytes);
    }
    assert!(bytes.len() < COUNT * 100, "{}", bytes.len());
    let mut stream = peer.stream.try_clone().unwrap();
    let writer = std::thread::spawn(move || stream.write_all(&bytes).unwrap());
    // Others on the same thread are served meanwhile.
    let mut other = Peer::open(&server, None);
    other.say("hello");
    assert_eq!(other.hear(), "hello");
    for number in 0..COUNT {
        assert!(peer.hear() == text(number), "message {number}");
    }
    writer.join().unwrap();
    peer.bye();
    other.bye();
    server.finish();
}

#[test]
fn inv03_a_client_that_does_not_read_gets_whole_messages_and_then_1013() {
    let server = with_takeover(echo())
        .set("limits.send_queue_size", "64KiB")
        .start();
    let mut peer = Peer::open(&server, Some(takeover_offer()));
    let text = |number: u64| noise(number, 100_000);
    let mut count = 0;
    loop {
        let receipt = server.send(json!({ "all": true }), &text(count));
        if receipt["dropped"] == 1 {
            break;
        }
        count += 1;
    }
    // Nothing comes behind what was dropped: it could not be inflated.
    assert_eq!(server.send(json!({ "all": true }), "late")["written"], 0);
    let mut heard = 0;
    while let Some(message) = peer.next() {
        assert!(message == text(heard), "message {heard}");
        heard += 1;
    }
    assert!((1..=count).contains(&heard), "{heard} of {count}");
    assert_eq!(peer.close_code(), 1013);
    drop(peer);
    server.finish();
}
