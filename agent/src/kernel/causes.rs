//! When to watch for the rarer causes of a drop. The hooks that tell them apart run for each SYN or
//! each connection, so they are attached only after something was dropped that nothing explains.

use std::time::Duration;

use super::class::Class;
use crate::time::UnixMs;

/// How long they stay attached after the last such drop.
const LINGER: Duration = Duration::from_secs(300);

/// Whether the hooks are to be attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CauseWatch {
    /// Not now.
    #[default]
    Idle,
    /// Until this time, unless something more happens.
    Until(UnixMs),
    /// From the first drop on, whatever it costs.
    Always,
}

impl CauseWatch {
    /// Takes in what was `counted` up to `now`. Returns whether the hooks are now to be attached or
    /// to be taken off, `None` where nothing changes.
    pub fn update(
        &mut self,
        counted: impl IntoIterator<Item = Class>,
        now: UnixMs,
    ) -> Option<bool> {
        let before = *self;
        if before == Self::Always {
            return None;
        }
        if counted.into_iter().any(is_a_riddle) {
            *self = Self::Until(now.later(LINGER));
        } else if matches!(before, Self::Until(end) if end < now) {
            *self = Self::Idle;
        }
        let is_on = |state| state != Self::Idle;
        (is_on(*self) != is_on(before)).then_some(is_on(*self))
    }
}

/// Whether a drop of this class is explained by these hooks alone.
fn is_a_riddle(class: Class) -> bool {
    matches!(
        class,
        Class::SynOther
            | Class::SynNoMemory
            | Class::SynNoRoute
            | Class::SynPolicy
            | Class::AckChildFailed
            | Class::AckPortInheritance
            | Class::CookieChildFailed
            | Class::CookiePortInheritance
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_from_the_first_riddle_until_long_after_the_last() {
        let at = |seconds| UnixMs(0).later(Duration::from_secs(seconds));
        let mut watch = CauseWatch::default();
        assert_eq!(watch.update([Class::SynAcceptQueueFull], at(1)), None);
        assert_eq!(watch.update([Class::SynOther], at(2)), Some(true));
        assert_eq!(watch.update([Class::SynNoRoute], at(200)), None);
        assert_eq!(watch.update([], at(302 + 1)), None);
        assert_eq!(watch.update([], at(501)), Some(false));
        assert_eq!(watch.update([], at(502)), None);
    }

    #[test]
    fn always_is_always() {
        let mut watch = CauseWatch::Always;
        assert_eq!(watch.update([], UnixMs(u64::MAX)), None);
        assert_eq!(watch, CauseWatch::Always);
    }
}
