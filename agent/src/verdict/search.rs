//! From an upstream's address to the listener behind it, and what that lost.

use std::net::SocketAddr;

use super::{
    cause::Trail,
    evidence::{Evidence, Losses, Place},
};
use crate::{
    inventory::Inventory,
    kernel::{ListenerId, NetnsId},
    time::Window,
};

/// What a search for a listener found.
pub(super) struct Found {
    pub trail: Trail,
    pub listener: Option<ListenerId>,
    pub losses: Option<Losses>,
    /// Whether it is not the listener that the proxy's own connection came to, but one behind that.
    pub is_beyond: bool,
}

impl Default for Found {
    fn default() -> Self {
        Self { trail: Trail::Lost, listener: None, losses: None, is_beyond: false }
    }
}

pub(super) fn candidates(
    inventory: &Inventory,
    addr: SocketAddr,
    proxy_netns: Option<NetnsId>,
) -> Vec<ListenerId> {
    inventory.candidates(addr, proxy_netns).iter().map(|listener| listener.id).collect()
}

/// The members of a SO_REUSEPORT group share a place.
fn distinct_places(ids: &[ListenerId]) -> usize {
    let mut places: Vec<Place> = ids.iter().map(|id| (id.netns, id.addr)).collect();
    places.sort_unstable();
    places.dedup();
    places.len()
}

/// The listener behind an address, and what it lost. Where several namespaces have the address,
/// the one that lost most is taken and the trail is ambiguous.
pub(super) fn search(
    evidence: &Evidence,
    inventory: &Inventory,
    addr: SocketAddr,
    mut ids: Vec<ListenerId>,
    window: &Window,
) -> Found {
    if ids.is_empty() {
        // Closed meanwhile: what it lost is still known by its address.
        let of = |(netns, addr): Place| ListenerId { netns, addr, inode: 0 };
        ids = evidence.places_at(addr).map(of).collect();
        // Whoever has the address counts for more than who only speaks of it.
        let has_it = |id: &ListenerId| inventory.has_address(id.netns, addr.ip());
        if ids.iter().any(has_it) {
            ids.retain(has_it);
        }
        // They come in any order, and a replay must come to the same.
        ids.sort_unstable();
    }
    let trail = match distinct_places(&ids) {
        0 => Trail::Lost,
        1 => Trail::Clear,
        _ => Trail::Ambiguous,
    };
    let looked_up = ids
        .into_iter()
        .map(|id| (id, evidence.within(&(id.netns, id.addr), window)))
        .max_by_key(|(_, losses)| losses.map_or(0, |losses| losses.tally.drops()));
    match looked_up {
        Some((id, losses)) => Found { trail, listener: Some(id), losses, is_beyond: false },
        None => Found { trail, ..Found::default() },
    }
}

/// As [`search`], for an address whose connections go on to others: a program may take them and hand
/// them on, and then either listener may be the one that lost something.
pub(super) fn search_onward(
    evidence: &Evidence,
    inventory: &Inventory,
    first: Found,
    onward: Vec<(SocketAddr, Vec<ListenerId>)>,
    window: &Window,
) -> Found {
    if first.losses.is_some() || onward.is_empty() {
        return first;
    }
    let is_beyond = first.listener.is_some();
    let several = onward.len() > 1;
    let found =
        onward.into_iter().map(|(addr, ids)| search(evidence, inventory, addr, ids, window));
    let drops = |found: &Found| found.losses.map_or(0, |losses| losses.tally.drops());
    let Some(best) = found.max_by_key(drops) else { return first };
    let trail = if several && best.trail == Trail::Clear { Trail::Ambiguous } else { best.trail };
    Found { trail, is_beyond, ..best }
}
