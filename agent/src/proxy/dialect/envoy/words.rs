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
/// `…{remote_connection_failure|delayed_connect_error:_Connection_refused|remote_address:…}`.
fn connect(details: &str) -> Failure {
    let reason = details.split_once('{').map_or("", |(_, rest)| rest.trim_end_matches('}'));
    if reason == "connection_timeout" {
        return Failure::TIMEOUT;
    }
    let words = reason.split('|').find_map(|part| Some(part.split_once("connect_error:_")?.1));
    words.and_then(|words| Failure::of_words(&words.replace('_', " "))).unwrap_or(Failure::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_told_in_words_among_others() {
        for (reason, failure) in [
            ("connection_timeout", Failure::TIMEOUT),
            (
                "remote_connection_failure|delayed_connect_error:_Connection_refused",
                Failure::REFUSED,
            ),
            (
                "remote_connection_failure|immediate_connect_error:_No_route_to_host|remote_address:10.80.0.2:80",
                Failure::Errno { errno: 113 },
            ),
            ("remote_connection_failure", Failure::Unknown),
        ] {
            let details = format!("upstream_reset_before_response_started{{{reason}}}");
            assert_eq!(connect(&details), failure, "{reason}");
        }
        assert_eq!(connect(""), Failure::Unknown);
    }
}
