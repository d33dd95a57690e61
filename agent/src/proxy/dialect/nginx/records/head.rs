//! Where a record begins and ends, and whose words it may hold.

use memchr::memmem::{find, rfind};

use super::{super::framed, LENGTHS};
use crate::proxy::bytes::after_any;

/// What a line begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// No record.
    None,
    /// A record in nginx's own words.
    Own,
    /// A record with a path, which the client chose in its request line.
    Path,
    /// A record with text that the client sent elsewhere than in the request line.
    Client,
    /// A record with text of an application or a script.
    Application,
}

/// Messages in nginx's own words, up to the client's field, beside those that are an event.
const OWN: &[&[u8]] = &[
    b"upstream ",
    b"no live upstreams",
    b"connect() ",
    b"recv() ",
    b"recvmsg() ",
    b"readv() ",
    b"send() ",
    b"sendmsg() ",
    b"writev() ",
    b"sendfile() ",
    b"socket() ",
    b"accept() ",
    b"accept4() ",
    b"epoll_",
    b"SSL_",
    b"peer ",
    b"no resolver defined",
    b"an upstream response is buffered",
    b"a client request body is buffered",
    b"client intended to send too large ",
    b"client prematurely closed connection",
    b"client closed connection",
    b"client timed out ",
    b"limiting ",
    b"delaying request",
    b"access forbidden by rule",
    b"signal ",
    b"start ",
    b"worker process",
    b"cache ",
    b"using the ",
    b"OS: ",
    b"built by ",
    b"nginx/",
    b"getrlimit(",
    b"gracefully shutting down",
    b"exit",
    b"reconfiguring",
    b"reopening logs",
    b"conflicting server name",
    b"disable check peer: ",
    b"enable check peer: ",
    b"check ",
    b"[lua] healthcheck.lua:",
    b"[lua] balancer.lua:",
];

/// Messages with a path in quotes: `ngx_http_static_module.c`, `ngx_http_index_module.c`,
/// `ngx_open_file_cache.c`, `ngx_http_core_module.c`, `ngx_http_rewrite_module.c`.
const PATH: &[&[u8]] = &[
    b"open() \"",
    b"openat() \"",
    b"openat2() \"",
    b"stat() \"",
    b"lstat() \"",
    b"fstat() \"",
    b"fstatat() \"",
    b"opendir() \"",
    b"realpath() \"",
    b"read() \"",
    b"pread() \"",
    b"directory index of \"",
    b"\"",
    b"rewritten ",
    b"rewrite ",
    b"zero size buf",
    b"invalid location",
    b"no handler",
];

/// Messages with a user's name, or with the name or value of a header that no parser took a line feed
/// out of: `ngx_http_auth_basic_module.c`, `ngx_http_v2.c`, `ngx_http_v3_request.c`.
const CLIENT: &[&[u8]] = &[b"user \"", b"client sent header \"", b"client sent invalid header"];

/// What nginx puts behind such a name or value.
const CLIENT_ENDS: &[&[u8]] = &[
    b"\" was not found in \"",
    b"\": password mismatch",
    b"\" with invalid value: \"",
    b"\" while ",
    b"\", client: ",
];

/// Whether text of the client's may end in this line.
pub(super) fn ends_clients_text(line: &[u8]) -> bool {
    CLIENT_ENDS.iter().any(|end| find(line, end).is_some())
}

/// What a line begins; `is_event` where it holds one.
pub(super) fn of(line: &[u8], is_event: bool) -> Head {
    let Some(message) = framed(line).map(|framed| framed.message) else { return Head::None };
    let begins = |starts| after_any(message, starts).is_some();
    if begins(CLIENT) {
        Head::Client
    } else if find(line, b", login: \"").is_some() {
        Head::Application
    } else if is_event || begins(OWN) || message.first().is_some_and(u8::is_ascii_digit) {
        Head::Own
    } else if begins(PATH) {
        Head::Path
    } else {
        Head::Application
    }
}

/// Length of the line up to its client's field.
pub(super) fn message_end(line: &[u8]) -> usize {
    find(line, b"client: ").unwrap_or(line.len())
}

/// Whether a record ends with this line as nginx ends it (`ngx_http_log_error_handler` and its stream
/// and mail twins): by the last of its fields, each of which is in quotes or nginx's own.
pub(super) fn is_finished(line: &[u8]) -> bool {
    // Cut: a whole record.
    if LENGTHS.contains(&(line.len() as u64 + 1)) {
        return true;
    }
    let Some(client) = rfind(line, b"client: ") else {
        // Without a connection there are no fields: the message ends where its quotes do. Scripts that
        // run for no request say so.
        let framed = framed(line);
        let has_context = find(line, b", context: ").is_some();
        let is_alone = framed.is_some_and(|it| it.connection.is_none() || it.level == b"debug");
        let is_even = memchr::memchr_iter(b'"', line).count().is_multiple_of(2);
        return has_context || (is_alone && is_even);
    };
    let fields = &line[client..];
    let Some(server) = find(fields, b", server: ") else { return false };
    let named = &fields[server..];
    match memchr::memchr(b'"', named) {
        None => true,
        Some(_) => named.ends_with(b"\"") || find(named, b", bytes from/to ").is_some(),
    }
}
