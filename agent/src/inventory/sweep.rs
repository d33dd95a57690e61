//! The sweep: every namespace's listeners, their settings and their owners.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    mem,
};

use anyhow::Result;
use log::{info, warn};

use super::{
    Backlog, Found, Inventory, LeftOut, Limits, Listener, Namespace, OwnerSearch, Sweep,
    UnixListener, sight::Sight,
};
use crate::kernel::{
    ListenerId, NetnsId, netns::Netns, sock_diag::ListenSocket, unix_diag::UnixListenSocket,
};

impl Inventory {
    /// Looks into every one of `namespaces`, and up the owners of new sockets or of all, `anew`. Takes
    /// its time: for other work meanwhile, [`enter`](Self::enter) a [`Sweep`] of another thread.
    ///
    /// # Errors
    ///
    /// When the namespaces cannot be visited at all; what was known before stays.
    pub fn sweep(&mut self, namespaces: &[Netns], anew: bool) -> Result<()> {
        self.enter(Sweep::of(namespaces, Limits::default())?);
        let inodes = self.ownerless(anew);
        OwnerSearch::default().search(&inodes, anew, |found| self.enter_owners(&inodes, &found));
        Ok(())
    }

    /// Takes in what a sweep saw, in place of what was known before.
    ///
    /// A namespace that went away meanwhile is left out. Where the kernel does not list listeners,
    /// that is logged once for each namespace.
    pub fn enter(&mut self, sweep: Sweep) {
        let before = mem::take(&mut self.listeners);
        let unix_before = mem::take(&mut self.unix_listeners);
        let silent = mem::take(&mut self.unlisted);
        self.addresses.clear();
        self.namespaces.clear();
        for (netns, sight) in sweep.sights {
            let Sight { sockets, unix_sockets, settings, time_wait, addresses } = sight;
            match sockets {
                Ok(chosen) => self.enter_tcp(&netns, &chosen.sockets, settings.somaxconn, &before),
                Err(error) => self.say_unlisted(&netns, "TCP", &silent, &error),
            }
            match unix_sockets {
                Ok(chosen) => self.enter_unix(&netns, chosen.sockets, &unix_before),
                Err(error) => self.say_unlisted(&netns, "Unix", &silent, &error),
            }
            self.addresses.insert(netns.id, addresses);
            let entrance = netns.entrance();
            let namespace = Namespace { name: netns.name, settings, time_wait, entrance };
            self.namespaces.insert(netns.id, namespace);
        }
        self.count_groups();
        self.name_socket_units();
        self.leave_out(sweep.left_out);
    }

    /// Says once when there is more than the limits allow.
    fn leave_out(&mut self, left_out: LeftOut) {
        if self.left_out.is_nothing() && !left_out.is_nothing() && !self.has_said_left_out {
            self.has_said_left_out = true;
            warn!(
                "{left_out}. Raise inventory-listeners or inventory-netns to keep more; \
                 floodmark_inventory_left_out counts them"
            );
        }
        self.left_out = left_out;
    }

    fn enter_tcp(
        &mut self,
        netns: &Netns,
        sockets: &[ListenSocket],
        somaxconn: Option<u32>,
        before: &BTreeMap<ListenerId, Listener>,
    ) {
        for socket in sockets {
            let id = socket.id(netns.id);
            let call = self.listen_calls.get(&(netns.id, socket.inode));
            let mut listener = Listener {
                cookie: socket.cookie,
                drops: socket.drops,
                somaxconn,
                backlog: Backlog::of(socket.queue.limit, call, somaxconn),
                v6_only: socket.v6_only,
                ..Listener::unknown(id, socket.queue, Some(netns.name.clone()))
            };
            // The inode of a socket that has closed may come again; its cookie never does.
            if let Some(known) = before.get(&id).filter(|known| known.cookie == socket.cookie) {
                listener.carry_on(known);
            } else {
                self.fresh.insert(socket.inode);
            }
            self.listeners.insert(id, listener);
        }
    }

    fn enter_unix(
        &mut self,
        netns: &Netns,
        sockets: Vec<UnixListenSocket>,
        before: &BTreeMap<(NetnsId, u32), UnixListener>,
    ) {
        for UnixListenSocket { path, inode, queue } in sockets {
            let key = (netns.id, inode);
            let known = before.get(&key).filter(|known| known.path == path);
            if known.is_none() {
                self.fresh.insert(inode);
            }
            let listener = UnixListener {
                netns: netns.id,
                netns_name: netns.name.clone(),
                path,
                inode,
                queue,
                refused: known.and_then(|known| known.refused),
                owners: known.map(|known| known.owners.clone()).unwrap_or_default(),
            };
            self.unix_listeners.insert(key, listener);
        }
    }

    fn say_unlisted(
        &mut self,
        netns: &Netns,
        what: &'static str,
        silent: &BTreeSet<(NetnsId, &'static str)>,
        error: &anyhow::Error,
    ) {
        if !silent.contains(&(netns.id, what)) {
            warn!("cannot list {what} listeners of network namespace {}: {error:#}", netns.name);
        }
        self.unlisted.insert((netns.id, what));
    }

    fn count_groups(&mut self) {
        let mut groups: HashMap<_, u32> = HashMap::new();
        for id in self.listeners.keys() {
            *groups.entry((id.netns, id.addr)).or_default() += 1;
        }
        for (id, listener) in &mut self.listeners {
            listener.group = groups[&(id.netns, id.addr)];
        }
    }

    /// The sockets whose owners are to be looked up: those that are new, or all, `anew`, as is to be
    /// done now and then since a socket can change hands.
    pub fn ownerless(&mut self, anew: bool) -> HashSet<u32> {
        let mut inodes = mem::take(&mut self.fresh);
        if anew {
            inodes.extend(self.listeners.keys().map(|id| id.inode));
            inodes.extend(self.unix_listeners.keys().map(|(_, inode)| *inode));
        }
        inodes.remove(&0);
        inodes
    }

    /// Takes in who holds the sockets with these `inodes`.
    pub fn enter_owners(&mut self, inodes: &HashSet<u32>, found: &Found) {
        let tcp = self.listeners.values_mut().map(|l| (l.id.inode, &mut l.owners));
        let unix = self.unix_listeners.values_mut().map(|l| (l.inode, &mut l.owners));
        for (inode, owners) in tcp.chain(unix).filter(|(inode, _)| inodes.contains(inode)) {
            // A socket that nobody holds any more has no owner, rather than its last one.
            *owners = found.get(&inode).cloned().unwrap_or_default();
        }
        self.name_socket_units();
    }
}

impl Listener {
    /// Keeps what a sweep does not see.
    fn carry_on(&mut self, known: &Self) {
        self.owners.clone_from(&known.owners);
        self.socket_unit.clone_from(&known.socket_unit);
        self.depth = known.depth;
        self.syn_queue = known.syn_queue;
        self.limit_changes = known.limit_changes;
        if known.queue.limit != self.queue.limit {
            self.limit_changes += 1;
            let (addr, netns) = (self.id.addr, &self.netns_name);
            let (old, new) = (known.queue.limit, self.queue.limit);
            info!(
                "{addr} in {netns} called listen(2) again: the limit of its queue changed from \
                   {old} to {new}"
            );
        }
    }
}
