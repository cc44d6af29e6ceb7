//! The server's figures at one moment.

use serde_json::{Map, Value, json};

use crate::shared::Shared;

/// Everything that `GET /v1/status` shows.
pub(crate) fn status(server: &Shared) -> Map<String, Value> {
    let mut status = server.hub.counters.to_json();
    {
        let registry = server.hub.registry();
        if let Some(Value::Object(connections)) = status.get_mut("connections") {
            connections.insert("open".to_owned(), json!(registry.count()));
        }
        status.insert("users".to_owned(), json!(registry.user_count()));
        status.insert("sessions".to_owned(), json!(registry.session_count()));
    }
    if let Some(Value::Object(identity)) = status.get_mut("identity") {
        let keeper = &server.hub.keeper;
        let (waiting, dropped) = keeper.waiting();
        let known = keeper.table().len();
        identity.insert("known".to_owned(), json!(known));
        let store = server.current().config.identity().store.to_string();
        identity.insert("store".to_owned(), json!(store));
        identity.insert("store_answers".to_owned(), json!(!keeper.is_down()));
        identity.insert("changes_waiting".to_owned(), json!(waiting));
        identity.insert("changes_dropped".to_owned(), json!(dropped));
    }
    let presence = server.hub.presence();
    let events = json!({ "listeners": presence.listeners(), "lagged": presence.lagged.get() });
    status.insert("events".to_owned(), events);
    if let Some(Value::Object(sockets)) = status.get_mut("sockets") {
        sockets.insert("open".to_owned(), json!(server.sockets.open()));
    }
    status.insert("processes".to_owned(), processes(server));
    status.insert("version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
    status.insert("pid".to_owned(), json!(std::process::id()));
    status.insert("memory_bytes".to_owned(), json!(resident_memory()));
    status
}

/// What is kept running for callbacks.
fn processes(server: &Shared) -> Value {
    let sum = server.pool_stats();
    json!({
        // Commands of which processes are kept running.
        "commands": server.pools().count(),
        "running": sum.running,
        "restarts": sum.restarts,
        "replaced": sum.replaced,
        "replacements_failed": sum.failed_replacements,
    })
}

/// Resident memory in bytes (proc(5), statm), if the system says.
pub(crate) fn resident_memory() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    let page_size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * u64::try_from(page_size).ok()?)
}
