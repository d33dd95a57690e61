//! What the agent is asked to do, at start and later.

use std::path::PathBuf;

use crate::{inventory::Limits, proxy::source::Source, time::UnixMs};

/// Listeners exported where nobody says how many.
pub const LISTENERS_EXPORTED: usize = 1000;
/// Network namespaces exported where nobody says how many.
pub const NAMESPACES_EXPORTED: usize = 200;

/// What the agent is asked to do.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Where the proxies speak.
    pub sources: Vec<Source>,
    /// Where to keep how far files have been read; nowhere: they are read from their ends.
    pub state_directory: Option<PathBuf>,
    /// HAProxy's command sockets, or files with `show servers state`, for its servers' addresses.
    pub haproxy_servers: Vec<PathBuf>,
    /// Watch nginx by uprobes in its workers.
    pub nginx_uprobes: bool,
    /// The namespaces to look into, by name; none named, all.
    pub namespaces: Vec<String>,
    /// Tell the rarer causes of a drop apart from the first drop on.
    pub watch_causes: bool,
    /// How many listeners to export at most, busiest first.
    pub listeners_exported: usize,
    /// How many namespaces to export at most: those that lost something first.
    pub namespaces_exported: usize,
    /// How much of what listens on the host is kept.
    pub limits: Limits,
    /// Whether signals may be had that make every system call of the host take longer.
    pub trace_system_calls: bool,
    /// Whether signals may be had whose programs run for every connection, trouble or not.
    pub watch_connections: bool,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            sources: Vec::new(),
            state_directory: None,
            haproxy_servers: Vec::new(),
            nginx_uprobes: false,
            namespaces: Vec::new(),
            watch_causes: false,
            listeners_exported: LISTENERS_EXPORTED,
            namespaces_exported: NAMESPACES_EXPORTED,
            limits: Limits::default(),
            trace_system_calls: false,
            watch_connections: false,
        }
    }
}

/// What came of reading the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// Whether all of what was read last is in force.
    pub is_in_force: bool,
    /// When all of it was, the last time.
    pub since: UnixMs,
}

/// A change of what the agent is asked to do.
#[derive(Clone, Debug)]
pub enum Change {
    /// Other sources, servers and numbers of listeners; what else differs is not looked at.
    To(Box<AgentConfig>),
    /// A configuration that could not be read.
    Refused,
}
