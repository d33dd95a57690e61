//! Traffic logs as JSON. HAProxy has no such format: operators write one as a `log-format`, with keys of
//! their own choice, so each field is known by any of the names that are in use.

use super::traffic::{Ends, Session, address};
use crate::proxy::{
    dialect::keys::Keys,
    event::{Carrier, ProxyEvent},
    timestamp::whole,
};

pub(super) fn event_of(line: &[u8], carrier: &Carrier<'_>) -> Option<ProxyEvent> {
    if line.first() != Some(&b'{') {
        return None;
    }
    let keys = Keys::read(line)?;
    let term = keys.text(&[
        "termination_state",
        "termination_state_with_cookie_status",
        "term_state",
        "termination",
        "tsc",
        "ts",
    ])?;
    let backend = keys.text(&["backend_name", "backend", "be", "b"])?;
    let server = keys.text(&["server_name", "backend_server", "server", "srv", "srv_name", "s"])?;
    let connect = keys.number(&[
        "upstream_connect_time",
        "time_backend_connect",
        "time_connect",
        "connect_time",
        "tcp_connect_time",
        "tc",
    ])?;
    let response = keys.number(&[
        "upstream_response_time",
        "time_backend_response",
        "time_server_response",
        "time_response",
        "response_time",
        "server_response_time",
        "tr",
    ]);
    let total = keys.number(&[
        "session_duration",
        "time_duration",
        "time_active",
        "total_time",
        "time_total",
        "duration",
        "ta",
        "tt",
    ]);
    let frontend = keys.text(&["frontend_name", "frontend", "fe", "ft", "f"]);
    let accepted =
        keys.text(&["haproxy_timestamp", "accept_date", "date_time", "tr_date", "date", "t"]);
    let accepted = accepted.and_then(|text| whole(&text, carrier.read_at));
    let ends = Ends {
        local: keys.text(&["bi", "backend_source"]).as_deref().and_then(address),
        peer: keys.text(&["si", "server_address"]).as_deref().and_then(address),
    };
    let session = Session {
        frontend: frontend.unwrap_or_default().into_owned(),
        group: backend.into_owned(),
        server: server.into_owned(),
        term: term.as_bytes(),
        connect,
        response,
        total: total.and_then(|total| u64::try_from(total).ok()),
        ends,
    };
    session.event(accepted, carrier)
}
