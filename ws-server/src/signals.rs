//! Signals, and the periodic line.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::interval_at;
use tracing::info;
use ws_transport::TlsAcceptor;

use crate::observer::Observer;
use crate::reconfigure::{self, ConfigSource};
use crate::shared::Shared;
use crate::status;

/// The signals that the server knows.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user1: Signal,
}

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
        })
    }

    /// Serves the other signals, and logs the counters, until the server is to stop.
    pub(crate) async fn until_stop(
        &mut self,
        server: &Arc<Shared>,
        tls: Option<&TlsAcceptor>,
        source: Option<&Arc<dyn ConfigSource>>,
        observer: &dyn Observer,
    ) {
        let period = || server.current().config.log().stats_interval;
        let ticks_of = |period: Option<Duration>| {
            period.map(|period| interval_at(tokio::time::Instant::now() + period, period))
        };
        let mut former = period();
        let mut ticks = ticks_of(former);
        // Whoever is told to stop does not wait for the files that are being read.
        let mut reload: Option<Pin<Box<dyn Future<Output = ()>>>> = None;
        loop {
            let is_idle = reload.is_none();
            let reloaded = async {
                match &mut reload {
                    Some(reload) => reload.await,
                    None => std::future::pending().await,
                }
            };
            let tick = async {
                match &mut ticks {
                    Some(ticks) => ticks.tick().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = self.terminate.recv() => return info!(signal = "TERM", "stopping"),
                _ = self.interrupt.recv() => return info!(signal = "INT", "stopping"),
                // One that comes meanwhile is kept.
                _ = self.hangup.recv(), if is_idle => {
                    observer.reloading();
                    let (tls, source) = (tls.cloned(), source.cloned());
                    let begun = reconfigure::reload(Arc::clone(server), tls, source);
                    reload = Some(Box::pin(begun));
                }
                () = reloaded => {
                    reload = None;
                    if period() != former {
                        former = period();
                        ticks = ticks_of(former);
                    }
                    observer.ready();
                }
                _ = self.user1.recv() => {
                    let status = serde_json::Value::Object(status::status(server));
                    info!(signal = "USR1", %status, "state");
                }
                _ = tick => log_counters(server),
            }
        }
    }

    /// Resolves with the next signal to stop.
    pub(crate) async fn stop_again(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The periodic line.
pub(crate) fn log_counters(server: &Shared) {
    let counters = &server.hub.counters;
    let (connections, users) = {
        let registry = server.hub.registry();
        (registry.count(), registry.user_count())
    };
    info!(
        connections,
        users,
        opened = counters.connections_opened.get(),
        closed = counters.connections_closed(),
        messages = counters.messages_received.get(),
        callbacks.started = counters.callbacks_started.get(),
        callbacks.finished = counters.callbacks_finished.get(),
        callbacks.failed = counters.callbacks_failed(),
        pushes = counters.pushes.get(),
        records.refused = counters.records_refused(),
        memory = status::resident_memory(),
        "counters"
    );
}
