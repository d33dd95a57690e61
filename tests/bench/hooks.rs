//! Which of the agent's hooks a program in the kernel belongs to.

use std::collections::BTreeSet;

use floodmark::kernel::{Hook, LADDER, Signal};

/// The kernel keeps so many bytes of a program's name (`BPF_OBJ_NAME_LEN`, with its final zero).
const NAME_LENGTH: usize = 15;

/// Every hook of the agent with the signal it is for; once, although several ways may share it.
pub fn all() -> impl Iterator<Item = (Signal, &'static Hook)> {
    let mut seen = BTreeSet::new();
    let hooks = LADDER.iter().flat_map(|(signal, ways)| {
        let hooks = ways.iter().flat_map(|way| way.hooks.iter().chain(way.extras));
        hooks.map(|hook| (*signal, hook))
    });
    hooks.filter(move |(_, hook)| seen.insert((hook.program, hook.target)))
}

/// The hook of the program that the kernel calls `name`.
pub fn of_program(name: &str) -> Option<&'static Hook> {
    all().map(|(_, hook)| hook).find(|hook| kept(hook.program) == name)
}

/// The hook of the program that the agent calls `name`.
pub fn of_label(name: &str) -> Option<&'static Hook> {
    all().map(|(_, hook)| hook).find(|hook| hook.program == name)
}

fn kept(name: &str) -> &str {
    name.get(..NAME_LENGTH).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cut_short_is_found() {
        assert_eq!(of_program("segment_retrans").unwrap().target, "tcp_retransmit_skb");
        assert_eq!(of_program("syn_left").unwrap().program, "syn_left");
        assert!(of_program("sd_devices").is_none());
    }
}
