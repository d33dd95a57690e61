//! Envoy's words for how a request failed: response flags and response code details.

use crate::proxy::event::{EventKind, Failure, Phase};

/// What Envoy says of a request.
#[derive(Clone, Copy, Default)]
pub(super) struct Said<'a> {
    /// `%RESPONSE_FLAGS%` (`UF,URX`) or `%RESPONSE_FLAGS_LONG%`.
    pub flags: &'a str,
    /// `%RESPONSE_CODE_DETAILS%`; may be empty.
    pub details: &'a str,
    /// `%UPSTREAM_TRANSPORT_FAILURE_REASON%`; may be empty.
    pub transport: &'a str,
    /// Where it is known: the request's own timer may run out before that of the connect.
    pub was_connected: Option<bool>,
}

impl Said<'_> {
    /// The event that this tells of.
    pub fn event(&self) -> Option<EventKind> {
        let has = |short: &str, long: &str| {
            self.flags.split(',').any(|flag| flag == short || flag == long)
        };
        let failed = |phase, failure| Some(EventKind::AttemptFailed { phase, failure });
        if has("UH", "NoHealthyUpstream") {
            Some(EventKind::NoLivePeers)
        } else if has("UF", "UpstreamConnectionFailure") {
            let (phase, failure) = self.connect();
            failed(phase, failure)
        } else if has("UC", "UpstreamConnectionTermination") || has("UR", "UpstreamRemoteReset") {
            failed(Phase::ResponseHeader, Failure::Aborted)
        } else if has("UT", "UpstreamRequestTimeout") {
            let phase = match self.was_connected {
                Some(true) => Phase::ResponseHeader,
                Some(false) => Phase::Connect,
                None => Phase::Other,
            };
            failed(phase, Failure::TIMEOUT)
        } else if has("UPE", "UpstreamProtocolError") {
            failed(Phase::ResponseHeader, Failure::InvalidResponse)
        } else if has("UO", "UpstreamOverflow") {
            // A circuit breaker of Envoy's own: "overflow" in its words, but of no queue of the kernel's.
            failed(Phase::Connect, Failure::OwnLimit)
        } else {
            None
        }
    }

    /// `upstream_reset_before_response_started{connection_timeout}`, or with the words or the number of
    /// an error, parted by bars or commas:
    /// `…{remote_connection_failure|delayed_connect_error:_Connection_refused|remote_address:…}`,
    /// `…{remote_connection_failure,delayed_connect_error:_111}`, and the transport's own words:
    /// `delayed connect error: 113`.
    fn connect(&self) -> (Phase, Failure) {
        let reason =
            self.details.split_once('{').map_or("", |(_, rest)| rest.trim_end_matches('}'));
        let parts = || reason.split(['|', ',']).chain(self.transport.split(['|', ',']));
        let plain = |part: &str| part.replace('_', " ");
        if parts().any(|part| matches!(&*plain(part), "connection timeout")) {
            return (Phase::Connect, Failure::TIMEOUT);
        }
        if parts().any(|part| part.starts_with("TLS")) {
            return (Phase::TlsHandshake, Failure::InvalidResponse);
        }
        let error = parts().find_map(|part| {
            let plain = plain(part);
            let (_, said) = plain.split_once("connect error:")?;
            let said = said.trim();
            let errno = said.parse().ok().map(|errno| Failure::Errno { errno });
            errno.or_else(|| Failure::of_words(said))
        });
        (Phase::Connect, error.unwrap_or(Failure::Unknown))
    }
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
            ("remote_connection_failure,delayed_connect_error:_111", Failure::REFUSED),
            ("remote_connection_failure", Failure::Unknown),
        ] {
            let details = format!("upstream_reset_before_response_started{{{reason}}}");
            let said = Said { details: &details, ..Said::default() };
            assert_eq!(said.connect(), (Phase::Connect, failure), "{reason}");
        }
        assert_eq!(Said::default().connect(), (Phase::Connect, Failure::Unknown));
    }

    #[test]
    fn the_transport_tells_a_reason_too() {
        for (transport, expected) in [
            ("delayed connect error: 113", (Phase::Connect, Failure::Errno { errno: 113 })),
            ("immediate_connect_error:_111", (Phase::Connect, Failure::REFUSED)),
            (
                "TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:TLS_error_end",
                (Phase::TlsHandshake, Failure::InvalidResponse),
            ),
        ] {
            let said = Said { transport, ..Said::default() };
            assert_eq!(said.connect(), expected, "{transport}");
        }
    }
}
