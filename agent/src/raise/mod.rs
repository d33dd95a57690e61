//! Gives a listener at work a longer accept queue, and its old one back: what is to change, the change,
//! and the check by `sock_diag` that it took.

mod undo;

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::{
    inventory::Listener,
    kernel::{
        NetnsId,
        listen_again::{listen_again, reach},
        netns::{Netns, visit},
        settings::set_somaxconn_here,
        sock_diag::{Family, ListenSocket, listeners_among},
    },
};

pub use undo::{Memory, Place, Raised};

/// A number before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The value before.
    pub from: u32,
    /// The value after.
    pub to: u32,
}

impl Change {
    fn is_none(self) -> bool {
        self.from == self.to
    }
}

/// A socket of the listener, also one that stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SocketChange {
    /// Its inode in sockfs.
    pub inode: u32,
    /// The kernel's unique cookie for it.
    pub cookie: u64,
    /// The processes that hold it.
    pub pids: Vec<u32>,
    /// The name of the first of them.
    pub command: Option<String>,
    /// Connections that wait in its queue.
    pub waiting: u32,
    /// Connections that its queue takes (`sk_max_ack_backlog`).
    pub limit: Change,
}

/// What is to change at one address of one network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Where it listens.
    pub addr: SocketAddr,
    /// In which namespace.
    pub netns: NetnsId,
    /// The namespace's name.
    pub netns_name: String,
    /// Every socket there: more than one in a SO_REUSEPORT group.
    pub sockets: Vec<SocketChange>,
    /// `net.core.somaxconn` of the namespace, if it has to change.
    pub somaxconn: Option<Change>,
    /// What else there is to say.
    pub notes: Vec<String>,
}

impl Plan {
    /// To have every socket of `group` take `backlog` connections. One that takes more stays.
    ///
    /// # Errors
    ///
    /// When all of them take as many or more already, and some more.
    pub fn raise(group: &[&Listener], backlog: u32) -> Result<Self> {
        let mut plan = Self::of(group, |socket| socket.queue.limit.max(backlog))?;
        let most = plan.sockets.iter().map(|socket| socket.limit.to).max().unwrap_or(0);
        if plan.changes().next().is_none() {
            ensure!(
                most <= backlog,
                "{} takes {most} connections already, and raise does not lower the limit to \
                 {backlog}; use a larger --backlog, or --undo to restore the earlier limit",
                plan.place()
            );
            plan.notes.push(format!("its limit is already {backlog}"));
            return Ok(plan);
        }
        let somaxconn = group.first().and_then(|socket| socket.somaxconn);
        plan.somaxconn = somaxconn
            .filter(|somaxconn| *somaxconn < backlog)
            .map(|from| Change { from, to: backlog });
        Ok(plan)
    }

    fn of(group: &[&Listener], limit: impl Fn(&Listener) -> u32) -> Result<Self> {
        let first = group.first().context("a listener has a socket")?;
        let socket = |listener: &&Listener| SocketChange {
            inode: listener.id.inode,
            cookie: listener.cookie,
            pids: listener.owners.iter().map(|owner| owner.pid).collect(),
            command: listener.owners.first().map(|owner| owner.command.clone()),
            waiting: listener.queue.len,
            limit: Change { from: listener.queue.limit, to: limit(listener) },
        };
        Ok(Self {
            addr: first.id.addr,
            netns: first.id.netns,
            netns_name: first.netns_name.clone(),
            sockets: group.iter().map(socket).collect(),
            somaxconn: None,
            notes: Vec::new(),
        })
    }

    /// Address and namespace, in words.
    pub fn place(&self) -> String {
        format!("{} in {}", self.addr, self.netns_name)
    }

    /// The sockets whose limit changes; the plan lists unchanged ones too.
    pub fn changes(&self) -> impl Iterator<Item = &SocketChange> {
        self.sockets.iter().filter(|socket| !socket.limit.is_none())
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.changes().next().is_none() && self.somaxconn.is_none()
    }

    /// Makes sure that every socket that is to change can be reached, before anybody is asked.
    ///
    /// # Errors
    ///
    /// When one cannot.
    pub fn check(&self) -> Result<()> {
        self.changes().try_for_each(|socket| {
            let reached = reach(&socket.pids, socket.inode, socket.cookie);
            reached.map(drop).with_context(|| self.place())
        })
    }

    /// Does it, and tells what of it did not come about: empty where `sock_diag` shows all of it.
    ///
    /// # Errors
    ///
    /// When nothing was changed, because the namespace cannot be entered or does not let its
    /// `somaxconn` be raised.
    pub fn apply(&self, netns: &Netns) -> Result<Vec<String>> {
        // listen(2) takes somaxconn as it finds it: raise it before, lower it after.
        let raised = self.somaxconn.filter(|change| change.to > change.from);
        let lowered = self.somaxconn.filter(|change| change.to < change.from);
        if let Some(change) = raised {
            self.set_somaxconn(netns, change)?;
        }
        let mut short = Vec::new();
        for socket in self.changes() {
            let outcome = listen_again(&socket.pids, socket.inode, socket.cookie, socket.limit.to);
            if let Err(refusal) = outcome {
                short.push(format!("socket {} is unchanged: {refusal}", socket.inode));
            }
        }
        if let Some(Err(error)) = lowered.map(|change| self.set_somaxconn(netns, change)) {
            short.push(format!("{error:#}"));
        }
        if short.is_empty() {
            short = self.missing(&self.look(netns)?);
        }
        Ok(short)
    }

    fn set_somaxconn(&self, netns: &Netns, change: Change) -> Result<()> {
        let what = || format!("setting net.core.somaxconn of {} to {}", self.netns_name, change.to);
        // Whose file it is goes by the thread's namespace (kernel: net/sysctl_net.c).
        let outcome = visit(std::slice::from_ref(netns), |_| set_somaxconn_here(change.to))?.pop();
        outcome.context("cannot enter the network namespace").with_context(what)?.with_context(what)
    }

    /// The sockets that listen there now.
    fn look(&self, netns: &Netns) -> Result<Vec<ListenSocket>> {
        let look = |_: &Netns| listeners_among(&[Family::of(self.addr)]);
        let there = visit(std::slice::from_ref(netns), look)?.pop();
        let mut there = there.context("cannot enter the network namespace any more")??;
        there.retain(|socket| socket.addr == self.addr);
        Ok(there)
    }

    /// What `there` lacks of the plan.
    fn missing(&self, there: &[ListenSocket]) -> Vec<String> {
        let planned = |cookie| self.sockets.iter().find(|socket| socket.cookie == cookie);
        let mut missing = Vec::new();
        for socket in self.changes() {
            let limit =
                there.iter().find(|now| now.cookie == socket.cookie).map(|now| now.queue.limit);
            match limit {
                Some(limit) if limit == socket.limit.to => {}
                Some(limit) => missing.push(format!(
                    "socket {} has the limit {limit}, not {}",
                    socket.inode, socket.limit.to
                )),
                None => missing.push(format!("socket {} was closed in the meantime", socket.inode)),
            }
        }
        let new = there.iter().filter(|now| planned(now.cookie).is_none()).count();
        if new > 0 {
            missing.push(format!("new sockets listen there ({new}): run the command again"));
        }
        missing
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        inventory::Owner,
        kernel::{ListenerId, QueueDepth},
    };

    /// A socket at 0.0.0.0:80 with this inode, which is its cookie too, and limit.
    pub(crate) fn listener(inode: u32, limit: u32, somaxconn: u32) -> Listener {
        let id = ListenerId { netns: NetnsId(1), addr: "0.0.0.0:80".parse().unwrap(), inode };
        Listener {
            cookie: inode.into(),
            somaxconn: Some(somaxconn),
            owners: vec![Owner::new(40 + inode, "app", None)].into(),
            ..Listener::unknown(id, QueueDepth { len: 3, limit }, Some("web".to_owned()))
        }
    }

    fn plan(limits: &[u32], somaxconn: u32, backlog: u32) -> Result<Plan> {
        let group: Vec<Listener> =
            (1..).zip(limits).map(|(inode, limit)| listener(inode, *limit, somaxconn)).collect();
        Plan::raise(&group.iter().collect::<Vec<_>>(), backlog)
    }

    #[test]
    fn every_socket_of_a_group_is_raised_and_somaxconn_only_if_it_is_too_small() {
        let raised = plan(&[5, 128, 2048], 4096, 1024).unwrap();
        let limits: Vec<(u32, u32)> =
            raised.sockets.iter().map(|socket| (socket.limit.from, socket.limit.to)).collect();
        assert_eq!(limits, [(5, 1024), (128, 1024), (2048, 2048)]);
        assert_eq!((raised.changes().count(), raised.somaxconn), (2, None));
        let raised = plan(&[5], 128, 1024).unwrap();
        assert_eq!(raised.somaxconn, Some(Change { from: 128, to: 1024 }));
        assert_eq!(plan(&[5], 1024, 1024).unwrap().somaxconn, None);
    }

    #[test]
    fn what_takes_as_many_already_is_left_alone_and_what_takes_more_is_an_error() {
        assert!(plan(&[1024, 1024], 128, 1024).unwrap().is_empty());
        let error = plan(&[1024, 2048], 4096, 1024).unwrap_err().to_string();
        assert!(error.starts_with("0.0.0.0:80 in web takes 2048 connections already"), "{error}");
        assert!(!error.contains('\n'));
    }

    #[test]
    fn what_sock_diag_does_not_show_is_told() {
        let plan = plan(&[5, 5, 5], 4096, 1024).unwrap();
        let now = |cookie, limit| ListenSocket {
            addr: plan.addr,
            inode: 0,
            cookie,
            queue: QueueDepth { len: 0, limit },
            drops: 0,
            v6_only: false,
        };
        assert!(plan.missing(&[now(1, 1024), now(2, 1024), now(3, 1024)]).is_empty());
        let missing = plan.missing(&[now(1, 1024), now(2, 128), now(9, 5)]);
        assert_eq!(
            missing,
            [
                "socket 2 has the limit 128, not 1024",
                "socket 3 was closed in the meantime",
                "new sockets listen there (1): run the command again"
            ]
        );
    }
}
