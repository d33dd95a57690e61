//! What a scenario says its drive must have caused.

use std::{fmt, net::SocketAddr};

use serde::Serialize;

/// A number that the drive determines, or the least it must reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Expected {
    Exactly(u64),
    AtLeast(u64),
}

impl Expected {
    /// Whether `found` is as expected.
    pub fn is_met_by(self, found: u64) -> bool {
        match self {
            Self::Exactly(number) => found == number,
            Self::AtLeast(least) => found >= least,
        }
    }

    /// The least that is expected.
    pub fn least(self) -> u64 {
        let (Self::Exactly(number) | Self::AtLeast(number)) = self;
        number
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(number) => write!(f, "{number}"),
            Self::AtLeast(least) => write!(f, ">= {least}"),
        }
    }
}

/// One thing that must have happened so and so often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// A kernel counter's name, or `stage/cause`.
    pub class: &'static str,
    /// The kernel counter all growth of which is of this class.
    pub counter: Option<&'static str>,
    /// The one listener it is about.
    pub listener: Option<SocketAddr>,
    pub expected: Expected,
}

/// Exactly so many.
pub fn exactly(class: &'static str, number: u64) -> Claim {
    claim(class, Expected::Exactly(number))
}

/// So many or more, as clients of the kernel's own may send again what was lost.
pub fn at_least(class: &'static str, least: u64) -> Claim {
    claim(class, Expected::AtLeast(least))
}

fn claim(class: &'static str, expected: Expected) -> Claim {
    let counter = (!class.contains('/')).then_some(class);
    Claim { class, counter, listener: None, expected }
}

impl Claim {
    /// Nothing but this class lets that counter of the kernel grow here.
    pub fn all_of(self, counter: &'static str) -> Self {
        Self { counter: Some(counter), ..self }
    }

    /// At one listener, for which the kernel has no counter.
    pub fn at(self, listener: SocketAddr) -> Self {
        Self { counter: None, listener: Some(listener), ..self }
    }
}
