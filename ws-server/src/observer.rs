//! Those who watch the server from outside: a script that waits for a URL, a service manager.

use std::time::Duration;

/// Is told how the server does. Calls come from the server's own threads and must not block.
pub trait Observer: Send + Sync {
    /// Takes the URL of a listener. There is one call for each when all are bound and the backends
    /// are up, and then [`ready`](Self::ready).
    fn listening(&self, url: &str);

    /// The server serves, for the first time or again after [`reloading`](Self::reloading).
    fn ready(&self) {}

    /// The server looks at its files anew.
    fn reloading(&self) {}

    /// The server accepts nothing more, and ends when what it has accepted is done.
    fn stopping(&self) {}

    /// How often [`alive`](Self::alive) is to be called, if at all.
    fn heartbeat(&self) -> Option<Duration> {
        None
    }

    /// All threads that serve connections have just answered; `status` says for people what they
    /// do. There is no call as long as one of them does not.
    fn alive(&self, status: &str) {
        let _ = status;
    }
}
