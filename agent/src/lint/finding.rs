//! What was found, where, and how it is fixed.

use std::{fmt, str::FromStr};

use anyhow::{Context, Result};
use serde::{Serialize, Serializer};

use super::text::Place;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// It takes part in bringing the incident about, or blinds whoever looks into it.
    Warning,
    /// It makes the incident worse, or harder to understand.
    Note,
}

/// Whose configuration a rule reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// nginx and what is built on it.
    Nginx,
    /// HAProxy.
    Haproxy,
    /// Envoy's bootstrap, YAML or JSON.
    Envoy,
}

impl Format {
    /// As users write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
        }
    }
}

/// What is looked for.
#[derive(Debug)]
pub struct Rule {
    /// Its name, which users write.
    pub id: &'static str,
    /// Whose configuration it reads.
    pub format: Format,
    /// How bad it is.
    pub level: Level,
    /// What is wrong, in one line.
    pub title: &'static str,
    /// What follows from it, and why the fixed lines help.
    pub why: &'static str,
    /// For which versions it holds, in words.
    pub versions: &'static str,
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.id)
    }
}

/// Text that takes the place of other text; of none, where it is put in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fix {
    /// What is replaced.
    pub place: Place,
    /// By what.
    pub text: String,
}

/// One thing found.
#[derive(Clone, Debug)]
pub struct Finding {
    /// By which rule.
    pub rule: &'static Rule,
    /// How bad it is here; the rule's level unless the case is milder.
    pub level: Level,
    /// Where.
    pub place: Place,
    /// What is wrong with this very line.
    pub message: String,
    /// Other lines that have to do with it, each with what it does there.
    pub also: Vec<(Place, String)>,
    /// What fixes it; empty where only the user can know.
    pub fixes: Vec<Fix>,
}

impl Finding {
    /// A finding that stands on one place alone.
    pub fn new(rule: &'static Rule, place: Place, message: impl Into<String>) -> Self {
        Self {
            rule,
            level: rule.level,
            place,
            message: message.into(),
            also: Vec::new(),
            fixes: Vec::new(),
        }
    }

    /// With another line that has to do with it.
    pub fn also(mut self, place: Place, message: impl Into<String>) -> Self {
        self.also.push((place, message.into()));
        self
    }

    /// With another level than its rule's.
    pub fn at(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    /// With what fixes it.
    pub fn fixed(mut self, fixes: impl IntoIterator<Item = Fix>) -> Self {
        self.fixes.extend(fixes);
        self
    }
}

/// A proxy's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl FromStr for Version {
    type Err = anyhow::Error;

    /// `1.22.1`, and `nginx/1.22.1`, `openresty/1.25.3.2` as programs call themselves.
    fn from_str(text: &str) -> Result<Self> {
        let number = text.rsplit('/').next().unwrap_or(text);
        let mut parts = number.split('.').map(str::parse::<u32>);
        let mut next = || parts.next().and_then(Result::ok);
        let version = next().zip(next()).zip(next());
        let ((major, minor), patch) = version.context("not a version; write it like 1.22.1")?;
        Ok(Self(major, minor, patch))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// What is known besides the configuration.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts {
    /// nginx's version; where unknown, rules for older versions apply.
    pub version: Option<Version>,
    /// Requests per second that go to the busiest group.
    pub rate: Option<f64>,
    /// How long one takes, in seconds.
    pub latency: Option<f64>,
    /// Number of processors, for `worker_processes auto`.
    pub processors: Option<u64>,
    /// After how many idle seconds the application closes a connection.
    pub idle_timeout: Option<f64>,
}

impl Facts {
    /// Whether nginx is older, as far as anybody knows.
    pub fn is_before(&self, version: Version) -> bool {
        self.version.is_none_or(|known| known < version)
    }

    /// Requests under way at once (Little's law).
    pub fn concurrency(&self) -> Option<f64> {
        Some(self.rate? * self.latency?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_programs_write_them() {
        assert_eq!("1.29.7".parse::<Version>().unwrap(), Version(1, 29, 7));
        assert_eq!("openresty/1.25.3.2".parse::<Version>().unwrap(), Version(1, 25, 3));
        assert!("1.2".parse::<Version>().is_err());
        assert!(Facts::default().is_before(Version(1, 0, 0)), "unknown is taken for old");
    }
}
