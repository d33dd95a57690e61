//! The inventory next to `ss`, with real servers in namespaces of their own: nginx, PHP-FPM,
//! systemd's socket activation, a container in all but name.

#![expect(clippy::unwrap_used, reason = "a test's helpers may fail as the test may")]

mod support;

use std::{
    collections::BTreeSet,
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use floodmark::{
    inventory::{Counted, Inventory, LimitedBy, Listener, Owner, Runtime},
    kernel::netns::{Netns, discover, of_process},
};
use support::{Namespace, agent, knock, servers, wait};

fn swept(namespaces: &[Netns]) -> Inventory {
    let mut inventory = Inventory::default();
    inventory.sweep(namespaces, true).unwrap();
    inventory
}

/// What either shows of a listening TCP socket.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Tcp {
    addr: String,
    queue: (u32, u32),
    drops: u32,
    pids: BTreeSet<u32>,
}

/// What either shows of a listening Unix socket.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Unix {
    path: String,
    queue: (u32, u32),
    pids: BTreeSet<u32>,
}

fn pids(owners: &[Owner]) -> BTreeSet<u32> {
    owners.iter().map(|owner| owner.pid).collect()
}

fn ours(inventory: &Inventory, netns: &Netns) -> (Vec<Tcp>, Vec<Unix>) {
    let tcp = inventory.listeners().filter(|listener| listener.id.netns == netns.id);
    let tcp = tcp.map(|listener| Tcp {
        addr: listener.id.addr.to_string(),
        queue: (listener.queue.len, listener.queue.limit),
        drops: listener.drops,
        pids: pids(&listener.owners),
    });
    let unix = inventory.unix_listeners().filter(|unix| unix.netns == netns.id);
    let unix = unix.map(|unix| Unix {
        path: unix.path.clone(),
        queue: (unix.queue.len, unix.queue.limit),
        pids: pids(&unix.owners),
    });
    let (mut tcp, mut unix): (Vec<Tcp>, Vec<Unix>) = (tcp.collect(), unix.collect());
    tcp.sort();
    unix.sort();
    (tcp, unix)
}

/// `ss` in the namespace of a process.
fn ss(entrance: &str, options: &str) -> String {
    let ss = Command::new("nsenter")
        .args([&format!("--net={entrance}"), "ss", "-H", "-O", options])
        .output()
        .unwrap();
    assert!(ss.status.success(), "{}", String::from_utf8_lossy(&ss.stderr));
    String::from_utf8(ss.stdout).unwrap()
}

fn as_ss_has_it(entrance: &str) -> (Vec<Tcp>, Vec<Unix>) {
    let pids = |line: &str| line.split("pid=").skip(1).map(number).collect();
    let (tcp, unix) = (ss(entrance, "-lntmp"), ss(entrance, "-lnxp"));
    println!("{tcp}{unix}");
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let mut tcp: Vec<Tcp> = tcp
        .lines()
        .map(|line| {
            let w = words(line);
            let drops = line.rsplit(",d").next().map(number).unwrap();
            let addr = w[3].replace("*:", "[::]:");
            Tcp { addr, queue: (number(&w[1]), number(&w[2])), drops, pids: pids(line) }
        })
        .collect();
    let mut unix: Vec<Unix> = unix
        .lines()
        .map(|line| {
            let w = words(line);
            Unix { path: w[4].clone(), queue: (number(&w[2]), number(&w[3])), pids: pids(line) }
        })
        .collect();
    tcp.sort();
    unix.sort();
    (tcp, unix)
}

fn number(text: &str) -> u32 {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().unwrap()
}

fn at<'a>(inventory: &'a Inventory, netns: &Netns, addr: &str) -> Vec<&'a Listener> {
    let addr: SocketAddr = addr.parse().unwrap();
    let here = inventory.listeners().filter(|listener| listener.id.netns == netns.id);
    here.filter(|listener| listener.id.addr == addr).collect()
}

#[test]
fn root_a_dual_stack_nginx_with_reuseport_is_as_ss_shows_it() {
    let Some(namespace) = Namespace::new() else { return };
    let directory = tempfile::tempdir().unwrap();
    let Some(_nginx) = servers::nginx(&namespace, directory.path()) else { return };
    let netns = namespace.discovered();
    // Fills the queues somewhat: nginx is stopped meanwhile.
    let inventory = swept(std::slice::from_ref(&netns));
    assert_eq!(ours(&inventory, &netns), as_ss_has_it(&format!("/run/netns/{}", netns.name)));
    let group = at(&inventory, &netns, "[::]:80");
    assert_eq!(group.len(), 2, "one socket for each worker");
    assert!(group.iter().all(|listener| listener.group == 2 && listener.is_dual_stack()));
    let workers = group[0].owners.iter().filter(|owner| owner.command == "nginx").count();
    assert!(workers >= 2, "master and workers: {:?}", group[0].owners);
    let plain = at(&inventory, &netns, "127.0.0.1:8081")[0];
    assert_eq!((plain.group, plain.queue.limit), (1, 511), "nginx asks for 511 by itself");
    assert_eq!(plain.limited_by(), Some(LimitedBy::Backlog));
    assert!(plain.backlog.inferred);
}

#[test]
fn root_php_fpm_on_tcp_and_on_a_unix_socket_is_as_ss_shows_it() {
    let Some(namespace) = Namespace::new() else { return };
    let directory = tempfile::tempdir().unwrap();
    let Some(fpm) = servers::php_fpm(&namespace, directory.path()) else { return };
    let netns = namespace.discovered();
    // Stopped, it accepts nothing, so that either queue holds something.
    let stopped = fpm.stop_all(&netns);
    let socket = directory.path().join("fpm.sock");
    let _held = namespace.run(|| {
        let unix: Vec<_> = (0..3).map(|_| support::unix_knock(&socket).unwrap()).collect();
        let tcp: Vec<_> = (0..2).map(|_| knock("127.0.0.1:9000".parse().unwrap())).collect();
        (unix, tcp)
    });
    wait(200);
    let inventory = swept(std::slice::from_ref(&netns));
    drop(stopped);
    let (tcp, unix) = ours(&inventory, &netns);
    println!("{tcp:?}\n{unix:?}");
    assert_eq!((tcp.len(), unix.len()), (1, 1));
    assert_eq!((tcp[0].queue, unix[0].queue), ((2, 65), (3, 64)));
    assert_eq!(unix[0].path, socket.to_str().unwrap());
    // The master and its children hold the sockets of all pools.
    assert!(tcp[0].pids.len() >= 4 && unix[0].pids.len() >= 3);
    drop(_held);
    wait(300);
    let now = swept(std::slice::from_ref(&netns));
    assert_eq!(ours(&now, &netns), as_ss_has_it(&format!("/run/netns/{}", netns.name)));
}

#[test]
fn root_a_socket_that_systemd_activates_goes_to_the_service() {
    let Some(namespace) = Namespace::new() else { return };
    let addr = "127.0.0.1:9100".parse().unwrap();
    let Some(activator) = servers::socket_activated(&namespace, addr) else { return };
    let netns = namespace.discovered();
    let mut inventory = swept(std::slice::from_ref(&netns));
    let owner = |inventory: &Inventory| {
        let owners = &at(inventory, &netns, "127.0.0.1:9100")[0].owners;
        assert_eq!(owners.len(), 1);
        (owners[0].pid, owners[0].command.clone())
    };
    assert_eq!(owner(&inventory), (activator.pid(), "systemd-socket-".to_owned()));
    let _client = namespace.run(|| TcpStream::connect("127.0.0.1:9100").unwrap());
    wait(500);
    inventory.sweep(std::slice::from_ref(&netns), true).unwrap();
    assert_eq!(owner(&inventory), (activator.pid(), "sleep".to_owned()));
    assert_eq!(ours(&inventory, &netns), as_ss_has_it(&format!("/run/netns/{}", netns.name)));
}

/// Namespaces of every kind, and a control group as Docker makes one on either version.
#[test]
fn root_a_listener_in_a_container_has_its_id_and_runtime() {
    let Some(_root) = Namespace::new() else { return };
    let id = "c0ffee".repeat(10) + "c0de";
    let Some(hierarchy) = Hierarchy::mount() else { return };
    let group = hierarchy.0.path().join("docker").join(&id);
    fs::create_dir_all(&group).unwrap();
    let Some(container) = servers::in_a_container(&group, 7000) else { return };
    let pid = container.pid();
    let netns = discover().unwrap().into_iter().find(|netns| Some(netns.id) == of_process(pid));
    let netns = netns.expect("found by its process alone");
    assert!(netns.name.starts_with("net:["));
    let inventory = swept(std::slice::from_ref(&netns));
    assert_eq!(ours(&inventory, &netns), as_ss_has_it(&format!("/proc/{pid}/ns/net")));
    let owner = &at(&inventory, &netns, "0.0.0.0:7000")[0].owners[0];
    let found = owner.workload.container.as_ref().unwrap_or_else(|| panic!("{owner:?}"));
    assert_eq!((&found.id, found.runtime), (&id, Some(Runtime::Docker)));
}

/// Control groups of version 2, mounted for a test; its groups go with it.
struct Hierarchy(tempfile::TempDir);

impl Hierarchy {
    fn mount() -> Option<Self> {
        let at = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        if !mount.args(["-t", "cgroup2", "none"]).arg(at.path()).status().unwrap().success() {
            println!("skipped: no cgroup v2 here");
            return None;
        }
        Some(Self(at))
    }
}

impl Drop for Hierarchy {
    fn drop(&mut self) {
        // The last member may take a moment to leave.
        wait(100);
        let docker = self.0.path().join("docker");
        for group in fs::read_dir(&docker).into_iter().flatten().flatten() {
            let _ = fs::remove_dir(group.path());
        }
        let _ = fs::remove_dir(docker);
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn root_ports_time_wait_and_pending_handshakes_are_as_ss_counts_them() {
    let Some(namespace) = Namespace::new() else { return };
    let netns = namespace.discovered();
    let (listener, pending) = namespace.run(|| {
        fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40099").unwrap();
        fs::write("/proc/sys/net/ipv4/ip_local_reserved_ports", "40000-40009,50000").unwrap();
        (TcpListener::bind("127.0.0.1:7000").unwrap(), support::Listener::new("127.0.0.1:7001", 9))
    });
    let to = listener.local_addr().unwrap();
    let (_open, _half_open) = namespace.run(|| {
        // Five close first and wait, twenty stay.
        for _ in 0..5 {
            drop(TcpStream::connect(to).unwrap());
            drop(listener.accept().unwrap());
        }
        let open: Vec<_> = (0..20).map(|_| TcpStream::connect(to).unwrap()).collect();
        pending.hold_acks();
        (open, (0..4).map(|_| knock(pending.addr)).collect::<Vec<_>>())
    });
    wait(200);
    let mut inventory = swept(std::slice::from_ref(&netns));
    inventory.enter_connections(Counted::of(std::slice::from_ref(&netns)).unwrap());
    let counted = |state: &str, side: &str| {
        let entrance = format!("--net=/run/netns/{}", netns.name);
        let ss = Command::new("nsenter")
            .args([&entrance, "ss", "-H", "-tan", "state", state, side, "=", ":7000"])
            .output()
            .unwrap();
        String::from_utf8(ss.stdout).unwrap().lines().count() as u32
    };
    let time_wait = inventory.namespaces()[&netns.id].time_wait;
    assert_eq!((time_wait, counted("time-wait", "dport")), (Some(5), 5));
    let destination = inventory.destinations().iter().find(|found| found.to == to).unwrap();
    let in_use = counted("established", "dport") + counted("time-wait", "dport");
    assert_eq!((destination.ports_in_use, in_use), (25, 25));
    assert_eq!(destination.ports, Some(90), "a hundred but for the ten reserved");
    let syn_queue = |addr: SocketAddr| at(&inventory, &netns, &addr.to_string())[0].syn_queue;
    assert_eq!((syn_queue(pending.addr), syn_queue(to)), (Some(4), Some(0)));
}

/// Processes with sockets that die, namespaces that come and go, all during sweeps.
#[test]
fn root_what_dies_during_a_sweep_is_left_out_and_nobody_else_accused() {
    let Some(namespace) = Namespace::new() else { return };
    let netns = namespace.discovered();
    let listener = namespace.run(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let addr = listener.local_addr().unwrap();
    let is_over = AtomicBool::new(false);
    // A child has its parent's sockets until it executes, and the name of the thread that forked.
    let names = ["/proc/self/comm", "/proc/thread-self/comm"];
    let mut names =
        names.map(|path| fs::read_to_string(path).unwrap().trim_end().to_owned()).to_vec();
    names.push("true".to_owned());
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                // A child that holds a listener of its own for no time.
                let short = namespace.run(|| TcpListener::bind("127.0.0.1:0").unwrap());
                let socket = OwnedFd::from(short);
                let child = Command::new("true").stdin(Stdio::null()).stdout(socket).spawn();
                child.unwrap().wait().unwrap();
            }
        });
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                drop(Namespace::new());
            }
        });
        // However this ends, the others end too.
        let _over = Raised(&is_over);
        let mut inventory = Inventory::default();
        for _ in 0..40 {
            inventory.sweep(&discover().unwrap(), true).unwrap();
            let held = inventory.candidates(addr, Some(netns.id));
            assert!(pids(&held[0].owners).contains(&std::process::id()));
            for other in inventory.listeners().filter(|other| other.id.netns == netns.id) {
                let known = |owner: &Owner| names.contains(&owner.command);
                assert!(other.owners.iter().all(known), "{other:?}");
            }
        }
    });
}

/// Raises a flag when it goes.
struct Raised<'a>(&'a AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn listing(arguments: &[&str]) -> Option<(serde_json::Value, i32)> {
    let output = Command::new(agent()?).arg("listeners").args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    Some((serde_json::from_str(&said).unwrap(), output.status.code().unwrap()))
}

#[test]
fn root_the_command_needs_no_agent_and_filters() {
    let Some(namespace) = Namespace::new() else { return };
    let (quiet, full) = namespace.run(|| {
        let quiet = TcpListener::bind("127.0.0.1:0").unwrap();
        (quiet, support::Listener::new("127.0.0.1:0", 2))
    });
    let _clients: Vec<_> = namespace.run(|| (0..9).map(|_| knock(full.addr)).collect());
    wait(300);
    let name = namespace.discovered().name;
    let ports = |listing: &serde_json::Value| -> Vec<u16> {
        let listeners = listing["listeners"].as_array().unwrap();
        let addrs = listeners.iter().map(|listener| listener["id"]["addr"].as_str().unwrap());
        addrs.map(|addr| addr.parse::<SocketAddr>().unwrap().port()).collect()
    };
    let (quiet, full) = (quiet.local_addr().unwrap().port(), full.addr.port());
    let Some((all, status)) = listing(&["--json", "--netns", &name]) else { return };
    assert_eq!((ports(&all), status), (vec![full, quiet], 0), "trouble first");
    assert_eq!(all["listeners"][0]["trouble"], "full");
    assert_eq!(all["listeners"][0]["queue"]["len"], 3);
    assert_eq!(all["listeners"][0]["owners"][0]["pid"], std::process::id());
    let (bad, status) = listing(&["--json", "--netns", &name, "--only-trouble"]).unwrap();
    assert_eq!((ports(&bad), status), (vec![full], 1));
    let port = quiet.to_string();
    let (one, status) = listing(&["--json", "--netns", &name, "--port", &port]).unwrap();
    assert_eq!((ports(&one), status), (vec![quiet], 0));
    let (none, _) = listing(&["--json", "--netns", &name, "--container", "nosuch"]).unwrap();
    assert!(ports(&none).is_empty());
}

/// An unprivileged look through a `/proc` that hides other people's processes.
#[test]
fn root_with_hidepid_there_are_fewer_labels_and_one_warning_for_each_lack() {
    let Some(agent) = agent() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    if !["/usr/bin/setpriv", "/usr/bin/unshare"].iter().all(|it| Path::new(it).exists()) {
        println!("skipped: setpriv and unshare (package util-linux) are not here");
        return;
    }
    // Where a user other than root may run it.
    let directory = tempfile::Builder::new().prefix("fm").tempdir_in("/tmp").unwrap();
    let everybodys = directory.path().join("floodmark");
    fs::copy(agent, &everybodys).unwrap();
    let script = format!(
        "chmod 755 {0} && mount -t proc -o hidepid=2 proc /proc && exec setpriv --reuid 65534 \
         --regid 65534 --clear-groups {0}/floodmark listeners --json --port {port}",
        directory.path().display()
    );
    let output = Command::new("unshare").args(["-m", "sh", "-c", &script]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    println!("{said}");
    assert_eq!(output.status.code(), Some(0));
    let listing: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = listing["listeners"].as_array().unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["owners"].as_array().unwrap().len(), 0, "none rather than a wrong one");
    assert_eq!(said.matches("owners of some sockets").count(), 1);
    assert!(said.lines().count() <= 2, "one line for owners, one for namespaces");
}
