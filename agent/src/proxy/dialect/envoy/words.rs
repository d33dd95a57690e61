//! Envoy's words for how a request failed: response flags and response code details.

use crate::proxy::event::{EventKind, Failure, Phase};

/// The event that flags (`%RESPONSE_FLAGS%`, `UF,URX`) and details (`%RESPONSE_CODE_DETAILS%`, may
/// be empty) tell of. `was_connected` where it is known: the request's own timer may run out before
/// that of the connect.
pub(super) fn event_of(
    flags: &str,
    details: &str,
    was_connected: Option<bool>,
) -> Option<EventKind> {
    let has = |flag: &str| flags.split(',').any(|other| other == flag);
    let failed = |phase, failure| Some(EventKind::AttemptFailed { phase, failure });
    if has("UH") {
        Some(EventKind::NoLivePeers)
    } else if has("UF") {
        failed(Phase::Connect, connect(details))
    } else if has("UC") || has("UR") {
        failed(Phase::ResponseHeader, Failure::Aborted)
    } else if has("UT") {
        let phase = match was_connected {
            Some(true) => Phase::ResponseHeader,
            Some(false) => Phase::Connect,
            None => Phase::Other,
        };
        failed(phase, Failure::TIMEOUT)
    } else if has("UPE") {
        failed(Phase::ResponseHeader, Failure::InvalidResponse)
    } else if has("UO") {
        // A circuit breaker of Envoy's own: "overflow" in its words, but of no queue of the kernel's.
        failed(Phase::Connect, Failure::OwnLimit)
    } else {
        None
    }
}

/// `upstream_reset_before_response_started{connection_timeout}`, or with the words of `strerror`:
/// `…{remote_connection_failure|delayed_connect_error:_Connection_refused}`.
fn connect(details: &str) -> Failure {
    let reason = details.split_once('{').map_or("", |(_, rest)| rest.trim_end_matches('}'));
    match reason.rsplit_once(":_") {
        Some((_, words)) => Failure::of_words(&words.replace('_', " ")).unwrap_or(Failure::Unknown),
        None if reason == "connection_timeout" => Failure::TIMEOUT,
        None => Failure::Unknown,
    }
}
