//! What the agent heard, found and counted, as OpenTelemetry log records, with the names of the
//! semantic conventions (<https://opentelemetry.io/docs/specs/semconv/>) where those have one, and
//! names that begin with `floodmark.` where not.

use std::net::SocketAddr;

use nix::errno::Errno;
use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    logs::v1::{LogRecord, SeverityNumber},
};

use crate::{
    inventory::{Listener, Owner},
    kernel::{ListenerDelta, class::word},
    proxy::{EventKind, Failure, ProxyEvent, Upstream},
    time::{UnixMs, Window},
    verdict::{Verdict, in_words},
};

/// What a proxy said.
pub(super) fn of_event(event: &ProxyEvent, heard: UnixMs) -> LogRecord {
    let name = format!("floodmark.proxy.{}", event.kind.name());
    let severity = match event.kind {
        EventKind::NoLivePeers => SeverityNumber::Error,
        EventKind::PeerBack => SeverityNumber::Info,
        EventKind::AttemptFailed { .. } | EventKind::PeerMarked { .. } => SeverityNumber::Warn,
    };
    let body = format!("{} {} {}", event.proxy.name(), event.kind.name(), event.upstream);
    record(name, severity, (event.at, heard), body, about_event(event))
}

/// What followed from it.
pub(super) fn of_verdict(verdict: &Verdict, decided: UnixMs) -> LogRecord {
    let mut attributes = about_event(&verdict.event);
    let mut add = |key, value| attributes.push(attribute(key, value));
    add("floodmark.proxy.event", text(verdict.event.kind.name()));
    add("floodmark.verdict.cause", text(verdict.cause.name()));
    add("floodmark.verdict.confidence", text(verdict.confidence.name()));
    add("floodmark.verdict.is_exact", Value::BoolValue(verdict.is_exact));
    add("floodmark.verdict.window.from", milliseconds(verdict.window.from));
    add("floodmark.verdict.window.to", milliseconds(verdict.window.to));
    add("floodmark.verdict.events_lost", number(verdict.health.events_lost));
    add("floodmark.verdict.unseen_ms", number(verdict.health.unseen_ms));
    add("floodmark.verdict.skew_ms", number(verdict.health.skew_ms));
    add("floodmark.verdict.clock_set_ms", number(verdict.health.clock_set_ms));
    if let Some(lead) = verdict.lead_ms {
        add("floodmark.verdict.lead_ms", number(lead));
    }
    if let Some(listener) = verdict.listener {
        add("floodmark.listener.address", text(&listener.addr.to_string()));
        add("floodmark.netns.inode", number(listener.netns.inode().into()));
    }
    for (class, count) in verdict.evidence.counts() {
        attributes.push(attribute(&format!("floodmark.losses.{}", word(class)), number(count)));
    }
    let times = (verdict.event.at, decided);
    let name = "floodmark.verdict".to_owned();
    record(name, SeverityNumber::Warn, times, verdict.because.clone(), attributes)
}

/// What a listener lost in a second.
pub(super) fn of_losses(
    delta: &ListenerDelta,
    window: Window,
    listener: Option<&Listener>,
) -> LogRecord {
    let mut attributes = server(delta.listener.addr);
    attributes.push(attribute("network.transport", text("tcp")));
    attributes
        .push(attribute("floodmark.netns.inode", number(delta.listener.netns.inode().into())));
    if let Some(listener) = listener {
        attributes.push(attribute("floodmark.netns.name", text(&listener.netns_name)));
        attributes.extend(listener.owners.first().into_iter().flat_map(about_owner));
    }
    if let Some(queue) = delta.queue {
        attributes.push(attribute("floodmark.accept_queue.length", number(queue.len.into())));
        attributes.push(attribute("floodmark.accept_queue.limit", number(queue.limit.into())));
    }
    for (class, count) in delta.tally.counts() {
        attributes.push(attribute(&format!("floodmark.losses.{}", word(class)), number(count)));
    }
    let body = format!("{}: {}", delta.listener.addr, in_words(&delta.tally));
    let name = "floodmark.losses".to_owned();
    record(name, SeverityNumber::Warn, (window.to, window.to), body, attributes)
}

fn record(
    event_name: String,
    severity: SeverityNumber,
    (at, observed): (UnixMs, UnixMs),
    body: String,
    attributes: Vec<KeyValue>,
) -> LogRecord {
    LogRecord {
        time_unix_nano: at.0 * 1_000_000,
        observed_time_unix_nano: observed.0 * 1_000_000,
        severity_number: severity.into(),
        severity_text: severity.as_str_name().trim_start_matches("SEVERITY_NUMBER_").to_owned(),
        body: Some(AnyValue { value: Some(Value::StringValue(body)) }),
        attributes,
        event_name,
        ..LogRecord::default()
    }
}

fn about_event(event: &ProxyEvent) -> Vec<KeyValue> {
    let mut attributes = vec![
        attribute("floodmark.proxy.name", text(event.proxy.name())),
        attribute("floodmark.source", text(&event.source)),
    ];
    let mut add = |key, value| attributes.push(attribute(key, value));
    if let Some(pid) = event.pid {
        add("process.pid", number(pid.into()));
    }
    if let Some(group) = event.group_name() {
        add("floodmark.upstream.group", text(group));
    }
    if let Some(took) = event.took_ms {
        add("floodmark.attempt.duration_ms", number(took));
    }
    if let Some(local) = event.local_addr {
        add("network.local.address", text(&local.ip().to_string()));
        add("network.local.port", number(local.port().into()));
    }
    if let Some(peer) = event.addr() {
        add("network.transport", text("tcp"));
        add("network.peer.address", text(&peer.ip().to_string()));
        add("network.peer.port", number(peer.port().into()));
        attributes.extend(server(peer));
    } else if let Upstream::Unix(path) = &event.upstream {
        add("network.transport", text("unix"));
        add("network.peer.address", text(path));
        add("server.address", text(path));
    }
    let (phase, failure) = match event.kind {
        EventKind::AttemptFailed { phase, failure } => (Some(phase), Some(failure)),
        EventKind::PeerMarked { phase, failure } => (Some(phase), failure),
        EventKind::PeerBack | EventKind::NoLivePeers => (None, None),
    };
    if let Some(phase) = phase {
        attributes.push(attribute("floodmark.attempt.phase", text(phase.name())));
    }
    if let Some(failure) = failure {
        attributes.push(attribute("error.type", text(&error_type(failure))));
    }
    attributes
}

fn about_owner(owner: &Owner) -> Vec<KeyValue> {
    let mut attributes = vec![
        attribute("process.pid", number(owner.pid.into())),
        attribute("process.executable.name", text(&owner.command)),
    ];
    let mut add = |key, value: Option<&String>| {
        attributes.extend(value.map(|value| attribute(key, text(value))));
    };
    let workload = &owner.workload;
    add("container.id", workload.container.as_ref().map(|container| &container.id));
    add("k8s.container.name", workload.container.as_ref().and_then(|it| it.name.as_ref()));
    add("k8s.pod.uid", workload.pod.as_ref().map(|pod| &pod.uid));
    add("k8s.pod.name", workload.pod.as_ref().and_then(|pod| pod.name.as_ref()));
    add("k8s.namespace.name", workload.pod.as_ref().and_then(|pod| pod.namespace.as_ref()));
    attributes
}

fn server(addr: SocketAddr) -> Vec<KeyValue> {
    vec![
        attribute("server.address", text(&addr.ip().to_string())),
        attribute("server.port", number(addr.port().into())),
    ]
}

/// An error number by its name, as the conventions would have it.
fn error_type(failure: Failure) -> String {
    match failure {
        Failure::Errno { errno } => format!("{:?}", Errno::from_raw(errno)),
        Failure::ClosedEarly => "closed_early".to_owned(),
        Failure::Aborted => "aborted".to_owned(),
        Failure::InvalidResponse => "invalid_response".to_owned(),
        Failure::BadStatus => "bad_status".to_owned(),
        Failure::OwnLimit => "own_limit".to_owned(),
        Failure::Unknown => "_OTHER".to_owned(),
    }
}

pub(super) fn attribute(key: &str, value: Value) -> KeyValue {
    let value = Some(AnyValue { value: Some(value) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

pub(super) fn text(text: &str) -> Value {
    Value::StringValue(text.to_owned())
}

fn number(number: u64) -> Value {
    Value::IntValue(i64::try_from(number).unwrap_or(i64::MAX))
}

fn milliseconds(at: UnixMs) -> Value {
    number(at.0)
}
