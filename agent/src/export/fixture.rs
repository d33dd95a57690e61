//! A snapshot to export in tests.

use std::{
    collections::BTreeMap,
    sync::Arc,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use crate::{
    agent::{Configuration, Lateness, Snapshot},
    inventory::{
        Backlog, Depth, DesertedPath, Destination, Listener, Lookups, Namespace, Owner, Owners,
        UnixListener, View,
        peers::{PeerCounts, PeerReport},
    },
    kernel::{
        Attribution, Class, Counter, Health, Heard, ListenerId, MibCounts, NetnsId, NoPortCount,
        QueueDepth, Rung, ServiceCount, Signal, Standing, Tally, settings::NetnsSettings,
    },
    proxy::{ProxyKind, SourceStats},
    stock::Scraped,
    time::{UnixMs, Window},
    verdict::{
        Cause, Confidence, Cycle, Impediment, ImpedimentReport, ListenerReport, NetnsReport,
        ProxyReport, Report, StallReport, VerdictKind,
    },
};

/// The namespace where something was lost.
pub(crate) const APP: NetnsId = NetnsId(4_026_532_001);
/// A quiet one.
pub(crate) const QUIET: NetnsId = NetnsId(4_026_532_002);

/// One listener that lost 10 SYNs, 5 final ACKs and 3 segments for other reasons, one of which for
/// a full SYN queue; and everything that goes with it.
pub(crate) fn snapshot() -> Snapshot {
    let mut kernel = MibCounts::default();
    for (counter, count) in
        [(Counter::ListenOverflows, 16), (Counter::ListenDrops, 20), (Counter::TimeWait, 4)]
    {
        kernel[counter] = count;
    }
    let sources = Arc::new(SourceStats::default());
    sources.lines_cut.store(2, Ordering::Relaxed);
    let kind = VerdictKind {
        proxy: ProxyKind::Nginx,
        upstream: "app".to_owned(),
        peer: "10.0.0.2:8000".to_owned(),
        event: "peer_marked",
        cause: Cause::AcceptQueueOverflow,
        confidence: Confidence::High,
    };
    let last = (ProxyKind::Nginx, "app".to_owned(), "no_live_peers", Cause::AcceptQueueOverflow);
    Snapshot {
        report: Report {
            window: Window { from: UnixMs(0), to: UnixMs::now() },
            rungs: BTreeMap::new(),
            listeners: vec![listener(8000, "tor\"nado <&\\\n")],
            namespaces: vec![NetnsReport {
                netns: APP,
                name: "app1".to_owned(),
                kernel,
                unattributed: BTreeMap::from([
                    ("ListenOverflows".to_owned(), 1),
                    ("ListenDrops".to_owned(), 2),
                ]),
            }],
            proxy: ProxyReport { markings: 7, ..ProxyReport::default() },
            events_lost: 0,
            services: vec![ServiceCount {
                netns: APP,
                port: 8000,
                is_local: true,
                counts: BTreeMap::from([("time_wait".to_owned(), 4)]),
            }],
            no_port: vec![NoPortCount {
                netns: APP,
                destination: ([10, 0, 0, 9], 5432).into(),
                pid: 42,
                command: "nginx".to_owned(),
                failures: 6,
            }],
            ..Report::default()
        },
        namespaces: BTreeMap::from([
            (APP, ("app1".to_owned(), kernel)),
            (QUIET, ("net:[4026532002]".to_owned(), MibCounts::default())),
        ]),
        namespaces_left_out: 0,
        standings: vec![standing(Signal::SynDrops, Rung::Netlink)],
        proxy_events: BTreeMap::from([((ProxyKind::Nginx, "peer_marked"), 7)]),
        verdicts: BTreeMap::from([(kind, 7)]),
        last_verdicts: BTreeMap::from([(last, UnixMs(1_700_000_000_500))]),
        health: Health::default(),
        outlets: Vec::new(),
        canary: BTreeMap::from([(Signal::SynackRetransmits, Heard { happened: 4, heard: 4 })]),
        no_canary: None,
        sources: vec![("/var/log/nginx/error.log".to_owned(), sources)],
        view: view(&[listener(8000, "tor\"nado <&\\\n").listener]),
        listeners_exported: 200,
        configuration: Configuration { is_in_force: true, since: UnixMs(1_000_500) },
        scraped: Scraped::default(),
        taken: Instant::now(),
        clock_steps: 2,
        tick: Duration::from_millis(3),
        lookups: Lookups { timed_out: 1, skipped: 2, cut: 3, stuck: 1 },
        lateness: Lateness { last: Duration::from_millis(1), total: Duration::from_millis(1500) },
    }
}

/// An inventory of these listeners.
pub(crate) fn view(listeners: &[Listener]) -> View {
    View { listeners: listeners.to_vec(), ..View::default() }
}

/// How a signal is had.
pub(crate) fn standing(signal: Signal, rung: Rung) -> Standing {
    Standing { signal, rung, blind_spot: String::new(), refused: Vec::new() }
}

/// A listener with losses.
pub(crate) fn listener(port: u16, command: &str) -> ListenerReport {
    let id = ListenerId {
        netns: APP,
        addr: ([10, 0, 0, 2], port).into(),
        inode: 1000 + u32::from(port),
    };
    let mut listener =
        Listener::unknown(id, QueueDepth { len: 0, limit: 128 }, Some("app1".to_owned()));
    listener.owners = vec![Owner::new(42, command, Some("/app.slice".to_owned()))].into();
    ListenerReport {
        listener,
        tally: Tally::of(&[
            (Class::SynAcceptQueueFull, 10),
            (Class::AckAcceptQueueFull, 5),
            (Class::SynQueueFull, 1),
            (Class::SynOther, 2),
        ]),
        attribution: Attribution::Exact,
        queue_high: 129,
        peers: Vec::new(),
        peers_other: 0,
        dropped: None,
        worst_per_second: 0.0,
        last_seen: UnixMs::now(),
        flow: None,
    }
}

/// A snapshot in which everything happened that there is a metric for.
pub(crate) fn everything() -> Snapshot {
    let mut snapshot = snapshot();
    snapshot.health =
        Health { misses: vec![("tcp_conn_request".to_owned(), 1)], ..Health::default() };
    snapshot.report.proxy.cycles = vec![Cycle {
        proxy: ProxyKind::Nginx,
        source: "/var/log/nginx/error.log".to_owned(),
        group: "app".to_owned(),
        outages: 3,
        share_without_peer: 0.4,
        period_ms: Some(11_500),
    }];
    snapshot.report.stalls = vec![StallReport {
        listener: listener(8000, "tornado").listener,
        looks: 100,
        last: snapshot.report.window.to,
        impediments: vec![ImpedimentReport {
            impediment: Impediment::Sleeping,
            share: 0.94,
            confidence: Confidence::High,
            pids: vec![42],
            detail: None,
        }],
    }];
    snapshot.outlets = vec![("nats".to_owned(), Arc::default())];
    let mut own = listener(80, "nginx").listener;
    own.backlog = Backlog { asked: Some(511), inferred: false, somaxconn: Some(128) };
    own.syn_queue = Some(2);
    let mut depth = Depth { high: 3, ..Depth::default() };
    depth.waits[3] = 1;
    own.depth = Some(depth);
    snapshot.view = view(&[own]);
    snapshot.view.unix_listeners = vec![UnixListener {
        netns: APP,
        netns_name: "app1".to_owned(),
        path: "/run/app.sock".to_owned(),
        inode: 7,
        queue: QueueDepth { len: 0, limit: 128 },
        refused: Some(0),
        owners: Owners::default(),
    }];
    snapshot.view.deserted = vec![DesertedPath {
        netns: APP,
        netns_name: "app1".to_owned(),
        path: "/run/gone.sock".to_owned(),
        refused: 3,
    }];
    let settings = NetnsSettings {
        somaxconn: Some(4096),
        port_range: Some((32_768, 60_999)),
        ..NetnsSettings::default()
    };
    let namespace =
        Namespace { name: "app1".to_owned(), settings, time_wait: Some(17), entrance: None };
    snapshot.view.namespaces.insert(APP, namespace);
    snapshot.view.destinations = vec![Destination {
        netns: APP,
        from: [10, 0, 0, 2].into(),
        to: ([10, 0, 0, 9], 5432).into(),
        ports_in_use: 28_000,
        ports: Some(28_232),
    }];
    snapshot.view.peers = vec![PeerReport {
        netns: APP,
        port: 8000,
        is_local: true,
        peer: "10.0.0.7".to_owned(),
        counts: PeerCounts { opened: 9, closed_here: 8, closed_there: 1, aborted: 0 },
        opened_per_second: 0.5,
        median_lifetime: Some(0.01),
        closed_here_share: Some(8.0 / 9.0),
    }];
    snapshot
}
