//! How many arguments the directives take that the rules read: where one has more, its `;` is
//! missing.

use std::ops::RangeInclusive;

/// How many arguments a directive takes; `None` for one that no rule reads.
pub fn of(name: &str) -> Option<RangeInclusive<usize>> {
    const MANY: usize = usize::MAX;
    Some(match name {
        "include"
        | "worker_processes"
        | "proxy_http_version"
        | "proxy_connect_timeout"
        | "fastcgi_connect_timeout"
        | "grpc_connect_timeout"
        | "fastcgi_keep_conn"
        | "keepalive_requests"
        | "proxy_pass"
        | "fastcgi_pass"
        | "grpc_pass" => 1..=1,
        "keepalive" => 1..=2,
        "zone" => 1..=2,
        "keepalive_timeout" => 1..=2,
        "proxy_set_header" => 2..=2,
        "error_log" => 1..=MANY,
        "proxy_next_upstream" | "fastcgi_next_upstream" | "grpc_next_upstream" => 1..=MANY,
        _ => return None,
    })
}
