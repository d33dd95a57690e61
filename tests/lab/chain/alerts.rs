//! What the incident must lead to at the receiver, and when.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{
    NO_PEERS, OVERFLOW,
    webhook::{Notification, Webhook},
};
use crate::{app, topology::Topology};

/// An alert that must come.
pub struct Wanted {
    name: &'static str,
    /// A label and what it must be.
    labels: Vec<(&'static str, String)>,
    /// Values of `cause`, one of which it must have.
    causes: &'static [&'static str],
    /// Words that its text must hold.
    text: Vec<String>,
}

/// One for each application's listener, and one for the proxy.
pub fn of_the_incident(topology: &Topology) -> Vec<Wanted> {
    let listener = format!("0.0.0.0:{}", app::PORT);
    let overflow = |netns: &str| Wanted {
        name: OVERFLOW,
        labels: vec![("netns", netns.to_owned()), ("listener", listener.clone())],
        causes: &["accept_queue_full"],
        text: vec![
            listener.clone(),
            netns.to_owned(),
            "process python".to_owned(),
            "listen()".to_owned(),
        ],
    };
    let mut wanted: Vec<Wanted> =
        topology.apps.iter().map(|(namespace, _)| overflow(namespace.name())).collect();
    wanted.push(Wanted {
        name: NO_PEERS,
        labels: vec![("proxy", "nginx".to_owned()), ("upstream", "app".to_owned())],
        causes: &["accept_queue_overflow", "half_open"],
        text: vec!["the group app".to_owned(), listener, "process python".to_owned()],
    });
    wanted
}

impl Wanted {
    fn is_it(&self, told: &Notification) -> bool {
        let text = told.annotation("description");
        told.label("alertname") == self.name
            && !told.is_resolved()
            && self.labels.iter().all(|(name, value)| told.label(name) == value)
            && self.causes.contains(&told.label("cause"))
            && self.text.iter().all(|words| text.contains(words))
            && told.annotation("runbook_url").ends_with(&self.name.to_lowercase())
    }
}

/// What came of each, by `until`.
pub fn until_told(
    webhook: &Webhook,
    wanted: &[Wanted],
    until: Instant,
) -> Vec<Result<Notification, String>> {
    let look = || -> Vec<Option<Notification>> {
        let all = webhook.all();
        wanted.iter().map(|wanted| all.iter().find(|told| wanted.is_it(told)).cloned()).collect()
    };
    while Instant::now() < until && look().iter().any(Option::is_none) {
        thread::sleep(Duration::from_millis(200));
    }
    let missing = |wanted: &Wanted| {
        let others: Vec<String> = webhook.all().iter().map(Notification::summary).collect();
        format!("no {} of {:?} came in time; there came {others:?}", wanted.name, wanted.labels)
    };
    look()
        .into_iter()
        .zip(wanted)
        .map(|(told, wanted)| told.ok_or_else(|| missing(wanted)))
        .collect()
}

/// Waits until nothing by that name is firing any longer.
pub fn until_resolved(
    webhook: &Webhook,
    name: &str,
    mended: Instant,
    until: Instant,
) -> Result<String, String> {
    loop {
        let firing = still_firing(&webhook.all(), name);
        if firing.is_empty() {
            let after = mended.elapsed().as_secs();
            return Ok(format!("{after} s after the mend, {name} had ended"));
        }
        if Instant::now() > until {
            return Err(format!("still firing: {firing:?}"));
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// By the newest message on each alert.
fn still_firing(all: &[Notification], name: &str) -> Vec<String> {
    let mut firing: Vec<String> = Vec::new();
    for told in all.iter().filter(|told| told.label("alertname") == name) {
        let which = ["netns", "listener", "upstream", "cause"].map(|label| told.label(label));
        let which = which.join(" ");
        firing.retain(|other| *other != which);
        if !told.is_resolved() {
            firing.push(which);
        }
    }
    firing
}

/// Whether the incident may lead to this alert.
pub fn is_expected(told: &Notification) -> bool {
    [
        OVERFLOW,
        NO_PEERS,
        "FloodmarkAcceptQueueNearFull",
        "FloodmarkListenerImpeded",
        "FloodmarkSynAckRetransmits",
        "FloodmarkSynQueueFull",
    ]
    .contains(&told.label("alertname"))
}
