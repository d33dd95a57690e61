//! The oscillation of a group of peers: all marked down, silence, all traffic returns at once, the
//! queues overflow, all marked down again. Seen from the proxy's "no live upstreams": they come in
//! bursts, and the bursts at intervals.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    proxy::{EventKind, ProxyEvent, ProxyKind},
    time::UnixMs,
};

/// "No live upstreams" longer apart than this are two outages. Less than any `fail_timeout`, which
/// is whole seconds and lasts up to one more.
const GAP: Duration = Duration::from_millis(1500);
/// Outages kept of a group.
const OUTAGES: usize = 64;
/// Outages that make a cycle: two intervals that can be compared.
const FEWEST: usize = 3;
/// How much intervals may differ, as a part of their mean, and still be a cycle's.
const SPREAD: f64 = 0.5;
/// Groups watched; more are not.
const MOST_GROUPS: usize = 1000;

/// A group's outages so far, and the cycle they make.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cycle {
    /// The proxy program.
    pub proxy: ProxyKind,
    /// Where it was read.
    pub source: String,
    /// The group; empty where the proxy does not name it.
    pub group: String,
    /// Outages seen; one that lasts counts.
    pub outages: u64,
    /// Share of the time, from the first of the outages kept to the last, without a live peer.
    pub share_without_peer: f64,
    /// Mean interval from one outage's begin to the next, in milliseconds, where they come at
    /// intervals alike.
    pub period_ms: Option<u64>,
}

#[derive(Default)]
struct Group {
    outages: u64,
    kept: VecDeque<(UnixMs, UnixMs)>,
}

/// The outages of all groups.
#[derive(Default)]
pub struct Cycles(BTreeMap<(ProxyKind, String, String), Group>);

impl Cycles {
    /// Takes in what a proxy said.
    pub fn add(&mut self, event: &ProxyEvent) {
        if event.kind != EventKind::NoLivePeers {
            return;
        }
        let group = event.group_name().unwrap_or_default().to_owned();
        let key = (event.proxy, event.source.clone(), group);
        if self.0.len() >= MOST_GROUPS && !self.0.contains_key(&key) {
            return;
        }
        let group = self.0.entry(key).or_default();
        let end = event.at.later(Duration::from_millis(u64::from(event.precision_ms)));
        match group.kept.back_mut() {
            Some((from, to)) if event.at <= to.later(GAP) => {
                *from = (*from).min(event.at);
                *to = (*to).max(end);
            }
            _ => {
                group.outages += 1;
                group.kept.push_back((event.at, end));
                if group.kept.len() > OUTAGES {
                    group.kept.pop_front();
                }
            }
        }
    }

    /// Every group that ran out of peers.
    pub fn report(&self) -> Vec<Cycle> {
        let cycle =
            |((proxy, source, name), group): (&(ProxyKind, String, String), &Group)| Cycle {
                proxy: *proxy,
                source: source.clone(),
                group: name.clone(),
                outages: group.outages,
                share_without_peer: share(&group.kept),
                period_ms: period(&group.kept),
            };
        self.0.iter().map(cycle).collect()
    }
}

/// Whole periods only: up to the begin of the last outage, if there is more than one.
fn share(outages: &VecDeque<(UnixMs, UnixMs)>) -> f64 {
    let (Some((from, _)), Some((to, _))) = (outages.front(), outages.back()) else { return 0.0 };
    if from == to {
        return 1.0;
    }
    let down: u64 =
        outages.iter().take(outages.len() - 1).map(|(from, to)| to.0.saturating_sub(from.0)).sum();
    down as f64 / to.0.saturating_sub(from.0).max(1) as f64
}

fn period(outages: &VecDeque<(UnixMs, UnixMs)>) -> Option<u64> {
    if outages.len() < FEWEST {
        return None;
    }
    let begins = outages.iter().map(|(from, _)| from.0);
    let intervals: Vec<f64> =
        begins.clone().zip(begins.skip(1)).map(|(a, b)| b.saturating_sub(a) as f64).collect();
    let mean = intervals.iter().sum::<f64>() / intervals.len() as f64;
    let squares: f64 = intervals.iter().map(|interval| (interval - mean).powi(2)).sum();
    let deviation = (squares / intervals.len() as f64).sqrt();
    (deviation <= SPREAD * mean).then_some(mean as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::{Carrier, Upstream};

    fn no_live(second: u64) -> ProxyEvent {
        let carrier = Carrier::plain("error.log", UnixMs(0));
        let upstream = Upstream::Group("app".to_owned());
        let at = (UnixMs(1000 * second), 1000);
        ProxyEvent::new(ProxyKind::Nginx, &carrier, at, EventKind::NoLivePeers, upstream)
    }

    fn cycle(seconds: &[u64]) -> Cycle {
        let mut cycles = Cycles::default();
        seconds.iter().for_each(|second| cycles.add(&no_live(*second)));
        cycles.report().remove(0)
    }

    #[test]
    fn outages_at_intervals_make_a_cycle() {
        let cycle = cycle(&[10, 11, 12, 13, 22, 23, 24, 33, 34, 35, 36]);
        assert_eq!((cycle.outages, cycle.period_ms), (3, Some(11_500)));
        assert!((cycle.share_without_peer - 7.0 / 23.0).abs() < 1e-9, "{cycle:?}");
    }

    #[test]
    fn outages_now_and_then_make_none() {
        assert_eq!(cycle(&[10, 300, 310, 900]).period_ms, None);
        assert_eq!(cycle(&[10, 20]).period_ms, None);
    }

    #[test]
    fn one_long_outage_is_all_of_the_time() {
        let cycle = cycle(&[10, 11, 12]);
        assert_eq!((cycle.outages, cycle.period_ms), (1, None));
        assert!((cycle.share_without_peer - 1.0).abs() < 1e-9);
    }
}
