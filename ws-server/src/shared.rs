//! What every worker of one server shares.

use std::sync::Arc;

use tokio::sync::watch;
use ws_ipc::FifoDirectory;

use crate::application::{Application, Backend, Validation};
use crate::config::Config;
use crate::doors::FifoWatch;
use crate::hub::Hub;
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
    /// `None`: the user id is the session id.
    pub(crate) validation: Option<Validation>,
    pub(crate) fifos: Option<FifoDirectory>,
    pub(crate) fifo_watch: FifoWatch,
    pub(crate) page: Option<Page>,
    /// Becomes true when nothing new is accepted any more.
    pub(crate) draining: watch::Receiver<bool>,
}

impl Shared {
    /// Has what is kept running for callbacks replaced by fresh processes, in good order.
    pub(crate) fn reload_application(&self) {
        let application = self.application.as_ref().map(|app| &app.callback);
        let validation = self
            .validation
            .as_ref()
            .map(|validation| &validation.callback);
        let mut reloaded: Vec<*const Backend> = Vec::new();
        for callback in [application, validation].into_iter().flatten() {
            // Both may be the same.
            let backend = Arc::as_ptr(&callback.backend);
            if !reloaded.contains(&backend) {
                callback.backend.reload();
                reloaded.push(backend);
            }
        }
    }
}
