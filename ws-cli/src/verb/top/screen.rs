//! How the model looks.

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Paragraph, Row as Cells, StatefulWidget, Table, TableState, Widget};

use super::model::{Mode, Model, Row};
use super::sampler::{MAX_CONNECTIONS, Sample};
use crate::args::SortKey;
use crate::human;
use crate::output::printable;
use crate::verb::status;

const KEYS: &str =
    "q quit  arrows select  x close  / filter  u users  i o b t w a sort  r reverse  ? help";
const HELP: &str = "arrows, PgUp, PgDn, Home, End  select a line\n\
    x, Delete                      close it with 1008, after a question\n\
    /                              filter by user, id, address or URI; Enter keeps, Esc gives up\n\
    u, Tab                         users or connections\n\
    i o b                          sort by messages in, out, bytes per second\n\
    t w a                          sort by messages in total, bytes that wait, age\n\
    r                              reverse the order\n\
    q, Esc, Ctrl-C                 quit\n\n\
    Rates and latencies are those of the last interval. Latencies are estimates from a histogram.";
/// A terminal of fewer columns has a narrower table.
const WIDE: u16 = 100;

pub(super) fn draw(frame: &mut Frame<'_>, model: &Model) {
    render(model, frame.area(), frame.buffer_mut());
}

/// The lines of a page without a terminal.
pub(super) fn page(model: &Model, width: u16, height: u16) -> Vec<String> {
    let area = Rect::new(0, 0, width, height);
    let mut buffer = Buffer::empty(area);
    render(model, area, &mut buffer);
    let lines = (0..height).map(|y| {
        let cells = (0..width).filter_map(|x| buffer.cell((x, y)));
        let line: String = cells.map(|cell| cell.symbol()).collect();
        line.trim_end().to_owned()
    });
    let mut lines: Vec<String> = lines.collect();
    // The last is that of the keys, which nobody presses here.
    lines.pop();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines
}

fn render(model: &Model, area: Rect, buffer: &mut Buffer) {
    let Some(now) = model.now() else {
        Paragraph::new("waiting for the server").render(area, buffer);
        return;
    };
    let head = head(model, now);
    // Something of the table is seen on the smallest terminal.
    let room = area.height.saturating_sub(4);
    let head_height = u16::try_from(head.len()).unwrap_or(room).min(room);
    let parts = Layout::vertical([
        Constraint::Length(head_height),
        Constraint::Min(0),
        Constraint::Length(1),
    ]);
    let [top, middle, bottom] = parts.areas(area);
    Paragraph::new(head).render(top, buffer);
    match model.mode {
        Mode::Help => Paragraph::new(HELP).render(middle, buffer),
        _ => table(model, middle, buffer),
    }
    foot(model).render(bottom, buffer);
}

fn head(model: &Model, now: &Sample) -> Vec<Line<'static>> {
    let figures = &now.figures;
    let earlier = model.before().map_or(figures, |before| &before.figures);
    let rate = |path| human::rate(figures.rate(earlier, path));
    let count = |path| figures.count(path);
    let size = |path| human::size(figures.count(path));
    let bytes = |path| {
        let rate = figures.rate(earlier, path).max(0.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is no less than 0, and saturates"
        )]
        let rate = rate as u64;
        format!("{}/s", human::size(rate))
    };
    let gauge = |name| figures.gauge(name).unwrap_or_default();
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let uptime = figures
        .uptime()
        .map(|it| format!(", up {}", human::age(it)));
    let mut lines = vec![
        Line::styled(
            format!(
                "ws {}, pid {}{}, {}",
                printable(figures.text("version").unwrap_or("?")),
                count("pid"),
                uptime.unwrap_or_default(),
                size("memory_bytes")
            ),
            bold,
        ),
        Line::raw(format!(
            "connections {} of {:.0}  users {}  opened {}  closed {}  refused {}",
            count("connections.open"),
            gauge("ws_connections_max"),
            count("users"),
            rate("connections.opened"),
            rate("connections.closed"),
            rate("sockets.refused"),
        )),
        Line::raw(format!(
            "messages    in {}, {}  out {}  waiting {}",
            rate("messages.received"),
            bytes("messages.received_bytes"),
            rate("messages.sent"),
            size("messages.waiting_bytes"),
        )),
    ];
    if let Some(running) = figures.gauge("ws_callbacks_running") {
        let durations = figures.callback_durations(Some(earlier));
        let quantile = |q| {
            durations
                .quantile(q)
                .map_or_else(|| "-".to_owned(), human::duration)
        };
        lines.push(Line::raw(format!(
            "callbacks   {}  running {running:.0} of {:.0}  p50 {}  p99 {}  failed {}",
            rate("callbacks.accepted"),
            gauge("ws_callbacks_running_max"),
            quantile(0.5),
            quantile(0.99),
            rate("callbacks.failed"),
        )));
    }
    lines.push(Line::raw(format!(
        "pushes      {}  delivered {}  dropped {}",
        rate("pushes.accepted"),
        rate("deliveries.made"),
        rate("deliveries.dropped"),
    )));
    let mut wrong: Vec<String> = model
        .trouble
        .iter()
        .map(|it| printable(&it.replace('\n', " ")))
        .collect();
    wrong.extend(status::complaints(figures));
    if now.connections.len() == MAX_CONNECTIONS {
        wrong.push(format!("only {MAX_CONNECTIONS} connections are listed"));
    }
    if !wrong.is_empty() {
        let style = match model.has_colours {
            true => Style::new().fg(Color::Red),
            false => bold,
        };
        lines.push(Line::styled(format!("! {}", wrong.join("; ")), style));
    }
    lines
}

/// A column: its title, what sorts by it, how wide it is, and what stands in it.
struct Column {
    title: &'static str,
    sort: Option<SortKey>,
    width: Constraint,
    cell: fn(&Row) -> String,
}

fn columns(is_by_user: bool, is_wide: bool) -> Vec<Column> {
    let column = |title, sort, width, cell| Column {
        title,
        sort,
        width,
        cell,
    };
    let fixed = Constraint::Length;
    let mut columns = Vec::new();
    match is_by_user {
        true => columns.push(column("CONNS", None, fixed(6), |row| row.count.to_string())),
        false => columns.push(column("CONNECTION", None, fixed(16), |row| {
            printable(row.key.id())
        })),
    }
    columns.push(column("USER", None, Constraint::Fill(2), |row| {
        printable(&row.user)
    }));
    if !is_by_user && is_wide {
        columns.push(column("ADDRESS", None, fixed(21), |row| {
            printable(&row.address)
        }));
    }
    columns.push(column("AGE", Some(SortKey::Age), fixed(5), |row| {
        human::age(row.age)
    }));
    columns.push(column("IN", Some(SortKey::In), fixed(8), |row| {
        human::rate(row.rate_in)
    }));
    columns.push(column("OUT", Some(SortKey::Out), fixed(8), |row| {
        human::rate(row.rate_out)
    }));
    columns.push(column("BYTES", Some(SortKey::Bytes), fixed(11), |row| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is no less than 0, and saturates"
        )]
        let rate = row.rate_bytes as u64;
        format!("{}/s", human::size(rate))
    }));
    if is_wide {
        columns.push(column("TOTAL", Some(SortKey::Total), fixed(8), |row| {
            row.total.to_string()
        }));
        columns.push(column("WAITING", Some(SortKey::Waiting), fixed(9), |row| {
            human::size(row.waiting)
        }));
        if !is_by_user {
            columns.push(column("URI", None, Constraint::Fill(1), |row| {
                printable(&row.uri)
            }));
        }
    }
    columns
}

fn table(model: &Model, area: Rect, buffer: &mut Buffer) {
    let columns = columns(model.is_by_user, area.width >= WIDE);
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let sorted = bold.add_modifier(Modifier::UNDERLINED);
    let titles = columns.iter().map(|column| {
        let is_sorted = column.sort == Some(model.sort);
        Cell::new(column.title).style(if is_sorted { sorted } else { bold })
    });
    let rows = model
        .rows()
        .iter()
        .map(|row| Cells::new(columns.iter().map(|column| (column.cell)(row))));
    let table = Table::new(rows, columns.iter().map(|column| column.width))
        .header(Cells::new(titles))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::new().with_selected(model.selection());
    StatefulWidget::render(table, area, buffer, &mut state);
}

fn foot(model: &Model) -> Line<'static> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    match (&model.mode, &model.message) {
        (Mode::Filter(_), _) => {
            Line::styled(format!("filter: {}_", printable(&model.filter)), bold)
        }
        (Mode::Confirm(key), _) => {
            let what = if model.is_by_user {
                "all connections of"
            } else {
                "connection"
            };
            Line::styled(format!("close {what} {}? y/n", printable(key.id())), bold)
        }
        (Mode::Help, _) => Line::raw("any key goes back"),
        (Mode::Look, Some(message)) => Line::styled(printable(message), bold),
        (Mode::Look, None) if !model.filter.is_empty() => Line::raw(format!(
            "filter: {} ({} lines)  {KEYS}",
            printable(&model.filter),
            model.rows().len()
        )),
        (Mode::Look, None) => Line::raw(KEYS),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::model::tests::{model, press, sample};
    use super::*;

    fn screen(model: &Model, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, model)).unwrap();
        let buffer = terminal.backend().buffer();
        let lines = (0..height).map(|y| {
            let line: String = (0..width).map(|x| buffer[(x, y)].symbol()).collect();
            line.trim_end().to_owned()
        });
        lines.collect()
    }

    fn fed() -> Model {
        let mut model = model();
        model.feed(sample(100, &[("00000000000000aa", "ann", 0, 0)]));
        let now = [
            ("00000000000000aa", "ann", 20, 2),
            ("00000000000000bb", "b\u{1b}[2J", 1, 0),
        ];
        model.feed(sample(102, &now));
        model
    }

    #[test]
    fn t71_a_screen_shows_figures_and_talkers() {
        let expected = [
            "ws 0.1.0, pid 42, up 102s, 12.3 MiB",
            "connections 2 of 10000  users 2  opened 0/s  closed 0/s  refused 0/s",
            "messages    in 10.5/s, 10.5 KiB/s  out 0/s  waiting 0 B",
            "callbacks   0/s  running 1 of 16  p50 -  p99 -  failed 0/s",
            "pushes      0/s  delivered 0/s  dropped 0/s",
            "CONNECTION       USER                        AGE   IN       OUT      BYTES",
            "00000000000000aa ann                         101s  10/s     1/s      10 KiB/s",
            "00000000000000bb b\\u{1b}[2J                  101s  0.5/s    0/s      512 B/s",
        ];
        let shown = screen(&fed(), 80, 12);
        assert_eq!(shown[..8], expected, "{shown:#?}");
        assert!(shown[11].starts_with("q quit"), "{shown:#?}");
    }

    #[test]
    fn a_question_a_filter_and_help_are_shown() {
        let mut model = fed();
        press(&mut model, "jx");
        let shown = screen(&model, 80, 12);
        assert_eq!(shown[11], "close connection 00000000000000aa? y/n");
        press(&mut model, "n/bb");
        let shown = screen(&model, 80, 12);
        assert_eq!(shown[11], "filter: bb_");
        assert!(shown[6].starts_with("00000000000000bb"), "{shown:#?}");
        press(&mut model, "\n?");
        assert!(screen(&model, 80, 12)[5].starts_with("arrows"));
    }

    #[test]
    fn any_terminal_is_large_enough() {
        let mut model = model();
        for _ in 0..2 {
            for (width, height) in [(0, 0), (1, 1), (5, 2), (20, 4), (80, 6), (300, 100)] {
                screen(&model, width, height);
            }
            model = fed();
            press(&mut model, "j");
        }
        // Four lines are enough to see who talks most.
        let shown = screen(&model, 60, 5);
        assert!(
            shown
                .iter()
                .any(|line| line.starts_with("00000000000000aa")),
            "{shown:#?}"
        );
        let page = page(&model, 120, 40);
        assert!(
            page.len() == 8 && page[6].contains("[::1]:5000"),
            "{page:#?}"
        );
    }
}
