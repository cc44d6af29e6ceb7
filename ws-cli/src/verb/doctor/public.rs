//! Handshakes: at each listener of the server, and the public way.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use ws_server::config::{AppBackend, ListenAddr, ListenSocket};

use super::finding::Finding;
use super::probe::{self, Answer, Ask, Bytes, Head, PATIENCE, Talk};
use super::remedy::Proxy;
use super::sockets;
use super::tls::{self, Shown};
use super::way::{self, Around, Cause, Place};
use super::{Examination, Server, mark};
use crate::failure::Failure;
use crate::verb::tls as trust;

/// More addresses of one name are not tried.
const MAX_ADDRESSES: usize = 4;

/// What was found at the listeners.
#[derive(Debug, Default)]
pub(super) struct AtListeners {
    pub(super) findings: Vec<Finding>,
    pub(super) is_reached: bool,
    /// Whether one of them answers; `None` if none could be asked.
    pub(super) listens: Option<bool>,
}

/// What was found on the public way.
#[derive(Debug, Default)]
pub(super) struct OnPublicWay {
    pub(super) findings: Vec<Finding>,
    pub(super) proxy: Option<Proxy>,
    pub(super) is_reached: bool,
}

/// A stream to somewhere, and what was learnt when it was opened.
struct Opened {
    stream: Box<dyn Bytes>,
    ours: SocketAddr,
    peer: SocketAddr,
    shown: Option<Shown>,
}

impl Examination<'_> {
    /// Shakes hands with each listener.
    pub(super) async fn listeners(&self, server: &mut Server) -> Result<AtListeners, Failure> {
        let mut at = AtListeners::default();
        let pid = server.status.as_ref().map(|status| status.pid);
        let unnamed = pid.and_then(|pid| sockets::unnamed(self.config, pid));
        for addr in &self.config.server().listen {
            let found = unnamed.filter(|_| !sockets::is_named(addr)).map(|found| {
                let (host, port) = (found.ip().to_string(), found.port());
                addr.clone().with_socket(ListenSocket::Tcp { host, port })
            });
            match self
                .listener(found.as_ref().unwrap_or(addr), server)
                .await?
            {
                Reached::Answers(finding) => {
                    at.findings.push(finding);
                    at.is_reached = true;
                    at.listens = Some(true);
                }
                Reached::Nothing(finding) => {
                    at.findings.push(finding);
                    at.listens = at.listens.or(Some(false));
                }
                Reached::Unknown(finding) => at.findings.push(finding),
            }
        }
        Ok(at)
    }

    async fn listener(&self, addr: &ListenAddr, server: &mut Server) -> Result<Reached, Failure> {
        const CHECK: &str = "listener";
        let unknown =
            |why: &str| Reached::Unknown(Finding::not_checked(CHECK, format!("{addr}: {why}")));
        let trusts = |peer| self.config.server().trusted.contain(peer);
        let (stream, header) = match addr.socket() {
            ListenSocket::Tcp { port: 0, .. } => {
                return Ok(unknown(
                    "any free port; name the one that was taken with --listen",
                ));
            }
            ListenSocket::Tcp { host, port } => {
                let host = match host.as_str() {
                    "0.0.0.0" => IpAddr::V4(Ipv4Addr::LOCALHOST).to_string(),
                    "::" => IpAddr::V6(Ipv6Addr::LOCALHOST).to_string(),
                    host => host.to_owned(),
                };
                let stream = within(TcpStream::connect((host.as_str(), *port))).await;
                let ours = stream.as_ref().ok().and_then(|it| it.local_addr().ok());
                if addr.is_proxied()
                    && !ours.is_some_and(|ours| trusts(Some(ours.ip())))
                    && stream.is_ok()
                {
                    return Ok(unknown(
                        "only trusted proxies may connect, and this host is none",
                    ));
                }
                let header = "PROXY UNKNOWN\r\n";
                (stream.map(|it| Box::new(it) as Box<dyn Bytes>), header)
            }
            ListenSocket::Unix(path) => {
                if addr.is_proxied() && !trusts(None) {
                    return Ok(unknown(
                        "only trusted proxies may connect, and \"unix\" is none",
                    ));
                }
                let stream = within(UnixStream::connect(path)).await;
                (
                    stream.map(|it| Box::new(it) as Box<dyn Bytes>),
                    "PROXY UNKNOWN\r\n",
                )
            }
            _ => return Ok(unknown("systemd knows where it is")),
        };
        let mut stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                let says = format!("nothing answers at {addr}: {error}");
                let is_elsewhere = self.place.is_some() && server.status.is_none();
                return Ok(Reached::Nothing(match (is_elsewhere, error.kind()) {
                    (_, io::ErrorKind::PermissionDenied) => {
                        Finding::warning(CHECK, says).advise("Run as a user who may connect.")
                    }
                    (true, _) => Finding::not_checked(CHECK, says),
                    (false, _) => Finding::fault(CHECK, says).advise(
                        "Start the server with this configuration; its log says why it ended.",
                    ),
                }));
            }
        };
        if addr.is_proxied() {
            // What goes wrong with it is seen by the answer, or that there is none.
            let _ = stream.write_all(header.as_bytes()).await;
        }
        if addr.is_tls() {
            let config = trust::client_config(None, true)?;
            let name = ServerName::try_from("localhost").map_err(anyhow::Error::from)?;
            let connector = TlsConnector::from(Arc::new(config));
            stream = match within(connector.connect(name, stream)).await {
                Ok(stream) => Box::new(stream),
                Err(error) => {
                    let says = format!("{addr}: TLS: {error}");
                    return Ok(Reached::Answers(Finding::fault(CHECK, says)));
                }
            };
        }
        self.shake_hands_here(addr, stream, server).await
    }

    async fn shake_hands_here(
        &self,
        addr: &ListenAddr,
        mut stream: Box<dyn Bytes>,
        server: &mut Server,
    ) -> Result<Reached, Failure> {
        const CHECK: &str = "listener";
        let mark = mark()?;
        let target = format!("/?{mark}");
        let ask = Ask {
            target: &target,
            host: "localhost",
            origin: None,
            headers: &self.headers,
            deflate: false,
        };
        let (answer, read) = probe::shake_hands(&mut stream, &ask).await;
        let cause = way::cause(&answer);
        if cause != Cause::Upgraded {
            let around = Around {
                url: addr.to_string(),
                software: Some("what listens there".to_owned()),
                ..Around::default()
            };
            return Ok(Reached::Answers(way::judge_listener(
                &addr.to_string(),
                &cause,
                &around,
            )));
        }
        let mut talk = Talk::new(stream, read).await;
        let mut said = vec!["101".to_owned()];
        let mut trouble = match talk.ping().await {
            Ok(span) => {
                said.push(format!("pong after {:.1} ms", span.as_secs_f64() * 1000.0));
                None
            }
            Err(trouble) => Some(trouble),
        };
        let seen = server.seen(&mark).await;
        if self.answers_ping() && trouble.is_none() && matches!(seen, Some(Some(_))) {
            match talk.say_ping().await {
                Ok(_) => said.push("\"ping\" is answered with \"pong\"".to_owned()),
                Err(error) => trouble = Some(error),
            }
        }
        talk.close().await;
        let said = format!("{addr}: {}", said.join(", "));
        Ok(Reached::Answers(match (trouble, seen) {
            (_, Some(None)) => Finding::fault(
                CHECK,
                format!(
                    "{addr}: a WebSocket server answers, but not the one of the control socket"
                ),
            )
            .advise(if self.config.server().auto_port {
                "The port was taken, and the server has one of the next (server.auto_port): name it \
                 with --listen."
            } else {
                "Two servers run: end the other one, or give this one another address."
            }),
            (Some(trouble), _) => Finding::fault(CHECK, format!("{said}, then {trouble}"))
                .advise("The log of the server says why."),
            (None, _) => Finding::ok(CHECK, said),
        }))
    }

    /// Whether the server answers the text `ping` without asking an application.
    fn answers_ping(&self) -> bool {
        let app = self.config.app();
        app.ping && !matches!(app.backend, AppBackend::Echo)
    }

    /// Goes the way that the public goes.
    pub(super) async fn public(
        &self,
        place: &Place,
        server: &mut Server,
        listens_here: Option<bool>,
    ) -> Result<OnPublicWay, Failure> {
        let mut way = OnPublicWay::default();
        let Some(addr) = self.find(place, &mut way).await else {
            return Ok(way);
        };
        way.is_reached = true;
        let opened = match self.open(place, addr, "http/1.1").await? {
            Ok(opened) => opened,
            Err(error) => {
                let speaks_h2 =
                    is_about_alpn(&error) && self.open(place, addr, "h2").await?.is_ok();
                way.findings.push(tls_fault(&error, speaks_h2));
                return Ok(way);
            }
        };
        if let Some(shown) = &opened.shown {
            let now = SystemTime::now();
            let insecure = self.args.insecure;
            let judged = way::judge_certificate(shown, &place.host, insecure, now);
            way.findings.push(judged);
        }
        // A visitor's cookie is for the server, not for whoever may stand in its place.
        let is_doubtful = opened.shown.as_ref().is_some_and(|it| it.trouble.is_some());
        let headers = match is_doubtful && !self.args.insecure {
            true => &[],
            false => &self.headers[..],
        };
        if headers.len() < self.headers.len() {
            way.findings.push(Finding::not_checked(
                "headers",
                "those of --header are not sent over a connection that is not to be trusted",
            ));
        }
        let mark = mark()?;
        let target = place.marked(&mark);
        let authority = place.authority();
        let origin = self.args.origin.clone().unwrap_or_else(|| place.origin());
        let ask = Ask {
            target: &target,
            host: &authority,
            origin: Some(&origin),
            headers,
            deflate: false,
        };
        let Opened {
            mut stream,
            ours,
            peer,
            ..
        } = opened;
        let (answer, read) = probe::shake_hands(&mut stream, &ask).await;
        let mut around = Around {
            url: self.args.url.clone().unwrap_or_default(),
            origin: origin.clone(),
            listens_here,
            ..Around::default()
        };
        self.recognise(&answer, place, addr, &ask, &mut around)
            .await?;
        way.proxy = around.proxy;
        let cause = way::cause(&answer);
        if cause == Cause::Origin {
            self.find_rewriting(place, addr, &ask, &mut around).await?;
        }
        way.findings.push(way::judge(&cause, &around));
        let (Cause::Upgraded, Answer::Http { head, .. }) = (&cause, &answer) else {
            return Ok(way);
        };
        let mut talk = Talk::new(stream, read).await;
        let pong = talk.ping().await;
        way.findings
            .push(way::judge_frames("frames", "pong", &pong, &around));
        let seen = server.seen(&mark).await;
        match seen {
            None => way.findings.push(Finding::not_checked(
                "visitor",
                "the server cannot be asked whom it takes this for: its control socket is not here",
            )),
            Some(seen) => {
                let trusted = &self.config.server().trusted;
                way.findings
                    .push(way::judge_visitor(seen, ours, peer, trusted));
            }
        }
        let is_ours = matches!(seen, Some(Some(_)));
        let mut is_alive = pong.is_ok();
        if is_ours {
            let cookie = &self.config.identity().cookie;
            way.findings.extend(way::judge_scheme(head, place, cookie));
            // Another server may not answer it itself, and ask its application.
            if self.answers_ping() && is_alive {
                let said = talk.say_ping().await;
                is_alive = said.is_ok();
                let judged = way::judge_frames("messages", "\"pong\"", &said, &around);
                way.findings.push(judged);
            }
        }
        if let Some(asked) = self.args.silence.filter(|_| is_alive) {
            let silence = talk.be_silent(asked).await;
            let interval = self.config.limits().ping_interval;
            way.findings
                .push(way::judge_silence(&silence, interval, &around));
        }
        talk.close().await;
        if is_ours && let Some(head) = self.compressed(place, addr, &ask).await? {
            let is_enabled = self.config.compression().enabled;
            way.findings
                .extend(way::judge_compression(&head, is_enabled, &around));
        }
        Ok(way)
    }

    /// Finds the addresses, and one that accepts.
    async fn find(&self, place: &Place, way: &mut OnPublicWay) -> Option<SocketAddr> {
        let resolved = within(lookup_host((place.host.as_str(), place.port))).await;
        let addresses: Vec<SocketAddr> = match resolved {
            Ok(addresses) => addresses.collect(),
            Err(error) => {
                let says = format!("{} has no address: {error}", place.host);
                let finding = Finding::fault("dns", says)
                    .advise("Add an A and an AAAA record, or look for a mistake in the name.");
                way.findings.push(finding);
                return None;
            }
        };
        let mut tried = Vec::new();
        for addr in addresses {
            let is_known = tried.iter().any(|(known, _)| *known == addr);
            if is_known || tried.len() == MAX_ADDRESSES {
                continue;
            }
            let begun = Instant::now();
            let done = within(TcpStream::connect(addr)).await;
            let done = done
                .map(|_| begun.elapsed())
                .map_err(|error| error.to_string());
            tried.push((addr, done));
        }
        way.findings
            .extend(way::judge_addresses(&place.host, &tried));
        let mut reached = tried.into_iter().filter(|(_, done)| done.is_ok());
        reached.next().map(|(addr, _)| addr)
    }

    /// Opens a stream. The inner error is one of TLS or TCP.
    async fn open(
        &self,
        place: &Place,
        addr: SocketAddr,
        alpn: &str,
    ) -> Result<io::Result<Opened>, Failure> {
        let socket = match within(TcpStream::connect(addr)).await {
            Ok(socket) => socket,
            Err(error) => return Ok(Err(error)),
        };
        let (ours, peer) = (socket.local_addr()?, socket.peer_addr()?);
        if !place.is_secure {
            let stream = Box::new(socket);
            return Ok(Ok(Opened {
                stream,
                ours,
                peer,
                shown: None,
            }));
        }
        let name = ServerName::try_from(place.host.clone()).map_err(anyhow::Error::from)?;
        let (config, observer) = self.observing(alpn)?;
        let connector = TlsConnector::from(Arc::new(config));
        let stream = match within(connector.connect(name, socket)).await {
            Ok(stream) => stream,
            Err(error) => return Ok(Err(error)),
        };
        Ok(Ok(Opened {
            stream: Box::new(stream),
            ours,
            peer,
            shown: observer.shown(),
        }))
    }

    fn observing(&self, alpn: &str) -> Result<(ClientConfig, Arc<tls::Observer>), Failure> {
        let ca = self
            .args
            .ca
            .as_ref()
            .map(|ca| self.surroundings.directory.join(ca));
        tls::observing(ca.as_deref(), alpn)
    }

    /// Makes another handshake on a connection of its own.
    async fn again(
        &self,
        place: &Place,
        addr: SocketAddr,
        ask: &Ask<'_>,
    ) -> Result<Option<Answer>, Failure> {
        let Ok(mut opened) = self.open(place, addr, "http/1.1").await? else {
            return Ok(None);
        };
        let (answer, read) = probe::shake_hands(&mut opened.stream, ask).await;
        if way::cause(&answer) == Cause::Upgraded {
            Talk::new(opened.stream, read).await.close().await;
        }
        Ok(Some(answer))
    }

    /// Finds out which software answers, if need be by asking for something that it answers itself.
    async fn recognise(
        &self,
        answer: &Answer,
        place: &Place,
        addr: SocketAddr,
        ask: &Ask<'_>,
        around: &mut Around,
    ) -> Result<(), Failure> {
        learn(answer, around);
        if around.software.is_none() && around.proxy.is_none() {
            // A 101 seldom names anybody, but a refusal may: no server of ours takes this origin.
            let foreign = Ask {
                origin: Some("null"),
                ..*ask
            };
            if let Some(answer) = self.again(place, addr, &foreign).await? {
                learn(&answer, around);
            }
        }
        around.proxy = self.args.proxy.or(around.proxy);
        Ok(())
    }

    /// Finds out what a proxy made of the host or the scheme, by the page that the server accepts.
    async fn find_rewriting(
        &self,
        place: &Place,
        addr: SocketAddr,
        ask: &Ask<'_>,
        around: &mut Around,
    ) -> Result<(), Failure> {
        let mut backends: Vec<String> = super::backend(self.config).into_iter().collect();
        backends.extend(["localhost".to_owned(), "ws".to_owned()]);
        if self.args.origin.is_none() {
            for (origin, rewritten) in place.origins_of_rewriting_proxies(&backends) {
                let ask = Ask {
                    origin: Some(&origin),
                    ..*ask
                };
                let answer = self.again(place, addr, &ask).await?;
                if answer.is_some_and(|answer| way::cause(&answer) == Cause::Upgraded) {
                    around.rewritten = Some(rewritten);
                    return Ok(());
                }
            }
        }
        let ask = Ask {
            origin: None,
            ..*ask
        };
        let answer = self.again(place, addr, &ask).await?;
        around.accepts_without_origin =
            answer.is_some_and(|answer| way::cause(&answer) == Cause::Upgraded);
        Ok(())
    }

    /// The head of the answer to an offer of compression.
    async fn compressed(
        &self,
        place: &Place,
        addr: SocketAddr,
        ask: &Ask<'_>,
    ) -> Result<Option<Head>, Failure> {
        let ask = Ask {
            deflate: true,
            ..*ask
        };
        let answer = self.again(place, addr, &ask).await?;
        Ok(match answer {
            Some(Answer::Http { head, .. }) if head.status == 101 => Some(head),
            _ => None,
        })
    }
}

/// Takes what a hop says of itself.
fn learn(answer: &Answer, around: &mut Around) {
    let Answer::Http { head, .. } = answer else {
        return;
    };
    let (server, via) = (head.header("Server"), head.header("Via"));
    around.proxy = Proxy::recognise(server, via, &head.body);
    around.software = server.or(via).map(str::to_owned);
}

/// What became of a listener.
enum Reached {
    Answers(Finding),
    Nothing(Finding),
    Unknown(Finding),
}

/// Nothing here takes long where all is well.
async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let limit: Duration = PATIENCE;
    let late = || io::Error::new(io::ErrorKind::TimedOut, "no answer in 5 s");
    timeout(limit, work).await.unwrap_or_else(|_| Err(late()))
}

fn cause_of(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|it| it.downcast_ref())
}

fn is_about_alpn(error: &io::Error) -> bool {
    let alert = AlertDescription::NoApplicationProtocol;
    matches!(cause_of(error), Some(rustls::Error::AlertReceived(it)) if *it == alert)
}

fn tls_fault(error: &io::Error, speaks_h2: bool) -> Finding {
    const CHECK: &str = "tls";
    if speaks_h2 {
        return Finding::fault(
            CHECK,
            "only HTTP/2 is spoken (ALPN h2); an upgrade needs HTTP/1.1",
        )
        .advise("Let it speak http/1.1 too: browsers then open a connection of its own for it.");
    }
    if matches!(cause_of(error), Some(rustls::Error::InvalidMessage(_))) {
        return Finding::fault(CHECK, "the port does not speak TLS")
            .advise("Connect to ws:// instead of wss://, or set up TLS there.");
    }
    Finding::fault(CHECK, format!("TLS fails: {error}"))
        .advise("Is TLS set up for this name? The proxy's log says why it refuses.")
}
