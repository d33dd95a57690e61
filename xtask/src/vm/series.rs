//! The kernel series that virtual machines may boot. Adding one is adding a line.

use anyhow::{Context, Result};

/// A series of Debian's cloud kernels, of which the newest is taken.
#[derive(Debug, PartialEq, Eq)]
pub struct Series {
    /// The first two numbers of its versions.
    pub name: &'static str,
    /// The Debian suites that carry it.
    pub suites: &'static [&'static str],
    /// Whether it is booted when nobody names a series.
    pub by_default: bool,
}

/// Every series known.
pub const ALL: [Series; 6] = [
    series("5.10", &["bullseye", "bullseye-security"], true),
    series("6.1", &["bookworm", "bookworm-security"], true),
    series("6.12", &["trixie", "trixie-security"], true),
    series("6.18", &["trixie-backports"], false),
    series("7.2", &["trixie-backports", "sid"], false),
    series("7.3", &["experimental"], true),
];

const fn series(name: &'static str, suites: &'static [&'static str], by_default: bool) -> Series {
    Series { name, suites, by_default }
}

/// The series booted when nobody names one.
pub fn by_default() -> impl Iterator<Item = &'static Series> {
    ALL.iter().filter(|series| series.by_default)
}

/// The series called `names`, all of them for `all`.
///
/// # Errors
///
/// As [`find`].
pub fn named(names: &[String]) -> Result<Vec<&'static Series>> {
    if names.iter().any(|name| name == "all") {
        return Ok(ALL.iter().collect());
    }
    names.iter().map(|name| find(name)).collect()
}

/// The series called `name`.
///
/// # Errors
///
/// When there is none.
pub fn find(name: &str) -> Result<&'static Series> {
    ALL.iter().find(|series| series.name == name).with_context(|| {
        let known: Vec<&str> = ALL.iter().map(|series| series.name).collect();
        format!("no kernel series {name}; there are {}", known.join(", "))
    })
}
