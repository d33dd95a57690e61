//! `floodmark listeners`: every listener of every network namespace.

mod filter;
mod table;

use std::{
    io::{IsTerminal, stdout},
    process::ExitCode,
    thread::sleep,
    time::Duration,
};

use anyhow::Result;
use clap::Args;
use serde::Serialize;

pub(super) use self::filter::Filter;
pub(super) use self::table::{address, owners};
use super::{
    HEALTHY, TROUBLE,
    output::{clear_screen, print, print_json, print_json_line},
};
use crate::{
    inventory::{DesertedPath, LeftOut, LimitedBy, Limits, Listener, Trouble, UnixListener, View},
    kernel::{KernelSource, Rung, netns::discover},
    stock::Stock,
};

/// How often `--watch` looks.
const LOOK: Duration = Duration::from_secs(1);
/// How much is listed at most.
pub(super) const LIMITS: Limits = Limits { listeners: 100_000, namespaces: 10_000 };
/// How long the list waits for the names of owners.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Arguments of `floodmark listeners`.
#[derive(Debug, Args)]
pub(super) struct ListenersArgs {
    #[command(flatten)]
    filter: Filter,
    /// List only listeners whose queue is full or filling, or that dropped something
    #[arg(long)]
    only_trouble: bool,
    /// Print one JSON object; with --watch, one per line
    #[arg(long)]
    json: bool,
    /// Update every second, and measure the queues' high-water marks in the kernel
    #[arg(long)]
    watch: bool,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Listing<'a> {
    listeners: Vec<Judged<'a, Listener>>,
    unix_listeners: Vec<Judged<'a, UnixListener>>,
    deserted_unix_paths: &'a [DesertedPath],
    namespaces: &'a std::collections::BTreeMap<crate::kernel::NetnsId, crate::inventory::Namespace>,
    destinations: &'a [crate::inventory::Destination],
    peers: &'a [crate::inventory::peers::PeerReport],
    #[serde(skip_serializing_if = "LeftOut::is_nothing")]
    left_out: LeftOut,
}

/// A listener with what follows from its state.
#[derive(Serialize)]
struct Judged<'a, L> {
    #[serde(flatten)]
    listener: &'a L,
    trouble: Trouble,
    occupancy: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    limited_by: Option<LimitedBy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dual_stack: Option<bool>,
}

/// Lists them once, or again and again. Exit status 1 where `--only-trouble` finds some.
pub(super) fn listeners(args: &ListenersArgs) -> Result<ExitCode> {
    if args.watch {
        return watch(args);
    }
    let mut stock = Stock::take(&[], LIMITS)?;
    stock.settle(PATIENCE)?;
    let view = stock.view(usize::MAX);
    args.filter.check(&view)?;
    let view = wanted(args, view);
    list(args, &view, usize::MAX)?;
    let found = args.only_trouble && !is_empty(&view);
    Ok(ExitCode::from(if found { TROUBLE } else { HEALTHY }))
}

fn wanted(args: &ListenersArgs, view: View) -> View {
    let mut view = args.filter.apply(view);
    if args.only_trouble {
        view.listeners.retain(|listener| listener.trouble() > Trouble::None);
        view.unix_listeners.retain(|listener| listener.trouble() > Trouble::None);
    }
    view
}

fn watch(args: &ListenersArgs) -> Result<ExitCode> {
    let namespaces = discover()?;
    let mut kernel = KernelSource::attach_at_most(&namespaces, Rung::Fentry)?;
    let mut stock = Stock::take(&[], LIMITS)?;
    let is_screen = stdout().is_terminal() && !args.json;
    loop {
        stock.tick(&mut kernel)?;
        let view = wanted(args, stock.view(usize::MAX));
        let rows = if is_screen { table::height().saturating_sub(6) } else { usize::MAX };
        if is_screen {
            clear_screen()?;
        }
        list(args, &view, rows)?;
        sleep(LOOK);
    }
}

fn list(args: &ListenersArgs, view: &View, rows: usize) -> Result<()> {
    if !args.json {
        return print(&table::tell(view, rows));
    }
    let listeners = view.listeners.iter().map(|listener| Judged {
        listener,
        trouble: listener.trouble(),
        occupancy: listener.occupancy(),
        limited_by: listener.limited_by(),
        dual_stack: Some(listener.is_dual_stack()),
    });
    let unix_listeners = view.unix_listeners.iter().map(|listener| Judged {
        listener,
        trouble: listener.trouble(),
        occupancy: listener.queue.occupancy(),
        limited_by: None,
        dual_stack: None,
    });
    let listing = Listing {
        listeners: listeners.collect(),
        unix_listeners: unix_listeners.collect(),
        deserted_unix_paths: &view.deserted,
        namespaces: &view.namespaces,
        destinations: &view.destinations,
        peers: &view.peers,
        left_out: view.left_out,
    };
    if args.watch { print_json_line(&listing) } else { print_json(&listing) }
}

fn is_empty(view: &View) -> bool {
    view.listeners.is_empty() && view.unix_listeners.is_empty()
}
