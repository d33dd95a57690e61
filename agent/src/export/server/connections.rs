//! Which connections are open, and which of them close when there are too many.
//!
//! A server cannot know what a silent connection will ask, so no place can be reserved for health
//! checks. Instead a new connection is always accepted, and the one that has waited longest in the most
//! crowded source makes room. A probe sends its request at once and needs a place for a moment only.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

/// Connections open at once.
pub const MOST: usize = 512;
/// Connections of one source open at once.
const MOST_OF_SOURCE: usize = 256;
/// Pages that are sent for longer than [`PROMPT`] at once: each may hold the rendering of another tick in
/// memory, whereas those that were asked for together share one.
const MOST_SLOW_PAGES: usize = 16;
/// Within this time a client reads a page.
const PROMPT: Duration = Duration::from_secs(3);
/// A source with more connections than this loses one before any other source does.
const FAIR_SHARE: usize = 8;
/// How long a connection may take to send a request's head, a TLS handshake included.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer may take, until the client has read it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a connection may be idle between two requests: longer than is usual between two scrapes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// Whose connections count together: an IPv4 address, an IPv6 /64, which one host commonly has whole,
/// or loopback, all of which any local process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source(IpAddr);

impl From<SocketAddr> for Source {
    fn from(addr: SocketAddr) -> Self {
        Self(match addr.ip().to_canonical() {
            ip if ip.is_loopback() => Ipv6Addr::LOCALHOST.into(),
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
            v4 => v4,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A request's head, or a TLS handshake, is awaited or incomplete.
    Head,
    /// A request is being worked on.
    Working { is_page: bool },
    /// The answer is being written.
    Sending { is_page: bool },
    /// The answer has been written; there may be another request.
    Idle,
}

impl Phase {
    fn timeout(self) -> Duration {
        match self {
            Self::Head => HEAD_TIMEOUT,
            Self::Working { .. } | Self::Sending { .. } => ANSWER_TIMEOUT,
            Self::Idle => IDLE_TIMEOUT,
        }
    }

    fn is_waiting(self) -> bool {
        matches!(self, Self::Head | Self::Idle)
    }

    fn sends_page(self) -> bool {
        matches!(self, Self::Sending { is_page: true })
    }
}

struct Connection {
    source: Source,
    phase: Phase,
    since: Instant,
    /// Dropped with the connection's place, which ends its task.
    _open: oneshot::Sender<()>,
}

#[derive(Default)]
struct Table {
    connections: BTreeMap<u64, Connection>,
    by_source: HashMap<Source, usize>,
    last_id: u64,
    /// Closed to make room.
    crowded_out: u64,
}

impl Table {
    fn remove(&mut self, id: u64) {
        let Some(gone) = self.connections.remove(&id) else { return };
        if let Some(count) = self.by_source.get_mut(&gone.source) {
            *count -= 1;
            if *count == 0 {
                self.by_source.remove(&gone.source);
            }
        }
    }

    /// Closes one of the connections that `are_eligible`: of the most crowded source if one has more
    /// than its share, a waiting one rather than one with a request, the oldest first.
    fn make_room(&mut self, are_eligible: impl Fn(&Connection) -> bool) {
        let eligible = || self.connections.iter().filter(|(_, it)| are_eligible(it));
        let crowded = self.by_source.iter().filter(|(_, count)| **count > FAIR_SHARE);
        let crowded = crowded.max_by_key(|(_, count)| **count).map(|(source, _)| *source);
        let order = |(_, it): &(&u64, &Connection)| (!it.phase.is_waiting(), it.since);
        let of_crowded = eligible().filter(|(_, it)| crowded == Some(it.source)).min_by_key(order);
        if let Some((id, _)) = of_crowded.or_else(|| eligible().min_by_key(order)) {
            let id = *id;
            self.remove(id);
            self.crowded_out += 1;
        }
    }
}

/// The open connections.
#[derive(Clone, Default)]
pub struct Connections(Arc<Mutex<Table>>);

impl Connections {
    /// Takes in a connection and makes room for it where there is none. The receiver completes when the
    /// connection must close.
    pub fn admit(&self, source: Source) -> (Place, oneshot::Receiver<()>) {
        let (open, closed) = oneshot::channel();
        let mut table = self.lock();
        if table.by_source.get(&source).is_some_and(|count| *count >= MOST_OF_SOURCE) {
            table.make_room(|it| it.source == source);
        }
        if table.connections.len() >= MOST {
            table.make_room(|_| true);
        }
        table.last_id += 1;
        let id = table.last_id;
        let connection =
            Connection { source, phase: Phase::Head, since: Instant::now(), _open: open };
        table.connections.insert(id, connection);
        *table.by_source.entry(source).or_default() += 1;
        (Place { connections: self.clone(), id, source }, closed)
    }

    /// Closes the connections that have been in their phase for too long at `now`, and slow readers of
    /// pages where there are too many. Returns how many were closed since the last call because others
    /// needed room.
    pub fn close_expired(&self, now: Instant) -> u64 {
        let mut table = self.lock();
        let is_expired =
            |it: &Connection| now.saturating_duration_since(it.since) > it.phase.timeout();
        let expired = table.connections.iter().filter(|(_, it)| is_expired(it));
        let expired: Vec<u64> = expired.map(|(id, _)| *id).collect();
        expired.into_iter().for_each(|id| table.remove(id));
        let is_slow = |it: &Connection| {
            it.phase.sends_page() && now.saturating_duration_since(it.since) > PROMPT
        };
        let slow = table.connections.values().filter(|it| is_slow(it)).count();
        (MOST_SLOW_PAGES..slow).for_each(|_| table.make_room(is_slow));
        std::mem::take(&mut table.crowded_out)
    }

    pub fn close_all(&self) {
        *self.lock() = Table::default();
    }

    /// What is changed under the lock is changed without a panic in between.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place among the others, given up when dropped.
pub struct Place {
    connections: Connections,
    id: u64,
    /// Where the connection comes from.
    pub source: Source,
}

impl Place {
    /// Bytes came: those of a next request's head, if none was being sent or answered.
    pub fn has_read(&self) {
        self.change(|phase| (phase == Phase::Idle).then_some(Phase::Head));
    }

    /// A request's head is complete.
    pub fn works(&self, is_page: bool) {
        self.change(|_| Some(Phase::Working { is_page }));
    }

    /// The answer is ready.
    pub fn sends(&self) {
        self.change(|phase| match phase {
            Phase::Working { is_page } => Some(Phase::Sending { is_page }),
            _ => None,
        });
    }

    /// All that was to be written is written.
    pub fn has_flushed(&self) {
        let is_sending = |phase| matches!(phase, Phase::Sending { .. });
        self.change(|phase| is_sending(phase).then_some(Phase::Idle));
    }

    fn change(&self, to: impl FnOnce(Phase) -> Option<Phase>) {
        let mut table = self.connections.lock();
        let Some(connection) = table.connections.get_mut(&self.id) else { return };
        if let Some(phase) = to(connection.phase) {
            connection.phase = phase;
            connection.since = Instant::now();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.lock().remove(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Held = (Place, oneshot::Receiver<()>);

    fn from(ip: &str) -> Source {
        SocketAddr::new(ip.parse().unwrap(), 1).into()
    }

    fn is_open((_, closed): &mut Held) -> bool {
        closed.try_recv() == Err(oneshot::error::TryRecvError::Empty)
    }

    fn open(held: &mut [Held]) -> usize {
        held.iter_mut().map(|it| usize::from(is_open(it))).sum()
    }

    #[test]
    fn whoever_can_choose_among_addresses_is_one_source() {
        assert_eq!(from("127.0.0.1"), from("127.3.4.5"));
        assert_eq!(from("127.0.0.1"), from("::1"));
        assert_eq!(from("::ffff:10.0.0.1"), from("10.0.0.1"));
        assert_eq!(from("2001:db8::1"), from("2001:db8::ffff:2"));
        assert_ne!(from("2001:db8:0:1::1"), from("2001:db8:0:2::1"));
        assert_ne!(from("10.0.0.1"), from("10.0.0.2"));
    }

    #[test]
    fn one_source_crowds_out_itself_alone() {
        let connections = Connections::default();
        let mut other = connections.admit(from("10.0.0.2"));
        let mut crowd: Vec<Held> = (0..5000).map(|_| connections.admit(from("10.0.0.1"))).collect();
        assert_eq!(open(&mut crowd), MOST_OF_SOURCE);
        assert!(is_open(&mut other) && is_open(crowd.last_mut().unwrap()));
        assert_eq!(connections.close_expired(Instant::now()), (5000 - MOST_OF_SOURCE) as u64);
    }

    #[test]
    fn of_many_sources_the_oldest_that_waits_makes_room() {
        let connections = Connections::default();
        let mut scrape = connections.admit(from("10.0.0.1"));
        scrape.0.works(true);
        let from_each = |n: u32| connections.admit(from(&format!("10.1.{}.{}", n / 256, n % 256)));
        let mut many: Vec<Held> = (0..5000).map(from_each).collect();
        assert_eq!(open(&mut many), MOST - 1);
        assert!(is_open(&mut scrape), "a request is not ended for those who ask nothing");
        assert!(is_open(many.last_mut().unwrap()) && !is_open(&mut many[0]));
    }

    #[test]
    fn a_source_within_its_share_is_no_more_crowded_than_one_with_a_single_connection() {
        let connections = Connections::default();
        let mut old = connections.admit(from("10.2.0.1"));
        let mut node: Vec<Held> =
            (0..FAIR_SHARE).map(|_| connections.admit(from("10.0.0.1"))).collect();
        let fill = MOST - FAIR_SHARE;
        let _many: Vec<Held> = (0..fill as u32)
            .map(|n| connections.admit(from(&format!("10.1.{}.{}", n / 256, n % 256))))
            .collect();
        assert!(!is_open(&mut old));
        assert_eq!(open(&mut node), FAIR_SHARE);
    }

    #[test]
    fn pages_that_nobody_reads_make_room_for_others_and_health_checks_need_none() {
        let connections = Connections::default();
        let ask = |is_page| {
            let held = connections.admit(from("10.0.0.1"));
            held.0.works(is_page);
            held.0.sends();
            held
        };
        let mut pages: Vec<Held> = (0..100).map(|_| ask(true)).collect();
        let mut checks: Vec<Held> = (0..100).map(|_| ask(false)).collect();
        let now = Instant::now();
        connections.close_expired(now);
        assert_eq!((open(&mut pages), open(&mut checks)), (100, 100), "a crowd is served");
        connections.close_expired(now + PROMPT + Duration::from_secs(1));
        assert_eq!((open(&mut pages), open(&mut checks)), (MOST_SLOW_PAGES, 100));
    }

    #[test]
    fn each_phase_has_its_time() {
        let connections = Connections::default();
        let now = Instant::now();
        let is_closed_after = |held: &mut Held, limit: Duration| {
            connections.close_expired(now + limit - Duration::from_secs(1));
            let before = is_open(held);
            connections.close_expired(now + limit + Duration::from_secs(1));
            before && !is_open(held)
        };
        let mut slow_head = connections.admit(from("10.0.0.1"));
        slow_head.0.has_read();
        assert!(is_closed_after(&mut slow_head, HEAD_TIMEOUT));
        let mut slow_reader = connections.admit(from("10.0.0.1"));
        slow_reader.0.works(true);
        slow_reader.0.has_flushed();
        slow_reader.0.sends();
        assert!(is_closed_after(&mut slow_reader, ANSWER_TIMEOUT));
        let mut kept_alive = connections.admit(from("10.0.0.1"));
        kept_alive.0.works(true);
        kept_alive.0.sends();
        kept_alive.0.has_flushed();
        assert!(is_closed_after(&mut kept_alive, IDLE_TIMEOUT));
        let mut second_head = connections.admit(from("10.0.0.1"));
        second_head.0.works(true);
        second_head.0.sends();
        second_head.0.has_flushed();
        second_head.0.has_read();
        assert!(is_closed_after(&mut second_head, HEAD_TIMEOUT));
    }

    #[test]
    fn a_place_that_is_given_up_is_free() {
        let connections = Connections::default();
        drop((0..10).map(|_| connections.admit(from("10.0.0.1"))).collect::<Vec<_>>());
        let table = connections.lock();
        assert!(table.connections.is_empty() && table.by_source.is_empty());
    }
}
