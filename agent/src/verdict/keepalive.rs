//! How many idle connections a proxy's worker would have to keep open so that no request has to make
//! a new one: measured, connection by connection, beside the rule of thumb.
//!
//! A worker with a keepalive of N closes a connection when N are idle already. If connections in use
//! fall from a peak by D, D become idle; if all of them are kept, the next peak as high needs no new
//! one. So the greatest fall is the smallest N that ends reconnecting.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{
    kernel::{
        NetnsId,
        flow::{ClientChange, ClientEvent},
    },
    time::UnixMs,
};

/// A link without an open connection is forgotten this long after its last, in nanoseconds: its process
/// may have ended.
const IDLE_NS: u64 = 600_000_000_000;
/// Links followed at once; more are not.
const MOST_LINKS: usize = 2000;
/// Links reported, busiest first.
const REPORTED: usize = 50;

/// The connections of one process (a proxy's worker) to one upstream peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkReport {
    /// In which namespace.
    pub netns: NetnsId,
    /// Process id of the worker.
    pub pid: u32,
    /// Its name.
    pub command: String,
    /// The peer.
    pub to: SocketAddr,
    /// Connections opened.
    pub opened: u64,
    /// Connections that never came to be.
    pub failed: u64,
    /// Connections opened per second, over the time looked at.
    pub opened_per_second: f64,
    /// The most that were open at once.
    pub most_at_once: u32,
    /// The greatest fall of the number open at once from a peak: the keepalive that it takes.
    pub greatest_fall: u32,
    /// Mean lifetime in milliseconds of those that ended.
    pub mean_lifetime_ms: Option<f64>,
    /// The longest time without a new connection in milliseconds: what `keepalive_timeout` has to
    /// outlast.
    pub longest_pause_ms: u64,
}

impl LinkReport {
    /// Connections beyond those that were needed at once: each would have been spared.
    pub fn spared(&self) -> u64 {
        self.opened.saturating_sub(self.failed).saturating_sub(u64::from(self.most_at_once))
    }

    /// The rule of thumb: 10 to 30 % of rate times latency.
    pub fn rule_of_thumb(&self) -> Option<(f64, f64)> {
        let concurrency = self.opened_per_second * self.mean_lifetime_ms? / 1000.0;
        Some((0.1 * concurrency, 0.3 * concurrency))
    }
}

/// What a keepalive to one upstream should be, over all workers of a proxy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sizing {
    /// In which namespace.
    pub netns: NetnsId,
    /// Name of the workers.
    pub command: String,
    /// The peer, or the first of the peers that the workers use alike.
    pub to: SocketAddr,
    /// Peers that this is for: nginx keeps connections by group, not by peer.
    pub peers: u32,
    /// Workers seen.
    pub workers: u32,
    /// Idle connections that each worker should keep.
    pub keepalive: u32,
    /// The rule of thumb for the same, per worker.
    pub rule_of_thumb: Option<(u32, u32)>,
    /// New connections per second, all workers.
    pub opened_per_second: f64,
    /// Connections that it would have spared, all workers.
    pub spared: u64,
    /// Mean lifetime in milliseconds.
    pub mean_lifetime_ms: Option<f64>,
    /// The longest pause between two new connections of a worker, in milliseconds.
    pub longest_pause_ms: u64,
}

/// Connections spared below which keepalive is not worth a word.
const WORTH: u64 = 20;

/// What keepalive the workers of each program should have, most spared first. The peers of one port
/// are taken for one group.
pub fn sizings(links: &[LinkReport]) -> Vec<Sizing> {
    let mut groups: BTreeMap<(NetnsId, &str, u16), Vec<&LinkReport>> = BTreeMap::new();
    for link in links {
        groups.entry((link.netns, &link.command, link.to.port())).or_default().push(link);
    }
    let mut sizings: Vec<Sizing> = groups.values().filter_map(|links| size(links)).collect();
    sizings.sort_by_key(|sizing| std::cmp::Reverse(sizing.spared));
    sizings
}

fn size(links: &[&LinkReport]) -> Option<Sizing> {
    let first = links.first()?;
    let spared = links.iter().map(|link| link.spared()).sum();
    if spared < WORTH {
        return None;
    }
    let mut by_worker: BTreeMap<u32, Vec<&LinkReport>> = BTreeMap::new();
    links.iter().for_each(|link| by_worker.entry(link.pid).or_default().push(link));
    let sum = |links: &[&LinkReport], of: fn(&LinkReport) -> f64| {
        links.iter().map(|l| of(l)).sum::<f64>()
    };
    let fall = |links: &Vec<&LinkReport>| links.iter().map(|link| link.greatest_fall).sum::<u32>();
    let thumb = |links: &Vec<&LinkReport>| {
        let both = links.iter().filter_map(|link| link.rule_of_thumb());
        both.fold((0.0, 0.0), |sum, each| (sum.0 + each.0, sum.1 + each.1))
    };
    let thumbs = by_worker.values().map(thumb);
    let thumb =
        thumbs.fold((0.0_f64, 0.0_f64), |most, each| (most.0.max(each.0), most.1.max(each.1)));
    let lived: Vec<&&LinkReport> = links.iter().filter(|l| l.mean_lifetime_ms.is_some()).collect();
    let weight: f64 = lived.iter().map(|link| link.opened as f64).sum();
    let lifetimes = lived.iter().map(|l| l.mean_lifetime_ms.unwrap_or(0.0) * l.opened as f64);
    let peers: std::collections::BTreeSet<SocketAddr> = links.iter().map(|link| link.to).collect();
    Some(Sizing {
        netns: first.netns,
        command: first.command.clone(),
        to: first.to,
        peers: peers.len() as u32,
        workers: by_worker.len() as u32,
        keepalive: by_worker.values().map(fall).max().unwrap_or(0).max(1),
        rule_of_thumb: (thumb.1 > 0.0).then_some((thumb.0.ceil() as u32, thumb.1.ceil() as u32)),
        opened_per_second: sum(links, |link| link.opened_per_second),
        spared,
        mean_lifetime_ms: (weight > 0.0).then(|| lifetimes.sum::<f64>() / weight),
        longest_pause_ms: links.iter().map(|link| link.longest_pause_ms).max().unwrap_or(0),
    })
}

/// Follows the connections of all clients of this host.
#[derive(Debug, Default)]
pub struct Links {
    links: BTreeMap<(NetnsId, u32, SocketAddr), Link>,
    /// Events that were lost: connections may have ended unseen.
    lost: u64,
}

#[derive(Debug, Default)]
struct Link {
    opened: u64,
    failed: u64,
    open: u32,
    peak: u32,
    most_at_once: u32,
    greatest_fall: u32,
    ended: u64,
    lived_ns: u64,
    last_opened_ns: u64,
    longest_pause_ns: u64,
    command: Option<String>,
}

impl Links {
    /// Takes in what clients did, in order. `name` tells a process's name by its id.
    pub fn heard(&mut self, events: &[ClientEvent], name: impl Fn(u32) -> Option<String>) {
        for event in events {
            let key = (event.netns, event.pid, event.to);
            if !self.links.contains_key(&key) && self.links.len() >= MOST_LINKS {
                self.forget_the_idlest();
            }
            let link = self.links.entry(key).or_default();
            if link.command.is_none() {
                link.command = name(event.pid);
            }
            link.heard(event);
        }
        if let Some(newest) = events.last() {
            let oldest = newest.at_ns.saturating_sub(IDLE_NS);
            self.links.retain(|_, link| link.open > 0 || link.last_opened_ns >= oldest);
        }
    }

    /// Takes in how many events were lost since start. What was open then may have closed unseen, so
    /// counting what is open at once begins anew.
    pub fn lost(&mut self, lost: u64) {
        if std::mem::replace(&mut self.lost, lost) != lost {
            self.links.values_mut().for_each(|link| (link.open, link.peak) = (0, 0));
        }
    }

    fn forget_the_idlest(&mut self) {
        let idlest = self.links.iter().min_by_key(|(_, link)| (link.open > 0, link.last_opened_ns));
        if let Some(key) = idlest.map(|(key, _)| *key) {
            self.links.remove(&key);
        }
    }

    /// The busiest, over the time from `since` to `now`.
    pub fn report(&self, since: UnixMs, now: UnixMs) -> Vec<LinkReport> {
        let seconds = (now.0.saturating_sub(since.0) as f64 / 1000.0).max(1.0);
        let mut reports: Vec<LinkReport> =
            self.links.iter().map(|(key, link)| link.report(*key, seconds)).collect();
        reports.sort_by_key(|report| std::cmp::Reverse(report.opened));
        reports.truncate(REPORTED);
        reports
    }
}

impl Link {
    fn heard(&mut self, event: &ClientEvent) {
        if event.what == ClientChange::Opened {
            if self.opened > 0 {
                let pause = event.at_ns.saturating_sub(self.last_opened_ns);
                self.longest_pause_ns = self.longest_pause_ns.max(pause);
            }
            self.last_opened_ns = event.at_ns;
            self.opened += 1;
            self.open += 1;
            self.peak = self.peak.max(self.open);
            self.most_at_once = self.most_at_once.max(self.open);
            return;
        }
        self.open = self.open.saturating_sub(1);
        if event.what == ClientChange::Failed {
            self.failed += 1;
            // What never was cannot be kept.
            self.peak = self.peak.saturating_sub(1).max(self.open);
            return;
        }
        self.greatest_fall = self.greatest_fall.max(self.peak - self.open);
        self.ended += 1;
        self.lived_ns += event.at_ns.saturating_sub(event.opened_ns);
    }

    fn report(&self, (netns, pid, to): (NetnsId, u32, SocketAddr), seconds: f64) -> LinkReport {
        LinkReport {
            netns,
            pid,
            command: self.command.clone().unwrap_or_default(),
            to,
            opened: self.opened,
            failed: self.failed,
            opened_per_second: self.opened as f64 / seconds,
            most_at_once: self.most_at_once,
            greatest_fall: self.greatest_fall,
            mean_lifetime_ms: (self.ended > 0)
                .then(|| self.lived_ns as f64 / self.ended as f64 / 1e6),
            longest_pause_ms: self.longest_pause_ns / 1_000_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TO: &str = "10.0.0.1:8000";

    fn event(at_ms: u64, pid: u32, what: ClientChange) -> ClientEvent {
        let opened_ns = if what == ClientChange::Opened { at_ms } else { at_ms - 10 } * 1_000_000;
        let (netns, to) = (NetnsId(1), TO.parse().unwrap());
        ClientEvent { at_ns: at_ms * 1_000_000, opened_ns, netns, pid, to, what }
    }

    /// A cache of `size` idle connections over the same events: how many connections it opens.
    fn opens_with(size: u32, events: &[ClientEvent]) -> u32 {
        let (mut idle, mut opens) = (0, 0);
        for event in events {
            match event.what {
                ClientChange::Opened if idle > 0 => idle -= 1,
                ClientChange::Opened => opens += 1,
                _ if idle < size => idle += 1,
                _ => {}
            }
        }
        opens
    }

    /// Requests of 10 ms, up to `most` at once, in waves.
    fn waves(most: u32, count: u64) -> Vec<ClientEvent> {
        let mut events = Vec::new();
        for wave in 0..count {
            let size = 1 + (wave * 7919 % u64::from(most)) as u32;
            let begin = 100 + wave * 20;
            (0..size).for_each(|_| events.push(event(begin, 7, ClientChange::Opened)));
            (0..size).for_each(|_| events.push(event(begin + 10, 7, ClientChange::Closed)));
        }
        events
    }

    #[test]
    fn what_is_recommended_ends_reconnecting_and_one_less_does_not() {
        for most in [1, 3, 10, 64] {
            let events = waves(most, 500);
            let mut links = Links::default();
            links.heard(&events, |_| Some("nginx".to_owned()));
            let links = links.report(UnixMs(0), UnixMs(10_000));
            let sizing = &sizings(&links)[0];
            assert_eq!(opens_with(sizing.keepalive, &events), links[0].most_at_once, "{most}");
            let fewer = opens_with(sizing.keepalive - 1, &events);
            assert!(fewer > links[0].most_at_once, "{most}: {fewer}");
            assert_eq!(u64::from(links[0].most_at_once) + sizing.spared, links[0].opened);
        }
    }

    #[test]
    fn each_worker_keeps_its_own_and_the_busiest_decides() {
        let mut events = waves(8, 100);
        let other = waves(20, 100).into_iter().map(|event| ClientEvent { pid: 8, ..event });
        events.extend(other);
        let mut links = Links::default();
        links.heard(&events, |_| Some("nginx".to_owned()));
        let sizing = sizings(&links.report(UnixMs(0), UnixMs(2000))).remove(0);
        assert_eq!((sizing.workers, sizing.keepalive, sizing.peers), (2, 20, 1));
        assert_eq!(sizing.mean_lifetime_ms, Some(10.0));
        let (low, high) = sizing.rule_of_thumb.unwrap();
        assert!(low >= 1 && high <= 4, "{low} to {high}: far too few");
    }

    #[test]
    fn connections_that_last_need_no_keepalive() {
        let mut links = Links::default();
        let opened: Vec<_> = (0..50).map(|n| event(n, 7, ClientChange::Opened)).collect();
        links.heard(&opened, |_| None);
        assert!(sizings(&links.report(UnixMs(0), UnixMs(1000))).is_empty());
        // Neither does what never came to be.
        let failed: Vec<_> = (50..100).map(|n| event(n, 7, ClientChange::Failed)).collect();
        links.heard(&failed, |_| None);
        assert!(sizings(&links.report(UnixMs(0), UnixMs(1000))).is_empty());
    }

    #[test]
    fn a_link_of_a_process_that_ended_is_forgotten() {
        let mut links = Links::default();
        let (opened, closed) = (ClientChange::Opened, ClientChange::Closed);
        links.heard(&[event(100, 7, opened), event(200, 8, opened), event(300, 7, closed)], |_| {
            None
        });
        links.heard(&[event(700_000, 9, opened)], |_| None);
        let pids = links.report(UnixMs(0), UnixMs(700_000)).into_iter().map(|link| link.pid);
        assert_eq!(pids.collect::<std::collections::BTreeSet<_>>(), [8, 9].into());
    }

    #[test]
    fn links_are_bounded_and_lost_events_leak_nothing() {
        let mut links = Links::default();
        for pid in 0..MOST_LINKS as u32 + 10 {
            links.heard(&[event(u64::from(pid) + 10, pid, ClientChange::Opened)], |_| None);
        }
        assert_eq!(links.links.len(), MOST_LINKS);
        links.lost(3);
        assert!(links.links.values().all(|link| link.open == 0));
    }
}
