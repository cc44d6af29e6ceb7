//! What every worker of one server shares.

use std::sync::Arc;

use tokio::sync::watch;
use ws_ipc::{FifoDirectory, Pool};

use crate::application::{Application, Backend, Validation};
use crate::config::{Config, FifoRecords};
use crate::core::uri::Uri;
use crate::doors::FifoWatch;
use crate::hub::Hub;
use crate::identify::Identifier;
use crate::page::Page;
use crate::rates::Rates;
use crate::sockets::Sockets;

/// One server, as its worker threads and doors see it.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) protocol: Arc<ws_proto::Config>,
    pub(crate) hub: Hub,
    pub(crate) rates: Rates,
    pub(crate) sockets: Arc<Sockets>,
    /// Opening handshakes at once.
    pub(crate) handshakes: usize,
    /// `None`: messages are echoed in the server.
    pub(crate) application: Option<Application>,
    /// `None`: nobody's word about a visitor is taken but the validation's.
    pub(crate) identifier: Option<Identifier>,
    /// `None`: the user id is the session id.
    pub(crate) validation: Option<Validation>,
    pub(crate) fifos: Option<FifoDirectory>,
    pub(crate) fifo_watch: FifoWatch,
    pub(crate) page: Option<Page>,
    /// Becomes true when nothing new is accepted any more.
    pub(crate) draining: watch::Receiver<bool>,
}

impl Shared {
    /// Whether it may be run as a message, when others than the client ask for that.
    pub(crate) fn runs(&self, text: &[u8]) -> bool {
        let takes_any = self.config.fifo().records == FifoRecords::Any && !text.is_empty();
        takes_any || Uri::parse(text).is_some()
    }

    /// Has what is kept running for callbacks replaced by fresh processes, in good order.
    pub(crate) fn reload_application(&self) {
        self.pools().for_each(Pool::reload);
    }

    /// What is kept running for callbacks.
    pub(crate) fn pools(&self) -> impl Iterator<Item = &Pool> {
        let application = self.application.as_ref().map(|app| &app.callback.backend);
        let validation = self.validation.as_ref().map(|own| &own.callback.backend);
        // The validation may ask the application.
        let validation = validation
            .filter(|own| application.is_none_or(|application| !Arc::ptr_eq(application, own)));
        let backends = application.into_iter().chain(validation);
        backends.filter_map(|backend| match &**backend {
            Backend::Pool(pool) => Some(pool),
            _ => None,
        })
    }
}
