//! `ws doctor`: finds out why clients do not connect.
//!
//! What is looked at is gathered here and in [`probe`], [`local`] and [`public`]; what it means is
//! decided without I/O in [`way`] and [`host`].

mod finding;
mod host;
mod local;
mod probe;
mod public;
mod remedy;
mod sockets;
mod tls;
mod way;

use std::net::IpAddr;

use hyper::Method;
use serde::Deserialize;
use ws_server::config::{Config, ListenSocket};

use self::finding::{Finding, Report};
use self::way::{Place, Seen};
use crate::args::{Client, ConfigFile, DoctorArgs};
use crate::carbonphp::Asking;
use crate::config::Surroundings;
use crate::control::{self, Ask, Caller};
use crate::failure::{Code, Failure};
use crate::output;
use crate::verb::serve;

pub(crate) use self::remedy::Proxy;

pub(crate) fn run(args: &DoctorArgs) -> Result<(), Failure> {
    let surroundings = Surroundings::of_process()?;
    let place = args.url.as_deref().map(|url| {
        let place = Place::parse(url);
        place.map_err(|why| Failure::new(Code::Usage, format!("{url}: {why}")))
    });
    let place = place.transpose()?;
    let headers = headers(&args.header)?;
    let config = match serve::configure(&args.serve, &surroundings, Asking::Now) {
        Ok((config, _)) => config,
        Err(refusal) => {
            if args.json {
                let says = refusal.told().iter().map(ToString::to_string);
                let report = Report {
                    findings: says
                        .map(|says| Finding::fault("configuration", says))
                        .collect(),
                    proxy: None,
                    backend: None,
                    is_reached: false,
                };
                report.print(true)?;
            }
            return Err(refusal.into());
        }
    };
    let file = surroundings.find_file(args.serve.config.config.as_deref());
    let says = match file {
        Some(path) => format!("{} is right", path.display()),
        None => "there is no file; defaults, environment and flags hold".to_owned(),
    };
    let examination = Examination {
        args,
        config: &config,
        place,
        headers,
        surroundings: &surroundings,
    };
    let mut findings = vec![Finding::ok("configuration", says)];
    let report = control::runtime()?.block_on(async {
        let mut server = Server::find(&config, &surroundings).await?;
        findings.extend(local::examine(&config, &server).await);
        let listeners = examination.listeners(&mut server).await?;
        findings.extend(listeners.findings);
        let mut report = Report {
            findings,
            proxy: args.proxy,
            backend: backend(&config),
            is_reached: listeners.is_reached || server.status.is_some(),
        };
        if let Some(place) = &examination.place {
            let public = examination
                .public(place, &mut server, listeners.listens)
                .await?;
            report.findings.extend(public.findings);
            report.proxy = report.proxy.or(public.proxy);
            report.is_reached |= public.is_reached;
        }
        Ok::<_, Failure>(report)
    })?;
    report.print(args.json)?;
    report.outcome()
}

/// What is examined, and how.
#[derive(Debug)]
struct Examination<'a> {
    args: &'a DoctorArgs,
    config: &'a Config,
    place: Option<Place>,
    headers: Vec<(String, String)>,
    surroundings: &'a Surroundings,
}

fn headers(given: &[String]) -> Result<Vec<(String, String)>, Failure> {
    let read = |header: &String| {
        let (name, value) = header.split_once(':')?;
        let (name, value) = (name.trim(), value.trim());
        hyper::header::HeaderName::from_bytes(name.as_bytes()).ok()?;
        hyper::header::HeaderValue::from_str(value).ok()?;
        Some((name.to_owned(), value.to_owned()))
    };
    let headers = given.iter().map(|header| {
        read(header).ok_or_else(|| {
            let told = format!("--header {header:?}: write NAME: VALUE");
            Failure::new(Code::Usage, told)
        })
    });
    headers.collect()
}

/// Where a proxy on this host finds the server.
fn backend(config: &Config) -> Option<String> {
    let listeners = config.server().listen.iter();
    let mut sockets = listeners.filter(|it| !it.is_tls()).map(|it| it.socket());
    sockets.find_map(|socket| match socket {
        ListenSocket::Tcp { host, port } if *port != 0 => Some(match host.as_str() {
            "0.0.0.0" | "::" => format!("127.0.0.1:{port}"),
            host if host.contains(':') => format!("[{host}]:{port}"),
            host => format!("{host}:{port}"),
        }),
        _ => None,
    })
}

/// The server that runs here, if it does.
#[derive(Debug)]
struct Server {
    caller: Caller,
    /// `ws status`, or why it cannot be had.
    status: Option<Status>,
    unreachable: Option<String>,
    was_refused: bool,
}

/// What is looked at of `ws status`.
#[derive(Debug, Deserialize)]
struct Status {
    pid: u32,
    identity: StatusOfStore,
}

#[derive(Debug, Deserialize)]
struct StatusOfStore {
    store: String,
    store_answers: bool,
}

/// What is looked at of the list of connections.
#[derive(Debug, Deserialize)]
struct Connections {
    connections: Vec<Connection>,
}

#[derive(Debug, Deserialize)]
struct Connection {
    ip: Option<IpAddr>,
    port: Option<u16>,
    uri: String,
}

impl Server {
    async fn find(config: &Config, surroundings: &Surroundings) -> Result<Self, Failure> {
        let named = surroundings.variable("WS_CONTROL_SOCKET");
        let client = Client {
            control: named.is_none().then(|| config.control_socket()),
            token_file: None,
            config: ConfigFile::default(),
            json: true,
        };
        let mut caller = Caller::new(&client)?;
        let answer = caller.call(&ask("/v1/status")).await;
        let (status, failure) = match answer {
            Ok(answer) => match serde_json::from_value(answer) {
                Ok(status) => (Some(status), None),
                Err(error) => (None, Some(Failure::new(Code::Failed, error))),
            },
            Err(error) => (None, Some(caller.failure(error))),
        };
        Ok(Self {
            caller,
            status,
            was_refused: failure
                .as_ref()
                .is_some_and(|failure| failure.code() == Code::NotPermitted),
            unreachable: failure.map(|failure| output::printable(&failure.to_string())),
        })
    }

    /// Finds a connection by what stands in its URI. `None` if the server cannot be asked.
    async fn seen(&mut self, mark: &str) -> Option<Option<Seen>> {
        self.status.as_ref()?;
        let answer = self.caller.call(&ask("/v1/connections")).await.ok()?;
        let list: Connections = serde_json::from_value(answer).ok()?;
        let mut connections = list.connections.into_iter();
        let found = connections.find(|it| it.uri.contains(mark));
        Some(found.map(|it| Seen {
            ip: it.ip,
            port: it.port,
        }))
    }
}

fn ask(path: &str) -> Ask<'_> {
    Ask {
        method: Method::GET,
        path,
        body: None,
        key: None,
        patience: probe::PATIENCE,
    }
}

/// A query that no other connection has.
fn mark() -> Result<String, Failure> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)
        .map_err(|error| Failure::new(Code::Failed, format!("no randomness: {error}")))?;
    Ok(format!("ws-doctor={:016x}", u64::from_ne_bytes(bytes)))
}
