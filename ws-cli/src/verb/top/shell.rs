//! The terminal: keys in, screens out.

use std::io;

use anyhow::Context;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::model::{Action, Key, Model};
use super::sampler::{Sample, Sampler};
use super::screen;
use crate::failure::Failure;

/// Keys that are read ahead.
const KEYS_AHEAD: usize = 64;

/// What comes from the server.
enum News {
    Sample(Box<Sample>),
    Kicked(Key, u64),
    /// It cannot be reached, or refuses.
    Trouble(Failure),
}

/// Runs until somebody quits. A server that cannot be reached at the beginning is a failure; one
/// that goes away later is waited for.
pub(super) async fn run(mut model: Model, mut sampler: Sampler) -> Result<(), Failure> {
    model.feed(sampler.next().await?);
    let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot catch SIGHUP")?;
    let (kicks, asked) = mpsc::channel(1);
    let (sender, mut news) = mpsc::channel(1);
    // Keys are answered while the server is not.
    tokio::spawn(ask(sampler, asked, sender));
    let mut screen = Screen::open().context("cannot use this terminal")?;
    let mut events = events();
    loop {
        screen.draw(&model).context("cannot draw")?;
        tokio::select! {
            event = events.recv() => match event {
                Some(Ok(Event::Key(key))) => match model.press(key) {
                    Some(Action::Quit) => return Ok(()),
                    Some(Action::Kick(key)) => {
                        let is_taken = kicks.try_send(key).is_ok();
                        if !is_taken {
                            model.say("the server has not answered yet: try again".to_owned());
                        }
                    }
                    None => {}
                },
                // The next screen has the new size.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => return Ok(()),
            },
            Some(news) = news.recv() => match news {
                News::Sample(sample) => model.feed(*sample),
                News::Kicked(key, count) => {
                    model.say(format!("closed {count} of {}", key.id()));
                }
                News::Trouble(failure) => model.fail(failure.to_string()),
            },
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => return Ok(()),
        }
    }
}

/// Asks the server, until nobody wants to know any more.
async fn ask(mut sampler: Sampler, mut kicks: mpsc::Receiver<Key>, news: mpsc::Sender<News>) {
    loop {
        let told = tokio::select! {
            biased;
            kick = kicks.recv() => match kick {
                Some(key) => match sampler.kick(&key).await {
                    Ok(count) => News::Kicked(key, count),
                    Err(failure) => News::Trouble(failure),
                },
                None => return,
            },
            // Given up for a kick, it leaves a connection behind that is not used again.
            sample = sampler.next() => match sample {
                Ok(sample) => News::Sample(Box::new(sample)),
                Err(failure) => News::Trouble(failure),
            },
        };
        if news.send(told).await.is_err() {
            return;
        }
    }
}

/// The keys that are pressed. The thread that waits for them is left behind at the end.
fn events() -> mpsc::Receiver<io::Result<Event>> {
    let (sender, receiver) = mpsc::channel(KEYS_AHEAD);
    std::thread::spawn(move || {
        loop {
            let event = event::read();
            let is_over = event.is_err();
            if sender.blocking_send(event).is_err() || is_over {
                return;
            }
        }
    });
    receiver
}

/// The terminal while it is ours; given back as it was, after a panic too.
struct Screen(DefaultTerminal);

impl Screen {
    fn open() -> io::Result<Self> {
        // It has a panic say what it says after the terminal is as before.
        ratatui::try_init().map(Self)
    }

    fn draw(&mut self, model: &Model) -> io::Result<()> {
        self.0.draw(|frame| screen::draw(frame, model))?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}
