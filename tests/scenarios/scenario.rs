//! What a scenario is, and the list of them.

use std::{any::Any, fmt};

use anyhow::Result;

use crate::{claim::Claim, counters::Counters, drives, namespace::Namespace};

/// One way to lose handshakes.
pub struct Scenario {
    pub name: &'static str,
    /// How many namespaces it needs.
    pub namespaces: usize,
    /// Loses them, on a thread in the first of the namespaces.
    pub drive: fn(&[Namespace]) -> Result<Driven>,
}

impl Scenario {
    /// A scenario in one namespace.
    pub const fn new(name: &'static str, drive: fn(&[Namespace]) -> Result<Driven>) -> Self {
        Self { name, namespaces: 1, drive }
    }
}

/// What a drive leaves behind.
pub struct Driven {
    pub claims: Vec<Claim>,
    /// Sockets that must stay open until the counts are read.
    _kept: Box<dyn Any + Send>,
    /// The kernel's counters, where the namespace is gone when the others are read.
    pub last_counters: Option<Counters>,
    /// Listeners have been closed: a rung that looks at the listeners there are cannot attribute
    /// what those lost since the last look.
    pub listeners_went: bool,
}

impl Driven {
    /// Claims, with the sockets that have to stay open.
    pub fn new(claims: impl Into<Vec<Claim>>, kept: impl Any + Send) -> Self {
        let kept = Box::new(kept);
        Self { claims: claims.into(), _kept: kept, last_counters: None, listeners_went: false }
    }

    /// The drive closed listeners.
    pub fn and_listeners_went(self) -> Self {
        Self { listeners_went: true, ..self }
    }
}

/// Why a scenario cannot be played on this kernel; a drive returns it as its error.
#[derive(Debug)]
pub struct Skip(pub String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// Every scenario, in the order in which they are played.
pub fn all() -> impl Iterator<Item = &'static Scenario> {
    drives::ALL.iter().copied().flatten()
}
