//! What every worker of one server shares.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;
use ws_ipc::{FifoDirectory, Pool, PoolStats};

use crate::application::{Application, Backend, Callback, Validation};
use crate::config::{Config, FifoRecords};
use crate::core::uri::Uri;
use crate::doors::FifoWatch;
use crate::hub::Hub;
use crate::identify::Identifier;
use crate::page::Page;
use crate::rates::Rates;
use crate::sockets::Sockets;
use crate::spans::Spans;

/// What a reload of the configuration replaces, all of it at once.
#[derive(Debug)]
pub(crate) struct Current {
    pub(crate) config: Config,
    pub(crate) protocol: Arc<ws_proto::Config>,
    pub(crate) rates: Arc<Rates>,
    /// `None`: messages are echoed in the server.
    pub(crate) application: Option<Application>,
    /// `None`: the user id is the session id.
    pub(crate) validation: Option<Validation>,
}

/// One server, as its worker threads and doors see it.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) current: ArcSwap<Current>,
    pub(crate) hub: Hub,
    pub(crate) sockets: Arc<Sockets>,
    /// Opening handshakes at once.
    pub(crate) handshakes: usize,
    /// `None`: nobody's word about a visitor is taken but the validation's.
    pub(crate) identifier: Option<Identifier>,
    pub(crate) fifos: Option<FifoDirectory>,
    pub(crate) fifo_watch: FifoWatch,
    pub(crate) page: Option<Page>,
    pub(crate) spans: Spans,
    /// Becomes true when nothing new is accepted any more.
    pub(crate) draining: watch::Receiver<bool>,
}

impl Shared {
    /// What holds at this moment. Whoever keeps it for long has it cloned, or takes it anew.
    pub(crate) fn current(&self) -> Guard<Arc<Current>> {
        self.current.load()
    }

    /// Whether it may be run as a message, when others than the client ask for that.
    pub(crate) fn runs(&self, text: &[u8]) -> bool {
        let records = self.current().config.fifo().records;
        let takes_any = records == FifoRecords::Any && !text.is_empty();
        takes_any || Uri::parse(text).is_some()
    }

    /// Has what is kept running for callbacks replaced by fresh processes, in good order.
    pub(crate) fn reload_application(&self) {
        self.pools().for_each(|pool| pool.reload());
    }

    /// The figures of [`pools`](Self::pools), added up.
    pub(crate) fn pool_stats(&self) -> PoolStats {
        let mut sum = PoolStats::default();
        for stats in self.pools().map(|pool| pool.stats()) {
            sum.running += stats.running;
            sum.restarts += stats.restarts;
            sum.replaced += stats.replaced;
            sum.failed_replacements += stats.failed_replacements;
        }
        sum
    }

    /// What is kept running for callbacks.
    pub(crate) fn pools(&self) -> impl Iterator<Item = Pool> + use<> {
        let current = self.current();
        let backend = |callback: &Callback| Arc::clone(&callback.backend);
        let application = current
            .application
            .as_ref()
            .map(|app| backend(&app.callback));
        let validation = current
            .validation
            .as_ref()
            .map(|own| backend(&own.callback));
        // The validation may ask the application.
        let validation = validation.filter(|own| {
            application
                .as_ref()
                .is_none_or(|application| !Arc::ptr_eq(application, own))
        });
        let backends = application.into_iter().chain(validation);
        backends.filter_map(|backend| match &*backend {
            Backend::Pool(pool) => Some(pool.clone()),
            _ => None,
        })
    }
}
