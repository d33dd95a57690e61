//! The canary: handshakes lost on purpose, in a network namespace of the agent's own, while the
//! hooks listen. A hook that attaches but never fires (a function inlined in this build, an argument
//! that is not what BTF says) is found out at once and not in the middle of an incident.

use std::{
    collections::BTreeMap,
    fs, io,
    io::Write,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    os::fd::{AsRawFd, FromRawFd, IntoRawFd},
    sync::mpsc,
    thread::{self, JoinHandle, sleep},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use nix::{
    errno::Errno,
    sched::{CloneFlags, unshare},
    sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, connect, listen, socket,
    },
};
use serde::Serialize;

use super::{
    class::Class,
    ladder::{Rung, Signal, Standing},
    mib::{self, Counter},
    netns::of_this_thread,
    sample::{NetnsId, Tally},
};

/// Where canaries listen, and nobody else: whatever another agent's canary loses on this host is
/// nobody's loss either.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 70, 76, 77);
/// Clients that find no room, at the SYN and at the final ACK.
const TURNED_AWAY: usize = 3;
/// Time for segments to cross the loopback.
const SETTLE: Duration = Duration::from_millis(50);
/// The first SYN/ACK is repeated after one second (RFC 6298), data after 0.2 s.
const REPEAT: Duration = Duration::from_millis(1300);

/// A canary at large.
pub struct Canary {
    /// Its namespace, whose counts are nobody's losses.
    pub netns: NetnsId,
    singer: JoinHandle<Result<Song>>,
}

/// What happened to the canary, as the kernel counted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Song {
    syns: u64,
    acks: u64,
    synacks: u64,
    time_waits: u64,
}

/// What the hooks heard of the canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Heard {
    /// How often the kernel says that it happened.
    pub happened: u64,
    /// How often the signal told of it.
    pub heard: u64,
}

impl Heard {
    /// Whether the signal told of each, of which there was at least one.
    pub fn is_exact(&self) -> bool {
        self.happened > 0 && self.happened == self.heard
    }

    /// Whether it told of none: the hook does not fire. Where it told of some, a busy host is the
    /// likelier reason than a hook that misses part.
    pub fn is_deaf(&self) -> bool {
        self.happened > 0 && self.heard == 0
    }
}

impl Canary {
    /// Lets one go, on a thread and in a namespace of its own.
    ///
    /// # Errors
    ///
    /// When the namespace cannot be made, most often for want of CAP_SYS_ADMIN.
    pub fn release() -> Result<Self> {
        let (sender, receiver) = mpsc::channel();
        let singer = thread::Builder::new().name("canary".into()).spawn(move || {
            let prepared = settle_in();
            let is_prepared = prepared.is_ok();
            // Fails only where nobody waits any more.
            let _ = sender.send(prepared);
            ensure!(is_prepared, "no namespace");
            sing()
        })?;
        let netns = receiver.recv().context("the canary's thread ended early")??;
        Ok(Self { netns, singer })
    }

    /// Whether it has sung to the end.
    pub fn is_done(&self) -> bool {
        self.singer.is_finished()
    }

    /// What happened to it.
    ///
    /// # Errors
    ///
    /// When it could not sing.
    pub fn finish(self) -> Result<Song> {
        self.singer.join().map_err(|_| anyhow!("the canary's thread panicked"))?
    }
}

/// Compares what happened to the canary with what the hooks counted, for the signals that are had
/// packet by packet. `time_wait` is what they counted of TIME_WAIT entries.
pub fn compare(
    standings: &[Standing],
    song: &Song,
    tally: &Tally,
    time_wait: u64,
) -> BTreeMap<Signal, Heard> {
    let notes = [
        (Signal::SynDrops, Rung::Kprobe, song.syns, tally[Class::SynAcceptQueueFull]),
        (Signal::AckDrops, Rung::Tracepoint, song.acks, tally[Class::AckAcceptQueueFull]),
        (Signal::SynackRetransmits, Rung::Tracepoint, song.synacks, tally.synack_retransmits()),
        (Signal::TimeWait, Rung::Tracepoint, song.time_waits, time_wait),
    ];
    let is_asked = |signal, lowest| {
        standings.iter().any(|standing| standing.signal == signal && standing.rung >= lowest)
    };
    notes
        .into_iter()
        .filter(|(signal, lowest, ..)| is_asked(*signal, *lowest))
        .map(|(signal, _, happened, heard)| (signal, Heard { happened, heard }))
        .collect()
}

/// Moves the thread into a new namespace with its loopback up.
fn settle_in() -> Result<NetnsId> {
    unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace for the canary")?;
    raise_loopback().context("raising the canary's loopback")?;
    Ok(of_this_thread()?)
}

/// Loses handshakes in every way that needs no more than sockets, one way after the other.
fn sing() -> Result<Song> {
    // SYN cookies would answer where a SYN is to be dropped.
    fs::write("/proc/sys/net/ipv4/tcp_syncookies", "0").context("switching SYN cookies off")?;
    turn_syns_away()?;
    let after_syns = mib::read_here()?;
    turn_acks_away()?;
    let after_acks = mib::read_here()?.since(&after_syns);
    enter_time_wait()?;
    Ok(Song {
        syns: after_syns[Counter::ListenOverflows],
        acks: after_acks[Counter::ListenOverflows],
        synacks: after_acks[Counter::SynRetrans],
        // Kernels before 5.18 count it when it expires, a minute later.
        time_waits: 1,
    })
}

/// Closed before they send their SYNs again, which would be more drops.
fn turn_syns_away() -> Result<()> {
    let full = Perch::new(0)?;
    let clients = full.knocks(1 + TURNED_AWAY)?;
    sleep(SETTLE);
    clients.iter().try_for_each(reset_at_close)
}

/// The clients are connected as they see it; their data, sent again and again, finds a full queue.
fn turn_acks_away() -> Result<()> {
    let late = Perch::new(64)?;
    late.hold_acks()?;
    let mut clients = late.knocks(1 + TURNED_AWAY)?;
    sleep(SETTLE);
    for client in &mut clients {
        client.write_all(b"x").context("the canary's clients are not connected")?;
    }
    late.set_backlog(0)?;
    late.release_acks()?;
    sleep(REPEAT);
    clients.iter().try_for_each(reset_at_close)?;
    drop((clients, late));
    sleep(SETTLE);
    Ok(())
}

/// A connection closed by its client first.
fn enter_time_wait() -> Result<()> {
    let listener = TcpListener::bind((ADDRESS, 0))?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    drop(client);
    sleep(Duration::from_millis(20));
    drop(server);
    sleep(SETTLE);
    Ok(())
}

/// A listener that accepts nothing.
struct Perch {
    listener: TcpListener,
    addr: SocketAddrV4,
}

impl Perch {
    fn new(backlog: i32) -> Result<Self> {
        let listener = TcpListener::bind((ADDRESS, 0))?;
        let SocketAddr::V4(addr) = listener.local_addr()? else {
            return Err(anyhow!("an IPv4 listener with another address"));
        };
        let perch = Self { listener, addr };
        // std has listened with a backlog of its own.
        perch.set_backlog(backlog)?;
        Ok(perch)
    }

    fn set_backlog(&self, backlog: i32) -> Result<()> {
        Ok(listen(&self.listener, Backlog::new(backlog)?)?)
    }

    /// Clients that have sent a SYN and wait for nothing.
    fn knocks(&self, count: usize) -> Result<Vec<TcpStream>> {
        (0..count).map(|_| self.knock()).collect()
    }

    fn knock(&self) -> Result<TcpStream> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let client = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
        match connect(client.as_raw_fd(), &SockaddrStorage::from(self.addr)) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(error) => return Err(error).context("the canary's connect"),
        }
        // SAFETY: the descriptor is handed over, and is that of a stream socket.
        Ok(unsafe { TcpStream::from_raw_fd(client.into_raw_fd()) })
    }

    /// Has the kernel drop every segment with the ACK flag before the listener sees it, so that
    /// handshakes stay half open.
    fn hold_acks(&self) -> Result<()> {
        // A socket filter sees a TCP segment from its header on; byte 13 holds the flags.
        let mut program = [
            libc::sock_filter { code: 0x30, jt: 0, jf: 0, k: 13 },
            libc::sock_filter { code: 0x45, jt: 0, jf: 1, k: 0x10 },
            libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0 },
            libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: u32::MAX },
        ];
        let filter = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
        set_option(&self.listener, libc::SO_ATTACH_FILTER, &filter)
    }

    fn release_acks(&self) -> Result<()> {
        set_option(&self.listener, libc::SO_DETACH_FILTER, &0_i32)
    }
}

/// No FIN, which would leave sockets behind that outlive the namespace.
fn reset_at_close(client: &TcpStream) -> Result<()> {
    set_option(client, libc::SO_LINGER, &libc::linger { l_onoff: 1, l_linger: 0 })
}

fn set_option<T>(socket: &impl AsRawFd, name: i32, value: &T) -> Result<()> {
    // SAFETY: the value lives for the call, and its length is its own.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as u32,
        )
    };
    ensure!(result == 0, "socket option {name}: {}", io::Error::last_os_error());
    Ok(())
}

fn raise_loopback() -> Result<()> {
    let any = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: all zeros is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[..2].copy_from_slice(&[b'l' as libc::c_char, b'o' as libc::c_char]);
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads the ifreq it is given.
    let result = unsafe { libc::ioctl(any.as_raw_fd(), libc::SIOCSIFFLAGS, &request) };
    ensure!(result == 0, "{}", io::Error::last_os_error());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(signal: Signal, rung: Rung) -> Standing {
        Standing { signal, rung, blind_spot: String::new(), refused: Vec::new() }
    }

    const SONG: Song = Song { syns: 3, acks: 6, synacks: 4, time_waits: 1 };

    #[test]
    fn a_hook_that_does_not_fire_is_told_from_one_that_does() {
        let standings =
            [standing(Signal::SynDrops, Rung::Fentry), standing(Signal::AckDrops, Rung::Fentry)];
        let tally = Tally::of(&[(Class::SynAcceptQueueFull, 3)]);
        let heard = compare(&standings, &SONG, &tally, 0);
        assert!(heard[&Signal::SynDrops].is_exact());
        assert_eq!(heard[&Signal::AckDrops], Heard { happened: 6, heard: 0 });
        assert!(heard[&Signal::AckDrops].is_deaf() && !heard[&Signal::SynDrops].is_deaf());
    }

    #[test]
    fn only_what_is_seen_packet_by_packet_is_asked() {
        let standings = [
            standing(Signal::SynDrops, Rung::Netlink),
            standing(Signal::SynackRetransmits, Rung::Tracepoint),
        ];
        let tally = Tally::of(&[(Class::RetransmitSilence, 3), (Class::RetransmitOwnDrop, 1)]);
        let heard = compare(&standings, &SONG, &tally, 0);
        assert_eq!(heard.into_keys().collect::<Vec<_>>(), [Signal::SynackRetransmits]);
    }

    #[test]
    fn silence_proves_nothing() {
        assert!(!Heard { happened: 0, heard: 0 }.is_exact());
    }
}
