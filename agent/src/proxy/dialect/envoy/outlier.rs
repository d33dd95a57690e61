//! `cluster_manager.outlier_detection.event_log_path`: one `envoy.data.cluster.v3.
//! OutlierDetectionEvent` a line, as JSON with the names of the proto.

use std::{borrow::Cow, net::SocketAddr};

use jiff::Timestamp;
use serde::Deserialize;

use crate::{
    proxy::event::{Carrier, EventKind, Failure, Phase, ProxyEvent, ProxyKind, Upstream},
    proxy::timestamp::When,
    time::UnixMs,
};

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    timestamp: Cow<'a, str>,
    #[serde(borrow)]
    cluster_name: Cow<'a, str>,
    #[serde(borrow)]
    upstream_url: Cow<'a, str>,
    #[serde(borrow)]
    action: Cow<'a, str>,
    #[serde(default)]
    enforced: bool,
}

pub(super) fn event_of(line: &[u8], carrier: &Carrier<'_>) -> Option<ProxyEvent> {
    let event: Event<'_> = serde_json::from_slice(line).ok()?;
    let kind = match &*event.action {
        "EJECT" if event.enforced => marked(&event.kind),
        // The type is nothing but the enumeration's first value here, and `enforced` is unset.
        "UNEJECT" => EventKind::PeerBack,
        _ => return None,
    };
    let at: Timestamp = event.timestamp.parse().ok()?;
    let at = UnixMs(u64::try_from(at.as_millisecond()).ok()?);
    let upstream = peer(&event.upstream_url)?;
    let told = ProxyEvent::at(When::exact(at), ProxyKind::Envoy, carrier, kind, upstream);
    Some(ProxyEvent { group: Some(event.cluster_name.into_owned()), ..told })
}

/// Which kind of failures led to the ejection. A "gateway failure" is a 502, 503 or 504, of the
/// peer's or, without `split_external_local_origin_errors`, of Envoy's own making.
fn marked(kind: &str) -> EventKind {
    let (phase, failure) = match kind {
        "CONSECUTIVE_LOCAL_ORIGIN_FAILURE"
        | "SUCCESS_RATE_LOCAL_ORIGIN"
        | "FAILURE_PERCENTAGE_LOCAL_ORIGIN" => (Phase::Connect, None),
        "CONSECUTIVE_GATEWAY_FAILURE" => (Phase::Other, None),
        _ => (Phase::Other, Some(Failure::BadStatus)),
    };
    // A 5xx may be Envoy's own, so the attempts before it are asked first; see the join.
    EventKind::PeerMarked { phase, failure }
}

/// `10.0.0.1:80`, and by the documentation `tcp://10.0.0.1:80`.
fn peer(url: &str) -> Option<Upstream> {
    let name = url.strip_prefix("tcp://").unwrap_or(url);
    match name.parse::<SocketAddr>() {
        Ok(addr) => Some(Upstream::Inet(addr)),
        Err(_) => Some(Upstream::Unix(name.strip_prefix('/').map(|_| name.to_owned())?)),
    }
}
