//! Whatever is found, at whoever's listener and wherever that is: no command does harm.

use super::*;
use crate::{
    proxy::ProxyKind,
    verdict::{avoid, findings},
};

const ID: &str = "3f1c7c1b8a0f4d1e9b2a6c5d7e8f90123456789abcdef0123456789abcdef012";
const SERVERS: [Option<Server>; 28] = [
    None,
    Some(Server::Tornado),
    Some(Server::Gunicorn),
    Some(Server::Uvicorn),
    Some(Server::Hypercorn),
    Some(Server::Aiohttp),
    Some(Server::Waitress),
    Some(Server::Python),
    Some(Server::Uwsgi),
    Some(Server::Node),
    Some(Server::Go),
    Some(Server::Tomcat),
    Some(Server::Jetty),
    Some(Server::Java),
    Some(Server::Dotnet),
    Some(Server::Puma),
    Some(Server::Unicorn),
    Some(Server::PhpFpm),
    Some(Server::Nginx),
    Some(Server::Haproxy),
    Some(Server::Envoy),
    Some(Server::Apache),
    Some(Server::Lighttpd),
    Some(Server::Redis),
    Some(Server::Postgres),
    Some(Server::Mysql),
    Some(Server::Memcached),
    Some(Server::Systemd),
];

/// Control groups of the places in which a server runs.
fn places() -> Vec<String> {
    vec![
        "/system.slice/app.service".to_owned(),
        "/system.slice/kubelet.service".to_owned(),
        "/system.slice/docker.service".to_owned(),
        "/user.slice/session-3.scope".to_owned(),
        "/user.slice/user-5.slice/user@5.service/app.slice/app.service".to_owned(),
        "/user.slice/user-5.slice/user@5.service/$(reboot).service".to_owned(),
        format!("/system.slice/docker-{ID}.scope"),
        format!("/system.slice/docker-{ID}.scope/system.slice/app.service"),
        format!(
            "/kubepods.slice/kubepods-pod0a1b2c3d_4e5f_6071_8293_a4b5c6d7e8f9.slice/cri-containerd-{ID}.scope"
        ),
    ]
}

fn owner(pid: u32, parent: u32, server: Option<Server>, cgroup: &str) -> Owner {
    Owner { server, parent: Some(parent), ..Owner::new(pid, "app", Some(cgroup.to_owned())) }
}

fn systemd(pid: u32) -> Owner {
    owner(pid, 0, Some(Server::Systemd), "/init.scope")
}

/// Ways in which a socket is held.
fn shapes(server: Option<Server>, cgroup: &str) -> Vec<Vec<Owner>> {
    let own = |pid, parent| owner(pid, parent, server, cgroup);
    vec![
        Vec::new(),
        vec![own(42, 7)],
        vec![own(1, 0)],
        vec![own(40, 7), own(41, 40), own(42, 40), own(43, 40)],
        vec![systemd(1)],
        vec![systemd(700)],
        vec![systemd(1), own(42, 1)],
        vec![systemd(1), own(40, 1), own(41, 40), own(42, 40)],
        vec![Owner { command: "docker-proxy".to_owned(), ..own(42, 7) }],
    ]
}

/// What a command does, without what it says of itself.
fn words(line: &str) -> Vec<&str> {
    let command = line.split("  # ").next().unwrap_or_default();
    if command.starts_with('#') { Vec::new() } else { command.split_whitespace().collect() }
}

fn check(line: &str, listener: &Listener) {
    let words = words(line);
    let has = |word: &str| words.contains(&word);
    let holders = |pid: u32| listener.owners.iter().find(|owner| owner.pid == pid);
    let continues = words.strip_prefix(&["kill", "-CONT"]);
    let is_stopped = continues.is_some_and(|pids| {
        !pids.is_empty() && pids.iter().all(|pid| pid.parse().is_ok_and(|it| holders(it).is_some()))
    });
    assert!(!has("kill") || is_stopped, "{line}");
    for ending in ["pkill", "killall", "strace", "reboot", "-QUIT", "tcp_tw_recycle=1"] {
        assert!(!has(ending), "{line}");
    }
    for setting in ["tcp_abort_on_overflow=1", "tcp_syncookies=0", "tcp_tw_reuse=1"] {
        assert!(!words.iter().any(|word| word.ends_with(setting)), "{line}");
    }
    let follows = |flag: &str| {
        let at = words.iter().position(|word| *word == flag)?;
        words.get(at + 1)?.parse::<u32>().ok()
    };
    if has("gdb") || has("py-spy") || has("jstack") || has("dotnet-stack") {
        let pid = follows("-p").or(follows("--pid")).or(follows("jstack"));
        let traced = holders(pid.unwrap()).expect(line);
        assert!(traced.pid != 1 && traced.server != Some(Server::Systemd), "{line}");
    }
    if has("prlimit") {
        assert!(holders(follows("--pid").unwrap()).is_some(), "{line}");
    }
    if has("raise") {
        let longer = follows("--backlog").is_some_and(|backlog| backlog > listener.queue.limit);
        let is_held = !listener.owners.is_empty();
        assert!(longer && is_held && line.contains(&listener.selector()), "{line}");
    }
    if let Some(pid) = follows("-t") {
        assert!(holders(pid).is_some(), "{line}");
    }
    let at = words.iter().position(|word| word.ends_with("systemctl"));
    let units = at.map(|at| &words[at + 1..]).unwrap_or_default();
    let units: Vec<&str> = units.iter().copied().filter(|word| !word.starts_with("--")).collect();
    if let [verb @ ("restart" | "stop" | "start"), units @ ..] = &units[..] {
        let socket = listener.socket_unit.as_ref();
        for unit in units {
            let unit = unit.trim_matches('\'');
            let is_socket = socket.is_some_and(|socket| socket.name == unit);
            let is_service = socket.is_some_and(|socket| socket.service.as_deref() == Some(unit));
            let is_own = listener
                .owners
                .iter()
                .any(|owner| owner.workload.unit.as_deref() == Some(unit) && owner.pid != 1);
            assert!(is_socket || is_service || is_own, "no such unit: {line}");
            for shared in ["systemd", "docker", "kubelet", "containerd", "init", "ssh"] {
                assert!(!unit.starts_with(shared), "{line}");
            }
        }
        let by_systemd = listener.owners.iter().any(|owner| owner.server == Some(Server::Systemd));
        if *verb == "restart" && by_systemd {
            assert!(units.iter().all(|unit| unit.ends_with(".socket")), "{line}");
        }
    }
    assert!(!line.contains("$(reboot)") || line.contains("'$(reboot).service'"), "{line}");
}

#[test]
fn no_advice_does_harm() {
    let mut seen = 0;
    for server in SERVERS {
        for place in places() {
            for owners in shapes(server, &place) {
                for (limit, flow) in [
                    (128, None),
                    (128, Some(burst(true))),
                    (128, Some(burst(false))),
                    (60_000, None),
                ] {
                    let mut listener = lost(limit, limit, Class::SynAcceptQueueFull, 171);
                    listener.flow = flow.map(Arc::new);
                    listener.listener.owners = owners.clone().into();
                    if owners.iter().any(|owner| owner.server == Some(Server::Systemd)) {
                        let (name, service) =
                            ("web.socket".to_owned(), Some("web.service".to_owned()));
                        listener.listener.socket_unit = Some(SocketUnit { name, service });
                    }
                    seen += of_every_cause(listener);
                }
            }
        }
    }
    assert!(seen > 10_000, "{seen}");
}

/// A stall in which all impediments hold at once, with every kind of numbers.
fn every_impediment(listener: &Listener) -> StallReport {
    let wait = |target| Some(Detail::Wait(Wait { call: "read".to_owned(), target }));
    let cgroup = || "/$(reboot)".to_owned();
    let quota =
        Detail::Quota { cgroup: cgroup(), cores: 0.03, needed: 0.9, periods: 10, throttled: 9 };
    let cases = [
        (Impediment::Stopped, None),
        (Impediment::Stopped, Some(Detail::Debugger)),
        (Impediment::Frozen, None),
        (Impediment::NoDescriptors, Some(Detail::Files { open: 40, limit: 40 })),
        (Impediment::NoDescriptors, Some(Detail::Files { open: 65_536, limit: 65_536 })),
        (Impediment::NoDescriptors, Some(Detail::NotWatching)),
        (Impediment::Uneven, Some(Detail::Group { members: 4, idle: 3 })),
        (Impediment::Throttled, Some(quota)),
        (Impediment::Memory, Some(Detail::Memory { cgroup: cgroup(), limit: Some(64 << 20) })),
        (Impediment::Memory, None),
        (Impediment::CpuStarved, None),
        (Impediment::CpuBound, None),
        (Impediment::Blocked, wait(Target::Remote("[2001:db8::7]:5432".parse().unwrap()))),
        (Impediment::Blocked, wait(Target::OwnClient)),
        (Impediment::Blocked, wait(Target::File(cgroup()))),
        (Impediment::Blocked, wait(Target::Kernel("nfs_wait".to_owned()))),
        (Impediment::Blocked, wait(Target::Unknown)),
        (Impediment::Blocked, Some(Detail::Lock)),
        (Impediment::WorkersBusy, Some(Detail::Workers { count: 4 })),
        (Impediment::Sleeping, None),
    ];
    let pids: Vec<u32> = listener
        .owners
        .iter()
        .filter(|owner| owner.server != Some(Server::Systemd))
        .map(|owner| owner.pid)
        .collect();
    let held = |(impediment, detail)| ImpedimentReport {
        impediment,
        share: 0.9,
        confidence: Confidence::High,
        pids: pids.clone(),
        detail,
    };
    StallReport {
        listener: listener.clone(),
        looks: 100,
        last: UnixMs(0),
        impediments: cases.into_iter().map(held).collect(),
    }
}

/// How many commands were looked at.
fn of_every_cause(listener: ListenerReport) -> usize {
    let known = listener.listener.clone();
    let mut seen = 0;
    for cause in by_cause::CAUSES {
        let is_stall = [Cause::AcceptQueueOverflow, Cause::NotAccepting].contains(&cause)
            && listener.flow.is_none();
        let stalled = is_stall.then(|| vec![every_impediment(&known)]);
        for stalls in [Some(Vec::new()), stalled].into_iter().flatten() {
            let mut report = report(listener.clone());
            let verdict = by_cause::verdict(cause, ProxyKind::Nginx, Some(known.id));
            report.proxy.verdicts = vec![Arc::new(verdict)];
            report.stalls = stalls;
            let found = findings(&report);
            let steps = advice(&report, &found);
            for line in steps.iter().flat_map(|step| step.now.iter().chain(&step.commands)) {
                check(line, &known);
                seen += 1;
            }
            assert!(avoid(&found).iter().all(|line| !line.contains("gdb")));
        }
    }
    seen
}
