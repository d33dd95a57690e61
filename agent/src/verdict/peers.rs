//! Which clients lose most at a listener, in bounded memory: under a flood from a million sources
//! the many are counted together and the few that come again stay apart.

use std::{cmp::Reverse, collections::HashMap, net::IpAddr};

/// Clients counted apart at a listener, at most.
const KEPT: usize = 256;

/// Losses by client.
#[derive(Debug, Default)]
pub struct Peers {
    counts: HashMap<IpAddr, u64>,
}

impl Peers {
    /// One more of `peer`.
    pub fn count(&mut self, peer: IpAddr) {
        *self.counts.entry(peer).or_default() += 1;
        if self.counts.len() > KEPT {
            self.fold();
        }
    }

    /// The `most` that lost most.
    pub fn top(&self, most: usize) -> Vec<(IpAddr, u64)> {
        let mut peers = self.sorted();
        peers.truncate(most);
        peers
    }

    /// Keeps the busier half. Its cost is spread over the losses that fill the other half again.
    fn fold(&mut self) {
        for (peer, _) in self.sorted().iter().skip(KEPT / 2) {
            self.counts.remove(peer);
        }
    }

    fn sorted(&self) -> Vec<(IpAddr, u64)> {
        let mut peers: Vec<_> = self.counts.iter().map(|(peer, count)| (*peer, *count)).collect();
        peers.sort_unstable_by_key(|(peer, count)| (Reverse(*count), *peer));
        peers
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_flood_does_not_hide_who_comes_again() {
        let regular = IpAddr::from(Ipv4Addr::new(192, 0, 2, 1));
        let mut peers = Peers::default();
        for number in 0..100_000_u32 {
            peers.count(IpAddr::from(Ipv4Addr::from(0x0a00_0000 + number)));
            if number % 100 == 0 {
                peers.count(regular);
            }
        }
        assert!(peers.counts.len() <= KEPT);
        let top = peers.top(5);
        // It comes once in a hundred losses, and may be folded before its second.
        assert!(top[0].0 == regular && top[0].1 > 990, "{top:?}");
    }
}
