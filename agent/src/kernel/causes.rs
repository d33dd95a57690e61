//! When to watch for the rarer causes of a drop. The hooks that tell them apart run for each SYN or
//! each connection, so they are attached only after something was dropped that nothing explains.

use std::{collections::BTreeMap, time::Duration};

use super::{
    class::Class,
    counters::Growth,
    mib::{Counter, MibCounts},
    sample::NetnsId,
};
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
    /// Takes in what was `counted` up to `now`, and whether something was dropped that is in no class
    /// at all. Returns whether the hooks are now to be attached or to be taken off, `None` where
    /// nothing changes.
    pub fn update(
        &mut self,
        counted: impl IntoIterator<Item = Class>,
        is_unattributed: bool,
        now: UnixMs,
    ) -> Option<bool> {
        let before = *self;
        if before == Self::Always {
            return None;
        }
        if is_unattributed || counted.into_iter().any(is_a_riddle) {
            *self = Self::Until(now.later(LINGER));
        } else if matches!(before, Self::Until(end) if end < now) {
            *self = Self::Idle;
        }
        let is_on = |state| state != Self::Idle;
        (is_on(*self) != is_on(before)).then_some(is_on(*self))
    }
}

/// Whether more was dropped in some namespace, going by its ListenDrops, than what was counted there.
pub fn are_unattributed(dropped: &BTreeMap<NetnsId, MibCounts>, counted: &[Growth]) -> bool {
    dropped.iter().any(|(netns, mib)| {
        let here = counted.iter().filter(|growth| growth.listener.netns == *netns);
        let known: u64 = here.map(|growth| growth.tally.moved()[Counter::ListenDrops]).sum();
        mib[Counter::ListenDrops] > known
    })
}

/// Whether a drop of this class is explained by these hooks alone.
fn is_a_riddle(class: Class) -> bool {
    matches!(
        class,
        Class::SynOther
            | Class::SynNoMemory
            | Class::SynNoRoute
            | Class::SynPolicy
            | Class::SynNotUnicast
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
        assert_eq!(watch.update([Class::SynAcceptQueueFull], false, at(1)), None);
        assert_eq!(watch.update([Class::SynOther], false, at(2)), Some(true));
        assert_eq!(watch.update([Class::SynNoRoute], false, at(200)), None);
        assert_eq!(watch.update([], false, at(302 + 1)), None);
        assert_eq!(watch.update([], false, at(501)), Some(false));
        assert_eq!(watch.update([], false, at(502)), None);
        assert_eq!(watch.update([], true, at(503)), Some(true));
    }

    #[test]
    fn always_is_always() {
        let mut watch = CauseWatch::Always;
        assert_eq!(watch.update([], false, UnixMs(u64::MAX)), None);
        assert_eq!(watch, CauseWatch::Always);
    }
}
