//! Who holds a listening socket, and which of them advice may name: those who accept from it. Never a
//! manager that only hands it on, and no parent that leaves accepting to its children.

use crate::inventory::{Listener, Owner, Server, SocketUnit};

/// Processes named in one line.
const NAMED: usize = 4;

/// The holders of a socket.
#[derive(Clone, Debug, Default)]
pub(super) struct Holders<'a> {
    /// Those who accept, children before parents, else the lowest pid first.
    pub workers: Vec<&'a Owner>,
    /// systemd, where it holds the socket for a unit.
    pub activation: Option<Activation<'a>>,
}

/// A socket that systemd holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Activation<'a> {
    /// The systemd that holds it.
    pub manager: &'a Owner,
    /// The unit, where its file was found.
    pub unit: Option<&'a SocketUnit>,
}

impl<'a> Holders<'a> {
    /// Those of a listener; nobody where it is unknown.
    pub fn of(listener: Option<&'a Listener>) -> Self {
        let Some(listener) = listener else { return Self::default() };
        let (managers, others): (Vec<&Owner>, Vec<&Owner>) =
            listener.owners.iter().partition(|owner| is_systemd(owner));
        let unit = listener.socket_unit.as_ref();
        let activation = managers.first().map(|manager| Activation { manager, unit });
        Self { workers: workers(others), activation }
    }

    /// The first of those who accept.
    pub fn first(&self) -> Option<&'a Owner> {
        self.workers.first().copied()
    }

    /// A process in the socket's own place: who accepts, or else who holds it.
    pub fn any(&self) -> Option<&'a Owner> {
        self.first().or(self.activation.map(|activation| activation.manager))
    }

    /// They, in a few words.
    pub fn names(&self) -> String {
        let Some(first) = self.first() else {
            let unit = self.activation.and_then(|activation| activation.unit);
            let service = unit.and_then(|unit| unit.service.clone());
            return service.unwrap_or_else(|| "the application".to_owned());
        };
        let pids: Vec<String> =
            self.workers.iter().take(NAMED).map(|owner| owner.pid.to_string()).collect();
        match self.workers.len() {
            1 => format!("{} (pid {})", first.command, first.pid),
            count if count <= NAMED => format!("{} (pids {})", first.command, pids.join(", ")),
            count => {
                format!("{} (pids {} and {} more)", first.command, pids.join(", "), count - NAMED)
            }
        }
    }
}

/// The host's, a user's or a container's systemd, which holds the sockets of its socket units.
fn is_systemd(owner: &Owner) -> bool {
    owner.server == Some(Server::Systemd) || (owner.pid == 1 && owner.command == "systemd")
}

fn workers(mut holders: Vec<&Owner>) -> Vec<&Owner> {
    let is_parent = |owner: &Owner| holders.iter().any(|child| child.parent == Some(owner.pid));
    let parents: Vec<u32> =
        holders.iter().filter(|owner| is_parent(owner)).map(|owner| owner.pid).collect();
    let is_idle = |owner: &Owner| {
        parents.contains(&owner.pid) && (owner.awaits_children || leaves_accepting(owner.server))
    };
    if !holders.iter().all(|owner| is_idle(owner)) {
        holders.retain(|owner| !is_idle(owner));
    }
    holders.sort_by_key(|owner| (parents.contains(&owner.pid), owner.pid));
    holders
}

/// Whether the parent of this server's processes opens the socket and leaves accepting to its
/// children. Node.js's and PostgreSQL's accept and hand connections over; of any other program it is
/// not known.
fn leaves_accepting(server: Option<Server>) -> bool {
    matches!(
        server,
        Some(
            Server::Gunicorn
                | Server::Uvicorn
                | Server::Hypercorn
                | Server::Tornado
                | Server::Uwsgi
                | Server::Puma
                | Server::Unicorn
                | Server::PhpFpm
                | Server::Nginx
                | Server::Haproxy
                | Server::Apache
                | Server::Lighttpd
        )
    )
}
