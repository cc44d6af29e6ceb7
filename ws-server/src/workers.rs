//! The worker threads.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::mpsc;
use tracing::error;

use crate::command::Command;
use crate::config::Config;
use crate::error::ServeError;
use crate::shard;
use crate::shared::Shared;

/// One thread for each core, unless the configuration says otherwise.
pub(crate) fn worker_count(config: &Config) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    config.server().threads.map_or_else(cores, usize::from)
}

/// The worker threads.
#[derive(Debug)]
pub(crate) struct Workers {
    threads: Vec<JoinHandle<()>>,
    /// Closed when the last thread has ended.
    alive: mpsc::Receiver<()>,
}

impl Workers {
    pub(crate) fn start(
        server: &Arc<Shared>,
        receivers: Vec<mpsc::UnboundedReceiver<Command>>,
    ) -> Result<Self, ServeError> {
        let (guard, alive) = mpsc::channel(1);
        let threads = receivers.into_iter().enumerate().map(|(index, commands)| {
            shard::start(index, Arc::clone(server), commands, guard.clone())
        });
        let threads = threads
            .collect::<io::Result<_>>()
            .map_err(ServeError::System)?;
        Ok(Self { threads, alive })
    }

    /// Resolves when every worker has ended.
    pub(crate) async fn ended(&mut self) {
        while self.alive.recv().await.is_some() {}
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                error!("a worker thread panicked");
            }
        }
    }
}
