//! Who connects to a service, or where this host connects to: how many connections, how long they
//! last, who closes them. Many short ones, all closed by the same side, are the signature of a
//! missing or too small keepalive.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use floodmark_common::{
    churn::ChurnTally,
    queue::{WAIT_BUCKETS, WAIT_FIRST},
};
use serde::{Deserialize, Serialize};

use crate::kernel::{NetnsId, watch::ChurnId};

/// Peers counted apart; the rest is counted together, service by service.
pub const PEERS: usize = 50;
/// Over how long rates and lifetimes are taken, and how often the busiest peers are chosen anew.
const PERIOD: Duration = Duration::from_secs(15);
/// The name of the rest.
const OTHER: &str = "other";

/// Connections between a service and one of its peers, or the rest of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerReport {
    /// In which namespace.
    pub netns: NetnsId,
    /// The service's port.
    pub port: u16,
    /// Whether this host is the service's side.
    pub is_local: bool,
    /// The other side's address, or `other`.
    pub peer: String,
    /// Counts since the peer is counted apart.
    pub counts: PeerCounts,
    /// New connections per second in the last period.
    pub opened_per_second: f64,
    /// Median lifetime in seconds of those that ended in the last period: the middle of its bucket.
    pub median_lifetime: Option<f64>,
    /// Share of them that this host closed first.
    pub closed_here_share: Option<f64>,
}

/// Counts of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerCounts {
    /// Established.
    pub opened: u64,
    /// Closed by this host first.
    pub closed_here: u64,
    /// Closed by the peer first.
    pub closed_there: u64,
    /// Reset or timed out.
    pub aborted: u64,
}

impl PeerCounts {
    fn of(tally: &ChurnTally) -> Self {
        let ChurnTally { opened, closed_here, closed_there, aborted, .. } = *tally;
        Self { opened, closed_here, closed_there, aborted }
    }
}

/// A peer with its service, or with `None` the rest of the service's peers.
type Row = (NetnsId, u16, bool, Option<ChurnId>);

/// Follows the counts of all peers and keeps the busiest apart.
#[derive(Debug)]
pub struct Peers {
    seen: BTreeMap<ChurnId, ChurnTally>,
    named: BTreeSet<ChurnId>,
    rows: BTreeMap<Row, Counted>,
    /// Growth of each peer within the period, by which the busiest are chosen.
    busy: BTreeMap<ChurnId, u64>,
    period_began: Instant,
}

#[derive(Debug, Default)]
struct Counted {
    total: ChurnTally,
    period: ChurnTally,
    last_period: ChurnTally,
    seconds: f64,
}

impl Default for Peers {
    fn default() -> Self {
        Self {
            seen: BTreeMap::new(),
            named: BTreeSet::new(),
            rows: BTreeMap::new(),
            busy: BTreeMap::new(),
            period_began: Instant::now(),
        }
    }
}

impl Peers {
    /// Takes in the counts since start, as read at `now`. A peer that is no longer among them was
    /// idle and is forgotten.
    pub fn heard(&mut self, counts: BTreeMap<ChurnId, ChurnTally>, now: Instant) {
        self.named.retain(|id| counts.contains_key(id));
        for (id, tally) in &counts {
            let grown = since(tally, self.seen.get(id));
            if self.named.len() < PEERS {
                self.named.insert(*id);
            }
            let row = self.rows.entry(self.row_of(id)).or_default();
            row.total += grown;
            row.period += grown;
            *self.busy.entry(*id).or_default() += grown.opened;
        }
        self.seen = counts;
        let services: BTreeSet<_> =
            self.seen.keys().map(|id| (id.netns, id.port, id.is_local)).collect();
        self.rows.retain(|(netns, port, is_local, peer), _| match peer {
            Some(id) => self.named.contains(id),
            None => services.contains(&(*netns, *port, *is_local)),
        });
        let lasted = now.saturating_duration_since(self.period_began);
        if lasted >= PERIOD {
            self.end_period(lasted, now);
        }
    }

    /// All rows, busiest first.
    pub fn report(&self) -> Vec<PeerReport> {
        let mut reports: Vec<PeerReport> = self.rows.iter().map(|(row, c)| c.report(row)).collect();
        reports.sort_by(|a, b| b.opened_per_second.total_cmp(&a.opened_per_second));
        reports
    }

    fn row_of(&self, id: &ChurnId) -> Row {
        let named = self.named.contains(id).then_some(*id);
        (id.netns, id.port, id.is_local, named)
    }

    /// Begins a new period with the busiest of the last one apart. What a peer counted while it was
    /// one of the rest stays there, so no count ever goes back.
    fn end_period(&mut self, lasted: Duration, now: Instant) {
        for row in self.rows.values_mut() {
            row.last_period = std::mem::take(&mut row.period);
            row.seconds = lasted.as_secs_f64();
        }
        let mut busiest: Vec<(ChurnId, u64)> = std::mem::take(&mut self.busy).into_iter().collect();
        // Among equals, whoever is apart stays so.
        busiest.sort_by_key(|(id, grown)| (std::cmp::Reverse(*grown), !self.named.contains(id)));
        self.named = busiest.into_iter().take(PEERS).map(|(id, _)| id).collect();
        self.rows.retain(|(.., peer), _| peer.is_none_or(|id| self.named.contains(&id)));
        self.period_began = now;
    }
}

impl Counted {
    fn report(&self, (netns, port, is_local, peer): &Row) -> PeerReport {
        let PeerCounts { opened, closed_here, closed_there, aborted } =
            PeerCounts::of(&self.last_period);
        let ended = closed_here + closed_there + aborted;
        let per_second = if self.seconds > 0.0 { opened as f64 / self.seconds } else { 0.0 };
        PeerReport {
            netns: *netns,
            port: *port,
            is_local: *is_local,
            peer: peer.map_or_else(|| OTHER.to_owned(), |id| id.peer.to_string()),
            counts: PeerCounts::of(&self.total),
            opened_per_second: per_second,
            median_lifetime: median(&self.last_period.lifetimes),
            closed_here_share: (ended > 0).then(|| closed_here as f64 / ended as f64),
        }
    }
}

/// The geometric middle of the bucket that the median lies in, in seconds.
fn median(buckets: &[u64; WAIT_BUCKETS]) -> Option<f64> {
    let all: u64 = buckets.iter().sum();
    let mut below = 0;
    let bucket = buckets.iter().position(|count| {
        below += count;
        below * 2 >= all && all > 0
    })?;
    Some((f64::from(WAIT_FIRST) + bucket as f64 - 0.5).exp2())
}

fn since(now: &ChurnTally, before: Option<&ChurnTally>) -> ChurnTally {
    let Some(before) = before else { return *now };
    let mut grown = *now;
    // A peer that was forgotten and came again counts from 0.
    grown.opened = now.opened.saturating_sub(before.opened);
    grown.closed_here = now.closed_here.saturating_sub(before.closed_here);
    grown.closed_there = now.closed_there.saturating_sub(before.closed_there);
    grown.aborted = now.aborted.saturating_sub(before.aborted);
    for (grown, before) in grown.lifetimes.iter_mut().zip(before.lifetimes) {
        *grown = grown.saturating_sub(before);
    }
    grown
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn id(host: u32) -> ChurnId {
        let peer = Ipv4Addr::from(0x0a00_0000 + host).into();
        ChurnId { netns: NetnsId(1), port: 80, is_local: true, peer }
    }

    fn tally(opened: u64, closed_here: u64) -> ChurnTally {
        let mut tally = ChurnTally { opened, closed_here, ..ChurnTally::BLANK };
        tally.lifetimes[10] = closed_here;
        tally
    }

    #[test]
    fn rates_and_the_median_are_those_of_the_last_period() {
        let mut peers = Peers::default();
        let start = peers.period_began;
        peers.heard([(id(1), tally(100, 100))].into(), start);
        peers.heard([(id(1), tally(160, 130))].into(), start + PERIOD);
        peers.heard([(id(1), tally(190, 130))].into(), start + 2 * PERIOD);
        let report = &peers.report()[0];
        assert_eq!((report.peer.as_str(), report.counts.opened), ("10.0.0.1", 190));
        assert!((report.opened_per_second - 2.0).abs() < 1e-9);
        assert_eq!((report.median_lifetime, report.closed_here_share), (None, None));
        peers.heard([(id(1), tally(190, 140))].into(), start + 3 * PERIOD);
        let report = &peers.report()[0];
        assert_eq!(report.closed_here_share, Some(1.0));
        // Between 2^-11 and 2^-10 seconds.
        assert!((0.00048..0.00098).contains(&report.median_lifetime.unwrap()));
    }

    #[test]
    fn the_busiest_are_apart_and_no_count_goes_back() {
        let mut peers = Peers::default();
        let start = peers.period_began;
        let quiet = |opened| (1..=PEERS as u32).map(move |host| (id(host), tally(opened, 0)));
        let late = id(999);
        let other = |peers: &Peers| {
            let rest = peers.report().into_iter().find(|report| report.peer == OTHER);
            rest.map(|report| report.counts.opened)
        };
        peers.heard(quiet(1).collect(), start);
        assert_eq!(other(&peers), None);
        peers.heard(quiet(2).chain([(late, tally(500, 0))]).collect(), start + PERIOD);
        assert_eq!(other(&peers), Some(500), "counted with the rest until the period ends");
        peers.heard(quiet(2).chain([(late, tally(700, 0))]).collect(), start + PERIOD);
        assert_eq!(other(&peers), Some(500));
        let reports = peers.report();
        let apart = reports.iter().find(|report| report.peer == late.peer.to_string()).unwrap();
        assert_eq!(apart.counts.opened, 200, "from now on by itself");
        assert!(reports.len() <= PEERS + 1);
    }

    #[test]
    fn who_is_no_longer_counted_is_forgotten() {
        let mut peers = Peers::default();
        let start = peers.period_began;
        peers.heard([(id(1), tally(1, 1))].into(), start);
        peers.heard(BTreeMap::new(), start);
        assert!(peers.report().is_empty() && peers.rows.is_empty());
    }
}
