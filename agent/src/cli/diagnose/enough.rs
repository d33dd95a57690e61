//! When the answer is clear before the time is up.

use crate::{
    kernel::Counter,
    verdict::{Cause, Confidence, Report, VERDICTS_KEPT, findings},
};

/// Seconds that the same answer must have stood.
const STANDS: u32 = 6;
/// The least time watched: an oscillation of ten seconds shows once, and a lost SYN has come again.
const LEAST_SECONDS: u64 = 12;
/// Signs of the worst trouble that are enough to say so.
const SIGNS: u64 = 20;

/// Follows the answers of one run.
#[derive(Debug, Default)]
pub(super) struct Enough {
    answer: Vec<Cause>,
    stood: u32,
}

impl Enough {
    /// Whether what a report comes to is clear: sure, on enough signs, the same for a while, and no
    /// verdict still to come. To be asked at every tick. That nothing is wrong takes the whole time.
    pub(super) fn is_clear(&mut self, report: &Report) -> bool {
        let found = findings(report);
        let answer: Vec<Cause> = found.iter().map(|finding| finding.cause).collect();
        self.stood = if answer == self.answer { self.stood + 1 } else { 0 };
        self.answer = answer;
        let Some(worst) = found.first() else { return false };
        let proxy = &report.proxy;
        let heard = proxy.failed_attempts + proxy.markings + proxy.no_live_peers;
        let is_decided = heard.min(VERDICTS_KEPT as u64) <= proxy.verdicts.len() as u64;
        let harm = &worst.harm;
        let signs = worst.drops.max(harm.failed_attempts + harm.markings + harm.no_live_peers);
        let drops: u64 = report.namespaces.iter().map(|n| n.kernel[Counter::ListenDrops]).sum();
        let told: u64 = report.listeners.iter().map(|listener| listener.tally.drops()).sum();
        self.stood >= STANDS
            && report.window.length().as_secs() >= LEAST_SECONDS
            && worst.confidence > Confidence::Low
            && signs >= SIGNS
            && is_decided
            && told >= drops
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        inventory::Listener,
        kernel::{Attribution, Class, ListenerId, NetnsId, QueueDepth, Tally},
        time::{UnixMs, Window},
        verdict::ListenerReport,
    };

    fn report(seconds: u64, drops: u64) -> Report {
        let id = ListenerId { netns: NetnsId(1), addr: ([10, 0, 0, 1], 80).into(), inode: 1 };
        let listener = ListenerReport {
            listener: Listener::unknown(id, QueueDepth { len: 9, limit: 8 }, None),
            tally: Tally::of(&[(Class::SynAcceptQueueFull, drops)]),
            attribution: Attribution::Exact,
            queue_high: 9,
            peers: Vec::new(),
            peers_other: 0,
            dropped: None,
            worst_per_second: 0.0,
            last_seen: UnixMs(0),
            flow: None,
        };
        let window = Window { from: UnixMs(0), to: UnixMs(1000 * seconds) };
        Report { window, listeners: vec![listener], ..Report::default() }
    }

    fn clear_after(drops: impl Fn(u64) -> u64) -> Option<u64> {
        let mut enough = Enough::default();
        (0..60).find(|second| enough.is_clear(&report(*second, drops(*second))))
    }

    #[test]
    fn an_answer_that_stands_on_enough_is_clear() {
        assert_eq!(clear_after(|second| 10 * second), Some(LEAST_SECONDS));
        assert_eq!(clear_after(|second| if second < 20 { 0 } else { 100 }), Some(26));
    }

    #[test]
    fn nothing_and_next_to_nothing_take_the_whole_time() {
        assert_eq!(clear_after(|_| 0), None);
        assert_eq!(clear_after(|_| SIGNS - 1), None);
    }

    #[test]
    fn what_waits_for_its_verdict_is_not_clear() {
        let mut waiting = report(30, 100);
        waiting.proxy.failed_attempts = 1;
        let mut enough = Enough::default();
        assert!((0..30).all(|_| !enough.is_clear(&waiting)));
    }
}
