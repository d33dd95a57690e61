//! Takes out of a recording who the clients are and what they asked for.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use super::{entry::Entry, state::StateChanges};
use crate::{
    stall::{Activity, StallSample, Target, Wait},
    verdict::Heard,
};

/// Pseudonyms of IPv4 clients count up from here: reserved (RFC 1112), so never a real one's.
const FIRST_V4: u32 = 0xf000_0000;
/// Pseudonyms of IPv6 clients count up from here: the discard prefix (RFC 6666).
const FIRST_V6: u128 = 0x0100_u128 << 112;
/// Clients told apart; all the others share a pseudonym.
const MOST_CLIENTS: u32 = 1 << 20;

/// Gives every client of a recording one and the same pseudonym wherever it appears, so that
/// connections are still joined with what the proxies say of them. Which client it was cannot be
/// found out from it: pseudonyms are numbered in order of appearance.
#[derive(Debug, Default)]
pub struct Redactor {
    pseudonyms: HashMap<IpAddr, u32>,
}

impl Redactor {
    /// Replaces client addresses by pseudonyms in place, and removes log lines.
    pub fn redact(&mut self, entry: &mut Entry) {
        match entry {
            Entry::Whole(changes) => self.redact_state(changes),
            Entry::Tick(tick) => {
                self.redact_state(&mut tick.changes);
                tick.stalls.iter_mut().for_each(redact_stall);
                tick.events.peers.iter_mut().for_each(|peer| *peer = self.pseudonym(*peer));
                let heard = tick.heard_before.iter_mut().chain(&mut tick.heard);
                heard.for_each(|heard| self.redact_heard(heard));
                for verdict in &mut tick.verdicts {
                    self.redact_own_end(&mut verdict.event.local_addr);
                }
            }
        }
    }

    fn redact_heard(&mut self, heard: &mut Heard) {
        heard.line = None;
        self.redact_own_end(&mut heard.event.local_addr);
    }

    /// The proxy's own end of a connection is a client of the upstream's.
    fn redact_own_end(&mut self, local: &mut Option<SocketAddr>) {
        if let Some(local) = local {
            local.set_ip(self.pseudonym(local.ip()));
        }
    }

    fn redact_state(&mut self, changes: &mut StateChanges) {
        // What this host connects to is a server, and tells nothing of a client.
        let clients = changes.peers.iter_mut().flatten().filter(|peer| peer.is_local);
        for client in clients {
            if let Ok(addr) = client.peer.parse() {
                client.peer = self.pseudonym(addr).to_string();
            }
        }
    }

    fn pseudonym(&mut self, addr: IpAddr) -> IpAddr {
        let addr = addr.to_canonical();
        if addr.is_unspecified() {
            // Stands for an address that is not known.
            return addr;
        }
        let next = self.pseudonyms.len() as u32;
        let number = match self.pseudonyms.get(&addr) {
            Some(number) => *number,
            None if next < MOST_CLIENTS => *self.pseudonyms.entry(addr).or_insert(next),
            None => MOST_CLIENTS,
        };
        match addr {
            IpAddr::V4(_) => Ipv4Addr::from(FIRST_V4 + number).into(),
            IpAddr::V6(_) => Ipv6Addr::from(FIRST_V6 + u128::from(number)).into(),
        }
    }
}

/// A file's name may tell of a client. Servers that a thread waits for do not, and of clients no address is
/// kept there.
fn redact_stall(sample: &mut StallSample) {
    let threads = sample.evidence.processes.iter_mut().flat_map(|process| &mut process.threads);
    for (activity, _) in threads.flat_map(|thread| &mut thread.activities) {
        if let Activity::Waiting(Wait { target: target @ Target::File(_), .. }) = activity {
            *target = Target::Unknown;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_one_pseudonym_and_no_two_share_one() {
        let mut redactor = Redactor::default();
        let mut of = |addr: &str| redactor.pseudonym(addr.parse().unwrap()).to_string();
        assert_eq!(of("192.0.2.1"), "240.0.0.0");
        assert_eq!(of("::ffff:192.0.2.1"), "240.0.0.0");
        assert_eq!(of("2001:db8::1"), "100::1");
        assert_eq!(of("192.0.2.2"), "240.0.0.2");
        assert_eq!(of("0.0.0.0"), "0.0.0.0");
    }
}
