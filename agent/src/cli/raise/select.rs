//! Which listener is meant: one address of one network namespace, with every socket there.

use std::{collections::BTreeSet, net::SocketAddr, str::FromStr};

use anyhow::{Result, bail};

use super::super::listeners::Filter;
use crate::{
    inventory::{Inventory, Listener, View},
    kernel::{ListenerId, NetnsId},
};

/// Listeners named where several are meant.
const MOST_NAMED: usize = 8;
/// Why no Unix socket is taken.
const NO_UNIX: &str = "raise takes TCP listeners only: on a Unix socket, listen(2) makes the caller the \
                       process whose credentials clients see";

/// An address as it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// This port, at any address.
    Port(u16),
    /// This address and port: one that something is bound to, or one that connections go to.
    At(SocketAddr),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with(['/', '@']) || text.starts_with("unix:") {
            return Err(NO_UNIX.to_owned());
        }
        let port = text.strip_prefix("*:").or(text.strip_prefix(':')).unwrap_or(text);
        match (port.parse(), text.parse()) {
            (Ok(port @ 1..), _) => Ok(Self::Port(port)),
            (_, Ok(addr)) => Ok(Self::At(addr)),
            _ => {
                Err("expected an address with a port, such as 10.0.0.1:8000, or a port".to_owned())
            }
        }
    }
}

/// Every socket of the one listener that is meant.
///
/// # Errors
///
/// When there is none, or there are several.
pub(super) fn select(
    inventory: &Inventory,
    view: View,
    address: Option<Address>,
    filter: &Filter,
) -> Result<Vec<Listener>> {
    filter.check(&view)?;
    let all = view.listeners.clone();
    let wanted = filter.apply(view);
    let found = at(inventory, &wanted.listeners, address);
    let places: BTreeSet<(NetnsId, SocketAddr)> =
        found.iter().map(|listener| (listener.id.netns, listener.id.addr)).collect();
    let Some(first) = found.first().filter(|_| places.len() == 1) else {
        bail!(none_or_several(&wanted, &found));
    };
    // A process may hold one socket of a group, but the group is one queue to its clients.
    let same = |listener: &Listener| {
        (listener.id.netns, listener.id.addr) == (first.id.netns, first.id.addr)
    };
    Ok(all.into_iter().filter(same).collect())
}

/// Those of `wanted` that an address means: bound to it or, where none is, those that take connections
/// to it.
fn at<'a>(
    inventory: &Inventory,
    wanted: &'a [Listener],
    address: Option<Address>,
) -> Vec<&'a Listener> {
    let among = |is_meant: &dyn Fn(&ListenerId) -> bool| {
        wanted.iter().filter(|listener| is_meant(&listener.id)).collect::<Vec<_>>()
    };
    match address {
        None => wanted.iter().collect(),
        Some(Address::Port(port)) => among(&|id| id.addr.port() == port),
        Some(Address::At(addr)) => {
            let bound = among(&|id| id.addr == addr);
            if !bound.is_empty() {
                return bound;
            }
            let takers: BTreeSet<ListenerId> =
                inventory.candidates(addr, None).iter().map(|listener| listener.id).collect();
            among(&|id| takers.contains(id))
        }
    }
}

fn none_or_several(wanted: &View, found: &[&Listener]) -> String {
    if found.is_empty() {
        return match wanted.unix_listeners.first().filter(|_| wanted.listeners.is_empty()) {
            Some(unix) => format!("{} is a Unix socket: {NO_UNIX}", unix.path),
            None => {
                "no such TCP listener; run `floodmark listeners` as root to list them".to_owned()
            }
        };
    }
    let mut named: Vec<String> = found.iter().map(|listener| listener.selector()).collect();
    named.sort_unstable();
    named.dedup();
    let more = if named.len() > MOST_NAMED { ", ..." } else { "" };
    format!(
        "{} listeners match; select one: {}{more}",
        named.len(),
        named.iter().take(MOST_NAMED).cloned().collect::<Vec<_>>().join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        inventory::{Owner, UnixListener},
        kernel::QueueDepth,
    };

    fn listener(netns: u64, addr: &str, inode: u32) -> Listener {
        let id = ListenerId { netns: NetnsId(netns), addr: addr.parse().unwrap(), inode };
        let owners = vec![Owner::new(100 + inode, "app", None)].into();
        Listener {
            owners,
            ..Listener::unknown(id, QueueDepth::default(), Some(format!("ns{netns}")))
        }
    }

    fn selected(
        listeners: &[Listener],
        address: Option<&str>,
        words: &str,
    ) -> Result<Vec<u32>, String> {
        #[derive(clap::Parser)]
        struct Words {
            #[command(flatten)]
            filter: Filter,
        }
        let words = ["x"].into_iter().chain(words.split_whitespace());
        let Words { filter } = clap::Parser::parse_from(words);
        let view = View { listeners: listeners.to_vec(), ..View::default() };
        let address = address.map(|address| address.parse().unwrap());
        let found = select(&Inventory::default(), view, address, &filter);
        let found = found.map_err(|error| error.to_string())?;
        Ok(found.iter().map(|listener| listener.id.inode).collect())
    }

    #[test]
    fn an_address_is_a_port_or_has_one() {
        for (text, address) in [
            ("8000", Address::Port(8000)),
            (":8000", Address::Port(8000)),
            ("*:8000", Address::Port(8000)),
            ("10.0.0.1:8000", Address::At("10.0.0.1:8000".parse().unwrap())),
            ("[::]:8000", Address::At("[::]:8000".parse().unwrap())),
        ] {
            assert_eq!(text.parse(), Ok(address), "{text}");
        }
        for text in ["/run/app.sock", "@app", "unix:/run/app.sock"] {
            assert_eq!(text.parse::<Address>(), Err(NO_UNIX.to_owned()));
        }
        for text in ["", "0", "65536", "10.0.0.1", "web:80"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_group_is_one_listener_by_whichever_socket_it_is_found() {
        let group = [listener(1, "0.0.0.0:80", 1), listener(1, "0.0.0.0:80", 2)];
        for (address, words) in
            [(Some("0.0.0.0:80"), ""), (Some("80"), ""), (None, "--pid 102"), (None, "--port 80")]
        {
            assert_eq!(selected(&group, address, words), Ok(vec![1, 2]), "{address:?} {words}");
        }
    }

    #[test]
    fn several_listeners_are_named_so_that_one_can_be_chosen() {
        let all =
            [listener(1, "0.0.0.0:80", 1), listener(2, "0.0.0.0:80", 2), listener(2, "[::]:80", 3)];
        let error = selected(&all, Some("80"), "").unwrap_err();
        assert_eq!(
            error,
            "3 listeners match; select one: '[::]:80' --netns ns2, 0.0.0.0:80 --netns ns1, \
             0.0.0.0:80 --netns ns2"
        );
        assert!(selected(&all, Some("0.0.0.0:80"), "").is_err());
        assert_eq!(selected(&all, Some("[::]:80"), ""), Ok(vec![3]));
        assert_eq!(selected(&all, Some("80"), "--pid 101"), Ok(vec![1]));
    }

    #[test]
    fn that_there_is_none_takes_one_line_and_a_unix_socket_is_named() {
        let all = [listener(1, "0.0.0.0:80", 1)];
        let error = selected(&all, Some("81"), "").unwrap_err();
        assert!(error.starts_with("no such TCP listener"), "{error}");
        let unix = UnixListener {
            netns: NetnsId(1),
            netns_name: "ns1".to_owned(),
            path: "/run/app.sock".to_owned(),
            inode: 9,
            queue: QueueDepth::default(),
            refused: None,
            owners: Vec::new().into(),
        };
        let wanted = View { unix_listeners: vec![unix], ..View::default() };
        let error = none_or_several(&wanted, &[]);
        assert!(error.starts_with("/run/app.sock is a Unix socket: raise takes TCP"), "{error}");
    }
}
