//! Unix connects that were refused, brought to the listener whose queue was full, or to the path at
//! which nobody listened.

use std::{cmp::Reverse, collections::HashMap};

use serde::{Deserialize, Serialize};

use super::Inventory;
use crate::kernel::{NetnsId, watch::UnixRefused};

/// A path at which connects found nobody who listens: ECONNREFUSED, which is what a client gets from
/// the socket file that a server left behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesertedPath {
    /// The clients' namespace.
    pub netns: NetnsId,
    /// The namespace's name.
    pub netns_name: String,
    /// The path as the clients gave it; an abstract name begins with `@`.
    pub path: String,
    /// Connects refused since start.
    pub refused: u64,
}

impl Inventory {
    /// Takes in the Unix connects refused since start. A full queue's path counts for the listener of
    /// that name in the client's own namespace, or else for the only one there is.
    pub fn heard_of_unix_refusals(&mut self, refusals: &[UnixRefused]) {
        let mut by_path: HashMap<String, Vec<(NetnsId, u32)>> = HashMap::new();
        for (key, unix) in &mut self.unix_listeners {
            unix.refused = Some(0);
            by_path.entry(unix.path.clone()).or_default().push(*key);
        }
        for refusal in refusals.iter().filter(|refusal| refusal.errno == libc::EAGAIN) {
            let Some(keys) = by_path.get(&refusal.path) else { continue };
            let own = keys.iter().find(|(netns, _)| *netns == refusal.netns);
            let key = own.or_else(|| keys.first().filter(|_| keys.len() == 1));
            if let Some(unix) = key.and_then(|key| self.unix_listeners.get_mut(key)) {
                unix.refused = Some(unix.refused.unwrap_or(0) + refusal.count);
            }
        }
        let nobody = refusals.iter().filter(|refusal| refusal.errno == libc::ECONNREFUSED);
        self.deserted = nobody.filter_map(|refusal| self.deserted_by(refusal)).collect();
        self.deserted
            .sort_by_cached_key(|path| (Reverse(path.refused), path.netns, path.path.clone()));
    }

    /// None in a namespace that is not to be seen: it is the canary's, or has gone.
    fn deserted_by(&self, refusal: &UnixRefused) -> Option<DesertedPath> {
        Some(DesertedPath {
            netns: refusal.netns,
            netns_name: self.namespaces.get(&refusal.netns)?.name.clone(),
            path: refusal.path.clone(),
            refused: refusal.count,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        inventory::{Namespace, Owners, UnixListener},
        kernel::QueueDepth,
    };

    fn refused(netns: u64, errno: i32, path: &str, count: u64) -> UnixRefused {
        UnixRefused { netns: NetnsId(netns), errno, path: path.to_owned(), count }
    }

    #[test]
    fn a_refusal_counts_for_the_clients_own_namespace_first() {
        let mut inventory = Inventory::default();
        for (netns, inode, path) in [(1, 7, "/run/app"), (2, 8, "/run/app"), (2, 9, "/run/b")] {
            let unix = UnixListener {
                netns: NetnsId(netns),
                netns_name: String::new(),
                path: path.to_owned(),
                inode,
                queue: QueueDepth::default(),
                refused: None,
                owners: Owners::default(),
            };
            inventory.unix_listeners.insert((NetnsId(netns), inode), unix);
        }
        inventory.heard_of_unix_refusals(&[
            refused(2, libc::EAGAIN, "/run/app", 4),
            refused(3, libc::EAGAIN, "/run/app", 100),
            refused(3, libc::EAGAIN, "/run/b", 2),
            refused(1, libc::ECONNREFUSED, "/run/app", 1000),
        ]);
        let counts: Vec<_> = inventory.unix_listeners().map(|unix| unix.refused).collect();
        assert_eq!(counts, [Some(0), Some(4), Some(2)]);
    }

    #[test]
    fn where_nobody_listens_the_path_counts_and_the_busiest_comes_first() {
        let mut inventory = Inventory::default();
        let app = Namespace { name: "app".to_owned(), ..Namespace::default() };
        inventory.namespaces.insert(NetnsId(1), app);
        inventory.heard_of_unix_refusals(&[
            refused(1, libc::ECONNREFUSED, "/run/a", 3),
            refused(1, libc::ECONNREFUSED, "/run/b", 9),
            refused(1, libc::EAGAIN, "/run/c", 100),
            refused(2, libc::ECONNREFUSED, "@floodmark-canary", 1),
        ]);
        let told = |most| {
            let view = inventory.view(most, Vec::new());
            let paths = view.deserted.into_iter().map(|path| (path.netns_name, path.path));
            (paths.collect::<Vec<_>>(), view.deserted_left_out)
        };
        let path = |path: &str| ("app".to_owned(), path.to_owned());
        assert_eq!(told(9), (vec![path("/run/b"), path("/run/a")], 0));
        assert_eq!(told(1), (vec![path("/run/b")], 1));
    }
}
