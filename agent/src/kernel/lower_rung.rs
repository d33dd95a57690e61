//! Losses that no program saw, on hosts that refuse function hooks: how many they are is in the MIBs,
//! whose they are in the listeners' drop counters. Keeps the balance between the two, because they
//! cannot be read at one instant.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{
    class::Class,
    counters::Growth,
    estimate::{Remainder, Suspect, moved_by, share},
    mib::{Counter, MibCounts},
    netns::{Netns, visit},
    sample::{ListenerDelta, ListenerId, NetnsId, QueueDepth},
    sock_diag::listeners_here,
};

/// The drop counters of quiet namespaces are read at every so many samples, since they also grow by
/// what is no ListenDrop.
const REFRESH: u32 = 5;
/// How long reading drop counters may take at one sample, once for all namespaces and once for those
/// where something is to be shared out. For each namespace the kernel goes through the host's whole
/// table of listeners, and any user can make both long. What is not read has its turn at the next.
const BUDGET: Duration = Duration::from_millis(40);

/// Shares out, sample by sample, what the MIBs counted and no program did.
#[derive(Default)]
pub struct LowerRung {
    /// `SK_MEMINFO_DROPS` of every listener as last seen.
    drops: BTreeMap<NetnsId, HashMap<ListenerId, u32>>,
    owed: BTreeMap<NetnsId, Owed>,
    samples: u32,
    /// The namespaces at which the last reading of all, and of those that owe, came to its end.
    looked: Turn,
    settled: Turn,
}

/// Namespaces have their turn one after the other, as far as the time goes.
#[derive(Default)]
struct Turn {
    /// The last one that had it.
    last: Option<NetnsId>,
}

impl Turn {
    /// Reads the drop counters of those that follow, for as long as [`BUDGET`] at most.
    fn read(&mut self, namespaces: &[Netns]) -> Result<Vec<DropCounters>> {
        let after = |netns: &&Netns| self.last.is_some_and(|last| netns.id > last);
        let (next, rest): (Vec<&Netns>, Vec<&Netns>) = namespaces.iter().partition(after);
        let in_turn: Vec<Netns> = next.into_iter().chain(rest).cloned().collect();
        let begun = Instant::now();
        let read = |netns: &Netns| (begun.elapsed() < BUDGET).then(|| drop_counters(netns));
        let found: Vec<DropCounters> = visit(&in_turn, read)?.into_iter().flatten().collect();
        self.last = found.last().map(|(netns, _)| *netns);
        Ok(found)
    }
}

/// Growth of the MIBs that no program has counted and nobody has been given yet. Negative while what
/// was counted is not in a reading of the MIBs yet.
#[derive(Default)]
struct Owed {
    overflows: i64,
    /// ListenDrops that were no overflow.
    others: i64,
    /// TCPReqQFullDrop, each of which is also one of the others.
    syn_queue_full: i64,
    /// What of `others` was owed at the last sample already. procfs reads ListenOverflows before
    /// ListenDrops, so what looks like a drop of another kind may be an overflow yet to show.
    ripe: i64,
    /// What programs took for overflows and the kernel did not, as of the last sample: the reason that
    /// the drop tracepoint gives is that of any final ACK without a child (`tcp_check_req`).
    mistaken: i64,
    /// Whose drop counters moved last: one is read later than the MIBs, so it may have moved already
    /// for what shows in them only now.
    last: Vec<Suspect>,
}

impl Owed {
    /// Takes new suspects for the last ones, if any of their counters moved; beside them, if those
    /// have not paid for all that is owed.
    fn suspect(&mut self, mut suspects: Vec<Suspect>) {
        if suspects.iter().all(|suspect| u64::from(suspect.drops) <= suspect.explained) {
            return;
        }
        if self.ripe > 0 {
            let known: HashMap<ListenerId, &Suspect> =
                self.last.iter().map(|last| (last.listener, last)).collect();
            for suspect in &mut suspects {
                if let Some(last) = known.get(&suspect.listener) {
                    suspect.drops = suspect.drops.wrapping_add(last.drops);
                    suspect.explained += last.explained;
                }
            }
        }
        self.last = suspects;
    }

    /// Strikes out what has been counted under another name. Only what looked so at the last sample
    /// too: what is merely not in the MIBs yet shows there by now.
    fn strike_out_mistaken(&mut self) {
        let mistaken = self.mistaken.min(self.seems_mistaken());
        self.overflows += mistaken;
        self.others -= mistaken;
    }

    fn seems_mistaken(&self) -> i64 {
        self.others.min(-self.overflows).max(0)
    }

    /// What there is to share out by now.
    fn payable(&self) -> Remainder {
        let overflows = self.overflows.max(0);
        // Never more drops in all than the kernel counted, whatever they are called.
        let others = self.others.min(self.ripe).min(self.overflows + self.others).max(0);
        let syn_queue_full = self.syn_queue_full.clamp(0, others);
        Remainder {
            overflows: overflows as u64,
            drops: (overflows + others) as u64,
            syn_queue_full: syn_queue_full as u64,
        }
    }

    fn end_sample(&mut self) {
        self.ripe = self.others.max(0);
        self.mistaken = self.seems_mistaken();
    }
}

/// The drop counters of one namespace.
pub type DropCounters = (NetnsId, Vec<(ListenerId, QueueDepth, u32)>);

impl LowerRung {
    /// Takes the drop counters as they stand for a beginning.
    pub fn take_baseline(&mut self, namespaces: &[Netns]) -> Result<()> {
        for found in visit(namespaces, drop_counters)? {
            self.remember(&found);
        }
        Ok(())
    }

    /// Now and then, to be called before the MIBs are read: the drop counters of all namespaces. In
    /// those where the MIBs then stand still, they hold nothing that is yet to be shared.
    pub fn look_around(&mut self, namespaces: &[Netns]) -> Result<Vec<DropCounters>> {
        self.samples = self.samples.wrapping_add(1);
        if self.samples.is_multiple_of(REFRESH) {
            self.looked.read(namespaces)
        } else {
            Ok(Vec::new())
        }
    }

    /// Shares out what the MIBs `grown` hold beyond what was `counted`. The maps must have been read
    /// after the MIBs, lest what a program will count is shared out first.
    pub fn settle(
        &mut self,
        namespaces: &[Netns],
        around: &[DropCounters],
        grown: &BTreeMap<NetnsId, MibCounts>,
        counted: &[Growth],
    ) -> Result<Vec<ListenerDelta>> {
        for found in around {
            let is_still =
                grown.get(&found.0).is_some_and(|grown| grown[Counter::ListenDrops] == 0);
            if is_still && !self.owes(found.0) {
                self.remember(found);
            }
        }
        self.enter(grown, counted);
        let in_debt: Vec<Netns> =
            namespaces.iter().filter(|netns| self.owes(netns.id)).cloned().collect();
        let mut deltas = Vec::new();
        for found in self.settled.read(&in_debt)? {
            deltas.extend(self.pay(&found, counted));
        }
        self.owed.values_mut().for_each(Owed::end_sample);
        Ok(deltas)
    }

    /// Forgets namespaces that are no longer `known`.
    pub fn forget(&mut self, known: impl Fn(NetnsId) -> bool) {
        self.drops.retain(|netns, _| known(*netns));
        self.owed.retain(|netns, _| known(*netns));
    }

    fn owes(&self, netns: NetnsId) -> bool {
        self.owed.get(&netns).is_some_and(|owed| owed.overflows > 0 || owed.others > 0)
    }

    fn enter(&mut self, grown: &BTreeMap<NetnsId, MibCounts>, counted: &[Growth]) {
        let has_grown = |grown: &MibCounts| {
            [Counter::ListenOverflows, Counter::ListenDrops, Counter::ReqQFullDrop]
                .iter()
                .any(|counter| grown[*counter] > 0)
        };
        for (netns, grown) in grown.iter().filter(|(_, grown)| has_grown(grown)) {
            let owed = self.owed.entry(*netns).or_default();
            let overflows = grown[Counter::ListenOverflows] as i64;
            owed.overflows += overflows;
            owed.others += grown[Counter::ListenDrops] as i64 - overflows;
            owed.syn_queue_full += grown[Counter::ReqQFullDrop] as i64;
        }
        for growth in counted.iter().filter(|growth| growth.tally.drops() > 0) {
            let owed = self.owed.entry(growth.listener.netns).or_default();
            let overflows = growth.tally.overflows() as i64;
            owed.overflows -= overflows;
            owed.others -= growth.tally.drops() as i64 - overflows;
            owed.syn_queue_full -= growth.tally[Class::SynQueueFull] as i64;
        }
        self.owed.values_mut().for_each(Owed::strike_out_mistaken);
    }

    /// Shares out what is owed in one namespace.
    fn pay(&mut self, found: &DropCounters, counted: &[Growth]) -> Vec<ListenerDelta> {
        let (netns, queues) = found;
        let before = self.drops.remove(netns).unwrap_or_default();
        self.remember(found);
        let mut explained: HashMap<ListenerId, u64> = HashMap::new();
        for growth in counted.iter().filter(|growth| growth.listener.netns == *netns) {
            *explained.entry(growth.listener).or_default() += moved_by(&growth.tally);
        }
        let suspects: Vec<Suspect> = queues
            .iter()
            .map(|(listener, _, now)| {
                let before = before.get(listener).copied().unwrap_or(0);
                let explained = explained.get(listener).copied().unwrap_or_default();
                let drops = now.wrapping_sub(before);
                Suspect { listener: *listener, drops, explained }
            })
            .collect();
        let owed = self.owed.entry(*netns).or_default();
        owed.suspect(suspects);
        let shares = share(&owed.payable(), &owed.last);
        for share in &shares {
            let overflows = share.tally.overflows() as i64;
            owed.overflows -= overflows;
            owed.others -= share.tally.drops() as i64 - overflows;
            owed.syn_queue_full -= share.tally[Class::SynQueueFull] as i64;
        }
        let queues: HashMap<ListenerId, QueueDepth> =
            queues.iter().map(|(listener, queue, _)| (*listener, *queue)).collect();
        let delta = |share: super::estimate::Share| ListenerDelta {
            listener: share.listener,
            tally: share.tally,
            attribution: share.attribution,
            queue: queues.get(&share.listener).copied(),
        };
        shares.into_iter().map(delta).collect()
    }

    /// Also forgets the listeners of that namespace that are there no longer.
    fn remember(&mut self, (netns, queues): &DropCounters) {
        let drops = queues.iter().map(|(listener, _, drops)| (*listener, *drops)).collect();
        self.drops.insert(*netns, drops);
    }
}

/// Listeners of the calling thread's namespace with their queues and drop counters; none where
/// sock_diag is not to be had, which the inventory has said already.
fn drop_counters(netns: &Netns) -> DropCounters {
    let sockets = listeners_here().unwrap_or_default().into_iter();
    let counters = sockets.map(|socket| (socket.id(netns.id), socket.queue, socket.drops));
    (netns.id, counters.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{Tally, netns};

    #[test]
    fn namespaces_have_their_turn_one_after_the_other() {
        let own = netns::of_process(std::process::id()).unwrap();
        let all = netns::discover().unwrap();
        let here = all.into_iter().find(|netns| netns.id == own).unwrap();
        let mut turn = Turn { last: Some(NetnsId(own.0 - 1)) };
        let read = turn.read(&[here]).unwrap();
        assert_eq!(read.iter().map(|found| found.0).collect::<Vec<_>>(), [own]);
        assert_eq!(turn.last, Some(own));
        assert!(turn.read(&[]).unwrap().is_empty() && turn.last.is_none());
    }

    const NETNS: NetnsId = NetnsId(7);

    fn listener() -> ListenerId {
        ListenerId { netns: NETNS, addr: ([10, 0, 0, 1], 80).into(), inode: 5 }
    }

    fn grown(overflows: u64, drops: u64) -> BTreeMap<NetnsId, MibCounts> {
        let mut grown = MibCounts::default();
        grown[Counter::ListenOverflows] = overflows;
        grown[Counter::ListenDrops] = drops;
        BTreeMap::from([(NETNS, grown)])
    }

    fn found(drops: u32) -> DropCounters {
        (NETNS, vec![(listener(), QueueDepth::default(), drops)])
    }

    /// One that has looked at the listener before anything was dropped.
    fn rung() -> LowerRung {
        let mut rung = LowerRung::default();
        rung.remember(&found(0));
        rung
    }

    /// One sample: the MIBs have grown so much, the drop counter stands there.
    fn paid(rung: &mut LowerRung, overflows: u64, drops: u64, counter: u32) -> (u64, u64) {
        paid_beside(rung, 0, overflows, drops, counter)
    }

    /// As above, where the drop tracepoint saw so many final ACKs without a child meanwhile.
    fn paid_beside(
        rung: &mut LowerRung,
        freed: u64,
        overflows: u64,
        drops: u64,
        counter: u32,
    ) -> (u64, u64) {
        let tally = Tally::of(&[(Class::AckAcceptQueueFull, freed)]);
        let counted = [Growth { listener: listener(), tally, queue: QueueDepth::default() }];
        rung.enter(&grown(overflows, drops), &counted);
        let deltas = rung.pay(&found(counter), &counted);
        rung.owed.values_mut().for_each(Owed::end_sample);
        let sum = |class| deltas.iter().map(|delta| delta.tally[class]).sum();
        (sum(Class::UnstagedAcceptQueueFull), sum(Class::UnstagedOther))
    }

    /// The MIBs are read in the middle of a burst, the drop counter after it.
    #[test]
    fn what_shows_late_in_the_mibs_goes_to_whom_the_counter_pointed() {
        let mut rung = rung();
        assert_eq!(paid(&mut rung, 4, 4, 10), (4, 0));
        assert_eq!(paid(&mut rung, 6, 6, 10), (6, 0), "the counter has moved for these before");
    }

    /// A drop may show in one reading and its overflow in the next.
    #[test]
    fn a_torn_reading_makes_no_drop_of_another_kind() {
        let mut rung = rung();
        assert_eq!(paid(&mut rung, 4, 5, 5), (4, 0));
        assert_eq!(paid(&mut rung, 1, 0, 5), (1, 0));
        assert_eq!(paid(&mut rung, 0, 0, 5), (0, 0), "and nothing is owed any more");
    }

    #[test]
    fn drops_of_another_kind_come_a_sample_later() {
        let mut rung = rung();
        assert_eq!(paid(&mut rung, 0, 3, 3), (0, 0));
        assert_eq!(paid(&mut rung, 0, 0, 3), (0, 3));
    }

    /// In the middle of a burst the drop counter has moved for more than was counted till then.
    #[test]
    fn what_was_taken_for_an_overflow_is_not_counted_twice() {
        let mut rung = rung();
        assert_eq!(paid_beside(&mut rung, 5, 0, 5, 16), (0, 0));
        assert_eq!(paid_beside(&mut rung, 5, 0, 5, 20), (0, 0));
        assert_eq!(paid(&mut rung, 0, 0, 20), (0, 0));
        assert_eq!(paid(&mut rung, 0, 0, 20), (0, 0));
        assert_eq!(paid(&mut rung, 3, 3, 23), (3, 0), "nor is a later overflow hidden by it");
    }

    #[test]
    fn what_was_counted_before_it_shows_in_the_mibs_is_no_mistake() {
        let mut rung = rung();
        assert_eq!(paid(&mut rung, 0, 7, 7), (0, 0));
        assert_eq!(
            paid_beside(&mut rung, 5, 0, 0, 17),
            (0, 2),
            "at least so many are of another kind"
        );
        assert_eq!(paid(&mut rung, 5, 5, 17), (0, 5));
        assert_eq!(paid(&mut rung, 0, 0, 17), (0, 0));
    }
}
