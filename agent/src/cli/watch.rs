//! `floodmark watch`: the same as `run` knows, on a terminal, while it happens.
//!
//! `state.rs` keeps what is shown and what keys do to it, `screen.rs` and `rows.rs` draw it,
//! `terminal.rs` takes the terminal and gives it back. The terminal is told only of cells that change,
//! once a second and after a key.

mod rows;
mod screen;
mod state;
mod terminal;

use std::{
    env,
    io::{IsTerminal, stdin, stdout},
    process::ExitCode,
    sync::Arc,
    thread,
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use log::LevelFilter;
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};

use self::{
    rows::Palette,
    state::{Key, State},
};
use super::{HEALTHY, ProxyArgs, run::stop_signal};
use crate::agent::{Agent, AgentConfig, Snapshot};

/// Keys that may wait to be heeded.
const KEYS: usize = 64;

/// Arguments of `floodmark watch`.
#[derive(Debug, Args)]
pub(super) struct WatchArgs {
    #[command(flatten)]
    proxy: ProxyArgs,
}

/// Watches until `q`, Ctrl-C, SIGTERM, SIGINT or SIGHUP.
pub(super) async fn watch(args: WatchArgs) -> Result<ExitCode> {
    ensure!(
        stdin().is_terminal() && stdout().is_terminal(),
        "watch needs a terminal; without one, use `floodmark listeners --watch --json`"
    );
    let stop = stop_signal()?;
    let mut hangup = signal(SignalKind::hangup()).context("catching SIGHUP")?;
    let config =
        AgentConfig { watch_causes: true, watch_connections: true, ..args.proxy.config()? };
    let agent = Agent::start(&config)?;
    let keys = keys()?;
    // A line on standard error would tear the picture.
    log::set_max_level(LevelFilter::Off);
    let (snapshots, latest) = watch::channel(None);
    let terminal = terminal::take()?;
    let mut shown = tokio::spawn(show(terminal, latest, keys));
    let mut ended = None;
    let quit = async {
        tokio::select! {
            result = &mut shown => ended = Some(result),
            () = stop => {}
            _ = hangup.recv() => {}
        }
    };
    let (_, no_changes) = mpsc::channel(1);
    let result = agent.run(&snapshots, quit, no_changes, |_| {}).await;
    if ended.is_none() {
        // Not before it has left off drawing is the terminal anybody else's.
        shown.abort();
        let _ = shown.await;
    }
    terminal::give_back()?;
    result?;
    if let Some(ended) = ended {
        ended.context("drawing")??;
    }
    Ok(ExitCode::from(HEALTHY))
}

/// Draws until a key ends it.
async fn show(
    mut terminal: DefaultTerminal,
    mut latest: watch::Receiver<Option<Arc<Snapshot>>>,
    mut keys: mpsc::Receiver<Event>,
) -> Result<()> {
    let palette = Palette::new(env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()));
    let mut state = State::default();
    loop {
        terminal.draw(|frame| screen::draw(frame, &mut state, palette)).context("drawing")?;
        tokio::select! {
            changed = latest.changed() => {
                changed.context("the agent ended")?;
                if let Some(snapshot) = latest.borrow_and_update().clone() {
                    state.heard(snapshot);
                }
            }
            event = keys.recv() => {
                // A resize is an event as well: it has the screen drawn anew.
                let event = event.context("the terminal is gone")?;
                let key = event.as_key_press_event();
                if key.is_some_and(|key| !state.pressed(meaning(key))) {
                    return Ok(());
                }
            }
        }
    }
}

fn meaning(key: KeyEvent) -> Key {
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Key::Quit,
        KeyCode::Char('q') => Key::Quit,
        KeyCode::Up | KeyCode::Char('k') => Key::Up,
        KeyCode::Down | KeyCode::Char('j') => Key::Down,
        KeyCode::Enter => Key::Open,
        KeyCode::Esc | KeyCode::Backspace => Key::Back,
        KeyCode::Char('p' | ' ') => Key::Pause,
        _ => Key::Other,
    }
}

/// What the terminal sends, read by a thread of its own: the read blocks, and ends with the process.
fn keys() -> Result<mpsc::Receiver<Event>> {
    let (sender, receiver) = mpsc::channel(KEYS);
    let read = move || {
        while let Ok(event) = event::read() {
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("keys".to_owned()).spawn(read).context("starting a thread")?;
    Ok(receiver)
}
