//! What the canary sings: every loss that sockets of its own can cause, verse by verse, with what the
//! kernel's counters say of each. Not sung: the last quarter of the SYN queue, TIME_WAIT reused or
//! reopened, and the causes that are watched for on demand.

use std::{fs, io::Write, net::IpAddr, slice, thread::sleep, time::Duration};

use anyhow::{Context, Result, ensure};
use log::debug;
use socket2::{Domain, SockAddr, Socket, Type};

use super::{
    ADDRESS, ADDRESS_V6, Song,
    perch::{Ear, Perch, add_ipv6},
};
use crate::kernel::{
    Counter, Signal,
    mib::{self, MibCounts},
};

/// Clients that find no room, at the SYN and at the final ACK.
const TURNED_AWAY: usize = 3;
/// Connections that wait in one queue, more than in any other verse.
const CROWD: usize = 9;
/// A backlog that no other verse asks for.
pub const BACKLOG: i32 = 77;
/// Time for segments to cross the loopback.
const SETTLE: Duration = Duration::from_millis(50);
/// Data is sent again after 0.2 s.
const DATA_REPEAT: Duration = Duration::from_millis(350);
/// SYNs and SYN/ACKs are first sent again after one second (RFC 6298).
const REPEAT: Duration = Duration::from_millis(1300);
const ACK: u8 = 0x10;
const SYN: u8 = 0x02;

/// Sings it to the end.
pub fn sing() -> Result<Song> {
    let mut addresses: Vec<IpAddr> = vec![ADDRESS.into()];
    match add_ipv6() {
        Ok(()) => addresses.push(ADDRESS_V6.into()),
        Err(error) => debug!("self-test without IPv6: {error:#}"),
    }
    let mut song = Song::new();
    // SYN cookies would answer where a SYN is to be dropped.
    set("tcp_syncookies", "0")?;
    let counted = counted(turn_syns_away)?;
    song.insert(Signal::SynDrops, counted[Counter::ListenOverflows]);
    song.extend(acks()?);
    song.insert(Signal::CookieDrops, cookies(&addresses)?);
    song.extend(patience()?);
    match counted_icmp() {
        Ok(count) => drop(song.insert(Signal::IcmpDrops, count)),
        Err(error) => debug!("self-test without ICMP errors: {error:#}"),
    }
    song.insert(Signal::UnacceptedResets, close_on_the_unaccepted()?);
    song.extend(queue()?);
    song.insert(Signal::UnixRefusals, refuse_on_unix()?);
    song.extend(time_wait()?);
    song.insert(Signal::PortExhaustion, exhaust_ports(&addresses)?);
    Ok(song)
}

/// What the kernel counted meanwhile.
fn counted<T>(verse: impl FnOnce() -> Result<T>) -> Result<MibCounts> {
    let before = mib::read_here()?;
    verse()?;
    Ok(mib::read_here()?.since(&before))
}

fn set(sysctl: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/ipv4/{sysctl}");
    fs::write(&path, value).with_context(|| format!("self-test: setting {sysctl}"))
}

/// Closed before they send their SYNs again, which would be more drops.
fn turn_syns_away() -> Result<()> {
    let full = Perch::new(ADDRESS, 0)?;
    let clients = full.knocks(1 + TURNED_AWAY)?;
    sleep(SETTLE);
    leave(clients, &[full])
}

/// The clients are connected as they see it; their data, sent again and again, finds a full queue.
fn acks() -> Result<Song> {
    let counted = counted(|| knock_late(&[ADDRESS.into()], REPEAT))?;
    Ok(Song::from([
        (Signal::AckDrops, counted[Counter::ListenOverflows]),
        (Signal::SynackRetransmits, counted[Counter::SynRetrans]),
    ]))
}

/// The same with SYN cookies, for every family.
fn cookies(addresses: &[IpAddr]) -> Result<u64> {
    set("tcp_syncookies", "2")?;
    let counted = counted(|| knock_late(addresses, DATA_REPEAT))?;
    set("tcp_syncookies", "0")?;
    Ok(counted[Counter::SyncookiesRecv] + counted[Counter::ListenOverflows])
}

/// Clients whose final ACKs come when there is room for one connection alone.
fn knock_late(addresses: &[IpAddr], wait: Duration) -> Result<()> {
    let perches: Vec<Perch> =
        addresses.iter().map(|address| Perch::new(*address, 64)).collect::<Result<_>>()?;
    let mut clients = Vec::new();
    for perch in &perches {
        perch.deafen(ACK)?;
        clients.extend(perch.knocks(1 + TURNED_AWAY)?);
    }
    sleep(SETTLE);
    for client in &mut clients {
        client.write_all(b"x").context("self-test: a client is not connected")?;
    }
    for perch in &perches {
        perch.set_backlog(0)?;
        perch.listen_up()?;
    }
    sleep(wait);
    leave(clients, &perches)
}

/// Requests whose client stays silent end at the first timeout, and a SYN that nobody heard is sent
/// again.
fn patience() -> Result<Song> {
    set("tcp_synack_retries", "0")?;
    let counted = counted(|| {
        let (silent, deaf) = (Perch::new(ADDRESS, 64)?, Perch::new(ADDRESS, 64)?);
        silent.deafen(ACK)?;
        deaf.deafen(SYN)?;
        let mut clients = silent.knocks(TURNED_AWAY)?;
        clients.extend(deaf.knocks(1)?);
        sleep(REPEAT);
        leave(clients, &[silent, deaf])
    })?;
    set("tcp_synack_retries", "5")?;
    Ok(Song::from([
        (Signal::ExpiredRequests, TURNED_AWAY as u64),
        (Signal::SynRetransmits, counted[Counter::SynRetrans]),
    ]))
}

/// Requests whose SYN/ACKs are said not to reach their clients.
fn counted_icmp() -> Result<u64> {
    let mut ear = Ear::open()?;
    let counted = counted(|| {
        let refused = Perch::new(ADDRESS, 64)?;
        refused.deafen(ACK)?;
        let clients = refused.knocks(TURNED_AWAY)?;
        for _ in &clients {
            ear.next_from(&refused)?.refuse()?;
        }
        sleep(SETTLE);
        leave(clients, &[refused])
    })?;
    Ok(counted[Counter::ListenDrops])
}

/// Connections that wait to be accepted when their listener closes. No counter shows them; the other
/// verses accept theirs.
fn close_on_the_unaccepted() -> Result<u64> {
    let closing = Perch::new(ADDRESS, 64)?;
    let clients = closing.knocks(TURNED_AWAY)?;
    sleep(SETTLE);
    drop(closing);
    drop(clients);
    Ok(TURNED_AWAY as u64)
}

/// A queue deeper than that of any other verse, all of which is accepted, and a backlog that no other
/// verse asks for.
fn queue() -> Result<Song> {
    let deep = Perch::new(ADDRESS, BACKLOG)?;
    let clients = deep.knocks(CROWD)?;
    sleep(SETTLE);
    let accepted: Vec<Socket> = clients.iter().map(|_| deep.accept()).collect::<Result<_>>()?;
    leave(clients, &[deep])?;
    Ok(Song::from([
        (Signal::QueueDepth, CROWD as u64),
        (Signal::TimeInQueue, accepted.len() as u64),
        (Signal::ListenCalls, 1),
    ]))
}

/// Unix clients that will not wait for room. The name is an abstract one, of the canary's namespace.
fn refuse_on_unix() -> Result<u64> {
    let address = SockAddr::unix("\0floodmark-canary")?;
    let listener = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    listener.bind(&address)?;
    listener.listen(0)?;
    let mut clients = Vec::new();
    for _ in 0..=TURNED_AWAY {
        let client = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        client.set_nonblocking(true)?;
        clients.push((client.connect(&address), client));
    }
    let full = |outcome: &std::io::Result<()>| {
        outcome.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EAGAIN))
    };
    Ok(clients.iter().filter(|(outcome, _)| full(outcome)).count() as u64)
}

/// Two connections closed by their client first, which in no other verse anybody does: one enters, and
/// one finds no room in the table.
fn time_wait() -> Result<Song> {
    let counted = counted(|| {
        close_first()?;
        set("tcp_max_tw_buckets", "0")?;
        close_first()
    })?;
    // Kernels before 5.18 count the first when it expires, a minute later.
    let entered = 1 + counted[Counter::TimeWaitOverflow];
    Ok(Song::from([(Signal::TimeWait, entered), (Signal::Churn, 2)]))
}

fn close_first() -> Result<()> {
    let listener = Perch::new(ADDRESS, 64)?;
    let client = listener.visit().context("self-test: connect")?;
    let server = listener.accept()?;
    drop(client);
    sleep(SETTLE);
    drop(server);
    sleep(SETTLE);
    Ok(())
}

/// One port, and two connections that want it, for every family.
fn exhaust_ports(addresses: &[IpAddr]) -> Result<u64> {
    let perches: Vec<Perch> =
        addresses.iter().map(|address| Perch::new(*address, 64)).collect::<Result<_>>()?;
    set("ip_local_port_range", "61000 61000")?;
    let mut refused = 0;
    for perch in &perches {
        let first: Socket = perch.visit().context("self-test: connect")?;
        first.set_linger(Some(Duration::ZERO))?;
        let second = perch.visit().err().and_then(|error| error.raw_os_error());
        ensure!(
            second == Some(libc::EADDRNOTAVAIL),
            "self-test: a connect without a free port returned {second:?}"
        );
        refused += 1;
        // The client resets; if the other side closed first, it might enter TIME_WAIT.
        leave(vec![first], slice::from_ref(perch))?;
    }
    Ok(refused)
}

/// Clients go first, and what waits is accepted, lest it be reset when its listener closes.
fn leave(clients: Vec<Socket>, perches: &[Perch]) -> Result<()> {
    drop(clients);
    sleep(SETTLE);
    perches.iter().try_for_each(Perch::accept_all)
}
