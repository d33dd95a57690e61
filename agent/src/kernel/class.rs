//! The taxonomy: what can become of a handshake at a listener, in the words of metrics and reports,
//! and which of the kernel's own counters each of it moves. Everything that reconciles the agent's
//! counts with the kernel's goes by this table.

pub use floodmark_common::Class;

use super::mib::Counter;

/// What a [`Class`] stands for.
#[derive(Clone, Copy, Debug)]
pub struct Meaning {
    /// The step of the handshake.
    pub stage: &'static str,
    /// The value of the label `cause` in metrics.
    pub cause: &'static str,
    /// What came of it.
    pub effect: Effect,
    /// The counters that each count of the class moves by one.
    pub counters: &'static [Counter],
}

/// What came of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A segment or request was lost and the client not told.
    Silent,
    /// A segment or request was lost and the client got a reset.
    Reset,
    /// The handshake went on.
    GoesOn,
}

impl Effect {
    /// Name in metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Reset => "reset",
            Self::GoesOn => "goes_on",
        }
    }
}

const fn meaning(
    stage: &'static str,
    cause: &'static str,
    effect: Effect,
    counters: &'static [Counter],
) -> Meaning {
    Meaning { stage, cause, effect, counters }
}

/// ListenOverflows comes with ListenDrops.
const OVERFLOW: &[Counter] = &[Counter::ListenOverflows, Counter::ListenDrops];
const DROP: &[Counter] = &[Counter::ListenDrops];
const SYNACK: &[Counter] = &[Counter::SynRetrans];
/// `tcp_try_fastopen` counts whatever keeps it from making a child.
const FAST_OPEN_OVERFLOW: &[Counter] =
    &[Counter::ListenOverflows, Counter::ListenDrops, Counter::FastOpenPassiveFail];
const FAST_OPEN_DROP: &[Counter] = &[Counter::ListenDrops, Counter::FastOpenPassiveFail];

/// What `class` stands for.
pub const fn meaning_of(class: Class) -> Meaning {
    use Effect::{GoesOn, Reset, Silent};
    match class {
        Class::SynAcceptQueueFull => meaning("syn", "accept_queue_full", Silent, OVERFLOW),
        Class::SynQueueFull => {
            meaning("syn", "syn_queue_full", Silent, &[Counter::ListenDrops, Counter::ReqQFullDrop])
        }
        Class::SynLastQuarter => meaning("syn", "last_quarter", Silent, DROP),
        Class::SynNoMemory => meaning("syn", "no_memory", Silent, DROP),
        Class::SynNoRoute => meaning("syn", "no_route", Silent, DROP),
        Class::SynPolicy => meaning("syn", "policy", Silent, DROP),
        Class::SynNotUnicast => meaning("syn", "not_unicast", Silent, DROP),
        Class::SynOther => meaning("syn", "other", Silent, DROP),
        Class::FastOpenQueueFull => {
            meaning("fast_open", "accept_queue_full", GoesOn, FAST_OPEN_OVERFLOW)
        }
        Class::FastOpenChildFailed => meaning("fast_open", "child_failed", GoesOn, FAST_OPEN_DROP),
        Class::FastOpenCookieInvalid => {
            meaning("fast_open", "cookie_invalid", GoesOn, &[Counter::FastOpenPassiveFail])
        }
        Class::SynCookieSent => meaning("syn", "cookie_sent", GoesOn, &[Counter::SyncookiesSent]),
        Class::SynCookieWanted => {
            meaning("syn", "cookie_wanted", GoesOn, &[Counter::ReqQFullDoCookies])
        }
        Class::AckAcceptQueueFull => meaning("ack", "accept_queue_full", Silent, OVERFLOW),
        Class::AckAcceptQueueFullReset => meaning("ack", "accept_queue_full", Reset, OVERFLOW),
        Class::AckPortInheritance => meaning("ack", "port_inheritance", Silent, DROP),
        Class::AckChildFailed => meaning("ack", "child_failed", Silent, DROP),
        Class::AckMigrationFailed => meaning("ack", "migration_failed", Silent, DROP),
        Class::AckDeferred => meaning("ack", "deferred", GoesOn, &[Counter::DeferAcceptDrop]),
        Class::RequestReset => meaning("ack", "reset", Reset, &[Counter::EmbryonicRsts]),
        Class::CookieAcceptQueueFull => {
            meaning("cookie_ack", "accept_queue_full", Silent, OVERFLOW)
        }
        Class::CookiePortInheritance => meaning("cookie_ack", "port_inheritance", Silent, DROP),
        Class::CookieChildFailed => meaning("cookie_ack", "child_failed", Silent, DROP),
        Class::CookieReceived => meaning("cookie_ack", "good", GoesOn, &[Counter::SyncookiesRecv]),
        Class::CookieFailed => meaning("cookie_ack", "bad", Silent, &[Counter::SyncookiesFailed]),
        Class::IcmpRequestKilled => meaning("icmp", "request_killed", Silent, DROP),
        Class::RetransmitOwnDrop => meaning("synack_retransmit", "own_drop", GoesOn, SYNACK),
        Class::RetransmitClientRepeated => {
            meaning("synack_retransmit", "client_repeated", GoesOn, SYNACK)
        }
        Class::RetransmitDeferred => meaning("synack_retransmit", "deferred", GoesOn, SYNACK),
        Class::RetransmitSilence => meaning("synack_retransmit", "silence", GoesOn, SYNACK),
        Class::ExpiredOwnDrop => meaning("expired", "own_drop", Silent, &[]),
        Class::ExpiredSilence => meaning("expired", "silence", Silent, &[]),
        Class::ExpiredPruned => meaning("expired", "pruned", Silent, &[]),
        Class::ExpiredListenerClosed => meaning("expired", "listener_closed", Silent, &[]),
        Class::UnacceptedListenerClosed => meaning("accept", "listener_closed", Reset, &[]),
        Class::UnstagedAcceptQueueFull => meaning("unknown", "accept_queue_full", Silent, OVERFLOW),
        Class::UnstagedOther => meaning("unknown", "other", Silent, DROP),
    }
}

/// `stage/cause`, and the effect where the two leave it open: the class in one word.
pub fn word(class: Class) -> String {
    let Meaning { stage, cause, effect, .. } = meaning_of(class);
    match class {
        Class::AckAcceptQueueFullReset => format!("{stage}/{cause}/{}", effect.name()),
        _ => format!("{stage}/{cause}"),
    }
}

/// The class of a [`word`]; `None` for one that this version does not know.
pub fn class_of(text: &str) -> Option<Class> {
    Class::ALL.into_iter().find(|class| word(*class) == text)
}

/// A class as its word, for serde.
pub mod as_word {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::{Class, class_of, word};

    /// Writes it.
    ///
    /// # Errors
    ///
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(class: &Class, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&word(*class))
    }

    /// Reads it.
    ///
    /// # Errors
    ///
    /// When no class has the word.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Class, D::Error> {
        let word = String::deserialize(deserializer)?;
        class_of(&word).ok_or_else(|| D::Error::custom(format!("no class is called {word}")))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_class_has_its_index_and_a_word_of_its_own() {
        for (index, class) in Class::ALL.into_iter().enumerate() {
            assert_eq!(class as usize, index);
        }
        let words: BTreeSet<String> = Class::ALL.into_iter().map(word).collect();
        assert_eq!(words.len(), Class::ALL.len());
    }

    /// kernel: `NET_INC_STATS(LISTENOVERFLOWS)` is followed by `tcp_listendrop` on every path but
    /// `tcp_get_syncookie_mss`.
    #[test]
    fn an_overflow_is_a_drop() {
        for class in Class::ALL {
            let counters = meaning_of(class).counters;
            if counters.contains(&Counter::ListenOverflows) {
                assert!(counters.contains(&Counter::ListenDrops), "{class:?}");
            }
        }
    }
}
