//! What a message must be to count. Whoever may publish on the bus may be hostile, so a reader takes
//! nothing that an honest agent would not send, and an agent keeps to the same limits.

use std::{collections::BTreeMap, fmt};

use serde::Deserialize;

use super::{
    message::{Content, Message, Tick, VERSION},
    subject,
};
use crate::{
    inventory::Told,
    kernel::{KernelSample, Tally},
    printable::{is_printable, printable},
    proxy::{ProxyEvent, Upstream},
    time::{UnixMs, Window},
    verdict::Heard,
};

/// The longest message, in bytes: the `max_payload` of a NATS server that is not told otherwise.
pub const MAX_PAYLOAD: usize = 1 << 20;
/// The longest text in a message, in bytes: names, paths, sources.
pub const MAX_TEXT: usize = 512;
/// Events and listeners with losses in one message.
pub const MAX_ITEMS: usize = 500;
/// Accept queues in a tick, and clients that sent SYNs again.
pub const MAX_WAITING: usize = 2000;
/// Network namespaces of a host.
pub const MAX_NAMESPACES: usize = 2000;
/// Listeners and addresses in a message about a namespace.
pub const MAX_LISTENERS: usize = 4000;
/// Addresses that one connection may really go to.
pub const MAX_LEADS: usize = 64;
/// The largest count of anything in one message: more than 10^12, and a million of those can be added.
const MAX_COUNT: u64 = 1 << 40;
/// The coarsest time stamp of a log, in milliseconds: a minute.
const MAX_PRECISION_MS: u32 = 60_000;

/// Why a message does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// Its subject does not name the host that it is from.
    Foreign,
    /// It is longer than any message of an agent.
    TooLarge,
    /// It is no JSON, or not of a message.
    Unreadable,
    /// Another release wrote it.
    OtherVersion,
    /// A field is out of range.
    Invalid,
    /// It came before.
    Repeated,
    /// It is about the future, or about longer ago than the stream keeps messages.
    Untimely,
    /// Its host has sent more than its share.
    OverShare,
    /// As many hosts publish as a reader keeps, and none of them is silent.
    TooManyHosts,
}

impl Refusal {
    /// Every reason there is.
    pub const ALL: [Self; 9] = [
        Self::Foreign,
        Self::TooLarge,
        Self::Unreadable,
        Self::OtherVersion,
        Self::Invalid,
        Self::Repeated,
        Self::Untimely,
        Self::OverShare,
        Self::TooManyHosts,
    ];

    /// Name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Foreign => "foreign",
            Self::TooLarge => "too_large",
            Self::Unreadable => "unreadable",
            Self::OtherVersion => "other_version",
            Self::Invalid => "invalid",
            Self::Repeated => "repeated",
            Self::Untimely => "untimely",
            Self::OverShare => "over_share",
            Self::TooManyHosts => "too_many_hosts",
        }
    }
}

/// A message that does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The reason, by which it is counted.
    pub refusal: Refusal,
    /// The same for a person.
    pub detail: String,
}

impl Refused {
    pub(super) fn new(refusal: Refusal, detail: impl Into<String>) -> Self {
        Self { refusal, detail: detail.into() }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

/// Reads the message that was published on `subject`. What depends on earlier messages, on time and on
/// the host's share is not looked at.
///
/// # Errors
///
/// When the message does not count.
pub fn read(subject: &str, payload: &[u8]) -> Result<Message, Refused> {
    let host = subject::host_of(subject)
        .ok_or_else(|| Refused::new(Refusal::Foreign, "its subject names no host"))?;
    if payload.len() > MAX_PAYLOAD {
        let detail = format!("it has {} bytes, {MAX_PAYLOAD} are allowed", payload.len());
        return Err(Refused::new(Refusal::TooLarge, detail));
    }
    let message: Message =
        serde_json::from_slice(payload).map_err(|error| unread(payload, &error))?;
    if message.version != VERSION {
        return Err(other_version(message.version));
    }
    if message.host != host {
        return Err(Refused::new(Refusal::Foreign, "it claims to be from another host"));
    }
    check(&message.content)
        .map_err(|what| Refused::new(Refusal::Invalid, format!("{what} is out of range")))?;
    Ok(message)
}

fn other_version(version: u32) -> Refused {
    let detail = format!("it is of version {version}, this program reads version {VERSION}");
    Refused::new(Refusal::OtherVersion, detail)
}

fn unread(payload: &[u8], error: &serde_json::Error) -> Refused {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    match serde_json::from_slice(payload) {
        Ok(Versioned { version }) if version != VERSION => other_version(version),
        // It may quote the message.
        _ => Refused::new(Refusal::Unreadable, printable(&error.to_string())),
    }
}

/// The field that is out of range, if one is.
pub(super) fn check(content: &Content) -> Result<(), &'static str> {
    match content {
        Content::Namespace(told) => check_namespace(told),
        Content::Heard { heard } => {
            most(heard.len(), MAX_ITEMS, "heard")?;
            heard.iter().try_for_each(check_heard)
        }
        Content::Losses { sample } => check_sample(sample),
        Content::Details { events } => most(events.len(), MAX_ITEMS, "events"),
        Content::Tick(tick) => check_tick(tick),
        Content::Stopped => Ok(()),
    }
}

fn check_namespace(told: &Told) -> Result<(), &'static str> {
    text(&told.name, "name")?;
    most(told.addresses.len(), MAX_LISTENERS, "addresses")?;
    most(told.listeners.len(), MAX_LISTENERS, "listeners")?;
    count(told.left_out as u64, "left_out")?;
    told.listeners.iter().flat_map(|one| &one.command).try_for_each(|it| text(it, "command"))
}

fn check_heard(heard: &Heard) -> Result<(), &'static str> {
    let Heard { event, line, .. } = heard;
    holds(line.is_none(), "line")?;
    holds(event.precision_ms <= MAX_PRECISION_MS, "precision_ms")?;
    most(event.leads_to.len(), MAX_LEADS, "leads_to")?;
    texts(event).into_iter().flatten().try_for_each(|it| text(it, "a name"))
}

/// All text in an event that comes from a proxy.
fn texts(event: &ProxyEvent) -> [Option<&String>; 4] {
    let (one, other) = match &event.upstream {
        Upstream::Unix(name) | Upstream::Group(name) | Upstream::Host(name) => (Some(name), None),
        Upstream::Server { group, name } => (Some(group), Some(name)),
        Upstream::Inet(_) | Upstream::Unnamed => (None, None),
    };
    [Some(&event.source), event.group.as_ref(), one, other]
}

fn check_sample(sample: &KernelSample) -> Result<(), &'static str> {
    holds(sample.window.from <= sample.window.to, "window")?;
    count(sample.events_lost, "events_lost")?;
    most(sample.listeners.len(), MAX_ITEMS, "listeners")?;
    let tallies = sample.listeners.iter().map(|delta| &delta.tally);
    tallies.flat_map(counts).try_for_each(|it| count(it, "tally"))
}

fn counts(tally: &Tally) -> impl Iterator<Item = u64> {
    tally.counts().map(|(_, count)| count).chain([tally.connections])
}

fn check_tick(tick: &Tick) -> Result<(), &'static str> {
    check_sample(&tick.sample)?;
    most(tick.waiting.len(), MAX_WAITING, "waiting")?;
    most(tick.syns_repeated.len(), MAX_WAITING, "syns_repeated")?;
    most(tick.syn_queues_full.len(), MAX_NAMESPACES, "syn_queues_full")?;
    most(tick.aborting.len(), MAX_NAMESPACES, "aborting")?;
    most(tick.namespaces.len(), MAX_NAMESPACES, "namespaces")
}

fn holds(is_true: bool, what: &'static str) -> Result<(), &'static str> {
    is_true.then_some(()).ok_or(what)
}

fn most(len: usize, most: usize, what: &'static str) -> Result<(), &'static str> {
    holds(len <= most, what)
}

fn count(count: u64, what: &'static str) -> Result<(), &'static str> {
    holds(count <= MAX_COUNT, what)
}

fn text(text: &str, what: &'static str) -> Result<(), &'static str> {
    holds(text.len() <= MAX_TEXT && text.chars().all(is_printable), what)
}

/// Makes a text such as a reader takes: printable, and cut off where it is too long.
pub(super) fn fit(text: &mut String) {
    if !text.chars().all(is_printable) {
        *text = printable(text).into_owned();
    }
    text.truncate(text.floor_char_boundary(MAX_TEXT));
}

/// Makes an event of this host's such as a reader takes.
pub(super) fn fit_event(event: &mut ProxyEvent) {
    fit(&mut event.source);
    event.group.iter_mut().for_each(fit);
    match &mut event.upstream {
        Upstream::Unix(name) | Upstream::Group(name) | Upstream::Host(name) => fit(name),
        Upstream::Server { group, name } => [group, name].into_iter().for_each(fit),
        Upstream::Inet(_) | Upstream::Unnamed => {}
    }
    event.precision_ms = event.precision_ms.min(MAX_PRECISION_MS);
    event.leads_to.truncate(MAX_LEADS);
}

/// Makes what is told of a namespace such as a reader takes.
pub(super) fn fit_namespace(told: &mut Told) {
    fit(&mut told.name);
    told.listeners.iter_mut().flat_map(|one| &mut one.command).for_each(fit);
    let all = told.listeners.len();
    told.listeners.truncate(MAX_LISTENERS);
    told.left_out += all - told.listeners.len();
    while told.addresses.len() > MAX_LISTENERS {
        told.addresses.pop_last();
    }
}

/// Leaves of `content` only what happened inside `allowed`, and gives the number of events that did
/// not.
///
/// # Errors
///
/// When a sample or a tick as a whole did not.
pub(super) fn keep_timely(content: &mut Content, allowed: &Window) -> Result<usize, Refused> {
    let is_inside = |at: UnixMs| allowed.from <= at && at <= allowed.to;
    let whole = |times: &[UnixMs]| match times.iter().all(|at| is_inside(*at)) {
        true => Ok(0),
        false => Err(Refused::new(Refusal::Untimely, "its times do not fit the server's clock")),
    };
    match content {
        Content::Heard { heard } => {
            Ok(keep(heard, |one: &Heard| is_inside(one.at) && is_inside(one.event.at)))
        }
        Content::Details { events } => Ok(keep(events, |event| is_inside(event.at))),
        Content::Losses { sample } => whole(&[sample.window.from, sample.window.to]),
        Content::Tick(tick) => whole(&[tick.at, tick.sample.window.from, tick.sample.window.to]),
        Content::Namespace(_) | Content::Stopped => Ok(0),
    }
}

fn keep<T>(items: &mut Vec<T>, is_kept: impl Fn(&T) -> bool) -> usize {
    let before = items.len();
    items.retain(is_kept);
    before - items.len()
}

/// How many messages did not count, by reason.
pub type Refusals = BTreeMap<Refusal, u64>;

#[cfg(test)]
mod tests;
