//! An incident in which the wall clock is set: nginx's lines, from a file, against the kernel's losses.

use std::{collections::BTreeSet, fs::File, io::Write, time::Duration};

use jiff::Timestamp;

use super::*;
use crate::{
    clock::{AgentClock, tests::Hands},
    inventory::{InventoryChanges, Listener},
    kernel::{Attribution, Class, ListenerDelta, QueueDepth, Tally},
    proxy::{
        Dialect,
        source::{Follower, Interpreter},
    },
    time::Window,
    verdict::{Cause, Confidence},
};

/// 2026-11-20T19:46:40Z.
const BEGIN: i64 = 1_795_204_000_000;
const SECONDS: u64 = 90;
/// The queue overflows, nginx takes the peer out, and back after `fail_timeout`.
const CYCLE: u64 = 12;
/// When the wall clock is set: between two lines, the first of which has not been read yet.
const STEP_AT_MS: i64 = 450;
const NETNS: NetnsId = NetnsId(7);
const PEER: &str = "10.0.0.1:8000";

struct Incident {
    clock: &'static AgentClock,
    hands: std::sync::Arc<Hands>,
    log: File,
    follower: Follower,
    judge: Judge,
    inventory: Inventory,
    verdicts: Vec<Verdict>,
    _directory: tempfile::TempDir,
}

fn listener() -> ListenerId {
    ListenerId { netns: NETNS, addr: PEER.parse().unwrap(), inode: 3 }
}

fn inventory() -> Inventory {
    let queue = QueueDepth { len: 0, limit: 128 };
    let mut changes = InventoryChanges::default();
    changes.listeners.set.insert(listener(), Listener::unknown(listener(), queue, None));
    changes.addresses.set.insert(NETNS, BTreeSet::from([listener().addr.ip()]));
    let mut inventory = Inventory::default();
    inventory.apply(changes);
    inventory
}

impl Incident {
    fn new() -> Self {
        let (clock, hands) = Hands::new(BEGIN);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("error.log");
        let log = File::options().create(true).append(true).open(&path).unwrap();
        let reader = Interpreter::new(Dialect::Nginx, "error.log".to_owned()).by_clock(clock);
        Self {
            clock,
            hands,
            log,
            follower: Follower::new(&path, reader, None),
            judge: Judge::new(clock.now()),
            inventory: inventory(),
            verdicts: Vec::new(),
            _directory: directory,
        }
    }

    /// nginx writes a line about a request.
    fn write(&mut self, level: &str, connection: u64, message: &str, upstream: &str) {
        let wall = Timestamp::from_millisecond(self.hands.wall().0 as i64).unwrap();
        let line = format!(
            "{} [{level}] 77#77: *{connection} {message}, client: 10.9.9.9, server: , request: \
             \"GET / HTTP/1.1\", upstream: \"http://{upstream}/\", host: \"app\"\n",
            wall.strftime("%Y/%m/%d %H:%M:%S")
        );
        self.log.write_all(line.as_bytes()).unwrap();
    }

    fn write_attempt(&mut self, second: u64) {
        let failed = "upstream timed out (110: Connection timed out) while connecting to upstream";
        self.write("error", second, failed, PEER);
        let marked = "upstream server temporarily disabled while connecting to upstream";
        self.write("warn", second, marked, PEER);
    }

    fn hear(&mut self) {
        let at = self.clock.now();
        for event in self.follower.poll(at) {
            let event = ProxyEvent { line: None, ..event };
            let heard = Heard { event, netns: Some(NETNS), at, line: None };
            self.judge.hear(&heard, &self.inventory);
        }
    }

    fn tick(&mut self, class: Option<Class>, is_last: bool) {
        let now = self.clock.now();
        let delta = class.map(|class| ListenerDelta {
            listener: listener(),
            tally: Tally::of(&[(class, 7)]),
            attribution: Attribution::Exact,
            queue: Some(QueueDepth { len: 129, limit: 128 }),
        });
        let window = Window { from: UnixMs(now.0 - 1000), to: now };
        let listeners = delta.into_iter().collect();
        let inputs = Inputs {
            now,
            sample: &KernelSample { window, listeners, events_lost: 0 },
            events: &[],
            heard: &[],
            hears_proxies: true,
            forgets: false,
            is_last,
            standings: &[],
            totals: &Totals::default(),
            arrivals: &[],
            links: &[],
            stalls: &[],
            clock: &self.clock.compare(),
        };
        self.verdicts.extend(self.judge.tick(&inputs, &self.inventory).verdicts);
    }

    fn second(&mut self, second: u64, set_by_ms: i64) {
        let in_cycle = second % CYCLE;
        self.hands.pass(300);
        if in_cycle == 1 {
            self.write_attempt(second);
        }
        if in_cycle == 1 || (5..10).contains(&in_cycle) {
            let (connection, group) = (second, "app");
            self.write(
                "error",
                connection,
                "no live upstreams while connecting to upstream",
                group,
            );
        }
        self.hands.pass(STEP_AT_MS - 300);
        self.hands.set_by(set_by_ms);
        self.hands.pass(600 - STEP_AT_MS);
        if in_cycle == 2 {
            let reset = "recv() failed (104: Connection reset by peer) while reading response \
                         header from upstream";
            self.write("error", 1000 + second, reset, PEER);
        }
        self.hands.pass(100);
        self.hear();
        self.hands.pass(300);
        let class = match in_cycle {
            0 | 1 => Some(Class::SynAcceptQueueFull),
            2 => Some(Class::AckAcceptQueueFull),
            _ => None,
        };
        self.tick(class, second + 1 == SECONDS);
    }
}

/// The verdicts where the clock is set by `ms` in these seconds.
fn verdicts(set: &[(u64, i64)]) -> Vec<Verdict> {
    let mut incident = Incident::new();
    for second in 0..SECONDS {
        let by = set.iter().find(|(at, _)| *at == second).map_or(0, |(_, by)| *by);
        incident.second(second, by);
    }
    let report =
        incident.judge.report(incident.clock.now(), &[], &Totals::default(), &incident.inventory);
    assert_eq!(report.window.to, incident.hands.wall(), "people see the wall clock");
    let last = report.proxy.verdicts.last().unwrap().event.at;
    assert!(
        last.later(Duration::from_secs(60)) > incident.hands.wall()
            && last <= incident.hands.wall()
    );
    assert_eq!(report.clock_steps.len(), set.len());
    incident.verdicts
}

fn without_note(verdicts: &[Verdict]) -> Vec<Verdict> {
    let mut verdicts = verdicts.to_vec();
    verdicts.iter_mut().for_each(|verdict| verdict.health.clock_set_ms = 0);
    verdicts
}

#[test]
fn no_verdict_changes_when_the_wall_clock_is_set_in_mid_incident() {
    let unset = verdicts(&[]);
    let count = |cause| unset.iter().filter(|verdict| verdict.cause == cause).count();
    assert!(count(Cause::AcceptQueueOverflow) > 50, "{unset:#?}");
    assert!(count(Cause::HalfOpen) >= 7, "{unset:#?}");
    assert_eq!(count(Cause::AcceptQueueOverflow) + count(Cause::HalfOpen), unset.len());
    assert!(unset.iter().all(|verdict| verdict.confidence == Confidence::Medium));
    assert!(unset.iter().all(|verdict| verdict.health.clock_set_ms == 0));
    for first in [24, 25, 26, 30] {
        let both = [(first, -300_000), (first + 25, 3_900_000)];
        for set in [&both[..], &both[..1], &both[1..], &[(first, -3_600_000), (first + 1, 60_000)]]
        {
            let found = verdicts(set);
            let mut pairs = without_note(&found).into_iter().zip(unset.clone());
            let differing = pairs.find(|(found, unset)| found != unset);
            assert_eq!((found.len(), differing), (unset.len(), None), "{set:?}");
            let noted: BTreeSet<u64> = found.iter().map(|it| it.health.clock_set_ms).collect();
            let least = set.iter().map(|(_, by)| by.unsigned_abs()).min();
            assert!(noted.contains(&0) && noted.last().copied() >= least, "{noted:?}");
        }
    }
}

/// nginx stamps whole seconds, which begin at other instants then.
#[test]
fn no_cause_changes_when_the_wall_clock_is_set_by_parts_of_a_second() {
    let causes = |verdicts: &[Verdict]| -> Vec<(Cause, Confidence)> {
        verdicts.iter().map(|verdict| (verdict.cause, verdict.confidence)).collect()
    };
    let unset = causes(&verdicts(&[]));
    for by_ms in [-300_250, 3_900_777, -730, 730, 1500, -1500, -4100, 4100] {
        for second in 24..36 {
            assert_eq!(causes(&verdicts(&[(second, by_ms)])), unset, "{by_ms} at {second}");
        }
    }
}

/// nginx counts `fail_timeout` by the wall clock: set back, its peers stay out for as much longer. Nothing
/// links these requests with the peer.
#[test]
fn peers_that_stay_out_since_the_clock_was_set_back_are_not_said_to_be_at_a_limit() {
    for (by_ms, seconds) in [(-300_000, 310), (-3_600_000, 800)] {
        let mut incident = Incident::new();
        for second in 0..seconds {
            if second == 100 {
                incident.write_attempt(second);
            }
            if second > 100 {
                let message = "no live upstreams while connecting to upstream";
                incident.write("error", 5000 + second, message, "app");
            }
            incident.hands.pass(500);
            incident.hands.set_by(if second == 102 { by_ms } else { 0 });
            incident.hands.pass(400);
            incident.hear();
            incident.hands.pass(100);
            let class = (second == 100).then_some(Class::SynAcceptQueueFull);
            incident.tick(class, second + 1 == seconds);
        }
        let explained = |verdict: &Verdict| match verdict.cause {
            Cause::AcceptQueueOverflow => true,
            cause => cause == Cause::NoKernelEvidence && verdict.confidence == Confidence::Low,
        };
        let wrong = incident.verdicts.iter().find(|verdict| !explained(verdict));
        assert_eq!((incident.verdicts.len() > 200, wrong), (true, None), "{by_ms}");
        let overflow = |verdict: &&Verdict| verdict.cause == Cause::AcceptQueueOverflow;
        let joined = incident.verdicts.iter().filter(overflow).count();
        assert!(joined > 200, "{joined} of {}", incident.verdicts.len());
    }
}
