//! `health_checks: { event_log_path }`: one `envoy.data.core.v3.HealthCheckEvent` a line, as JSON with the
//! names of the proto.

use std::{borrow::Cow, net::SocketAddr};

use serde::Deserialize;

use crate::proxy::{
    event::{Carrier, EventKind, Failure, Phase, ProxyEvent, ProxyKind, Upstream},
    timestamp::whole,
};

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    health_checker_type: Cow<'a, str>,
    #[serde(borrow)]
    host: Host<'a>,
    #[serde(borrow)]
    cluster_name: Cow<'a, str>,
    #[serde(borrow)]
    timestamp: Cow<'a, str>,
    #[serde(borrow, default)]
    eject_unhealthy_event: Option<Unhealthy<'a>>,
    #[serde(borrow, default)]
    health_check_failure_event: Option<Unhealthy<'a>>,
    #[serde(default)]
    add_healthy_event: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Host<'a> {
    #[serde(borrow, default)]
    socket_address: Option<Address<'a>>,
    #[serde(borrow, default)]
    pipe: Option<Pipe<'a>>,
}

#[derive(Deserialize)]
struct Address<'a> {
    #[serde(borrow)]
    address: Cow<'a, str>,
    port_value: u16,
}

#[derive(Deserialize)]
struct Pipe<'a> {
    #[serde(borrow)]
    path: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Unhealthy<'a> {
    /// The enumeration's first value, ACTIVE, may be left out.
    #[serde(borrow, default)]
    failure_type: Cow<'a, str>,
}

pub(super) fn event_of(line: &[u8], carrier: &Carrier<'_>) -> Option<ProxyEvent> {
    let event: Event<'_> = serde_json::from_slice(line).ok()?;
    let is_tcp = event.health_checker_type == "TCP";
    let kind = if let Some(said) = &event.eject_unhealthy_event {
        let (phase, failure) = how(&said.failure_type, is_tcp);
        EventKind::PeerMarked { phase, failure: Some(failure) }
    } else if let Some(said) = &event.health_check_failure_event {
        let (phase, failure) = how(&said.failure_type, is_tcp);
        EventKind::AttemptFailed { phase, failure }
    } else {
        event.add_healthy_event?;
        EventKind::PeerBack
    };
    let upstream = match (event.host.socket_address, event.host.pipe) {
        (Some(Address { address, port_value }), _) => {
            Upstream::Inet(SocketAddr::new(address.parse().ok()?, port_value))
        }
        (None, Some(pipe)) => Upstream::Unix(pipe.path.into_owned()),
        (None, None) => return None,
    };
    let when = whole(&event.timestamp, carrier.read_at)?;
    let told = ProxyEvent::at(when, ProxyKind::Envoy, carrier, kind, upstream);
    Some(ProxyEvent { group: Some(event.cluster_name.into_owned()), ..told })
}

/// `HealthCheckFailureType`. A check over TCP that reaches nobody has failed to connect; one over HTTP may
/// have waited for an answer.
fn how(failure_type: &str, is_tcp: bool) -> (Phase, Failure) {
    let phase = if is_tcp { Phase::Connect } else { Phase::Other };
    match failure_type {
        "NETWORK_TIMEOUT" => (phase, Failure::TIMEOUT),
        "NETWORK" => (phase, Failure::Unknown),
        _ if is_tcp => (Phase::ResponseHeader, Failure::InvalidResponse),
        _ => (Phase::ResponseHeader, Failure::BadStatus),
    }
}
