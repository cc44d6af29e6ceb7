//! `ws connect`: a client for people and scripts.

mod command;
mod opening;
mod output;
mod session;
mod show;
mod typing;
mod words;

use std::io::{self, IsTerminal};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use self::output::Output;
use self::session::Session;
use self::typing::Lines;
use crate::args::ConnectArgs;
use crate::failure::Failure;

pub(crate) fn run(args: &ConnectArgs) -> Result<(), Failure> {
    let request = opening::request(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    let is_talk = io::stdin().is_terminal() && io::stdout().is_terminal() && !args.json;
    runtime.block_on(async {
        let opened = opening::open(request, args).await?;
        if !is_talk {
            let (lines, output) = (Lines::piped(), Output::pipes(args));
            return Session::new(opened, lines, output, args).run().await;
        }
        // Caught from here on: the line editor has its own use for Ctrl-C, and what it does not
        // see of it must not leave the terminal as the editor has set it.
        let _interrupts = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
        let mut terminations = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
        let (lines, output) = typing::begin(args)?;
        let session = Session::new(opened, lines, output, args).run();
        tokio::select! {
            ended = session => ended,
            // The terminal is given back as the session is dropped.
            _ = terminations.recv() => Ok(()),
        }
    })
}
