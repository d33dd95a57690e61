//! What a scenario is, and the list of them.

use std::{any::Any, collections::BTreeMap, fmt};

use anyhow::Result;

use crate::{claim::Claim, counters::Counters, drives, namespace::Namespace};

/// One way to lose handshakes.
pub struct Scenario {
    pub name: &'static str,
    /// How many namespaces it needs.
    pub namespaces: usize,
    /// Whether the agent tests itself meanwhile.
    pub with_self_test: bool,
    /// Loses them, on a thread in the first of the namespaces.
    pub drive: fn(&[Namespace]) -> Result<Driven>,
}

impl Scenario {
    /// A scenario in one namespace.
    pub const fn new(name: &'static str, drive: fn(&[Namespace]) -> Result<Driven>) -> Self {
        Self { name, namespaces: 1, with_self_test: false, drive }
    }

    /// The same while the agent tests itself.
    pub const fn with_self_test(self) -> Self {
        Self { with_self_test: true, ..self }
    }
}

/// What a drive leaves behind.
pub struct Driven {
    pub claims: Vec<Claim>,
    /// Sockets that must stay open until the counts are read.
    _kept: Box<dyn Any + Send>,
    /// The kernel's counters, where the namespace is gone when the others are read.
    pub last_counters: Option<Counters>,
    /// What the kernel had counted in namespaces that the drive made and gave up, by their names.
    pub gone: BTreeMap<String, Counters>,
    /// Listeners have been closed: a rung that looks at the listeners there are cannot attribute
    /// what those lost since the last look.
    pub listeners_went: bool,
}

impl Driven {
    /// Claims, with the sockets that have to stay open.
    pub fn new(claims: impl Into<Vec<Claim>>, kept: impl Any + Send) -> Self {
        let kept = Box::new(kept);
        let (claims, gone) = (claims.into(), BTreeMap::new());
        Self { claims, _kept: kept, last_counters: None, gone, listeners_went: false }
    }

    /// The drive gave up namespaces in which the kernel had counted so much.
    pub fn and_namespaces_went(self, gone: BTreeMap<String, Counters>) -> Self {
        Self { gone, ..self }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readme_and_changelog_give_the_number_of_scenarios() {
        let number = all().count();
        let readme = include_str!("../../README.md");
        for said in [format!("{number} scenarios"), format!("{number} ways to lose")] {
            assert!(readme.contains(&said), "README.md does not say {said}");
        }
        let changelog = include_str!("../../CHANGELOG.md");
        assert!(changelog.contains(&format!("{number} scenarios")), "CHANGELOG.md");
    }
}
