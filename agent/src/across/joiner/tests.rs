use super::*;
use crate::{
    across::{Refusal, VERSION},
    inventory::{Told, ToldListener},
    kernel::{
        Attribution, Class, KernelEvent, KernelSample, ListenerDelta, NetnsId, QueueDepth, Rung,
        Tally,
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

/// As its own host would publish it.
fn receive(joiner: &mut Joiner, message: &Message, stored: Stored) -> Vec<Joined> {
    let payload = serde_json::to_vec(message).unwrap();
    joiner.receive(&subject::of_host(&message.host), &payload, stored)
}

fn refused(joiner: &Joiner, refusal: Refusal) -> u64 {
    joiner.refusals().get(&refusal).copied().unwrap_or_default()
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
        let verdicts = receive(&mut self.joiner, &message, stored);
        self.kept.push((message, stored));
        verdicts
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
            syn_rung: Rung::Fentry,
            ack_rung: Rung::Fentry,
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
            undated: None,
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
        again.extend(receive(&mut other, message, *stored));
        assert!(receive(&mut other, message, *stored).is_empty());
    }
    assert_eq!(first, again);
    assert_eq!(refused(&other, Refusal::Repeated), stream.kept.len() as u64);
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
    receive(&mut stream.joiner, &message, stream.kept[1].1);
    assert_eq!(stream.joiner.hosts()[0].missing, 3);
    assert!(stream.joiner.refusals().is_empty());
}

#[test]
fn another_version_is_not_taken() {
    let mut stream = Stream::new();
    let mut proxy = PROXY;
    stream.begin(&mut proxy);
    let mut message = stream.kept[0].0.clone();
    (message.version, message.number) = (VERSION + 1, 2);
    receive(&mut stream.joiner, &message, stream.kept[0].1);
    assert_eq!(refused(&stream.joiner, Refusal::OtherVersion), 1);
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

/// Two honest hosts tell for `seconds`, with an incident at 80; in each of them, before, `attack` may
/// publish. Gives the verdicts with the second in which each came.
fn under_attack(
    seconds: u64,
    mut attack: impl FnMut(&mut Stream, u64),
) -> (Stream, Vec<(u64, Joined)>) {
    let (mut stream, mut proxy, mut app) = (Stream::new(), PROXY, APP);
    stream.begin(&mut proxy);
    stream.begin(&mut app);
    let mut verdicts = Vec::new();
    for second in 1..=seconds {
        attack(&mut stream, second);
        if second % 80 == 0 {
            stream.heard(&mut proxy, second);
        }
        let lost = 3 * u64::from(second % 80 == 79);
        let now = [stream.second(&mut proxy, second, 0), stream.second(&mut app, second, lost)];
        verdicts.extend(now.into_iter().flatten().map(|joined| (second, joined)));
    }
    (stream, verdicts)
}

const EVIL: Agent =
    Agent { host: "evil", address: "10.0.0.66", listeners: &[], slow_ms: 0, number: 0 };

/// A message of the attacker's, with any number and run, and what the attacker tells of the clock.
fn forged(stream: &mut Stream, second: u64, message: &Message, exchange: Option<Exchange>) {
    stream.sequence += 1;
    let stored = Stored { sequence: stream.sequence, at: at(second), exchange };
    receive(&mut stream.joiner, message, stored);
}

fn tick_of(host: &str, run: u64, number: u64, window: Window) -> Message {
    let tick = Tick {
        at: window.to,
        sample: KernelSample { window, ..KernelSample::default() },
        waiting: Vec::new(),
        syns_repeated: Vec::new(),
        syn_queues_full: Vec::new(),
        aborting: Default::default(),
        syn_rung: Rung::Fentry,
        ack_rung: Rung::Fentry,
        namespaces: [NETNS].into(),
    };
    let content = Content::Tick(Box::new(tick));
    Message { version: VERSION, host: host.to_owned(), run: UnixMs(run), number, content }
}

/// The incidents at 80 and 160 have their cause, and in time.
fn all_is_well(verdicts: &[(u64, Joined)]) {
    let seconds: Vec<u64> = verdicts.iter().map(|(second, _)| *second).collect();
    assert_eq!(seconds, [83, 163]);
    for (_, joined) in verdicts {
        assert_eq!(joined.verdict.cause, Cause::AcceptQueueOverflow);
        assert_eq!(joined.listener_host.as_deref(), Some("app"));
    }
}

fn second(second: u64) -> Window {
    Window { from: at(second - 1), to: at(second) }
}

#[test]
fn no_clock_of_a_host_holds_the_fleet_up_or_runs_ahead_of_it() {
    let epoch = |_| Window { from: UnixMs(0), to: UnixMs(1) };
    let old = |now: u64| second(now + 1 - now.min(30));
    let windows: [&dyn Fn(u64) -> Window; 4] = [
        &epoch,
        &|now| Window { from: at(now), to: UnixMs(u64::MAX) },
        &|now| Window { from: at(now + 3600), to: at(now + 3601) },
        &old,
    ];
    for (case, window) in windows.into_iter().enumerate() {
        let (_, verdicts) = under_attack(170, |stream, now| {
            forged(stream, now, &tick_of("evil", 1, now, window(now)), None);
        });
        eprintln!("case {case}");
        all_is_well(&verdicts);
    }
}

#[test]
fn hosts_that_come_with_each_message_hold_nobody_up() {
    let (stream, verdicts) = under_attack(170, |stream, now| {
        for n in 0..10 {
            forged(stream, now, &tick_of(&format!("h{now}-{n}"), 1, 1, second(now)), None);
        }
    });
    all_is_well(&verdicts);
    assert_eq!(stream.joiner.hosts().len(), 2 + 1700);
}

/// Neither a run nor a number shuts out what the host sends after it.
#[test]
fn a_run_of_the_future_shuts_nobody_out() {
    let (stream, verdicts) = under_attack(170, |stream, now| {
        if now == 10 {
            for run in [1 << 63, u64::MAX, 0] {
                let forgery = tick_of("app", run, u64::MAX, second(now));
                forged(stream, now, &forgery, None);
                forged(stream, now, &forgery, None);
            }
        }
    });
    all_is_well(&verdicts);
    assert_eq!(refused(&stream.joiner, Refusal::Repeated), 3);
}

#[test]
fn an_exchange_that_overflows_measures_nothing() {
    let huge = UnixMs(1 << 63);
    let (_, verdicts) = under_attack(170, |stream, now| {
        let exchange = Exchange { sequence: stream.sequence + 1, sent: huge, acknowledged: huge };
        forged(stream, now, &tick_of("evil", 1, now, second(now)), Some(exchange));
        let far = Exchange { sent: UnixMs(0), acknowledged: UnixMs(u64::MAX), ..exchange };
        forged(stream, now, &tick_of("evil2", 1, now, second(now)), Some(far));
    });
    all_is_well(&verdicts);
}

/// Its first message is not taken, and by the next one its clock is known.
#[test]
fn a_host_whose_clock_is_set_meanwhile_goes_on() {
    let mut ahead = Agent { host: "ahead", ..EVIL };
    let (stream, verdicts) = under_attack(170, |stream, now| {
        ahead.slow_ms = if now < 50 { 0 } else { -3_600_000 };
        stream.second(&mut ahead, now, 0);
    });
    all_is_well(&verdicts);
    assert!(refused(&stream.joiner, Refusal::Untimely) <= 2);
    let host = stream.joiner.hosts().into_iter().find(|host| host.name == "ahead").unwrap();
    assert_eq!(host.ahead_ms, -3_600_000);
}

/// It claims an address of another host, with losses there: the verdict must not follow it.
#[test]
fn an_address_that_two_hosts_claim_is_ambiguous() {
    let mut evil = Agent { address: APP.address, listeners: &["0.0.0.0:8000"], ..EVIL };
    let (_, verdicts) = under_attack(90, |stream, now| {
        if now == 1 {
            stream.begin(&mut evil);
        }
        stream.second(&mut evil, now, 1000);
    });
    let (_, Joined { listener_host, verdict, .. }) = &verdicts[0];
    assert_eq!(
        (verdict.confidence, verdict.listener, listener_host),
        (Confidence::Low, None, &None)
    );
    assert!(verdict.because.ends_with("; several hosts claim the address: app, evil"));
}

#[test]
fn what_one_host_tells_is_limited() {
    let mut told = 0;
    let mut evil = EVIL;
    let (stream, verdicts) = under_attack(170, |stream, now| {
        for n in 0..30 {
            told += 1;
            let listener = |inode| ToldListener {
                addr: "0.0.0.0:80".parse().unwrap(),
                inode,
                v6_only: false,
                command: None,
            };
            let namespace = Told {
                netns: NetnsId(told),
                name: "n".to_owned(),
                addresses: ["10.1.1.1".parse().unwrap()].into(),
                listeners: (0..100).map(listener).collect(),
                left_out: 0,
            };
            stream.publish(&mut evil, now, Content::Namespace(namespace));
            let event = KernelEvent {
                at: at(now),
                listener: ListenerId { netns: NETNS, addr: PEER.parse().unwrap(), inode: n },
                peer: "10.0.0.1:40000".parse().unwrap(),
                class: Class::SynQueueFull,
                queue: None,
            };
            stream.publish(&mut evil, now, Content::Details { events: vec![event; 100] });
        }
    });
    all_is_well(&verdicts);
    assert!(stream.joiner.fleet.inventory.count_listeners() <= 20_000 + 1);
    // 5100 namespaces, of which 2000 have room and these for 200 × 100 listeners.
    let left_out = 3100 * 101 + 1800 * 100;
    assert!(stream.joiner.left_out() > left_out, "{}", stream.joiner.left_out());
    assert!(stream.joiner.refusals().is_empty());
}

#[test]
fn a_host_that_publishes_without_end_is_cut_off_alone() {
    let mut evil = EVIL;
    let (stream, verdicts) = under_attack(170, |stream, now| {
        if now < 3 {
            // The same megabyte again and again; it counts before it is read.
            let payload = vec![b' '; 1 << 20];
            for _ in 0..60 {
                stream.sequence += 1;
                let stored = Stored { sequence: stream.sequence, at: at(now), exchange: None };
                stream.joiner.receive("floodmark.v1.host.evil", &payload, stored);
            }
        }
        stream.second(&mut evil, now, 0);
    });
    all_is_well(&verdicts);
    assert!(refused(&stream.joiner, Refusal::OverShare) >= 40);
    assert!((24..=27).contains(&refused(&stream.joiner, Refusal::Unreadable)));
}

#[test]
fn a_host_that_is_forgotten_leaves_nothing_behind() {
    let mut stream = Stream::new();
    let mut evil = Agent { listeners: &["0.0.0.0:80"], ..EVIL };
    stream.begin(&mut evil);
    stream.second(&mut evil, 1, 1);
    let mut proxy = PROXY;
    stream.second(&mut proxy, 3700, 0);
    assert_eq!(stream.joiner.hosts().len(), 1);
    assert_eq!(stream.joiner.fleet.inventory.count_listeners(), 0);
}
