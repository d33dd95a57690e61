//! Reading the configuration again at SIGHUP.

use std::{
    env,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Result;
use clap::{ArgMatches, FromArgMatches};
use log::{error, info, warn};
use tokio::{signal::unix::Signal, sync::mpsc};

use super::{run::RunArgs, service, settings};
use crate::{agent::Change, export::Web};

/// The options that change while the agent runs; all others take a restart.
const CHANGEABLE: [&str; 7] = [
    "haproxy-log-format",
    "haproxy-servers",
    "listeners",
    "nginx-error-log",
    "proxy-log",
    "syslog",
    "verdicts",
];

/// At each SIGHUP, has the agent take on what the file now says. What is wrong is said, and leaves
/// everything as it was.
pub(super) async fn at_hangups(
    mut hangups: Signal,
    started_with: ArgMatches,
    changes: mpsc::Sender<Change>,
    web: Web,
    verdicts: Arc<AtomicBool>,
) {
    while hangups.recv().await.is_some() {
        service::reloading();
        let change = match read_again(&started_with, &web) {
            Ok((args, change)) => {
                verdicts.store(args.verdicts(), Ordering::Relaxed);
                change
            }
            Err(error) => {
                error!(
                    "configuration not reloaded, the old one stays in effect: {}",
                    one_line(&error)
                );
                Change::Refused
            }
        };
        let is_over = changes.send(change).await.is_err();
        service::reloaded();
        if is_over {
            return;
        }
    }
}

fn read_again(started_with: &ArgMatches, web: &Web) -> Result<(RunArgs, Change)> {
    let words: Vec<_> = env::args_os().collect();
    let (matches, _) = settings::parse(&words)?;
    let options = settings::options(&matches).unwrap_or(&matches);
    let args = RunArgs::from_arg_matches(options)?;
    let config = args.agent()?;
    web.change(args.web()?)?;
    info!("configuration reloaded");
    let started_with = settings::options(started_with).unwrap_or(started_with);
    for name in changed(started_with, options) {
        if !CHANGEABLE.contains(&name.as_str()) {
            warn!("{name} has changed and needs a restart to take effect");
        }
    }
    Ok((args, Change::To(Box::new(config))))
}

/// The options whose values differ.
fn changed(before: &ArgMatches, after: &ArgMatches) -> Vec<String> {
    let values = |matches: &ArgMatches, id: &str| {
        matches.get_raw(id).map(|raw| raw.map(ToOwned::to_owned).collect::<Vec<_>>())
    };
    let definitions = settings::definitions();
    let differs = definitions.iter().filter(|definition| {
        let id = definition.get_id().as_str();
        values(before, id) != values(after, id)
    });
    differs.filter_map(|definition| definition.get_long().map(str::to_owned)).collect()
}

fn one_line(error: &anyhow::Error) -> String {
    match error.downcast_ref::<clap::Error>() {
        Some(error) => settings::first_line(error),
        None => format!("{error:#}"),
    }
}
