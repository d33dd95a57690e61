//! How much of what any user can create the inventory keeps: listeners and namespaces.
//!
//! Listeners in trouble come before quiet ones. Where there are too many of either, each namespace
//! has an equal share, so that one that is crowded does not displace the others' listeners; within a
//! namespace the oldest stay, so that new ones do not displace those that are known.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{owners::share, view::Trouble};
use crate::kernel::{netns::Netns, sock_diag::ListenSocket, unix_diag::UnixListenSocket};

/// How much the inventory keeps at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Listeners of either kind, TCP and Unix.
    pub listeners: usize,
    /// Network namespaces looked into.
    pub namespaces: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { listeners: 4_000, namespaces: 500 }
    }
}

/// What there is on the host beyond the limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// TCP listeners.
    pub listeners: usize,
    /// Unix listeners, counted against the same limit separately.
    pub unix_listeners: usize,
    /// Network namespaces, with whatever listens there.
    pub namespaces: usize,
}

impl LeftOut {
    /// Whether nothing is left out.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listeners, unix_listeners, namespaces } = self;
        write!(
            f,
            "beyond the limits of the inventory, and not shown: {listeners} TCP and \
             {unix_listeners} Unix listeners (quiet ones first), and {namespaces} network \
             namespaces"
        )
    }
}

/// A listening socket as it is chosen from among others.
pub(super) trait Choice {
    /// How much trouble it is in.
    fn trouble(&self) -> Trouble;
    /// What it lost, and its age: smaller is older.
    fn weight(&self) -> (u32, u64);
}

impl Choice for ListenSocket {
    fn trouble(&self) -> Trouble {
        Trouble::of(self.queue.occupancy(), self.queue.is_full(), self.drops > 0)
    }

    /// Cookies are given in ascending order.
    fn weight(&self) -> (u32, u64) {
        (self.drops, self.cookie)
    }
}

impl Choice for UnixListenSocket {
    fn trouble(&self) -> Trouble {
        Trouble::of(self.queue.occupancy(), self.queue.is_full(), false)
    }

    fn weight(&self) -> (u32, u64) {
        (0, u64::from(self.inode))
    }
}

/// The worst first, then the oldest.
fn sort(sockets: &mut [impl Choice]) {
    sockets.sort_by_cached_key(|socket| {
        let (lost, age) = socket.weight();
        (std::cmp::Reverse((socket.trouble(), lost)), age)
    });
}

/// Sockets of one namespace, as many as may be kept of all.
#[derive(Debug)]
pub(super) struct Chosen<S> {
    /// Those that are kept.
    pub sockets: Vec<S>,
    /// How many are not.
    pub left_out: usize,
    most: usize,
}

impl<S: Choice> Chosen<S> {
    pub(super) fn at_most(most: usize) -> Self {
        Self { sockets: Vec::new(), left_out: 0, most }
    }

    /// Adds one. Never are more than twice as many in memory as may be kept.
    pub(super) fn add(&mut self, socket: S) {
        self.sockets.push(socket);
        if self.sockets.len() > self.most.saturating_mul(2) {
            self.keep(self.most);
        }
    }

    fn keep(&mut self, most: usize) {
        if self.sockets.len() > most {
            sort(&mut self.sockets);
            self.left_out += self.sockets.len() - most;
            self.sockets.truncate(most);
            self.sockets.shrink_to_fit();
        }
    }
}

/// Leaves at most `most` of all namespaces' sockets; tells how many are left out.
pub(super) fn leave<S: Choice>(all: &mut [&mut Chosen<S>], most: usize) -> usize {
    let in_trouble = |chosen: &Chosen<S>| {
        chosen.sockets.iter().filter(|socket| socket.trouble() > Trouble::None).count()
    };
    let troubled: Vec<usize> = all.iter().map(|chosen| in_trouble(chosen)).collect();
    let worst = share(troubled.iter().copied(), most);
    let kept: usize = troubled.iter().map(|count| *count.min(&worst)).sum();
    let room = if worst == usize::MAX { most - kept } else { 0 };
    let quiet = all.iter().zip(&troubled).map(|(chosen, troubled)| chosen.sockets.len() - troubled);
    let rest = share(quiet, room);
    for (chosen, troubled) in all.iter_mut().zip(troubled) {
        chosen.keep(troubled.min(worst).saturating_add(rest));
    }
    all.iter().map(|chosen| chosen.left_out).sum()
}

/// Leaves at most `most` namespaces, those first that are `known`, then those that somebody named;
/// tells how many are left out.
pub(super) fn leave_namespaces(
    namespaces: &mut Vec<Netns>,
    most: usize,
    is_known: impl Fn(&Netns) -> bool,
) -> usize {
    let left_out = namespaces.len().saturating_sub(most);
    if left_out > 0 {
        namespaces.sort_by_cached_key(|netns| (!is_known(netns), !netns.is_named(), netns.id));
        namespaces.truncate(most);
        namespaces.sort_by_key(|netns| netns.id);
    }
    left_out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{NetnsId, QueueDepth};

    fn socket(cookie: u64, drops: u32) -> ListenSocket {
        ListenSocket {
            addr: "10.0.0.1:80".parse().unwrap(),
            inode: 1,
            cookie,
            queue: QueueDepth { len: 0, limit: 9 },
            drops,
            v6_only: false,
        }
    }

    /// One namespace with so many quiet listeners and so many that dropped; these are the youngest.
    fn namespace(quiet: u64, troubled: u64, most: usize) -> Chosen<ListenSocket> {
        let mut chosen = Chosen::at_most(most);
        (0..quiet + troubled).for_each(|n| chosen.add(socket(n, u32::from(n >= quiet))));
        chosen
    }

    /// How many of each namespace are kept: in trouble, quiet; and how many are left out.
    fn kept(namespaces: &[(u64, u64)], most: usize) -> (Vec<(usize, usize)>, usize) {
        let of = |(quiet, troubled): &(u64, u64)| namespace(*quiet, *troubled, most);
        let mut all: Vec<_> = namespaces.iter().map(of).collect();
        let left_out = leave(&mut all.iter_mut().collect::<Vec<_>>(), most);
        let count = |chosen: &Chosen<ListenSocket>| {
            let troubled = chosen.sockets.iter().filter(|socket| socket.drops > 0).count();
            (troubled, chosen.sockets.len() - troubled)
        };
        (all.iter().map(count).collect(), left_out)
    }

    #[test]
    fn within_the_limit_everything_is_kept() {
        assert_eq!(kept(&[(5, 1), (0, 4)], 10), (vec![(1, 5), (4, 0)], 0));
    }

    #[test]
    fn a_crowd_displaces_neither_trouble_nor_the_quiet_of_others() {
        assert_eq!(kept(&[(4000, 1), (5, 0), (0, 2)], 100), (vec![(1, 92), (0, 5), (2, 0)], 3908));
        assert_eq!(kept(&[(4000, 4000), (5, 3)], 100), (vec![(97, 0), (3, 0)], 7908));
    }

    #[test]
    fn the_oldest_of_the_quiet_stay() {
        let mut crowd = namespace(1000, 0, 10);
        leave(&mut [&mut crowd], 10);
        let cookies: Vec<u64> = crowd.sockets.iter().map(|socket| socket.cookie).collect();
        assert_eq!(cookies, (0..10).collect::<Vec<_>>());
        assert_eq!(crowd.left_out, 990);
    }

    #[test]
    fn known_namespaces_stay_and_then_named_ones() {
        let netns = |id: u64, entrance: &str| Netns::by(NetnsId(id), entrance);
        let mut all = vec![
            netns(1, "/proc/9/ns/net"),
            netns(2, "/proc/10/ns/net"),
            netns(3, "/run/netns/app"),
            netns(4, "/proc/11/ns/net"),
        ];
        let left_out = leave_namespaces(&mut all, 2, |netns| netns.id == NetnsId(2));
        let ids: Vec<u64> = all.iter().map(|netns| netns.id.0).collect();
        assert_eq!((ids, left_out), (vec![2, 3], 2));
    }
}
