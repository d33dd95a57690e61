//! What if the queue had been longer, or accepting faster: the recorded arrivals replayed against
//! another limit and another rate. A model, stated: whoever was lost arrives when it was first lost,
//! and once; whoever waits is served in order; while the queue held connections the listener accepted
//! as fast as it could, and at other times it could have done so at the mean of that.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::flow::{Flow, SLOT_MS};

/// Slots beyond the record in which what waits at its end may still be served: a minute.
const AFTERMATH: usize = 6000;

/// What most servers ask for today.
pub const DECENT_BACKLOG: u32 = 1024;

/// Another accept rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rate {
    /// As measured.
    #[default]
    Measured,
    /// The measured one times this.
    Times(f64),
    /// So many connections per second.
    PerSecond(f64),
}

/// What a replay came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Replayed {
    /// Connections that arrived.
    pub arrived: u64,
    /// Connections lost.
    pub lost: u64,
    /// The deepest queue.
    pub deepest: u64,
    /// The longest wait in the queue in milliseconds; of whoever waited at the end of the record, up
    /// to when it would be served; none where that is never.
    pub longest_wait_ms: Option<u64>,
    /// Connections waiting at the end of the record.
    pub left: u64,
}

/// What would have helped.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "answer")]
pub enum WhatIf {
    /// A backlog would have lost nothing.
    Backlog {
        /// The smallest such.
        backlog: u32,
        /// The longest wait in that queue, in milliseconds.
        longest_wait_ms: u64,
        /// Accepts per second, as measured while the queue was not empty.
        accepts_per_second: f64,
    },
    /// No backlog would: arrivals outran accepts to the end.
    Rate {
        /// Arrivals per second over the record.
        arrivals_per_second: f64,
        /// Accepts per second, as measured while the queue was not empty.
        accepts_per_second: f64,
        /// Accepts per second at which a queue of [`DECENT_BACKLOG`], or the present one if that is
        /// longer, would have lost nothing.
        needed_per_second: f64,
    },
}

/// A record made ready: arrivals and accepts, slot by slot without gaps.
#[derive(Clone, Debug)]
pub struct Replay {
    arrivals: Vec<u32>,
    /// Connections that could have been accepted in each slot.
    accepts: Vec<f64>,
    /// Accepts per slot while the queue was not empty.
    busy: f64,
}

impl Replay {
    /// Makes a record ready; none where it holds no arrival.
    pub fn of(flow: &Flow) -> Option<Self> {
        let (first, last) = (flow.slots.front()?.at, flow.slots.back()?.at);
        let length = usize::try_from(last - first).ok()? + 1;
        let mut arrivals = vec![0; length];
        for slot in &flow.slots {
            arrivals[(slot.at - first) as usize] += slot.enqueued - slot.again + slot.lost;
        }
        let spans = spans(flow);
        let busy = busy_rate(&spans);
        let mut accepts = vec![busy; length];
        for span in &spans {
            let measured = span.accepted / span.slots as f64;
            let could = if span.is_busy { measured } else { measured.max(busy) };
            accepts[span.from..span.from + span.slots].fill(could);
        }
        arrivals.iter().any(|count| *count > 0).then_some(Self { arrivals, accepts, busy })
    }

    /// Accepts per second while the queue was not empty.
    pub fn accepts_per_second(&self) -> f64 {
        self.busy * 1000.0 / SLOT_MS as f64
    }

    /// Replays with this backlog and rate. A queue holds one more than its limit (kernel:
    /// `sk_acceptq_is_full`). Whoever arrives in a slot does so at its begin.
    pub fn play(&self, backlog: u32, rate: Rate) -> Replayed {
        let room = u64::from(backlog) + 1;
        let mut waiting: VecDeque<(usize, u64)> = VecDeque::new();
        let mut outcome = Replayed::default();
        let (mut depth, mut credit, mut longest) = (0_u64, 0.0_f64, 0_usize);
        for slot in 0..self.arrivals.len() + AFTERMATH {
            let came = self.arrivals.get(slot).copied().map_or(0, u64::from);
            let entered = came.min(room - depth);
            outcome.arrived += came;
            outcome.lost += came - entered;
            depth += entered;
            outcome.deepest = outcome.deepest.max(depth);
            if entered > 0 {
                waiting.push_back((slot, entered));
            }
            credit += self.accepts_in(slot, rate);
            while credit >= 1.0 && depth > 0 {
                let Some((since, count)) = waiting.front_mut() else { break };
                let served = (credit as u64).min(*count);
                *count -= served;
                depth -= served;
                credit -= served as f64;
                longest = longest.max(slot - *since);
                if *count == 0 {
                    waiting.pop_front();
                }
            }
            if depth == 0 {
                // Who has nothing to accept saves nothing up.
                credit = credit.min(1.0);
            }
            if slot + 1 == self.arrivals.len() {
                outcome.left = depth;
            }
        }
        outcome.longest_wait_ms = (depth == 0).then_some(longest as u64 * SLOT_MS);
        outcome
    }

    fn accepts_in(&self, slot: usize, rate: Rate) -> f64 {
        let measured = self.accepts.get(slot).copied().unwrap_or(self.busy);
        match rate {
            Rate::Measured => measured,
            Rate::Times(factor) => measured * factor,
            Rate::PerSecond(rate) => rate * SLOT_MS as f64 / 1000.0,
        }
    }

    /// What would have helped a queue of `limit`.
    pub fn answer(&self, limit: u32) -> WhatIf {
        let endless = self.play(u32::MAX - 1, Rate::Measured);
        let seconds = self.arrivals.len() as f64 * SLOT_MS as f64 / 1000.0;
        // A queue that still grows, or has hardly begun to shrink, when the record ends.
        let grows = endless.left > u64::from(limit) + 1 && endless.left * 4 > endless.deepest * 3;
        match endless.longest_wait_ms.filter(|_| !grows) {
            Some(longest_wait_ms) => WhatIf::Backlog {
                backlog: u32::try_from(endless.deepest.saturating_sub(1)).unwrap_or(u32::MAX),
                longest_wait_ms,
                accepts_per_second: self.accepts_per_second(),
            },
            None => {
                let arrivals_per_second = endless.arrived as f64 / seconds.max(1.0);
                WhatIf::Rate {
                    arrivals_per_second,
                    accepts_per_second: self.accepts_per_second(),
                    needed_per_second: self.needed(limit, arrivals_per_second),
                }
            }
        }
    }

    /// The accept rate at which a queue as long as servers use today, or the present one if that is
    /// longer, would have lost nothing, to one in a thousand; and no less than came in all.
    fn needed(&self, limit: u32, arrivals_per_second: f64) -> f64 {
        let most = self.arrivals.iter().copied().max().unwrap_or(0);
        let backlog = limit.max(DECENT_BACKLOG);
        // In this, each slot's arrivals are gone before the next.
        let (mut low, mut high) = (0.0, f64::from(most) * 1000.0 / SLOT_MS as f64);
        while high - low > high / 1000.0 {
            let middle = f64::midpoint(low, high);
            if self.play(backlog, Rate::PerSecond(middle)).lost == 0 {
                high = middle;
            } else {
                low = middle;
            }
            if high < arrivals_per_second {
                break;
            }
        }
        high.max(arrivals_per_second)
    }
}

/// A stretch between two instants at which the queue's depth is known.
struct Span {
    from: usize,
    slots: usize,
    accepted: f64,
    /// Whether the queue held connections all the time.
    is_busy: bool,
}

/// Accepts per slot while the queue held connections; where it never did at two looks in a row, the
/// fastest that was seen, which is the least that is possible.
fn busy_rate(spans: &[Span]) -> f64 {
    let (accepted, slots) = spans
        .iter()
        .filter(|span| span.is_busy)
        .fold((0.0, 0), |sum, span| (sum.0 + span.accepted, sum.1 + span.slots));
    if slots > 0 {
        return accepted / slots as f64;
    }
    spans.iter().map(|span| span.accepted / span.slots as f64).fold(0.0, f64::max)
}

/// What was accepted follows from what entered and what was left.
fn spans(flow: &Flow) -> Vec<Span> {
    let Some(first) = flow.slots.front().map(|slot| slot.at) else { return Vec::new() };
    let pairs = flow.slots.iter().zip(flow.slots.iter().skip(1));
    pairs
        .map(|(before, slot)| Span {
            from: (before.at - first) as usize + 1,
            slots: (slot.at - before.at) as usize,
            accepted: f64::from((before.depth + slot.enqueued).saturating_sub(slot.depth)),
            is_busy: before.depth > 0 && slot.depth > slot.enqueued,
        })
        .collect()
}

#[cfg(test)]
mod tests;
