//! What is known about a stretch of time, in one object: the JSON of `floodmark diagnose`.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    cycle::Cycle, flow::Flow, impediment::StallReport, keepalive::LinkReport, verdict::Verdict,
};
use crate::{
    clock::ClockStep,
    inventory::{LeftOut, Listener, Namespace},
    kernel::{Attribution, ListenerId, MibCounts, NetnsId, NoPortCount, ServiceCount, Tally},
    time::{UnixMs, Window},
};

/// A diagnosis: the story's facts, without its words.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// The time looked at.
    pub window: Window,
    /// The rung in use for each signal, by signal name.
    pub rungs: BTreeMap<String, String>,
    /// Listeners that lost something, worst first.
    pub listeners: Vec<ListenerReport>,
    /// The kernel's own counters, for each namespace where one of them moved.
    pub namespaces: Vec<NetnsReport>,
    /// What the proxies said.
    pub proxy: ProxyReport,
    /// Detail events lost in the ring buffer (their counts are not).
    pub events_lost: u64,
    /// What became of connections besides, by service, busiest first.
    pub services: Vec<ServiceCount>,
    /// Connects of this host that found no local port.
    pub no_port: Vec<NoPortCount>,
    /// What bounds queues and ports in the namespaces told of.
    #[serde(default, with = "as_list")]
    pub settings: BTreeMap<NetnsId, Namespace>,
    /// What the rungs in use cannot see, where a better one was refused.
    #[serde(default)]
    pub blind_spots: Vec<BlindSpot>,
    /// The connections of this host's own processes to their peers, busiest first.
    #[serde(default)]
    pub links: Vec<LinkReport>,
    /// What listens on the host beyond the limits of the inventory.
    #[serde(default, skip_serializing_if = "LeftOut::is_nothing")]
    pub left_out: LeftOut,
    /// The latest steps of the wall clock. All times of a report are by the wall clock as it is set at
    /// the end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clock_steps: Vec<ClockStep>,
    /// Listeners whose queues were not emptied, the latest first, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stalls: Vec<StallReport>,
}

/// A map by namespace as a list: a number as a key of an object does not survive being flattened.
mod as_list {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{Namespace, NetnsId};

    #[derive(Serialize, Deserialize)]
    struct Entry {
        netns: NetnsId,
        #[serde(flatten)]
        namespace: Namespace,
    }

    pub(super) fn serialize<S: Serializer>(
        map: &BTreeMap<NetnsId, Namespace>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let entry = |(netns, namespace): (&NetnsId, &Namespace)| Entry {
            netns: *netns,
            namespace: namespace.clone(),
        };
        serializer.collect_seq(map.iter().map(entry))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<NetnsId, Namespace>, D::Error> {
        let entries: Vec<Entry> = Vec::deserialize(deserializer)?;
        Ok(entries.into_iter().map(|entry| (entry.netns, entry.namespace)).collect())
    }
}

/// What the rung in use for a signal cannot see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlindSpot {
    /// Name of the signal.
    pub signal: String,
    /// Name of the rung.
    pub rung: String,
    /// What is not seen from it.
    pub unseen: String,
}

/// One listener's losses.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ListenerReport {
    /// The listener, its queue limit and its owners.
    pub listener: Listener,
    /// What it lost.
    pub tally: Tally,
    /// The least sure attribution among the parts of the tally.
    pub attribution: Attribution,
    /// The deepest accept queue seen.
    pub queue_high: u32,
    /// Clients whose segments were dropped most: address and segments seen in detail events.
    pub peers: Vec<(std::net::IpAddr, u64)>,
    /// Segments that all the other clients lost, and those of which no detail came through.
    pub peers_other: u64,
    /// From the first interval in which it dropped handshakes to the last.
    #[serde(default)]
    pub dropped: Option<Window>,
    /// The most it dropped in one interval, as handshakes per second.
    #[serde(default)]
    pub worst_per_second: f64,
    /// When it was last known to listen, or to lose something.
    #[serde(default)]
    pub last_seen: UnixMs,
    /// What came to it and was accepted, where the kernel was watched for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow: Option<Arc<Flow>>,
}

impl Report {
    /// The report by a clock that is ahead by `offset_ms`.
    pub fn shifted(mut self, offset_ms: i64) -> Self {
        if offset_ms == 0 {
            return self;
        }
        self.window = self.window.shifted(offset_ms);
        for step in &mut self.clock_steps {
            step.within = step.within.shifted(offset_ms);
        }
        for listener in &mut self.listeners {
            listener.dropped = listener.dropped.map(|dropped| dropped.shifted(offset_ms));
            listener.last_seen = listener.last_seen.shifted(offset_ms);
        }
        for stall in &mut self.stalls {
            stall.last = stall.last.shifted(offset_ms);
        }
        for verdict in &mut self.proxy.verdicts {
            *verdict = Arc::new(Verdict::clone(verdict).shifted(offset_ms));
        }
        self
    }

    /// Why a listener's queue was not emptied, if that was seen; `id` may be of an earlier or later socket
    /// at the same address.
    pub fn stall(&self, id: ListenerId) -> Option<&StallReport> {
        let own = self.stalls.iter().find(|stall| stall.id() == id);
        let is_same =
            |stall: &&StallReport| (stall.id().netns, stall.id().addr) == (id.netns, id.addr);
        own.or_else(|| self.stalls.iter().find(is_same))
    }

    /// A listener's address, and its namespace where another one has the same address.
    pub fn name_of(&self, id: ListenerId) -> String {
        let all = || self.listeners.iter().map(|report| &report.listener);
        let is_alone = all().all(|it| it.id.addr != id.addr || it.id.netns == id.netns);
        let netns = all().find(|it| it.id.netns == id.netns).filter(|_| !is_alone);
        match netns {
            Some(listener) => format!("{} in {}", id.addr, listener.netns_name),
            None => id.addr.to_string(),
        }
    }
}

impl ListenerReport {
    /// Handshakes dropped per second, over the time in which it dropped.
    pub fn dropped_per_second(&self) -> f64 {
        let seconds = self.dropped.map_or(1.0, |window| window.length().as_secs_f64());
        self.tally.drops() as f64 / seconds.max(1.0)
    }
}

/// One namespace's own counters against what was attributed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NetnsReport {
    /// Which namespace.
    pub netns: NetnsId,
    /// Its name under `/run/netns`, or `net:[N]`.
    pub name: String,
    /// Growth of the kernel's counters.
    pub kernel: MibCounts,
    /// What of them was not attributed to listeners or services, by the kernel's names; negative where too
    /// much was. Only what is not 0.
    pub unattributed: BTreeMap<String, i64>,
}

/// What the proxies said, and what became of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ProxyReport {
    /// Peers marked as failed.
    pub markings: u64,
    /// Markings joined with a listener's kernel evidence.
    pub markings_joined: u64,
    /// Failed connects and requests in the window, as proxies logged them.
    pub failed_attempts: u64,
    /// Peers taken back.
    #[serde(default)]
    pub peers_back: u64,
    /// Requests refused for want of a live peer.
    pub no_live_peers: u64,
    /// Markings by cause.
    pub causes: BTreeMap<String, u64>,
    /// Groups that ran out of live peers, and whether they do so in cycles.
    #[serde(default)]
    pub cycles: Vec<Cycle>,
    /// The verdicts; the newest where there are too many to keep.
    pub verdicts: Vec<Arc<Verdict>>,
}
