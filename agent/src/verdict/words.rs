//! What a listener lost, in words.

use crate::kernel::{Class, Tally};

/// "dropped 12 SYNs and 3 final ACKs, accept queue full".
pub fn in_words(tally: &Tally) -> String {
    let parts = [
        (tally[Class::SynAcceptQueueFull], "SYN", ""),
        (final_acks(tally), "final ACK", ""),
        (tally[Class::CookieAcceptQueueFull], "ACK", " with a SYN cookie"),
        (tally[Class::FastOpenQueueFull], "Fast Open request", ""),
        (tally[Class::UnstagedAcceptQueueFull], "handshake segment", ""),
    ];
    let mut clauses = Vec::new();
    if tally.overflows() > 0 {
        clauses.push(format!("dropped {}, accept queue full", enumerate(&parts)));
    }
    if tally[Class::SynQueueFull] > 0 {
        let parts = [(tally[Class::SynQueueFull], "SYN", "")];
        clauses.push(format!("dropped {}, SYN queue full", enumerate(&parts)));
    }
    let rest = tally.drops() - tally.overflows() - tally[Class::SynQueueFull];
    if rest > 0 {
        let parts = [(rest, "handshake segment", "")];
        clauses.push(format!("dropped {} for another reason", enumerate(&parts)));
    }
    if tally.synack_retransmits() > 0 {
        let own = match tally[Class::RetransmitOwnDrop] {
            0 => String::new(),
            count => format!(", {count} of them because it dropped the final ACK itself"),
        };
        let again = plural(tally.synack_retransmits(), "SYN/ACK", "");
        clauses.push(format!("retransmitted {again}{own}"));
    }
    let expired = tally[Class::ExpiredOwnDrop]
        + tally[Class::ExpiredSilence]
        + tally[Class::ExpiredPruned]
        + tally[Class::ExpiredListenerClosed];
    if expired > 0 {
        clauses.push(format!("let {} expire", plural(expired, "pending request", "")));
    }
    format!("the listener {}", clauses.join("; "))
}

/// Final ACKs dropped, however that ended.
pub(super) fn final_acks(tally: &Tally) -> u64 {
    tally[Class::AckAcceptQueueFull] + tally[Class::AckAcceptQueueFullReset]
}

fn enumerate(parts: &[(u64, &str, &str)]) -> String {
    let named: Vec<String> = parts
        .iter()
        .filter(|(count, ..)| *count > 0)
        .map(|(count, noun, tail)| plural(*count, noun, tail))
        .collect();
    match named.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => String::new(),
    }
}

fn plural(count: u64, noun: &str, tail: &str) -> String {
    format!("{count} {noun}{}{tail}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn syns_and(others: &[(Class, u64)]) -> Tally {
        let mut tally = Tally::of(&[(Class::SynAcceptQueueFull, 3)]);
        tally += Tally::of(others);
        tally
    }

    #[test]
    fn says_why_a_synack_was_sent_again() {
        let tally = Tally::of(&[
            (Class::AckAcceptQueueFull, 4),
            (Class::RetransmitOwnDrop, 2),
            (Class::RetransmitSilence, 1),
            (Class::ExpiredSilence, 1),
        ]);
        assert_eq!(
            in_words(&tally),
            "the listener dropped 4 final ACKs, accept queue full; retransmitted 3 SYN/ACKs, 2 of \
             them because it dropped the final ACK itself; let 1 pending request expire"
        );
    }

    #[test]
    fn says_what_was_dropped() {
        let tally = syns_and(&[
            (Class::AckAcceptQueueFull, 1),
            (Class::SynQueueFull, 4),
            (Class::SynOther, 1),
        ]);
        assert_eq!(
            in_words(&tally),
            "the listener dropped 3 SYNs and 1 final ACK, accept queue full; dropped 4 SYNs, SYN \
             queue full; dropped 1 handshake segment for another reason"
        );
    }
}
