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
    let mut table = Table {
        figures,
        uptime: uptime.filter(|it| *it > 0.0),
        rows: Vec::new(),
        group: "",
    };
    table.connections();
    table.messages();
    table.callbacks();
    table.programs();
    table.processes();
    table.pushes();
    table.sessions();
    table.rows
}

struct Table<'a> {
    figures: &'a Figures,
    /// In seconds; `None` if that is not known.
    uptime: Option<f64>,
    rows: Vec<[String; 4]>,
    /// The name of a group that has no row yet.
    group: &'static str,
}

impl Table<'_> {
    fn connections(&mut self) {
        self.group("connections");
        let most = self.gauge("ws_connections_max");
        self.always("open", "connections.open", format!("of {most:.0}"));
        self.always("users", "users", String::new());
        self.always("sessions", "sessions", String::new());
        let rate = self.per_second("connections.opened");
        self.count("opened", "connections.opened", rate);
        let reasons = self.figures.reasons("connections.closed_by");
        self.count("closed", "connections.closed", reasons);
        self.count("refused", "sockets.refused", String::new());
    }

    fn messages(&mut self) {
        self.group("messages");
        let rate = self.per_second("messages.received");
        let size = self.size("messages.received_bytes");
        self.always("received", "messages.received", format!("{rate}  {size}"));
        let rate = self.per_second("messages.sent");
        self.always("sent", "messages.sent", rate);
        self.count("held back", "messages.held_back", String::new());
        self.count("not sent", "messages.dropped", String::new());
        let waiting = self.size("messages.waiting_bytes");
        self.row("waiting", waiting, String::new());
    }

    fn callbacks(&mut self) {
        let running = self.figures.gauge("ws_callbacks_running");
        if self.figures.count("callbacks.accepted") == 0 && running.is_none() {
            return;
        }
        self.group("callbacks");
        let rate = self.per_second("callbacks.accepted");
        self.always("accepted", "callbacks.accepted", rate);
        if let Some(running) = running {
            let most = self.gauge("ws_callbacks_running_max");
            self.row("running", format!("{running:.0}"), format!("of {most:.0}"));
        }
        self.count("failed", "callbacks.failed", String::new());
        self.count("cancelled", "callbacks.cancelled", String::new());
        let durations = self.figures.callback_durations(None);
        if let (Some(p50), Some(p99)) = (durations.quantile(0.5), durations.quantile(0.99)) {
            let besides = format!("median; 99 of 100 at most {}", human::duration(p99));
            self.row("took", human::duration(p50), besides);
        }
        let accepted = self.figures.count("callbacks.validations_accepted");
        self.count(
            "validations",
            "callbacks.validations",
            format!("{accepted} accepted"),
        );
    }

    fn programs(&mut self) {
        if self.figures.count("programs.started") > 0 {
            self.group("programs");
            self.count("started", "programs.started", String::new());
            self.count("ended", "programs.ended", String::new());
        }
    }

    fn processes(&mut self) {
        if self.figures.count("processes.commands") > 0 {
            self.group("processes");
            self.always("running", "processes.running", String::new());
            self.count("restarts", "processes.restarts", String::new());
            self.count("replaced", "processes.replaced", String::new());
        }
    }

    fn pushes(&mut self) {
        self.group("pushes");
        let rate = self.per_second("pushes.accepted");
        self.always("accepted", "pushes.accepted", rate);
        self.count("delivered", "deliveries.made", String::new());
        self.count("dropped", "deliveries.dropped", String::new());
        self.count("by FIFO", "fifo.records", String::new());
    }

    fn sessions(&mut self) {
        self.group("sessions");
        let store = self.figures.text("identity.store").unwrap_or_default();
        self.always("known", "identity.known", output::printable(store));
        self.count("waiting", "identity.changes_waiting", String::new());
        self.count("outages", "identity.store_outages", String::new());
        self.count("revoked", "identity.revoked", String::new());
    }

    /// Those that follow are of this group.
    fn group(&mut self, name: &'static str) {
        self.group = name;
    }

    fn row(&mut self, name: &str, value: String, besides: String) {
        let group = std::mem::take(&mut self.group);
        self.rows
            .push([group.to_owned(), name.to_owned(), value, besides]);
    }

    fn always(&mut self, name: &str, path: &str, besides: String) {
        self.row(name, self.figures.count(path).to_string(), besides);
    }

    /// Leaves out what never happened.
    fn count(&mut self, name: &str, path: &str, besides: String) {
        if self.figures.count(path) > 0 {
            self.always(name, path, besides);
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    fn per_second(&self, path: &str) -> String {
        let rate = self
            .uptime
            .map(|uptime| self.figures.count(path) as f64 / uptime);
        rate.map_or(String::new(), human::rate)
    }

    fn size(&self, path: &str) -> String {
        human::size(self.figures.count(path))
    }

    fn gauge(&self, name: &str) -> f64 {
        self.figures.gauge(name).unwrap_or_default()
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
