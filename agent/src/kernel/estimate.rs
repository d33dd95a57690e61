//! The lower rung's attribution. The namespace's MIBs say how many, `SK_MEMINFO_DROPS` says which
//! listener; this puts the two together.
//!
//! A listener's `sk_drops` grows by one for each `tcp_listendrop`, and by one more for each segment
//! that `tcp_v4_rcv` or `tcp_v6_rcv` discards for it, so that a dropped final ACK counts twice and
//! a dropped SYN once. It tells shares, not numbers: the numbers are the MIBs'.

use super::{
    class::{Class, meaning_of},
    mib::Counter,
    sample::{Attribution, ListenerId, Tally},
};

/// A listener whose `SK_MEMINFO_DROPS` was looked at before and after an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// Whose counter.
    pub listener: ListenerId,
    /// Its growth.
    pub drops: u32,
    /// The part of it that goes to what programs saw in the interval; see [`moved_by`].
    pub explained: u64,
}

/// What is to be shared out in one namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remainder {
    /// Growth of ListenOverflows that nobody has been given yet.
    pub overflows: u64,
    /// Growth of ListenDrops that nobody has been given yet; never less than `overflows`.
    pub drops: u64,
    /// What of it is no overflow and is also in the growth of TCPReqQFullDrop.
    pub syn_queue_full: u64,
}

/// By how much `sk_drops` of a listener grew for what programs saw there: two for each segment for a
/// pending request, one for anything else.
pub fn moved_by(tally: &Tally) -> u64 {
    let by = |class| if meaning_of(class).stage == "ack" { 2 } else { 1 };
    let drops = tally
        .counts()
        .filter(|(class, _)| meaning_of(*class).counters.contains(&Counter::ListenDrops));
    drops.map(|(class, count)| by(class) * count).sum()
}

/// A listener's share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The listener that gets the share.
    pub listener: ListenerId,
    /// Its part of the remainder.
    pub tally: Tally,
    /// `Exclusive` if it is the only suspect, otherwise `Proportional`.
    pub attribution: Attribution,
}

/// Shares the remainder out among the suspects. The shares add up to the remainder exactly; where
/// no suspect's counter moved (its socket closed meanwhile) nothing is shared and it stays
/// unattributed.
pub fn share(remainder: &Remainder, suspects: &[Suspect]) -> Vec<Share> {
    let mut weights: Vec<(ListenerId, u64)> = suspects
        .iter()
        .map(|suspect| {
            (suspect.listener, u64::from(suspect.drops).saturating_sub(suspect.explained))
        })
        .filter(|(_, weight)| *weight > 0)
        .collect();
    weights.sort_unstable();
    let attribution = match weights.len() {
        0 => return Vec::new(),
        1 => Attribution::Exclusive,
        _ => Attribution::Proportional,
    };
    let overflows = apportion(remainder.overflows, &weights);
    let others = remainder.drops.saturating_sub(remainder.overflows);
    let syn_queue_full = remainder.syn_queue_full.min(others);
    let others = apportion(others - syn_queue_full, &weights);
    let syn_queue_full = apportion(syn_queue_full, &weights);
    weights
        .iter()
        .zip(overflows.into_iter().zip(syn_queue_full).zip(others))
        .map(|((listener, _), ((overflows, syn_queue_full), others))| Share {
            listener: *listener,
            tally: Tally::of(&[
                (Class::UnstagedAcceptQueueFull, overflows),
                (Class::SynQueueFull, syn_queue_full),
                (Class::UnstagedOther, others),
            ]),
            attribution,
        })
        .filter(|share| !share.tally.is_empty())
        .collect()
}

/// Largest-remainder method: whole numbers in proportion to the weights that add up to `total`.
fn apportion(total: u64, weights: &[(ListenerId, u64)]) -> Vec<u64> {
    let sum: u128 = weights.iter().map(|(_, weight)| u128::from(*weight)).sum();
    let exact = |weight: u64| u128::from(total) * u128::from(weight);
    let mut shares: Vec<u64> =
        weights.iter().map(|(_, weight)| (exact(*weight) / sum) as u64).collect();
    let missing = total - shares.iter().sum::<u64>();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(exact(weights[*i].1) % sum));
    for i in order.into_iter().take(missing as usize) {
        shares[i] += 1;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::NetnsId;

    fn suspect(port: u16, drops: u32, explained: u64) -> Suspect {
        let addr = ([10, 0, 0, 1], port).into();
        let listener = ListenerId { netns: NetnsId(1), addr, inode: u32::from(port) };
        Suspect { listener, drops, explained }
    }

    fn sums(shares: &[Share]) -> (u64, u64) {
        let total = |part: fn(&Tally) -> u64| shares.iter().map(|s| part(&s.tally)).sum();
        (total(Tally::overflows), total(Tally::drops))
    }

    #[test]
    fn a_single_dropping_listener_gets_everything() {
        let remainder = Remainder { overflows: 40, drops: 47, syn_queue_full: 2 };
        let shares = share(&remainder, &[suspect(80, 61, 0), suspect(81, 0, 0)]);
        assert_eq!(shares.len(), 1);
        assert_eq!(shares[0].attribution, Attribution::Exclusive);
        assert_eq!(shares[0].listener.addr.port(), 80);
        let tally = &shares[0].tally;
        let [overflows, full, others] =
            [Class::UnstagedAcceptQueueFull, Class::SynQueueFull, Class::UnstagedOther]
                .map(|class| tally[class]);
        assert_eq!((overflows, full, others), (40, 2, 5));
    }

    #[test]
    fn several_share_in_proportion() {
        let remainder = Remainder { overflows: 10, drops: 10, ..Remainder::default() };
        let shares = share(&remainder, &[suspect(80, 30, 0), suspect(81, 10, 0)]);
        assert!(shares.iter().all(|share| share.attribution == Attribution::Proportional));
        let of = |port| shares.iter().find(|s| s.listener.addr.port() == port).unwrap().tally;
        // 7.5 and 2.5: one of them gets the half.
        assert_eq!(of(80).overflows() + of(81).overflows(), 10);
        assert!((7..=8).contains(&of(80).overflows()));
    }

    #[test]
    fn final_acks_already_seen_do_not_count_again() {
        let remainder = Remainder { overflows: 4, drops: 4, ..Remainder::default() };
        // 81 moved by 20, all of it for ten final ACKs that are known.
        let shares = share(&remainder, &[suspect(80, 4, 0), suspect(81, 20, 20)]);
        assert_eq!(shares.len(), 1);
        assert_eq!(shares[0].listener.addr.port(), 80);
        assert_eq!(shares[0].attribution, Attribution::Exclusive);
    }

    #[test]
    fn a_final_ack_moves_the_drop_counter_by_two() {
        let tally = Tally::of(&[
            (Class::SynAcceptQueueFull, 3),
            (Class::AckAcceptQueueFull, 4),
            (Class::RetransmitSilence, 9),
        ]);
        assert_eq!(moved_by(&tally), 3 + 2 * 4);
    }

    #[test]
    fn nothing_is_invented() {
        let remainder = Remainder { overflows: 7, drops: 9, syn_queue_full: 1 };
        assert!(share(&remainder, &[]).is_empty());
        assert!(share(&remainder, &[suspect(80, 0, 0)]).is_empty());
        assert!(share(&Remainder::default(), &[suspect(80, 5, 0)]).is_empty());
    }

    /// Whatever the weights: the shares add up to the remainder, each lies within one of its exact
    /// proportion, nobody without growth of his own gets any, and the order of suspects is nothing.
    #[test]
    fn shares_always_add_up_and_are_fair() {
        let mut seed = 12345_u64;
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        for _ in 0..2000 {
            let mut suspects: Vec<Suspect> = (0..1 + random(9))
                .map(|i| {
                    let drops = random(5) * random(100_000);
                    suspect(i as u16 + 1, drops as u32, random(2) * random(60_000))
                })
                .collect();
            let overflows = random(3) * random(500_000);
            let remainder = Remainder {
                overflows,
                drops: overflows + random(1000),
                syn_queue_full: random(1000),
            };
            let shares = share(&remainder, &suspects);
            let weight =
                |suspect: &Suspect| u64::from(suspect.drops).saturating_sub(suspect.explained);
            let sum: u64 = suspects.iter().map(weight).sum();
            let whole = if sum == 0 { (0, 0) } else { (remainder.overflows, remainder.drops) };
            assert_eq!(sums(&shares), whole, "{remainder:?} {suspects:?}");
            for suspect in &suspects {
                let mut own = shares.iter().filter(|share| share.listener == suspect.listener);
                let given = own.next().map_or(0, |share| share.tally.overflows());
                assert!(own.next().is_none(), "one share each");
                let exact = remainder.overflows as f64 * weight(suspect) as f64 / sum.max(1) as f64;
                assert!((given as f64 - exact).abs() < 1.0, "{given} of {exact}: {suspects:?}");
            }
            suspects.reverse();
            assert_eq!(share(&remainder, &suspects), shares);
        }
    }
}
