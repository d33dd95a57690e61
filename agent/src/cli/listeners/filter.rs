//! Which listeners are wanted.

use anyhow::{Result, bail};
use clap::Args;

use crate::{
    inventory::{Listener, Owner, SocketUnit, UnixListener, View},
    kernel::NetnsId,
};

/// Namespaces named where the one asked for is not among them.
const MOST_NAMED: usize = 8;

/// Filters; a listener must pass all that are given.
#[derive(Clone, Debug, Default, Args)]
pub(in crate::cli) struct Filter {
    /// Select this network namespace, by name or number
    #[arg(long, value_name = "NAME|N")]
    netns: Option<String>,
    /// Select listeners of this process
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// Select listeners of this systemd service or socket unit
    #[arg(long, value_name = "NAME")]
    unit: Option<String>,
    /// Select listeners of this container, by its name or the beginning of its ID
    #[arg(long, value_name = "NAME|ID")]
    container: Option<String>,
    /// Select listeners of this pod, by its name, its namespace/name or its UID
    #[arg(long, value_name = "NAME")]
    pod: Option<String>,
    /// Select listeners on this TCP port
    #[arg(long)]
    port: Option<u16>,
}

impl Filter {
    /// Makes sure that the namespace asked for is one of `view`.
    ///
    /// # Errors
    ///
    /// There is none such.
    pub(in crate::cli) fn check(&self, view: &View) -> Result<()> {
        let Some(wanted) = &self.netns else { return Ok(()) };
        if view.namespaces.iter().any(|(netns, known)| self.wants_netns(*netns, &known.name)) {
            return Ok(());
        }
        let names: Vec<&str> =
            view.namespaces.values().take(MOST_NAMED).map(|known| &*known.name).collect();
        let more = if view.namespaces.len() > MOST_NAMED { ", ..." } else { "" };
        bail!(
            "--netns {wanted}: no network namespace with that name or number; existing: {}{more}",
            names.join(", ")
        )
    }

    /// The selected part of `view`.
    pub(in crate::cli) fn apply(&self, mut view: View) -> View {
        view.listeners.retain(|listener| self.wants(listener));
        view.unix_listeners.retain(|unix| self.wants_unix(unix));
        view.namespaces.retain(|netns, known| self.wants_netns(*netns, &known.name));
        let names = &view.namespaces;
        // Nobody holds these, and they have no port.
        let is_anybodys = !self.wants_some_owners() && self.port.is_none();
        view.deserted.retain(|path| is_anybodys && names.contains_key(&path.netns));
        view.destinations.retain(|destination| names.contains_key(&destination.netns));
        view.peers.retain(|peer| {
            let is_wanted = self.port.is_none_or(|port| port == peer.port);
            is_wanted && names.contains_key(&peer.netns)
        });
        view
    }

    fn wants(&self, listener: &Listener) -> bool {
        self.wants_netns(listener.id.netns, &listener.netns_name)
            && self.wants_owners(&listener.owners, listener.socket_unit.as_ref())
            && self.port.is_none_or(|port| port == listener.id.addr.port())
    }

    fn wants_unix(&self, unix: &UnixListener) -> bool {
        self.wants_netns(unix.netns, &unix.netns_name)
            && self.wants_owners(&unix.owners, None)
            && self.port.is_none()
    }

    fn wants_netns(&self, netns: NetnsId, name: &str) -> bool {
        self.netns.as_ref().is_none_or(|wanted| wanted == name || *wanted == netns.to_string())
    }

    fn wants_some_owners(&self) -> bool {
        self.pid.is_some() || self.unit.is_some() || self.container.is_some() || self.pod.is_some()
    }

    fn wants_owners(&self, owners: &[Owner], socket_unit: Option<&SocketUnit>) -> bool {
        let any = |wants: &dyn Fn(&Owner) -> bool| owners.iter().any(wants);
        self.pid.is_none_or(|wanted| any(&|owner| owner.pid == wanted))
            && self.unit.as_ref().is_none_or(|wanted| {
                any(&|owner| is_unit(owner.workload.unit.as_deref(), wanted))
                    || is_socket_unit(socket_unit, wanted)
            })
            && self
                .container
                .as_ref()
                .is_none_or(|wanted| any(&|owner| in_container(owner, wanted)))
            && self.pod.as_ref().is_none_or(|wanted| any(&|owner| in_pod(owner, wanted)))
    }
}

/// As systemctl(1) takes it: without a suffix a service is meant.
fn is_unit(name: Option<&str>, wanted: &str) -> bool {
    name.is_some_and(|name| name == wanted || name.strip_suffix(".service") == Some(wanted))
}

fn is_socket_unit(unit: Option<&SocketUnit>, wanted: &str) -> bool {
    unit.is_some_and(|unit| unit.name == wanted || is_unit(unit.service.as_deref(), wanted))
}

fn in_container(owner: &Owner, wanted: &str) -> bool {
    let container = owner.workload.container.as_ref();
    container.is_some_and(|container| {
        container.name.as_deref() == Some(wanted)
            || (!wanted.is_empty() && container.id.starts_with(wanted))
    })
}

fn in_pod(owner: &Owner, wanted: &str) -> bool {
    owner.workload.pod.as_ref().is_some_and(|pod| {
        let name = pod.name.as_deref();
        let full =
            pod.namespace.as_deref().zip(name).map(|(space, name)| format!("{space}/{name}"));
        name == Some(wanted) || full.as_deref() == Some(wanted) || pod.uid == wanted
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        inventory::{Container, Namespace, Pod},
        kernel::{ListenerId, QueueDepth},
    };

    fn listener() -> Listener {
        let id = ListenerId { netns: NetnsId(7), addr: "0.0.0.0:80".parse().unwrap(), inode: 1 };
        let mut owner = Owner::new(42, "nginx", None);
        owner.workload.unit = Some("nginx.service".to_owned());
        owner.workload.container =
            Some(Container { id: "ab".repeat(32), runtime: None, name: Some("web".to_owned()) });
        owner.workload.pod = Some(Pod {
            uid: "u".to_owned(),
            namespace: Some("shop".to_owned()),
            name: Some("web-0".to_owned()),
        });
        let queue = QueueDepth { len: 0, limit: 128 };
        let listener = Listener::unknown(id, queue, Some("app".to_owned()));
        let socket_unit = Some(SocketUnit {
            name: "web.socket".to_owned(),
            service: Some("web.service".to_owned()),
        });
        Listener { owners: vec![owner].into(), socket_unit, ..listener }
    }

    #[test]
    fn a_namespace_that_is_not_there_is_no_empty_list() {
        let namespace = Namespace { name: "app".to_owned(), ..Namespace::default() };
        let view = View { namespaces: [(NetnsId(7), namespace)].into(), ..View::default() };
        let check = |netns: Option<&str>| {
            let filter = Filter { netns: netns.map(str::to_owned), ..Filter::default() };
            filter.check(&view).map_err(|error| error.to_string())
        };
        for netns in [None, Some("app"), Some("7")] {
            assert_eq!(check(netns), Ok(()));
        }
        let words = "--netns api: no network namespace with that name or number; existing: app";
        assert_eq!(check(Some("api")), Err(words.to_owned()));
    }

    #[test]
    fn each_filter_takes_and_leaves() {
        let wanted = |filter: Filter| filter.wants(&listener());
        let some = |text: &str| Some(text.to_owned());
        let none = Filter::default;
        assert!(wanted(none()));
        for (netns, passes) in [("app", true), ("7", true), ("ap", false)] {
            assert_eq!(wanted(Filter { netns: some(netns), ..none() }), passes, "{netns}");
        }
        for (container, passes) in [("web", true), ("abab", true), ("ba", false), ("", false)] {
            let filter = Filter { container: some(container), ..none() };
            assert_eq!(wanted(filter), passes, "{container}");
        }
        for (pod, passes) in [("web-0", true), ("shop/web-0", true), ("u", true), ("web", false)] {
            assert_eq!(wanted(Filter { pod: some(pod), ..none() }), passes, "{pod}");
        }
        assert!(wanted(Filter { port: Some(80), ..none() }));
        assert!(!wanted(Filter { port: Some(81), ..none() }));
        assert!(wanted(Filter { pid: Some(42), ..none() }));
        assert!(!wanted(Filter { pid: Some(43), ..none() }));
        for (unit, passes) in [
            ("nginx.service", true),
            ("nginx", true),
            ("web.socket", true),
            ("web", true),
            ("ngin", false),
            ("", false),
        ] {
            assert_eq!(wanted(Filter { unit: some(unit), ..none() }), passes, "{unit}");
        }
    }
}
