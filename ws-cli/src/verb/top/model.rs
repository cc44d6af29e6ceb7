//! What is shown, and what keys do. No terminal, no server, no clock.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::sampler::{Connection, Sample};
use crate::args::{SortKey, TopArgs};
use crate::figures::per_second;

/// Lines that a page key moves.
const PAGE: usize = 10;

/// What a line of the table is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Connection(String),
    User(String),
}

impl Key {
    pub(super) fn id(&self) -> &str {
        match self {
            Self::Connection(id) | Self::User(id) => id,
        }
    }
}

/// A line of the table.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) key: Key,
    pub(super) user: String,
    pub(super) address: String,
    pub(super) uri: String,
    /// Connections in it.
    pub(super) count: usize,
    /// Of its oldest connection.
    pub(super) age: Duration,
    pub(super) rate_in: f64,
    pub(super) rate_out: f64,
    pub(super) rate_bytes: f64,
    pub(super) total: u64,
    pub(super) waiting: u64,
}

/// What the keys are for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Mode {
    Look,
    /// The filter is typed; this was it before.
    Filter(String),
    /// Is this to be closed?
    Confirm(Key),
    Help,
}

/// What is to be done outside.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    Quit,
    Kick(Key),
}

#[derive(Debug)]
pub(super) struct Model {
    now: Option<Sample>,
    before: Option<Sample>,
    rows: Vec<Row>,
    pub(super) mode: Mode,
    pub(super) sort: SortKey,
    is_reversed: bool,
    pub(super) is_by_user: bool,
    pub(super) filter: String,
    selected: Option<Key>,
    /// What was done last, or went wrong.
    pub(super) message: Option<String>,
    /// Why there is no newer sample.
    pub(super) trouble: Option<String>,
    pub(super) has_colours: bool,
}

impl Model {
    pub(super) fn new(args: &TopArgs, has_colours: bool) -> Self {
        Self {
            now: None,
            before: None,
            rows: Vec::new(),
            mode: Mode::Look,
            sort: args.sort,
            is_reversed: false,
            is_by_user: false,
            filter: args.filter.clone(),
            selected: None,
            message: None,
            trouble: None,
            has_colours,
        }
    }

    pub(super) fn now(&self) -> Option<&Sample> {
        self.now.as_ref()
    }

    pub(super) fn before(&self) -> Option<&Sample> {
        self.before.as_ref()
    }

    /// The table, sorted and filtered.
    pub(super) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Which row is selected.
    pub(super) fn selection(&self) -> Option<usize> {
        let selected = self.selected.as_ref()?;
        self.rows.iter().position(|row| row.key == *selected)
    }

    /// Takes what there is now.
    pub(super) fn feed(&mut self, sample: Sample) {
        self.trouble = None;
        self.before = self.now.replace(sample);
        self.arrange();
    }

    /// Says something until the next key.
    pub(super) fn say(&mut self, message: String) {
        self.message = Some(message);
    }

    /// Says why there is no newer sample, until there is one.
    pub(super) fn fail(&mut self, trouble: String) {
        self.trouble = Some(trouble);
    }

    /// Takes a key.
    pub(super) fn press(&mut self, key: KeyEvent) -> Option<Action> {
        if key.kind == KeyEventKind::Release {
            return None;
        }
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return Some(Action::Quit);
        }
        self.message = None;
        let action = match std::mem::replace(&mut self.mode, Mode::Look) {
            Mode::Look => self.look(key.code),
            Mode::Filter(former) => {
                self.type_filter(key.code, former);
                None
            }
            // Any other key is a no.
            Mode::Confirm(whom) => {
                matches!(key.code, KeyCode::Char('y' | 'Y')).then_some(Action::Kick(whom))
            }
            Mode::Help => None,
        };
        self.arrange();
        action
    }

    fn look(&mut self, code: KeyCode) -> Option<Action> {
        match code {
            KeyCode::Char('q') | KeyCode::Esc => return Some(Action::Quit),
            KeyCode::Down | KeyCode::Char('j') => self.select_by(1, true),
            KeyCode::Up | KeyCode::Char('k') => self.select_by(1, false),
            KeyCode::PageDown => self.select_by(PAGE, true),
            KeyCode::PageUp => self.select_by(PAGE, false),
            KeyCode::Home => self.select_by(usize::MAX, false),
            KeyCode::End => self.select_by(usize::MAX, true),
            KeyCode::Char('/') => self.mode = Mode::Filter(self.filter.clone()),
            KeyCode::Char('x') | KeyCode::Delete => {
                if let Some(selected) = self.selection().map(|at| self.rows[at].key.clone()) {
                    self.mode = Mode::Confirm(selected);
                } else {
                    self.say("select one first, with the arrows".to_owned());
                }
            }
            KeyCode::Char('u') | KeyCode::Tab => {
                self.is_by_user = !self.is_by_user;
                self.selected = None;
            }
            KeyCode::Char('r') => self.is_reversed = !self.is_reversed,
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.mode = Mode::Help,
            KeyCode::Char(key) => {
                if let Some(sort) = sort_key(key) {
                    self.sort = sort;
                    self.is_reversed = false;
                }
            }
            _ => {}
        }
        None
    }

    fn type_filter(&mut self, code: KeyCode, former: String) {
        match code {
            KeyCode::Enter => return,
            KeyCode::Esc => {
                self.filter = former;
                return;
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) => self.filter.push(c),
            _ => {}
        }
        self.mode = Mode::Filter(former);
    }

    fn select_by(&mut self, step: usize, is_down: bool) {
        let last = self.rows.len().saturating_sub(1);
        let at = match (self.selection(), is_down) {
            (Some(at), true) => at.saturating_add(step).min(last),
            (Some(at), false) => at.saturating_sub(step),
            (None, true) if step == usize::MAX => last,
            (None, _) => 0,
        };
        self.selected = self.rows.get(at).map(|row| row.key.clone());
    }

    /// Makes the table anew.
    fn arrange(&mut self) {
        let Some(now) = &self.now else {
            return;
        };
        let nothing = Sample::default();
        let before = self.before.as_ref().unwrap_or(&nothing);
        let known: HashMap<&str, &Connection> = before
            .connections
            .iter()
            .map(|connection| (connection.id.as_str(), connection))
            .collect();
        let new = Connection::default();
        let at = now.figures.at();
        let time = match self.before {
            Some(_) => at.saturating_sub(before.figures.at()),
            None => Duration::ZERO,
        };
        let mut rows: Vec<Row> = now
            .connections
            .iter()
            .map(|it| {
                let former = match known.get(it.id.as_str()) {
                    Some(former) => former,
                    // It was opened since, and began at 0.
                    None if before.covers(&it.id) => &new,
                    // It was not looked at before: what it did since then is not known yet.
                    None => it,
                };
                row(it, former, at, time)
            })
            .filter(|row| row.contains(&self.filter))
            .collect();
        if self.is_by_user {
            rows = by_user(rows);
        }
        rows.sort_by(|a, b| {
            let order = compare(self.sort, a, b).then_with(|| a.key.id().cmp(b.key.id()));
            if self.is_reversed {
                order.reverse()
            } else {
                order
            }
        });
        self.rows = rows;
    }
}

pub(super) fn sort_key(key: char) -> Option<SortKey> {
    Some(match key {
        'i' => SortKey::In,
        'o' => SortKey::Out,
        'b' => SortKey::Bytes,
        't' => SortKey::Total,
        'w' => SortKey::Waiting,
        'a' => SortKey::Age,
        _ => return None,
    })
}

/// The largest first.
fn compare(sort: SortKey, a: &Row, b: &Row) -> Ordering {
    match sort {
        SortKey::In => b.rate_in.total_cmp(&a.rate_in),
        SortKey::Out => b.rate_out.total_cmp(&a.rate_out),
        SortKey::Bytes => b.rate_bytes.total_cmp(&a.rate_bytes),
        SortKey::Total => b.total.cmp(&a.total),
        SortKey::Waiting => b.waiting.cmp(&a.waiting),
        SortKey::Age => b.age.cmp(&a.age),
    }
}

fn row(now: &Connection, before: &Connection, at: Duration, time: Duration) -> Row {
    // One that ended while it was asked about has no figures.
    let rate = |now: u64, before: u64| per_second(now.saturating_sub(before), time);
    let opened_at = Duration::try_from_secs_f64(now.opened_at).unwrap_or_default();
    Row {
        key: Key::Connection(now.id.clone()),
        user: now.user.clone(),
        address: now.address(),
        uri: now.uri.clone(),
        count: 1,
        age: at.saturating_sub(opened_at),
        rate_in: rate(now.received, before.received),
        rate_out: rate(now.sent, before.sent),
        rate_bytes: rate(
            now.received_bytes + now.sent_bytes,
            before.received_bytes + before.sent_bytes,
        ),
        total: now.received + now.sent,
        waiting: now.waiting_bytes,
    }
}

fn by_user(rows: Vec<Row>) -> Vec<Row> {
    let mut users: HashMap<String, Row> = HashMap::new();
    for row in rows {
        let Some(sum) = users.get_mut(&row.user) else {
            let key = Key::User(row.user.clone());
            users.insert(row.user.clone(), Row { key, ..row });
            continue;
        };
        sum.count += 1;
        sum.age = sum.age.max(row.age);
        sum.rate_in += row.rate_in;
        sum.rate_out += row.rate_out;
        sum.rate_bytes += row.rate_bytes;
        sum.total += row.total;
        sum.waiting += row.waiting;
    }
    users.into_values().collect()
}

impl Row {
    fn contains(&self, filter: &str) -> bool {
        [self.key.id(), &self.user, &self.address, &self.uri]
            .into_iter()
            .any(|text| text.contains(filter))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use clap::Parser;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::args::{Args, Verb};
    use crate::figures::{Figures, Metrics};

    pub(in crate::verb::top) fn model() -> Model {
        match Args::try_parse_from(["ws", "top"]).unwrap().verb {
            Some(Verb::Top(args)) => Model::new(&args, false),
            other => panic!("{other:?}"),
        }
    }

    /// A sample at a second, of connections with so many messages received and sent.
    pub(in crate::verb::top) fn sample(at: u64, connections: &[(&str, &str, u64, u64)]) -> Sample {
        let open = connections.len();
        let received: u64 = connections.iter().map(|(.., received, _)| received).sum();
        let status = json!({
            "version": "0.1.0", "pid": 42, "memory_bytes": 12_900_000,
            "users": 2, "sessions": 2, "connections": { "open": open, "opened": 10, "closed": 7 },
            "messages": { "received": received, "received_bytes": received * 1024 },
        });
        let metrics = "process_start_time_seconds 0\nws_connections_max 10000\n\
            ws_callbacks_running 1\nws_callbacks_running_max 16\n";
        let connections = connections.iter().map(|(id, user, received, sent)| {
            let connection = json!({
                "id": id, "user": user, "ip": "::1", "port": 5000, "uri": "/chat",
                "opened_at": 1.0, "received": received, "received_bytes": received * 1024,
                "sent": sent, "sent_bytes": sent * 10, "waiting_bytes": 0,
            });
            serde_json::from_value(connection).unwrap()
        });
        Sample {
            figures: Figures::of(status, Metrics::parse(metrics), Duration::from_secs(at)),
            connections: connections.collect(),
            is_partial: false,
        }
    }

    pub(in crate::verb::top) fn press(model: &mut Model, keys: &str) -> Vec<Action> {
        let code = |c| match c {
            '\n' => KeyCode::Enter,
            '\u{1b}' => KeyCode::Esc,
            '\u{8}' => KeyCode::Backspace,
            '↓' => KeyCode::Down,
            '↑' => KeyCode::Up,
            c => KeyCode::Char(c),
        };
        let keys = keys
            .chars()
            .map(|c| KeyEvent::new(code(c), KeyModifiers::NONE));
        keys.filter_map(|key| model.press(key)).collect()
    }

    fn ids(model: &Model) -> Vec<&str> {
        model.rows().iter().map(|row| row.key.id()).collect()
    }

    fn fed() -> Model {
        let mut model = model();
        model.feed(sample(100, &[("1a", "ann", 0, 50), ("1b", "bob", 10, 0)]));
        let now = [
            ("1a", "ann", 4, 60),
            ("1b", "bob", 30, 0),
            ("1c", "ann", 1, 1),
        ];
        model.feed(sample(102, &now));
        model
    }

    #[test]
    fn rates_are_those_of_the_last_interval() {
        let mut model = fed();
        assert_eq!(ids(&model), ["1b", "1a", "1c"]);
        let bob = &model.rows()[0];
        assert_eq!((bob.rate_in, bob.rate_out, bob.total), (10.0, 0.0, 30));
        assert_eq!(bob.age, Duration::from_secs(101));
        press(&mut model, "o");
        assert_eq!(ids(&model), ["1a", "1c", "1b"]);
        press(&mut model, "r");
        assert_eq!(ids(&model), ["1b", "1c", "1a"]);
        press(&mut model, "t");
        assert_eq!(ids(&model), ["1a", "1b", "1c"]);
    }

    #[test]
    fn who_was_not_looked_at_before_has_no_rate_yet() {
        let mut model = model();
        let partial = |at, connections: &[_]| Sample {
            is_partial: true,
            ..sample(at, connections)
        };
        model.feed(partial(100, &[("1a", "ann", 9, 9), ("1c", "bob", 0, 0)]));
        let now = [
            ("1b", "new", 4, 0),
            ("1c", "bob", 2, 0),
            ("1d", "old", 900, 900),
        ];
        model.feed(partial(102, &now));
        let rates = |model: &Model| -> Vec<(String, f64)> {
            let rows = model.rows().iter();
            rows.map(|row| (row.user.clone(), row.rate_in)).collect()
        };
        let expected = [("new", 2.0), ("bob", 1.0), ("old", 0.0)];
        assert_eq!(
            rates(&model),
            expected.map(|(user, rate)| (user.to_owned(), rate))
        );
        let now = [("1c", "bob", 2, 0), ("1d", "old", 910, 900)];
        model.feed(partial(104, &now));
        let expected = [("old", 5.0), ("bob", 0.0)];
        assert_eq!(
            rates(&model),
            expected.map(|(user, rate)| (user.to_owned(), rate))
        );
    }

    #[test]
    fn users_are_the_sum_of_their_connections() {
        let mut model = fed();
        press(&mut model, "ut");
        let rows = model.rows();
        assert_eq!(
            (rows[0].user.as_str(), rows[0].count, rows[0].total),
            ("ann", 2, 66)
        );
        assert_eq!(rows[1].key, Key::User("bob".to_owned()));
        assert_eq!(
            press(&mut model, "↓xy"),
            [Action::Kick(Key::User("ann".to_owned()))]
        );
    }

    #[test]
    fn nobody_is_closed_without_a_yes() {
        let mut model = fed();
        assert_eq!(press(&mut model, "xy"), []);
        for no in ["xn", "x\n", "x\u{1b}", "xx"] {
            assert_eq!(press(&mut model, &format!("↓{no}")), [], "{no}");
            assert_eq!(model.mode, Mode::Look);
        }
        press(&mut model, "↑↑");
        let kick = Action::Kick(Key::Connection("1b".to_owned()));
        assert_eq!(press(&mut model, "xy"), [kick]);
    }

    #[test]
    fn the_selection_stays_with_its_connection_and_ends_with_it() {
        let mut model = fed();
        press(&mut model, "↓↓");
        assert_eq!(model.selection(), Some(1));
        press(&mut model, "o");
        assert_eq!(model.selection(), Some(0));
        model.feed(sample(103, &[("1b", "bob", 30, 0)]));
        assert_eq!(model.selection(), None);
        // What was asked before it left is about no other.
        assert_eq!(press(&mut model, "x"), []);
        assert_eq!(model.mode, Mode::Look);
    }

    #[test]
    fn a_filter_is_typed_kept_or_given_up() {
        let mut model = fed();
        press(&mut model, "/bobq");
        assert_eq!(ids(&model), [""; 0]);
        press(&mut model, "\u{8}\n");
        assert_eq!(ids(&model), ["1b"]);
        press(&mut model, "/x\u{1b}");
        assert_eq!(model.filter, "bob");
        assert_eq!(press(&mut model, "q"), [Action::Quit]);
    }

    proptest! {
        #[test]
        fn prop_any_keys_and_samples_leave_a_selection_that_is_there(
            steps in prop::collection::vec(
                prop_oneof![
                    "[iobtwaruxy/?jk↓↑\n\u{1b}\u{8}]".prop_map(|key| (key, Vec::new())),
                    prop::collection::vec(0_u8..6, 0..6).prop_map(|ids| (String::new(), ids)),
                ],
                0..60,
            ),
        ) {
            let mut model = model();
            for (at, (keys, ids)) in (0..).zip(steps) {
                if keys.is_empty() {
                    let names: Vec<String> = ids.iter().map(u8::to_string).collect();
                    let connections: Vec<_> = names.iter().map(|id| (&**id, "u", at, 0)).collect();
                    model.feed(sample(at, &connections));
                }
                for action in press(&mut model, &keys) {
                    if let Action::Kick(key) = action {
                        prop_assert!(!key.id().is_empty());
                    }
                }
                prop_assert!(model.selection().is_none_or(|at| at < model.rows().len()));
                prop_assert!(model.rows().iter().all(|row| row.rate_bytes.is_finite()));
            }
        }
    }
}
