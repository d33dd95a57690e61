//! The canary: handshakes lost on purpose, in a network namespace of the agent's own, while the
//! hooks listen. A hook that attaches but never fires (a function inlined in this build, an argument
//! that is not what BTF says) is found out at once and not in the middle of an incident.

mod perch;
mod song;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::mpsc,
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, anyhow, ensure};
use serde::Serialize;

use super::{
    class::Class,
    ladder::{Rung, Signal, Standing},
    sample::{NetnsId, Tally},
    service::ServiceClass,
    watch::Watched,
};

/// Where canaries listen, and nobody else: whatever another agent's canary loses on this host is
/// nobody's loss either.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 70, 76, 77);
/// The same for IPv6: a unique local address (RFC 4193).
const ADDRESS_V6: Ipv6Addr = Ipv6Addr::new(0xfd46, 0x4c4d, 0x4361, 0, 0, 0, 0, 1);

/// Whether it is a canary's address.
pub fn sings_at(address: IpAddr) -> bool {
    address == ADDRESS || address == ADDRESS_V6
}

pub use perch::Nest;
pub use song::BACKLOG;

/// A canary at large.
pub struct Canary {
    nest: Nest,
    singer: JoinHandle<Result<Song>>,
}

/// What happened to the canary, as the kernel counted it. A signal that could not be sung of is not
/// there.
pub type Song = BTreeMap<Signal, u64>;

/// What the programs counted of the canary.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo {
    /// Of its listeners.
    pub tally: Tally,
    /// Of its connections, by [`ServiceClass`].
    pub services: super::service_maps::ServiceCounts,
    /// Of its connects without a local port.
    pub no_port: u64,
    /// Of its deepest queue, its backlogs, its Unix connects and who closed its connections.
    pub watched: Watched,
}

/// What the hooks heard of the canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Heard {
    /// How often the kernel says that it happened.
    pub happened: u64,
    /// How often the signal told of it.
    pub heard: u64,
}

impl Heard {
    /// Whether the signal told of each, of which there was at least one.
    pub fn is_exact(&self) -> bool {
        self.happened > 0 && self.happened == self.heard
    }

    /// Whether it told of none: the hook does not fire.
    pub fn is_deaf(&self) -> bool {
        self.happened > 0 && self.heard == 0
    }

    /// Whether it told of some: a busy host is the likelier reason than a hook that misses part.
    pub fn is_in_part(&self) -> bool {
        !self.is_exact() && !self.is_deaf()
    }
}

impl Canary {
    /// Lets one go, on a thread and in a namespace of its own.
    ///
    /// # Errors
    ///
    /// When the namespace cannot be made, most often for want of CAP_SYS_ADMIN.
    pub fn release() -> Result<Self> {
        let (sender, receiver) = mpsc::channel();
        let singer = thread::Builder::new().name("canary".into()).spawn(move || {
            let prepared = perch::settle_in();
            let is_prepared = prepared.is_ok();
            // Fails only where nobody waits any more.
            let _ = sender.send(prepared);
            ensure!(is_prepared, "the network namespace could not be prepared");
            song::sing()
        })?;
        let nest = receiver.recv().context("the self-test's thread ended early")??;
        Ok(Self { nest, singer })
    }

    /// Its namespace, whose counts are nobody's losses.
    pub fn netns(&self) -> NetnsId {
        self.nest.netns
    }

    /// Whether it has sung to the end.
    pub fn is_done(&self) -> bool {
        self.singer.is_finished()
    }

    /// What happened to it, and the nest it leaves.
    ///
    /// # Errors
    ///
    /// When it could not sing.
    pub fn finish(self) -> Result<(Song, Nest)> {
        let song = self.singer.join().map_err(|_| anyhow!("the self-test's thread panicked"))??;
        Ok((song, self.nest))
    }
}

/// Compares what happened to the canary with what the hooks counted, for the signals that are had
/// packet by packet.
pub fn compare(standings: &[Standing], song: &Song, echo: &Echo) -> BTreeMap<Signal, Heard> {
    let is_asked = |signal, lowest| {
        standings.iter().any(|standing| standing.signal == signal && standing.rung >= lowest)
    };
    let notes = song.iter().filter(|(signal, _)| is_asked(**signal, lowest_rung(**signal)));
    notes.map(|(&signal, &happened)| (signal, Heard { happened, heard: echo.of(signal) })).collect()
}

/// The lowest rung from which a signal is had packet by packet.
fn lowest_rung(signal: Signal) -> Rung {
    match signal {
        Signal::AckDrops
        | Signal::SynackRetransmits
        | Signal::SynRetransmits
        | Signal::TimeWait
        | Signal::QueueDepth
        | Signal::TimeInQueue
        | Signal::UnixRefusals
        | Signal::Churn => Rung::Tracepoint,
        _ => Rung::Kprobe,
    }
}

impl Echo {
    /// What a signal told.
    fn of(&self, signal: Signal) -> u64 {
        let Self { tally, services, no_port, watched } = self;
        match signal {
            Signal::SynDrops => tally[Class::SynAcceptQueueFull],
            Signal::AckDrops => tally[Class::AckAcceptQueueFull],
            Signal::CookieDrops => {
                tally[Class::CookieReceived] + tally[Class::CookieAcceptQueueFull]
            }
            Signal::IcmpDrops => tally[Class::IcmpRequestKilled],
            Signal::SynackRetransmits => tally.synack_retransmits(),
            Signal::ExpiredRequests => tally[Class::ExpiredSilence],
            Signal::UnacceptedResets => tally[Class::UnacceptedListenerClosed],
            // By way of FIN_WAIT2 where the acknowledgement of the FIN comes before the other FIN.
            Signal::TimeWait => {
                let classes = [
                    ServiceClass::TimeWait,
                    ServiceClass::FinWait2,
                    ServiceClass::TimeWaitTableFull,
                ];
                classes.iter().map(|class| services[*class as usize]).sum()
            }
            Signal::SynRetransmits => services[ServiceClass::SynRepeated as usize],
            Signal::PortExhaustion => *no_port,
            Signal::QueueDepth => u64::from(watched.deepest),
            Signal::TimeInQueue => watched.accepted,
            Signal::ListenCalls => watched.listens,
            Signal::UnixRefusals => watched.unix_refused,
            Signal::Churn => watched.closed_by_clients,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(signal: Signal, rung: Rung) -> Standing {
        Standing { signal, rung, blind_spot: String::new(), refused: Vec::new() }
    }

    fn echo(counts: &[(Class, u64)]) -> Echo {
        Echo { tally: Tally::of(counts), ..Echo::default() }
    }

    #[test]
    fn a_hook_that_does_not_fire_is_told_from_one_that_does() {
        let standings =
            [standing(Signal::SynDrops, Rung::Fentry), standing(Signal::AckDrops, Rung::Fentry)];
        let song = Song::from([(Signal::SynDrops, 3), (Signal::AckDrops, 6)]);
        let heard = compare(&standings, &song, &echo(&[(Class::SynAcceptQueueFull, 3)]));
        assert!(heard[&Signal::SynDrops].is_exact());
        assert_eq!(heard[&Signal::AckDrops], Heard { happened: 6, heard: 0 });
        assert!(heard[&Signal::AckDrops].is_deaf() && !heard[&Signal::SynDrops].is_deaf());
        let in_part = |heard| Heard { happened: 6, heard }.is_in_part();
        assert_eq!([0, 3, 6].map(in_part), [false, true, false]);
    }

    #[test]
    fn only_what_is_seen_packet_by_packet_and_was_sung_is_asked() {
        let standings = [
            standing(Signal::SynDrops, Rung::Netlink),
            standing(Signal::IcmpDrops, Rung::Fentry),
            standing(Signal::SynackRetransmits, Rung::Tracepoint),
        ];
        let song = Song::from([(Signal::SynDrops, 3), (Signal::SynackRetransmits, 4)]);
        let told = echo(&[(Class::RetransmitSilence, 3), (Class::RetransmitOwnDrop, 1)]);
        let heard = compare(&standings, &song, &told);
        assert_eq!(heard.into_keys().collect::<Vec<_>>(), [Signal::SynackRetransmits]);
    }

    #[test]
    fn silence_proves_nothing() {
        assert!(!Heard { happened: 0, heard: 0 }.is_exact());
    }
}
