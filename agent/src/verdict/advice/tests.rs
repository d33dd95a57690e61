mod harmless;

use std::sync::Arc;

use super::*;
use crate::{
    inventory::{Backlog, Listener, Namespace, Owner, SocketUnit, Workload},
    kernel::{Attribution, Class, QueueDepth, Tally, settings::NetnsSettings},
    stall::{Target, Wait},
    time::{UnixMs, Window},
    verdict::{
        Confidence, Detail, Impediment, ImpedimentReport, StallReport, findings,
        flow::{Flow, FlowSlot},
    },
};

const NETNS: NetnsId = NetnsId(1);

/// A listener with this limit that lost so many of a class.
fn lost(limit: u32, somaxconn: u32, class: Class, count: u64) -> ListenerReport {
    let id = ListenerId { netns: NETNS, addr: ([10, 0, 0, 1], 8000).into(), inode: 5 };
    let owner = Owner { server: Some(Server::Tornado), ..Owner::new(42, "python3", None) };
    let listener = Listener {
        somaxconn: Some(somaxconn),
        backlog: Backlog::of(limit, None, Some(somaxconn)),
        owners: vec![owner].into(),
        ..Listener::unknown(id, QueueDepth { len: limit + 1, limit }, None)
    };
    ListenerReport {
        listener,
        tally: Tally::of(&[(class, count)]),
        attribution: Attribution::Exact,
        queue_high: limit + 1,
        peers: Vec::new(),
        peers_other: 0,
        dropped: Some(Window { from: UnixMs(0), to: UnixMs(10_000) }),
        worst_per_second: 5.0,
        last_seen: UnixMs(0),
        flow: None,
    }
}

fn report(listener: ListenerReport) -> Report {
    let entrance = Some("/run/netns/app".to_owned());
    let namespace = Namespace { name: "app".to_owned(), entrance, ..Namespace::default() };
    Report { listeners: vec![listener], settings: [(NETNS, namespace)].into(), ..Report::default() }
}

fn steps(report: &Report) -> Vec<Step> {
    advice(report, &findings(report))
}

fn first(listener: ListenerReport) -> Step {
    steps(&report(listener)).remove(0)
}

#[test]
fn a_small_backlog_is_raised_by_the_applications_own_setting() {
    let step = first(lost(128, 4096, Class::SynAcceptQueueFull, 9));
    assert!(
        step.what.contains("limited by the application's backlog, somaxconn 4096"),
        "{}",
        step.what
    );
    assert_eq!(step.now, ["floodmark raise 10.0.0.1:8000 --netns 1 --backlog 1024"]);
    assert_eq!(step.commands[0], "server.listen(8000, backlog=1024)  # Tornado");
    assert!(matches!(step.changes[..], [Change::Backlog { value: 1024, pid: Some(42), .. }]));
}

#[test]
fn listeners_of_one_address_in_two_namespaces_are_both_raised() {
    let mut report = report(lost(128, 4096, Class::SynAcceptQueueFull, 9));
    let mut other = lost(128, 4096, Class::SynAcceptQueueFull, 8);
    other.listener.id.netns = NetnsId(2);
    other.listener.netns_name = "other".to_owned();
    other.listener.owners[0].pid = 43;
    report.listeners.push(other);
    let steps = steps(&report);
    let raised: Vec<_> = steps.iter().filter(|step| step.what.contains("hold 1024")).collect();
    assert_eq!(raised.len(), 2, "{steps:?}");
    assert!(raised[1].what.contains("10.0.0.1:8000 in other"), "{}", raised[1].what);
    assert!(raised[1].commands.iter().any(|line| line.contains("pid 43")), "{raised:?}");
}

#[test]
fn where_somaxconn_is_too_small_as_well_both_are_raised_and_it_first() {
    let step = first(lost(128, 512, Class::SynAcceptQueueFull, 9));
    assert_eq!(step.now, ["floodmark raise 10.0.0.1:8000 --netns 1 --backlog 1024"]);
    assert_eq!(step.commands[0], "nsenter -t 42 -n sysctl -w net.core.somaxconn=1024");
    assert!(step.what.contains("so both must be raised"), "{}", step.what);
    let [Change::Sysctl { name, value, .. }, Change::Backlog { value: 1024, .. }] =
        &step.changes[..]
    else {
        panic!("{:?}", step.changes)
    };
    assert_eq!((name.as_str(), value.as_str()), ("net.core.somaxconn", "1024"));
}

#[test]
fn who_asked_for_enough_or_takes_somaxconn_anyhow_needs_no_new_backlog() {
    let mut asked = lost(128, 128, Class::SynAcceptQueueFull, 9);
    asked.listener.backlog = Backlog { asked: Some(4096), inferred: false, somaxconn: Some(128) };
    let mut go = lost(128, 128, Class::SynAcceptQueueFull, 9);
    go.listener.owners[0].server = Some(Server::Go);
    for listener in [asked, go] {
        let step = first(listener);
        assert!(matches!(step.changes[..], [Change::Sysctl { .. }]), "{:?}", step.changes);
        assert!(step.commands.last().unwrap().contains("then restart python3 (pid 42)"));
    }
}

#[test]
fn a_container_and_a_pod_are_told_in_their_own_words() {
    let id = "3f1c7c1b8a0f4d1e9b2a6c5d7e8f90123456789abcdef0123456789abcdef012";
    let commands = |cgroup: &str| {
        let mut listener = lost(128, 128, Class::SynAcceptQueueFull, 9);
        listener.listener.owners[0].workload = Workload::of_cgroup(cgroup);
        first(listener).commands.join("\n")
    };
    let docker = commands(&format!("/system.slice/docker-{id}.scope"));
    assert!(docker.contains("docker run --sysctl net.core.somaxconn=\"1024\""), "{docker}");
    assert!(docker.contains("docker restart 3f1c7c1b8a0f"), "{docker}");
    let pod = commands(&format!(
        "/kubepods.slice/kubepods-pod0a1b2c3d_4e5f_6071_8293_a4b5c6d7e8f9.slice/cri-containerd-{id}.scope"
    ));
    assert!(pod.contains("sysctls: [{name: net.core.somaxconn, value: \"1024\"}]"), "{pod}");
    assert!(pod.contains("--allowed-unsafe-sysctls=net.core.somaxconn"), "{pod}");
    let unit = commands("/system.slice/app.service");
    assert!(unit.contains("systemctl restart app.service"), "{unit}");
}

#[test]
fn a_socket_that_systemd_holds_has_its_backlog_in_the_unit() {
    let mut listener = lost(128, 4096, Class::SynAcceptQueueFull, 9);
    let systemd = Owner { server: Some(Server::Systemd), ..Owner::new(1, "systemd", None) };
    listener.listener.owners.insert(0, systemd);
    let unknown = first(listener.clone()).commands.join("\n");
    assert!(unknown.contains("systemctl list-sockets --all"), "{unknown}");
    assert!(!unknown.contains("systemctl restart"), "{unknown}");
    let service = Some("app.service".to_owned());
    listener.listener.socket_unit = Some(SocketUnit { name: "app.socket".to_owned(), service });
    let commands = first(listener.clone()).commands;
    assert!(commands[0].contains("\"[Socket]\\nBacklog=%s\\n\""), "{commands:?}");
    assert!(commands[0].contains("/etc/systemd/system/app.socket.d 1024"), "{commands:?}");
    assert_eq!(commands[1], "systemctl daemon-reload");
    assert!(commands[2].starts_with("systemctl stop app.socket app.service  # both"));
    assert_eq!(commands[3..], ["systemctl restart app.socket", "systemctl start app.service"]);
    // As long as no connection has come, no service runs.
    listener.listener.owners.truncate(1);
    let commands = first(listener).commands;
    assert_eq!(commands.last().unwrap(), "systemctl restart app.socket", "{commands:?}");
}

#[test]
fn a_socket_of_a_users_or_a_containers_systemd_is_reached_through_that() {
    let id = "3f1c7c1b8a0f4d1e9b2a6c5d7e8f90123456789abcdef0123456789abcdef012";
    let commands = |cgroup: String| {
        let mut listener = lost(128, 4096, Class::SynAcceptQueueFull, 9);
        let systemd = Owner::new(77, "systemd", Some(cgroup));
        listener.listener.owners = vec![Owner { server: Some(Server::Systemd), ..systemd }].into();
        let name = "app.socket".to_owned();
        listener.listener.socket_unit = Some(SocketUnit { name, service: None });
        first(listener).commands
    };
    let user = commands("/user.slice/user-7.slice/user@7.service/init.scope".to_owned());
    assert!(user[0].contains("/etc/systemd/user/app.socket.d"), "{user:?}");
    assert_eq!(user[2], "systemctl --user --machine=7@ restart app.socket");
    let inside = commands(format!("/system.slice/docker-{id}.scope/init.scope"));
    assert!(inside[0].starts_with("docker exec 3f1c7c1b8a0f sh -c"), "{inside:?}");
    assert_eq!(inside[2], "docker exec 3f1c7c1b8a0f systemctl restart app.socket");
}

fn holder(pid: u32, parent: u32, server: Option<Server>) -> Owner {
    Owner { server, parent: Some(parent), ..Owner::new(pid, "python3", None) }
}

#[test]
fn a_parent_that_never_accepts_is_left_out_and_workers_are_named() {
    let named = |parent: Owner, server| {
        let mut listener = lost(128, 4096, Class::SynAcceptQueueFull, 171);
        listener.flow = Some(Arc::new(burst(false)));
        let workers = (41..44).map(|pid| holder(pid, parent.pid, server));
        listener.listener.owners = std::iter::once(parent.clone()).chain(workers).collect();
        first(listener)
    };
    let gunicorn = Some(Server::Gunicorn);
    let step = named(holder(40, 1, gunicorn), gunicorn);
    assert!(step.what.starts_with("Make python3 (pids 41, 42, 43) accept"), "{}", step.what);
    assert!(step.commands.iter().all(|line| !line.contains("40")), "{:?}", step.commands);
    assert!(matches!(step.changes[..], [Change::Accept { pid: Some(41), .. }]));
    // Of a program that is not known, what it was seen to do counts.
    let waits = Owner { awaits_children: true, ..holder(40, 1, None) };
    assert!(named(waits, None).what.starts_with("Make python3 (pids 41, 42, 43) accept"));
    let all = "Make python3 (pids 41, 42, 43, 40) accept";
    assert!(named(holder(40, 1, None), None).what.starts_with(all));
    // Node.js's parent accepts for its children.
    let node = Some(Server::Node);
    assert!(named(holder(40, 1, node), node).what.starts_with(all));
}

#[test]
fn what_others_depend_on_is_not_restarted_in_passing() {
    let last = |command: &str, cgroup: &str| {
        let mut listener = lost(128, 128, Class::SynAcceptQueueFull, 9);
        listener.listener.owners = vec![Owner::new(9, command, Some(cgroup.to_owned()))].into();
        first(listener).commands.pop().unwrap()
    };
    let docker = last("docker-proxy", "/system.slice/docker.service");
    assert!(docker.starts_with("# restart the container"), "{docker}");
    for unit in ["kubelet", "containerd", "sshd", "systemd-resolved"] {
        let line = last(unit, &format!("/system.slice/{unit}.service"));
        assert!(line.starts_with("# plan the restart of"), "{line}");
    }
    let web = "/user.slice/user-5.slice/user@5.service/app.slice/web.service";
    assert_eq!(last("web", web), "systemctl --user --machine=5@ restart web.service");
    let hostile = last("x", "/user.slice/user@5.service/$(reboot).service");
    assert!(hostile.ends_with("restart '$(reboot).service'"), "{hostile}");
}

#[test]
fn no_queue_is_advised_that_is_longer_than_is_useful() {
    let step = first(lost(40_000, 40_000, Class::SynAcceptQueueFull, 9));
    assert!(step.what.contains("hold 65535 instead of 40000"), "{}", step.what);
    let step = first(lost(65_535, 65_535, Class::SynAcceptQueueFull, 9));
    assert!(step.what.starts_with("Accept faster"), "{}", step.what);
}

#[test]
fn a_namespace_that_cannot_be_entered_is_not_mistaken_for_the_own_one() {
    let mut report = report(lost(4, 4096, Class::AckAcceptQueueFullReset, 12));
    report.settings.clear();
    report.listeners[0].listener.owners.clear();
    let commands: Vec<String> = steps(&report).into_iter().flat_map(|step| step.commands).collect();
    assert!(
        commands.iter().any(|line| line.starts_with("# in network namespace net:[1]:  sysctl"))
    );
    assert!(commands.iter().all(|line| !line.starts_with("sysctl")), "{commands:?}");
}

/// A burst of 300 in one slot, and one accepted in each slot after it, or in none.
fn burst(accepts: bool) -> Flow {
    let lost_at_once = FlowSlot { at: 10, enqueued: 129, again: 0, lost: 171, depth: 129 };
    let after = (1..=100_u32).map(|n| FlowSlot {
        at: 10 + u64::from(n),
        depth: if accepts { 129 - n } else { 129 },
        ..FlowSlot::default()
    });
    Flow { slots: std::iter::once(lost_at_once).chain(after).collect() }
}

#[test]
fn a_replay_tells_the_backlog_and_what_it_costs() {
    let mut listener = lost(128, 4096, Class::SynAcceptQueueFull, 171);
    listener.flow = Some(Arc::new(burst(true)));
    let step = first(listener);
    assert!(
        step.why.contains("a backlog of 299 loses nothing, and connections wait up to 2990 ms"),
        "{}",
        step.why
    );
    assert!(matches!(step.changes[..], [Change::Backlog { value: 384, .. }]), "{:?}", step.changes);
}

#[test]
fn who_never_accepts_is_told_to_before_anything_else() {
    let mut listener = lost(128, 4096, Class::SynAcceptQueueFull, 171);
    listener.flow = Some(Arc::new(burst(false)));
    let step = first(listener);
    assert!(step.what.starts_with("Make python3 (pid 42) accept"), "{}", step.what);
    assert!(step.commands.iter().any(|command| command == "py-spy dump --nonblocking --pid 42"));
}

#[test]
fn a_full_syn_queue_without_cookies_gets_cookies() {
    let mut report = report(lost(4, 4096, Class::SynQueueFull, 12));
    let settings = NetnsSettings { syncookies: Some(0), ..NetnsSettings::default() };
    report.settings.insert(NETNS, Namespace { settings, ..Namespace::default() });
    let steps = steps(&report);
    assert_eq!(steps[0].commands[0], "sysctl -w net.ipv4.tcp_syncookies=1");
    assert!(steps[1].what.contains("accept queue"), "its limit bounds the SYN queue too");
}

#[test]
fn resets_on_overflow_are_turned_off_after_the_queue_was_raised() {
    let steps = steps(&report(lost(4, 4096, Class::AckAcceptQueueFullReset, 12)));
    assert_eq!(steps[0].cause, Cause::AbortOnOverflow);
    let last = steps.last().unwrap();
    assert_eq!(last.commands[0], "nsenter -t 42 -n sysctl -w net.ipv4.tcp_abort_on_overflow=0");
}

#[test]
fn advised_numbers_have_a_quarter_to_spare_and_are_not_twice_the_need() {
    for need in [1, 50, 63, 64, 100, 299, 409, 1000, 1023, 5000, 60_000] {
        let advised = limit::rounded(need);
        assert!(advised >= 64.max(need + need / 4), "{need}: {advised}");
        assert!(need < 64 || advised / 2 < need, "{need}: {advised}");
    }
}

#[test]
fn nothing_lost_needs_nothing() {
    assert!(steps(&report(lost(128, 128, Class::SynAcceptQueueFull, 0))).is_empty());
    assert!(avoid(&[]).is_empty());
}

#[test]
fn drops_without_a_reason_are_put_down_to_cookies_where_those_are_off() {
    let lost = lost(4096, 4096, Class::UnstagedOther, 5);
    assert!(first(lost.clone()).changes.is_empty());
    let mut report = report(lost);
    let namespace = report.settings.get_mut(&NETNS).unwrap();
    namespace.settings.syncookies = Some(0);
    namespace.settings.max_syn_backlog = Some(8);
    let step = steps(&report).remove(0);
    assert_eq!(step.cause, Cause::HandshakeDropped);
    assert!(step.why.contains("tcp_max_syn_backlog, 8"), "{}", step.why);
    assert!(step.commands[0].ends_with("sysctl -w net.ipv4.tcp_syncookies=1"));
}

mod by_cause {
    use super::*;
    use crate::{
        proxy::{Carrier, EventKind, Failure, Phase, ProxyEvent, ProxyKind, Upstream},
        verdict::{Confidence, Verdict},
    };

    pub(super) const CAUSES: [Cause; 17] = [
        Cause::AcceptQueueOverflow,
        Cause::HalfOpen,
        Cause::AbortOnOverflow,
        Cause::SynQueueFull,
        Cause::HandshakeDropped,
        Cause::NotAccepting,
        Cause::Refused,
        Cause::PathLoss,
        Cause::Unreachable,
        Cause::NeighbourUnresponsive,
        Cause::Rejected,
        Cause::ProxyPortsExhausted,
        Cause::ProxyLimit,
        Cause::ApplicationClosed,
        Cause::ApplicationFailed,
        Cause::ApplicationSlow,
        Cause::NoKernelEvidence,
    ];

    pub(super) fn verdict(cause: Cause, proxy: ProxyKind, listener: Option<ListenerId>) -> Verdict {
        let carrier = Carrier::plain("error.log", UnixMs(0));
        let kind = EventKind::AttemptFailed { phase: Phase::Connect, failure: Failure::TIMEOUT };
        let upstream = Upstream::Inet(([10, 0, 0, 1], 8000).into());
        Verdict {
            event: ProxyEvent::new(proxy, &carrier, (UnixMs(5000), 1), kind, upstream),
            cause,
            confidence: Confidence::High,
            listener,
            proxy_netns: Some(NetnsId(2)),
            window: Window { from: UnixMs(0), to: UnixMs(5000) },
            evidence: Tally::default(),
            attribution: None,
            lead_ms: None,
            is_exact: false,
            health: Default::default(),
            because: "so it was".to_owned(),
        }
    }

    #[test]
    fn every_cause_has_advice_of_its_own_with_and_without_a_listener() {
        for cause in CAUSES {
            for proxy in ProxyKind::ALL {
                for has_listener in [false, true] {
                    let mut report = report(lost(128, 4096, Class::SynAcceptQueueFull, 0));
                    let id = report.listeners[0].listener.id;
                    let listener = has_listener.then_some(id);
                    report.proxy.verdicts = vec![Arc::new(verdict(cause, proxy, listener))];
                    let steps = steps(&report);
                    let step = steps.first().unwrap_or_else(|| panic!("{cause:?}: nothing"));
                    assert_eq!(step.cause, cause);
                    assert!(!step.what.is_empty() && !step.why.is_empty(), "{step:?}");
                    assert!(!step.commands.is_empty(), "{cause:?}: {step:?}");
                }
            }
        }
    }

    #[test]
    fn what_the_proxy_says_of_a_listener_is_one_finding_with_its_losses() {
        let mut report = report(lost(128, 4096, Class::SynAcceptQueueFull, 40));
        let id = report.listeners[0].listener.id;
        let own = |cause| Arc::new(verdict(cause, ProxyKind::Nginx, Some(id)));
        report.proxy.verdicts = vec![
            own(Cause::HalfOpen),
            own(Cause::HalfOpen),
            own(Cause::AcceptQueueOverflow),
            Arc::new(verdict(Cause::ApplicationSlow, ProxyKind::Nginx, None)),
        ];
        let found = findings(&report);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].cause, found[0].drops), (Cause::HalfOpen, 40));
        assert_eq!(found[0].harm.failed_attempts, 3);
        assert_eq!(found[1].cause, Cause::ApplicationSlow);
    }
}

/// The steps for a listener that overflows while these impediments hold.
fn against(impediments: Vec<ImpedimentReport>, cgroup: Option<&str>) -> Vec<Step> {
    let mut listener = lost(128, 4096, Class::SynAcceptQueueFull, 171);
    let owner = Owner::new(42, "python3", cgroup.map(ToOwned::to_owned));
    listener.listener.owners = vec![owner].into();
    let known = listener.listener.clone();
    let mut report = report(listener);
    report.stalls = vec![StallReport { listener: known, looks: 100, last: UnixMs(0), impediments }];
    advice(&report, &findings(&report))
}

fn held(impediment: Impediment, detail: Option<Detail>) -> ImpedimentReport {
    let confidence = Confidence::High;
    ImpedimentReport { impediment, share: 0.94, confidence, pids: vec![42], detail }
}

#[test]
fn what_keeps_it_from_accepting_comes_before_a_longer_queue() {
    let steps = against(vec![held(Impediment::Stopped, None)], None);
    assert_eq!(steps[0].now, ["kill -CONT 42"]);
    assert_eq!(steps[0].changes, [Change::Continue { pid: 42 }]);
    assert!(steps[0].why.contains("94 % of 100 looks"), "{}", steps[0].why);
    assert!(steps[1].what.contains("hold 1024 instead of 128"), "{}", steps[1].what);
    assert!(steps.iter().all(|step| !step.what.contains("Accept faster")));
    let burst = against(vec![held(Impediment::Burst, None)], None);
    assert!(burst[0].what.contains("hold 1024 instead of 128"), "{}", burst[0].what);
}

#[test]
fn a_cause_that_is_not_sure_does_not_replace_the_backlog() {
    let unsure =
        ImpedimentReport { confidence: Confidence::Low, ..held(Impediment::Sleeping, None) };
    let steps = against(vec![unsure], None);
    assert!(steps[0].what.contains("hold 1024"), "{}", steps[0].what);
    assert!(steps.last().unwrap().what.contains("sleep"));
}

#[test]
fn a_limit_is_computed_and_set_by_what_runs_the_process() {
    let quota = Detail::Quota {
        cgroup: "/app".to_owned(),
        cores: 0.03,
        needed: 0.93,
        periods: 136,
        throttled: 133,
    };
    let id = "3f1c7c1b8a0f4d1e9b2a6c5d7e8f90123456789abcdef0123456789abcdef012";
    let docker = format!("/system.slice/docker-{id}.scope");
    let pod = format!(
        "/kubepods.slice/kubepods-pod0a1b2c3d_4e5f_6071_8293_a4b5c6d7e8f9.slice/cri-containerd-{id}.scope"
    );
    for (cgroup, command) in [
        ("/system.slice/app.service", "systemctl set-property app.service CPUQuota=120%"),
        (&docker, "docker update --cpus 1.2 3f1c7c1b8a0f"),
        (&pod, "# of the container:  resources: {limits: {cpu: 1200m}}"),
    ] {
        let steps = against(vec![held(Impediment::Throttled, Some(quota.clone()))], Some(cgroup));
        let step = &steps[0];
        assert!(step.now.iter().chain(&step.commands).any(|line| line == command), "{step:?}");
        assert!(step.why.contains("133 of 136 periods"), "{}", step.why);
    }
    let files = held(Impediment::NoDescriptors, Some(Detail::Files { open: 40, limit: 40 }));
    assert_eq!(against(vec![files], None)[0].now, ["prlimit --pid 42 --nofile=1024"]);
}

#[test]
fn a_dependency_is_named() {
    let target = Target::Remote("10.0.0.7:5432".parse().unwrap());
    let wait = Detail::Wait(Wait { call: "recvfrom".to_owned(), target });
    let step = against(vec![held(Impediment::Blocked, Some(wait))], None).remove(0);
    assert!(step.what.contains("10.0.0.7:5432 (PostgreSQL)"), "{}", step.what);
    assert!(step.why.contains("in recvfrom from 10.0.0.7:5432"), "{}", step.why);
}
