//! `ws top`: shows live what goes on, and who talks most.
//!
//! [`model`] decides: samples and keys in, what is shown and asked for out. [`screen`] draws it,
//! [`sampler`] asks the server, and [`shell`] is the terminal around them.

mod model;
mod sampler;
mod screen;
mod shell;

use std::io::{self, IsTerminal, Write};

use serde_json::{Value, json};

use self::model::Model;
use self::sampler::Sampler;
use crate::args::TopArgs;
use crate::control::{self, Caller};
use crate::failure::{Code, Failure};
use crate::figures::Figures;
use crate::output;
use crate::paint;

/// The page of `--once`, in characters.
const PAGE_WIDTH: u16 = 120;
const PAGE_HEIGHT: u16 = 40;
/// Connections in a line of `--json`.
const TALKERS: usize = 10;

pub(crate) fn run(args: &TopArgs) -> Result<(), Failure> {
    let is_live = !args.once && !args.client.json;
    if is_live && !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        let text = "stdin and stdout are no terminal: take --once or --json";
        return Err(Failure::new(Code::Usage, text));
    }
    let sampler = Sampler::new(Caller::new(&args.client)?, args.interval);
    control::runtime()?.block_on(async {
        match is_live {
            true => shell::run(Model::new(args, paint::is_wanted()), sampler).await,
            false => print(args, sampler).await,
        }
    })
}

/// Prints pages or lines for programs.
async fn print(args: &TopArgs, mut sampler: Sampler) -> Result<(), Failure> {
    let mut model = Model::new(args, false);
    model.feed(sampler.next().await?);
    loop {
        model.feed(sampler.next().await?);
        match args.client.json {
            true => output::json(&line(&model))?,
            false => screen::page(&model, PAGE_WIDTH, PAGE_HEIGHT)
                .into_iter()
                .try_for_each(output::line)?,
        }
        // Whoever reads it through a pipe does not wait for the next.
        io::stdout().flush()?;
        if args.once {
            return Ok(());
        }
    }
}

/// What is shown, for programs: rates are per second over the last interval.
fn line(model: &Model) -> Value {
    let Some(now) = model.now() else {
        return Value::Null;
    };
    let before = model.before().unwrap_or(now);
    let (figures, earlier): (&Figures, &Figures) = (&now.figures, &before.figures);
    let rate = |path| figures.rate(earlier, path);
    let durations = figures.callback_durations(Some(earlier));
    let seconds = |q| durations.quantile(q).map(|it| it.as_secs_f64());
    let talkers: Vec<Value> = model
        .rows()
        .iter()
        .take(TALKERS)
        .map(|row| {
            json!({
                "id": row.key.id(), "user": row.user, "address": row.address, "uri": row.uri,
                "in_per_second": row.rate_in, "out_per_second": row.rate_out,
                "bytes_per_second": row.rate_bytes, "messages": row.total,
                "waiting_bytes": row.waiting,
            })
        })
        .collect();
    json!({
        "at": figures.at().as_secs_f64(),
        "connections": figures.count("connections.open"),
        "users": figures.count("users"),
        "opened_per_second": rate("connections.opened"),
        "closed_per_second": rate("connections.closed"),
        "refused_per_second": rate("sockets.refused"),
        "received_per_second": rate("messages.received"),
        "received_bytes_per_second": rate("messages.received_bytes"),
        "sent_per_second": rate("messages.sent"),
        "waiting_bytes": figures.count("messages.waiting_bytes"),
        "callbacks_per_second": rate("callbacks.accepted"),
        "callbacks_running": figures.gauge("ws_callbacks_running"),
        "callback_seconds_p50": seconds(0.5),
        "callback_seconds_p99": seconds(0.99),
        "pushes_per_second": rate("pushes.accepted"),
        "delivered_per_second": rate("deliveries.made"),
        "dropped_per_second": rate("deliveries.dropped"),
        "talkers": talkers,
    })
}
