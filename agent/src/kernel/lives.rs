//! The namespaces that have had an inode number, one after the other: which of them a key of the
//! programs' maps stands for, and which the calling thread is in.
//!
//! From Linux 5.14 on the kernel gives each namespace a cookie that it never gives again, and tells
//! it to the programs and to user space alike. Before, the programs count how often a number was
//! given to a namespace (`NETNS_LIVES`, agent-ebpf/src/netns.rs); where they cannot, before Linux
//! 5.14 and without trampolines, nothing tells two namespaces with one number apart.

use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Result;
use aya::maps::{HashMap as BpfHashMap, MapData};
use floodmark_common::NetnsKey;

use super::{netns::cookie_here, sample::NetnsId};

/// A cookie that nobody has asked about for so long is forgotten. Longer than anything is kept of a
/// namespace that has gone.
const RETENTION: Duration = Duration::from_secs(1200);

/// Whether the kernel tells cookies to user space.
pub static HAS_COOKIES: LazyLock<bool> = LazyLock::new(|| cookie_here().is_some());

static LIVES: LazyLock<Mutex<Lives>> = LazyLock::new(Mutex::default);

#[derive(Default)]
struct Lives {
    by_cookie: HashMap<u64, (NetnsId, Instant)>,
    /// How many namespaces with that inode number were met.
    met: HashMap<u32, u32>,
    /// Without cookies: how many the programs have seen being made.
    counted: Option<BpfHashMap<MapData, u32, u32>>,
}

fn lives() -> MutexGuard<'static, Lives> {
    LIVES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Goes by the programs' count from now on, where there are no cookies.
pub(super) fn adopt(counted: impl FnOnce() -> Result<BpfHashMap<MapData, u32, u32>>) -> Result<()> {
    if !*HAS_COOKIES {
        lives().counted = Some(counted()?);
    }
    Ok(())
}

/// The namespace of the calling thread, whose inode number is `inode`.
pub fn here(inode: u32) -> NetnsId {
    if let Some(cookie) = cookie_here() {
        return lives().meet(cookie, inode);
    }
    let life = lives().counted.as_ref().and_then(|counted| counted.get(&inode, 0).ok());
    NetnsId::new(inode, life.unwrap_or(0))
}

/// The namespace that `key` stands for, whose inode number is `inode`.
pub fn meet(key: NetnsKey, inode: u32) -> NetnsId {
    if *HAS_COOKIES { lives().meet(key, inode) } else { NetnsId(key) }
}

/// The namespace that `key` stands for; `None` for one that nobody has met.
pub fn known(key: NetnsKey) -> Option<NetnsId> {
    if !*HAS_COOKIES {
        return Some(NetnsId(key));
    }
    let mut lives = lives();
    let (id, asked) = lives.by_cookie.get_mut(&key)?;
    *asked = Instant::now();
    Some(*id)
}

/// The last known with that inode number, for where its namespace may not be entered.
pub fn latest(inode: u32) -> NetnsId {
    let lives = lives();
    let counted = lives.counted.as_ref().and_then(|counted| counted.get(&inode, 0).ok());
    let met = lives.met.get(&inode).map(|met| met - 1);
    NetnsId::new(inode, counted.or(met).unwrap_or(0))
}

/// Forgets the cookies of namespaces that nobody asks about any more.
pub fn forget() {
    lives().by_cookie.retain(|_, (_, asked)| asked.elapsed() < RETENTION);
}

impl Lives {
    fn meet(&mut self, cookie: u64, inode: u32) -> NetnsId {
        let met = &mut self.met;
        let mut newcomer = || {
            let lives = met.entry(inode).or_default();
            *lives += 1;
            NetnsId::new(inode, *lives - 1)
        };
        let now = Instant::now();
        let (id, asked) = self.by_cookie.entry(cookie).or_insert_with(|| (newcomer(), now));
        *asked = now;
        *id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_given_again_is_another_life() {
        let mut lives = Lives::default();
        let first = lives.meet(7, 4_026_532_001);
        let other = lives.meet(8, 4_026_532_002);
        let second = lives.meet(9, 4_026_532_001);
        assert_eq!(
            (first.inode(), first.life(), second.inode(), second.life()),
            (4_026_532_001, 0, 4_026_532_001, 1)
        );
        assert_eq!((other.life(), lives.meet(7, 4_026_532_001)), (0, first));
        assert_eq!([first.name(), second.name()], ["net:[4026532001]", "net:[4026532001]#2"]);
    }

    #[test]
    fn what_nobody_has_met_is_not_known() {
        assert!(!*HAS_COOKIES || known(u64::MAX).is_none());
    }
}
