use super::*;
use crate::{
    inventory::{Told, ToldListener},
    kernel::{
        Attribution, Class, KernelEvent, KernelSample, ListenerDelta, NetnsId, QueueDepth, Tally,
    },
    proxy::{EventKind, Failure, Phase, ProxyEvent, ProxyKind, Upstream},
    verdict::{Cause, Confidence},
};

const PEER: &str = "10.0.0.2:8000";
/// The initial namespace has the same number on every host.
const NETNS: NetnsId = NetnsId(4_026_531_840);
const PATIENCE: Duration = Duration::from_secs(60);

/// One host's agent. `slow_ms`: by how much its clock is behind the bus'.
struct Agent {
    host: &'static str,
    address: &'static str,
    listeners: &'static [&'static str],
    slow_ms: i64,
    number: u64,
}

const PROXY: Agent =
    Agent { host: "proxy", address: "10.0.0.1", listeners: &[], slow_ms: 0, number: 0 };
const APP: Agent =
    Agent { host: "app", address: "10.0.0.2", listeners: &["0.0.0.0:8000"], slow_ms: 0, number: 0 };

/// The bus' clock, and the stream.
struct Stream {
    joiner: Joiner,
    sequence: u64,
    kept: Vec<(Message, Stored)>,
}

fn at(second: u64) -> UnixMs {
    UnixMs(1_700_000_000_000 + 1000 * second)
}

impl Stream {
    fn new() -> Self {
        Self { joiner: Joiner::new(PATIENCE), sequence: 0, kept: Vec::new() }
    }

    fn publish(&mut self, agent: &mut Agent, stored: u64, content: Content) -> Vec<Joined> {
        agent.number += 1;
        self.sequence += 1;
        let message = Message {
            version: VERSION,
            host: agent.host.to_owned(),
            run: UnixMs(1),
            number: agent.number,
            content,
        };
        // The message before took no time at all.
        let before = at(stored).shifted(-agent.slow_ms);
        let exchange = Exchange { sequence: self.sequence, sent: before, acknowledged: before };
        let stored = Stored { sequence: self.sequence, at: at(stored), exchange: Some(exchange) };
        self.kept.push((message.clone(), stored));
        self.joiner.take(message, stored)
    }

    fn second(&mut self, agent: &mut Agent, second: u64, lost: u64) -> Vec<Joined> {
        self.tick(agent, second, second, lost)
    }

    /// What a second brought, stored later.
    fn tick(&mut self, agent: &mut Agent, second: u64, stored: u64, lost: u64) -> Vec<Joined> {
        let window = Window {
            from: at(second - 1).shifted(-agent.slow_ms),
            to: at(second).shifted(-agent.slow_ms),
        };
        let delta = |addr: &&str| ListenerDelta {
            listener: ListenerId { netns: NETNS, addr: addr.parse().unwrap(), inode: 5 },
            tally: Tally::of(&[(Class::SynAcceptQueueFull, lost)]),
            attribution: Attribution::Exact,
            queue: None,
        };
        let losers = agent.listeners.iter().filter(|_| lost > 0);
        let tick = Tick {
            at: window.to,
            sample: KernelSample { window, listeners: losers.map(delta).collect(), events_lost: 0 },
            waiting: Vec::new(),
            syns_repeated: Vec::new(),
            syn_queues_full: Vec::new(),
            aborting: Default::default(),
            syn_rung: "fentry".to_owned(),
            ack_rung: "fentry".to_owned(),
            namespaces: [NETNS].into(),
        };
        self.publish(agent, stored, Content::Tick(Box::new(tick)))
    }

    fn begin(&mut self, agent: &mut Agent) {
        let listener = |addr: &&str| ToldListener {
            addr: addr.parse().unwrap(),
            inode: 5,
            v6_only: false,
            command: None,
        };
        let told = Told {
            netns: NETNS,
            name: "net".to_owned(),
            addresses: ["127.0.0.1", agent.address].iter().map(|a| a.parse().unwrap()).collect(),
            listeners: agent.listeners.iter().map(listener).collect(),
            left_out: 0,
        };
        self.publish(agent, 0, Content::Namespace(told));
    }

    /// A connect of 3 s that timed out.
    fn heard(&mut self, agent: &mut Agent, second: u64) -> Vec<Joined> {
        let when = at(second).shifted(-agent.slow_ms);
        let failure = Failure::TIMEOUT;
        let event = ProxyEvent {
            at: when,
            precision_ms: 1000,
            proxy: ProxyKind::Nginx,
            source: "error.log".to_owned(),
            pid: None,
            connection: None,
            kind: EventKind::AttemptFailed { phase: Phase::Connect, failure },
            upstream: Upstream::Inet(PEER.parse().unwrap()),
            group: None,
            peer_addr: None,
            leads_to: Vec::new(),
            path: None,
            local_addr: None,
            took_ms: Some(3000),
            trust: crate::proxy::Trust::Verified,
            line: None,
        };
        let heard = vec![Heard { event, netns: Some(NETNS), at: when, line: None }];
        self.publish(agent, second, Content::Heard { heard })
    }

    /// Both hosts tell of the seconds up to `to`; the application's loses in those given.
    fn both(&mut self, hosts: [&mut Agent; 2], to: u64, losing: &[u64]) -> Vec<Joined> {
        let [proxy, app] = hosts;
        let mut verdicts = Vec::new();
        for second in 1..=to {
            if second == 80 {
                verdicts.extend(self.heard(proxy, second));
            }
            verdicts.extend(self.second(proxy, second, 0));
            verdicts.extend(self.second(app, second, 3 * u64::from(losing.contains(&second))));
        }
        verdicts
    }
}

fn only(verdicts: Vec<Joined>) -> Joined {
    assert_eq!(verdicts.len(), 1, "{verdicts:?}");
    verdicts.into_iter().next().unwrap()
}

#[test]
fn what_one_host_heard_is_joined_with_what_another_lost() {
    let (mut stream, mut proxy, mut app) = (Stream::new(), PROXY, APP);
    stream.begin(&mut proxy);
    stream.begin(&mut app);
    let joined = only(stream.both([&mut proxy, &mut app], 90, &[78, 79]));
    assert_eq!(
        (joined.proxy_host.as_str(), joined.listener_host.as_deref()),
        ("proxy", Some("app"))
    );
    let verdict = joined.verdict;
    assert_eq!((verdict.cause, verdict.confidence), (Cause::AcceptQueueOverflow, Confidence::High));
    assert_eq!(verdict.evidence[Class::SynAcceptQueueFull], 6);
    assert_eq!(verdict.listener.unwrap().netns, NETNS);
    assert_eq!(verdict.event.source, "error.log");
    // Two clocks, each known to a millisecond.
    assert_eq!(verdict.health.skew_ms, 2);
    assert_eq!(verdict.window.length(), Duration::from_millis(5000 + 2 * 2));
}

#[test]
fn clocks_that_differ_are_set_right() {
    for slow_ms in [-40_000, 40_000] {
        let (mut stream, mut proxy) = (Stream::new(), PROXY);
        let mut app = Agent { slow_ms, ..APP };
        stream.begin(&mut proxy);
        stream.begin(&mut app);
        let joined = only(stream.both([&mut proxy, &mut app], 90, &[79]));
        assert_eq!(joined.verdict.cause, Cause::AcceptQueueOverflow, "{slow_ms}");
    }
}

/// Its outbox tells all of it later: until then there is no verdict, and none is made without it.
#[test]
fn a_host_that_is_late_is_waited_for() {
    let (mut stream, mut proxy, mut app) = (Stream::new(), PROXY, APP);
    stream.begin(&mut proxy);
    stream.begin(&mut app);
    for second in 1..70 {
        assert!(stream.second(&mut proxy, second, 0).is_empty());
        assert!(stream.second(&mut app, second, 0).is_empty());
    }
    for second in 70..100 {
        if second == 80 {
            stream.heard(&mut proxy, second);
        }
        assert!(stream.second(&mut proxy, second, 0).is_empty());
    }
    let mut verdicts = Vec::new();
    for second in 70..100 {
        verdicts.extend(stream.tick(&mut app, second, 100, u64::from(second == 79)));
    }
    let joined = only(verdicts);
    assert_eq!(joined.verdict.cause, Cause::AcceptQueueOverflow);
    assert_eq!(joined.verdict.health.unseen_ms, 0);
}

#[test]
fn a_host_that_stays_silent_is_not_waited_for_and_the_verdict_says_so() {
    let (mut stream, mut proxy, mut app) = (Stream::new(), PROXY, APP);
    stream.begin(&mut proxy);
    stream.begin(&mut app);
    for second in 1..70 {
        stream.second(&mut proxy, second, 0);
        stream.second(&mut app, second, 0);
    }
    let mut verdicts = Vec::new();
    for second in 70..140 {
        if second == 80 {
            stream.heard(&mut proxy, second);
        }
        verdicts.extend(stream.second(&mut proxy, second, 0));
    }
    let verdict = only(verdicts).verdict;
    // That nothing was seen of a loss means nothing: nobody looked.
    assert_eq!((verdict.cause, verdict.confidence), (Cause::PathLoss, Confidence::Low));
    assert!(verdict.health.unseen_ms > 4000, "{:?}", verdict.health);
}

#[test]
fn a_host_that_stopped_is_not_waited_for() {
    let (mut stream, mut proxy, mut app) = (Stream::new(), PROXY, APP);
    stream.begin(&mut proxy);
    stream.begin(&mut app);
    stream.second(&mut proxy, 1, 0);
    stream.second(&mut app, 1, 0);
    stream.publish(&mut app, 1, Content::Stopped);
    stream.heard(&mut proxy, 80);
    let joined = only(stream.second(&mut proxy, 84, 0));
    assert!(joined.verdict.health.unseen_ms > 4000, "{:?}", joined.verdict.health);
}

/// Whoever reads the same comes to the same, by the same name; and what comes twice is taken once.
#[test]
fn every_reader_comes_to_the_same_verdicts() {
    let (mut stream, mut proxy, mut app) = (Stream::new(), PROXY, APP);
    stream.begin(&mut proxy);
    stream.begin(&mut app);
    let first = stream.both([&mut proxy, &mut app], 90, &[78, 79]);
    let mut other = Joiner::new(PATIENCE);
    let mut again = Vec::new();
    for (message, stored) in &stream.kept {
        again.extend(other.take(message.clone(), *stored));
        assert!(other.take(message.clone(), *stored).is_empty());
    }
    assert_eq!(first, again);
    assert_eq!(other.refused(), stream.kept.len() as u64);
}

#[test]
fn what_never_came_is_counted_and_a_new_run_is_no_loss() {
    let (mut stream, mut proxy) = (Stream::new(), PROXY);
    stream.begin(&mut proxy);
    proxy.number += 3;
    stream.second(&mut proxy, 1, 0);
    assert_eq!(stream.joiner.hosts()[0].missing, 3);
    let mut message = stream.kept[0].0.clone();
    (message.run, message.number) = (UnixMs(2), 1);
    stream.joiner.take(message, stream.kept[1].1);
    assert_eq!((stream.joiner.hosts()[0].missing, stream.joiner.refused()), (3, 0));
}

#[test]
fn another_version_is_not_taken() {
    let mut stream = Stream::new();
    let mut proxy = PROXY;
    stream.begin(&mut proxy);
    let mut message = stream.kept[0].0.clone();
    (message.version, message.number) = (VERSION + 1, 2);
    stream.joiner.take(message, stream.kept[0].1);
    assert_eq!(stream.joiner.refused(), 1);
}

/// A proxy's and an application's host each have a namespace of the same number.
#[test]
fn detail_events_join_exactly_across_hosts() {
    let (mut stream, mut proxy, mut app) = (Stream::new(), PROXY, APP);
    stream.begin(&mut proxy);
    stream.begin(&mut app);
    let event = KernelEvent {
        at: at(79),
        listener: ListenerId { netns: NETNS, addr: "0.0.0.0:8000".parse().unwrap(), inode: 5 },
        peer: "10.0.0.1:40000".parse().unwrap(),
        class: Class::SynAcceptQueueFull,
        queue: Some(QueueDepth { len: 9, limit: 8 }),
    };
    stream.publish(&mut app, 79, Content::Details { events: vec![event] });
    stream.heard(&mut proxy, 80);
    let Some((Message { content: Content::Heard { heard }, .. }, _)) = stream.kept.last() else {
        panic!("it was heard last");
    };
    let mut heard = heard.clone();
    heard[0].event.local_addr = Some(event.peer);
    stream.publish(&mut proxy, 80, Content::Heard { heard });
    let verdicts = stream.both([&mut proxy, &mut app], 79, &[]);
    assert!(verdicts.is_empty());
    stream.second(&mut proxy, 90, 0);
    let verdicts = stream.second(&mut app, 90, 0);
    let exact: Vec<bool> = verdicts.iter().map(|joined| joined.verdict.is_exact).collect();
    assert_eq!(exact, [false, true]);
}
