//! Settings of a network namespace that change what becomes of a handshake.

use std::{collections::BTreeSet, fs};

use anyhow::Result;

use crate::kernel::{
    NetnsId,
    netns::{Netns, visit},
};

/// Those of `namespaces` in which `tcp_abort_on_overflow` is set: a full accept queue answers by a
/// reset there.
///
/// # Errors
///
/// When the namespaces cannot be visited at all.
pub fn aborting(namespaces: &[Netns]) -> Result<BTreeSet<NetnsId>> {
    // /proc/sys/net shows the namespace of whoever reads it.
    let look = |netns: &Netns| {
        let value = fs::read_to_string("/proc/sys/net/ipv4/tcp_abort_on_overflow");
        value.is_ok_and(|value| value.trim() != "0").then_some(netns.id)
    };
    Ok(visit(namespaces, look)?.into_iter().flatten().collect())
}
