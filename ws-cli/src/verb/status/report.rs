//! The figures in groups, and in words what is wrong with them.

use serde_json::Value;

use crate::figures::Figures;
use crate::human;
use crate::output;
use crate::paint::Paint;

/// A page for people.
pub(super) fn lines(figures: &Figures, paint: Paint) -> Vec<String> {
    let mut lines = vec![paint.head(&headline(figures))];
    let complaints = complaints(figures);
    match complaints.is_empty() {
        true => lines.push(paint.well("all is well")),
        false => lines.extend(complaints.iter().map(|it| paint.wrong(&format!("! {it}")))),
    }
    lines.push(String::new());
    let rows = rows(figures);
    let table = output::table(&rows);
    lines.extend(table.into_iter().zip(&rows).map(|(line, row)| {
        // The group's name is as wide with its colour as without.
        match row[0].is_empty() {
            true => line,
            false => line.replacen(&row[0], &paint.head(&row[0]), 1),
        }
    }));
    lines
}

fn headline(figures: &Figures) -> String {
    let version = output::printable(figures.text("version").unwrap_or("?"));
    let mut words = vec![
        format!("ws {version}"),
        format!("pid {}", figures.count("pid")),
    ];
    words.extend(figures.uptime().map(|it| format!("up {}", human::age(it))));
    words.push(human::size(figures.count("memory_bytes")));
    words.join(", ")
}

/// What an operator should look at.
pub(crate) fn complaints(figures: &Figures) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut say = |is_so: bool, what: String| complaints.extend(is_so.then_some(what));
    say(
        figures.gauge("ws_draining") == Some(1.0),
        "it drains: nobody is let in any more".to_owned(),
    );
    let store = output::printable(figures.text("identity.store").unwrap_or("?"));
    say(
        figures.value("identity.store_answers") == Some(&Value::Bool(false)),
        format!("the store of sessions does not answer: {store}"),
    );
    say(
        figures.count("processes.commands") > 0 && figures.count("processes.running") == 0,
        "no process of the application runs".to_owned(),
    );
    let (open, most) = (
        figures.count("connections.open"),
        figures.gauge("ws_connections_max"),
    );
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
    let is_full = most.is_some_and(|most| open as f64 >= most * 0.9);
    say(
        is_full,
        format!(
            "{open} connections of {:.0}: limits.max_connections",
            most.unwrap_or_default()
        ),
    );
    let counted = [
        (
            "identity.changes_dropped",
            "",
            "changes of sessions that never got into the store",
        ),
        (
            "sockets.accept_failed",
            "",
            "visitors for whom no descriptor or memory was left",
        ),
        (
            "sockets.accept_paused",
            "",
            "times that only reserved descriptors were left",
        ),
        (
            "sockets.refused",
            "sockets.refused_by",
            "handshakes refused",
        ),
        (
            "callbacks.failed",
            "callbacks.failed_by",
            "callbacks failed",
        ),
        ("programs.failed", "programs.failed_by", "programs failed"),
        (
            "deliveries.dropped",
            "deliveries.dropped_by",
            "pushed messages dropped",
        ),
        (
            "fifo.refused",
            "fifo.refused_by",
            "records of FIFOs refused",
        ),
        (
            "events.lagged",
            "",
            "times that a listener to events was too slow",
        ),
        (
            "identities.rechecks_failed",
            "",
            "times that logins could not be looked up again",
        ),
        (
            "identities.key_reloads_failed",
            "",
            "times that the keys for tokens could not be used",
        ),
        (
            "certificates.reloads_failed",
            "",
            "times that certificates could not be used",
        ),
        (
            "configuration.reloads_failed",
            "",
            "reloads that could not be used",
        ),
        (
            "processes.replacements_failed",
            "",
            "times that fresh processes of the application did not work",
        ),
    ];
    for (path, reasons, what) in counted {
        let count = figures.count(path);
        let reasons = match reasons {
            "" => String::new(),
            path => format!(" ({})", figures.reasons(path)),
        };
        say(count > 0, format!("{what}: {count}{reasons}"));
    }
    complaints
}

/// Group, name, count, and what is said besides.
fn rows(figures: &Figures) -> Vec<[String; 4]> {
    let uptime = figures.uptime().map(|it| it.as_secs_f64());
    let uptime = uptime.filter(|it| *it > 0.0);
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let per_second = |path: &str| {
        let rate = uptime.map(|uptime| figures.count(path) as f64 / uptime);
        rate.map_or(String::new(), human::rate)
    };
    let size = |path: &str| human::size(figures.count(path));
    let gauge = |name: &str| figures.gauge(name).unwrap_or_default();
    let mut table = Table::default();

    table.group("connections");
    let most = format!("of {:.0}", gauge("ws_connections_max"));
    table.always(figures, "open", "connections.open", most);
    table.always(figures, "users", "users", String::new());
    table.always(figures, "sessions", "sessions", String::new());
    table.count(
        figures,
        "opened",
        "connections.opened",
        per_second("connections.opened"),
    );
    table.count(
        figures,
        "closed",
        "connections.closed",
        figures.reasons("connections.closed_by"),
    );
    table.count(figures, "refused", "sockets.refused", String::new());

    table.group("messages");
    table.always(
        figures,
        "received",
        "messages.received",
        format!(
            "{}  {}",
            per_second("messages.received"),
            size("messages.received_bytes")
        ),
    );
    table.always(
        figures,
        "sent",
        "messages.sent",
        per_second("messages.sent"),
    );
    table.count(figures, "held back", "messages.held_back", String::new());
    table.count(figures, "not sent", "messages.dropped", String::new());
    table.row("waiting", size("messages.waiting_bytes"), String::new());

    if figures.count("callbacks.accepted") > 0 || figures.gauge("ws_callbacks_running").is_some() {
        table.group("callbacks");
        table.always(
            figures,
            "accepted",
            "callbacks.accepted",
            per_second("callbacks.accepted"),
        );
        if let Some(running) = figures.gauge("ws_callbacks_running") {
            table.row(
                "running",
                format!("{running:.0}"),
                format!("of {:.0}", gauge("ws_callbacks_running_max")),
            );
        }
        table.count(figures, "failed", "callbacks.failed", String::new());
        table.count(figures, "cancelled", "callbacks.cancelled", String::new());
        let durations = figures.callback_durations(None);
        if let (Some(p50), Some(p99)) = (durations.quantile(0.5), durations.quantile(0.99)) {
            table.row(
                "took",
                human::duration(p50),
                format!("median; 99 of 100 at most {}", human::duration(p99)),
            );
        }
        table.count(
            figures,
            "validations",
            "callbacks.validations",
            format!(
                "{} accepted",
                figures.count("callbacks.validations_accepted")
            ),
        );
    }
    if figures.count("programs.started") > 0 {
        table.group("programs");
        table.count(figures, "started", "programs.started", String::new());
        table.count(figures, "ended", "programs.ended", String::new());
    }
    if figures.count("processes.commands") > 0 {
        table.group("processes");
        table.always(figures, "running", "processes.running", String::new());
        table.count(figures, "restarts", "processes.restarts", String::new());
        table.count(figures, "replaced", "processes.replaced", String::new());
    }
    table.group("pushes");
    table.always(
        figures,
        "accepted",
        "pushes.accepted",
        per_second("pushes.accepted"),
    );
    table.count(figures, "delivered", "deliveries.made", String::new());
    table.count(figures, "dropped", "deliveries.dropped", String::new());
    table.count(figures, "by FIFO", "fifo.records", String::new());

    table.group("sessions");
    let store = output::printable(figures.text("identity.store").unwrap_or_default());
    table.always(figures, "known", "identity.known", store);
    table.count(
        figures,
        "waiting",
        "identity.changes_waiting",
        String::new(),
    );
    table.count(figures, "outages", "identity.store_outages", String::new());
    table.count(figures, "revoked", "identity.revoked", String::new());
    table.rows
}

#[derive(Default)]
struct Table {
    rows: Vec<[String; 4]>,
    /// The name of a group that has no row yet.
    group: &'static str,
}

impl Table {
    /// Those that follow are of this group.
    fn group(&mut self, name: &'static str) {
        self.group = name;
    }

    fn row(&mut self, name: &str, value: String, besides: String) {
        let group = std::mem::take(&mut self.group);
        self.rows
            .push([group.to_owned(), name.to_owned(), value, besides]);
    }

    fn always(&mut self, figures: &Figures, name: &str, path: &str, besides: String) {
        self.row(name, figures.count(path).to_string(), besides);
    }

    /// Leaves out what never happened.
    fn count(&mut self, figures: &Figures, name: &str, path: &str, besides: String) {
        if figures.count(path) > 0 {
            self.always(figures, name, path, besides);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::figures::Metrics;

    fn figures(status: Value, metrics: &str) -> Figures {
        Figures::of(status, Metrics::parse(metrics), Duration::from_secs(1100))
    }

    #[test]
    fn a_server_that_is_well_is_a_short_page() {
        let status = json!({
            "version": "0.1.0", "pid": 42, "memory_bytes": 12_900_000, "users": 2, "sessions": 2,
            "connections": {
                "open": 2, "opened": 5, "closed": 3, "closed_by": { "peer": 2, "vanished": 1 },
            },
            "messages": { "received": 250, "received_bytes": 2048, "sent": 250, "waiting_bytes": 0 },
            "identity": { "known": 5, "store": "memory", "store_answers": true },
            "processes": { "commands": 0, "running": 0 },
        });
        let metrics = "process_start_time_seconds 1000\nws_connections_max 10000\nws_draining 0\n";
        let lines = lines(&figures(status, metrics), Paint::none());
        assert_eq!(
            lines,
            [
                "ws 0.1.0, pid 42, up 100s, 12.3 MiB",
                "all is well",
                "",
                "connections  open      2    of 10000",
                "             users     2",
                "             sessions  2",
                "             opened    5    <0.1/s",
                "             closed    3    peer 2, vanished 1",
                "messages     received  250  2.5/s  2 KiB",
                "             sent      250  2.5/s",
                "             waiting   0 B",
                "pushes       accepted  0    0/s",
                "sessions     known     5    memory",
            ]
        );
    }

    #[test]
    fn what_is_wrong_is_said_in_words() {
        let status = json!({
            "connections": { "open": 9 },
            "sockets": { "refused": 3, "refused_by": { "origin": 2, "tls": 1 } },
            "callbacks": { "failed": 1, "failed_by": { "timeout": 1 } },
            "deliveries": { "dropped": 4, "dropped_by": { "slow": 4 } },
            "identity": { "store": "redis://h\u{1b}", "store_answers": false, "changes_dropped": 1 },
            "processes": { "commands": 1, "running": 0 },
        });
        let figures = figures(status, "ws_draining 1\nws_connections_max 10\n");
        assert_eq!(
            complaints(&figures),
            [
                "it drains: nobody is let in any more",
                "the store of sessions does not answer: redis://h\\u{1b}",
                "no process of the application runs",
                "9 connections of 10: limits.max_connections",
                "changes of sessions that never got into the store: 1",
                "handshakes refused: 3 (origin 2, tls 1)",
                "callbacks failed: 1 (timeout 1)",
                "pushed messages dropped: 4 (slow 4)",
            ]
        );
    }
}
