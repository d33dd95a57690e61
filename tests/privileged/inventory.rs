//! Listeners, owners, queues and drop counters as netlink and procfs show them, in namespaces of
//! their own and next to what `ss` and `ip` say.

#![expect(clippy::unwrap_used, reason = "a test's helpers may fail as the test may")]

mod support;

use std::{
    fs,
    io::Write,
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    process::{Command, Stdio},
    slice::from_ref,
};

use floodmark::{
    inventory::{Inventory, Listener as Listening},
    kernel::{
        Attribution, Counter, MibCounts, NetnsId,
        estimate::{Remainder, Share, Suspect, share},
        mib,
        netns::{Netns, discover, visit},
        sock_diag::{ListenSocket, listeners_here},
    },
};
use support::{Listener, Namespace, knock, wait};

/// What the lower rung reads of a namespace at one instant.
struct Reading {
    counts: MibCounts,
    sockets: Vec<ListenSocket>,
}

impl Reading {
    /// Repeated until nothing moves meanwhile, so that all of it belongs to one instant.
    fn of(namespace: &Namespace) -> Self {
        namespace.run(|| {
            loop {
                let counts = mib::read_here().unwrap();
                let sockets = listeners_here().unwrap();
                if mib::read_here().unwrap() == counts {
                    return Self { counts, sockets };
                }
            }
        })
    }

    fn socket(&self, addr: SocketAddr) -> ListenSocket {
        *self.sockets.iter().find(|socket| socket.addr == addr).unwrap()
    }

    /// Growth of a listener's `SK_MEMINFO_DROPS` since `before`.
    fn drops_since(&self, before: &Self, addr: SocketAddr) -> u32 {
        self.socket(addr).drops.wrapping_sub(before.socket(addr).drops)
    }

    /// The estimate for the time since `before`, given overflows already known by listener.
    fn shares_since(
        &self,
        before: &Self,
        netns: NetnsId,
        known: impl Fn(SocketAddr) -> u64,
    ) -> Vec<Share> {
        let grown = self.counts.since(&before.counts);
        let suspects: Vec<Suspect> = self
            .sockets
            .iter()
            .map(|socket| Suspect {
                listener: socket.id(netns),
                drops: self.drops_since(before, socket.addr),
                explained: 2 * known(socket.addr),
            })
            .collect();
        let known: u64 = suspects.iter().map(|suspect| suspect.explained / 2).sum();
        let remainder = Remainder {
            overflows: grown[Counter::ListenOverflows] - known,
            drops: grown[Counter::ListenDrops] - known,
            syn_queue_full: grown[Counter::ReqQFullDrop],
        };
        share(&remainder, &suspects)
    }
}

fn swept(namespaces: &[Netns]) -> Inventory {
    let mut inventory = Inventory::default();
    inventory.sweep(namespaces, true).unwrap();
    inventory
}

fn the_one<'a>(inventory: &'a Inventory, netns: &Netns, addr: SocketAddr) -> &'a Listening {
    let found = inventory.candidates(addr, Some(netns.id));
    assert_eq!(found.len(), 1, "{addr} leads to {found:?}");
    found[0]
}

#[test]
fn root_a_full_queue_is_seen_owned_and_blamed_alone() {
    let Some(namespace) = Namespace::new() else { return };
    let netns = namespace.discovered();
    let (full, quiet) =
        namespace.run(|| (Listener::new("127.0.0.1:0", 2), Listener::new("127.0.0.1:0", 2)));
    let before = Reading::of(&namespace);
    let _clients: Vec<_> = namespace.run(|| (0..10).map(|_| knock(full.addr)).collect());
    wait(300);
    let after = Reading::of(&namespace);

    let grown = after.counts.since(&before.counts);
    println!("{grown:?} {:?}", after.socket(full.addr));
    assert!(grown[Counter::ListenOverflows] >= 7, "7 of 10 SYNs find no room");
    // A SYN dropped is one tcp_listendrop and nothing else.
    assert_eq!(u64::from(after.drops_since(&before, full.addr)), grown[Counter::ListenDrops]);
    assert_eq!(after.drops_since(&before, quiet.addr), 0);
    let shares = after.shares_since(&before, netns.id, |_| 0);
    assert_eq!(shares.len(), 1);
    assert_eq!(shares[0].listener.addr, full.addr);
    assert_eq!(shares[0].attribution, Attribution::Exclusive);
    assert_eq!(shares[0].tally.overflows(), grown[Counter::ListenOverflows]);
    assert_eq!(shares[0].tally.drops(), grown[Counter::ListenDrops]);

    let inventory = swept(from_ref(&netns));
    let listener = the_one(&inventory, &netns, full.addr);
    assert_eq!((listener.queue.len, listener.queue.limit), (3, 2), "a limit of 2 holds 3");
    assert!(listener.drops >= 7);
    let pids: Vec<u32> = listener.owners.iter().map(|owner| owner.pid).collect();
    assert_eq!(pids, [std::process::id()]);
    let comm = fs::read_to_string("/proc/self/comm").unwrap();
    assert_eq!(listener.owners[0].command, comm.trim_end());
}

#[test]
fn root_two_dropping_listeners_share_the_whole() {
    let Some(namespace) = Namespace::new() else { return };
    let netns = namespace.discovered();
    let pair = namespace.run(|| (Listener::new("127.0.0.1:0", 2), Listener::new("[::1]:0", 2)));
    let before = Reading::of(&namespace);
    let _clients: Vec<_> = namespace.run(|| {
        let many = (0..23).map(|_| knock(pair.0.addr));
        many.chain((0..8).map(|_| knock(pair.1.addr))).collect()
    });
    wait(300);
    let after = Reading::of(&namespace);

    let grown = after.counts.since(&before.counts);
    let shares = after.shares_since(&before, netns.id, |_| 0);
    println!("{grown:?} {shares:?}");
    assert_eq!(shares.len(), 2);
    assert!(shares.iter().all(|share| share.attribution == Attribution::Proportional));
    for share in &shares {
        // Where all are SYNs the share is the number itself.
        let own = u64::from(after.drops_since(&before, share.listener.addr));
        assert_eq!(share.tally.overflows(), own);
    }
    let sum: u64 = shares.iter().map(|share| share.tally.overflows()).sum();
    assert_eq!(sum, grown[Counter::ListenOverflows]);
}

/// Why the estimator takes two off for each final ACK it knows of.
#[test]
fn root_a_dropped_final_ack_moves_the_drop_counter_by_two() {
    let Some(namespace) = Namespace::new() else { return };
    let netns = namespace.discovered();
    let (acks, syns) =
        namespace.run(|| (Listener::new("127.0.0.1:0", 512), Listener::new("127.0.0.1:0", 2)));
    let mut clients: Vec<_> = namespace.run(|| {
        acks.hold_acks();
        (0..20).map(|_| knock(acks.addr)).collect()
    });
    wait(200);
    // Nothing moves now: the first SYN/ACK is sent again a second after the SYN.
    let before = Reading::of(&namespace);
    acks.set_backlog(1);
    acks.release_acks();
    for client in &mut clients {
        client.write_all(b"x").unwrap();
    }
    wait(300);
    let between = Reading::of(&namespace);
    let known = between.counts.since(&before.counts)[Counter::ListenOverflows];
    let moved = u64::from(between.drops_since(&before, acks.addr));
    println!("{known} final ACKs dropped, drop counter moved by {moved}");
    assert!(known >= 18, "18 of 20 connections find no room");
    assert_eq!(moved, 2 * known);

    // The final ACKs are known, so what is dropped at the other listener is that one's alone.
    let _knocks: Vec<_> = namespace.run(|| (0..10).map(|_| knock(syns.addr)).collect());
    wait(200);
    let after = Reading::of(&namespace);
    let known = u64::from(after.drops_since(&before, acks.addr)) / 2;
    let shares =
        after.shares_since(&before, netns.id, |addr| if addr == acks.addr { known } else { 0 });
    println!("{known} known, {shares:?}");
    assert_eq!(shares.len(), 1);
    assert_eq!(shares[0].listener.addr, syns.addr);
    assert_eq!(shares[0].attribution, Attribution::Exclusive);
    let own = u64::from(after.drops_since(&before, syns.addr));
    assert_eq!(shares[0].tally.overflows(), own);
}

#[test]
fn root_listeners_are_those_that_ss_shows() {
    let Some(namespace) = Namespace::new() else { return };
    let netns = namespace.discovered();
    let listeners = namespace.run(|| {
        ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"].map(|addr| Listener::new(addr, 3))
    });
    let _clients: Vec<_> = namespace.run(|| {
        (0..9).map(|_| knock(listeners[0].addr)).chain([knock(listeners[2].addr)]).collect()
    });
    wait(300);
    let ss = Command::new("ip")
        .args(["netns", "exec", &netns.name, "ss", "-H", "-lntemO"])
        .output()
        .unwrap();
    let ss = String::from_utf8(ss.stdout).unwrap();
    println!("{ss}");
    let mut shown: Vec<_> = ss.lines().map(row).collect();
    let inventory = swept(&[netns]);
    let mut found: Vec<_> = inventory
        .listeners()
        .map(|l| (l.id.addr, l.queue.len, l.queue.limit, l.drops, l.id.inode, l.v6_only))
        .collect();
    shown.sort_unstable();
    found.sort_unstable();
    assert_eq!(found.len(), listeners.len());
    assert_eq!(found, shown);
    assert!(found.iter().any(|(.., drops, _, _)| *drops > 0));
}

/// `LISTEN 4 3 127.0.0.1:80 0.0.0.0:* ino:7 sk:1 cgroup:/ v6only:0 <-> skmem:(r0,...,d5)`
fn row(line: &str) -> (SocketAddr, u32, u32, u32, u32, bool) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |start: &str| {
        let word = words.iter().find_map(|word| word.strip_prefix(start));
        word.map(|digits| digits.parse().unwrap())
    };
    let drops = words.iter().find_map(|word| word.strip_prefix("skmem:(")).unwrap();
    let drops = drops.trim_end_matches(')').rsplit(",d").next().unwrap();
    // ss writes a dual-stack wildcard as `*`.
    let addr = words[3].replace("*:", "[::]:").parse().unwrap();
    (
        addr,
        words[1].parse().unwrap(),
        words[2].parse().unwrap(),
        drops.parse().unwrap(),
        number("ino:").unwrap(),
        number("v6only:") == Some(1),
    )
}

#[test]
fn root_somaxconn_and_addresses_are_the_namespaces_own() {
    let Some(namespace) = Namespace::new() else { return };
    let netns = namespace.discovered();
    let ip = ["-n", &netns.name, "addr", "add", "10.77.0.1/24", "dev", "lo"];
    assert!(Command::new("ip").args(ip).status().unwrap().success());
    let listener = namespace.run(|| {
        fs::write("/proc/sys/net/core/somaxconn", "77").unwrap();
        Listener::new("[::]:0", 1000)
    });
    let inventory = swept(&discover().unwrap());
    let addr = SocketAddr::new([10, 77, 0, 1].into(), listener.addr.port());
    let own = the_one(&inventory, &netns, addr);
    assert_eq!((own.id.netns, own.somaxconn, own.queue.limit), (netns.id, Some(77), 77));
    assert_eq!(inventory.candidates(addr, None), [own], "no other namespace has the address");
    assert!(
        inventory.listeners().filter(|l| l.id.netns != netns.id).all(|l| l.somaxconn != Some(77))
    );
}

#[test]
fn root_every_holder_of_a_socket_is_an_owner() {
    let Some(namespace) = Namespace::new() else { return };
    let netns = namespace.discovered();
    let listener = namespace.run(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let addr = listener.local_addr().unwrap();
    // A child that inherits the socket, as a worker does from its master.
    let socket = OwnedFd::from(listener.try_clone().unwrap());
    let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(socket).spawn().unwrap();
    let mut inventory = swept(from_ref(&netns));
    let owners = |inventory: &Inventory| -> Vec<u32> {
        the_one(inventory, &netns, addr).owners.iter().map(|owner| owner.pid).collect()
    };
    let mut both = [std::process::id(), child.id()];
    both.sort_unstable();
    assert_eq!(owners(&inventory), both);
    drop(child.stdin.take());
    child.wait().unwrap();
    inventory.sweep(from_ref(&netns), false).unwrap();
    assert_eq!(owners(&inventory), both, "kept until they are looked up anew");
    inventory.sweep(from_ref(&netns), true).unwrap();
    assert_eq!(owners(&inventory), [std::process::id()]);
}

#[test]
fn root_a_namespace_is_not_kept_alive_and_a_vanished_one_is_left_out() {
    let Some(namespace) = Namespace::new() else { return };
    let netns = namespace.discovered();
    let here = from_ref(&netns);
    let mut inventory = swept(here);
    let open: Vec<_> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .filter(|link| *link == *netns.id.name())
        .collect();
    assert!(open.is_empty(), "{open:?}");
    drop(namespace);
    assert!(visit(here, |netns| netns.id).unwrap().is_empty());
    assert!(!discover().unwrap().iter().any(|other| other.name == netns.name));
    inventory.sweep(here, false).unwrap();
    assert_eq!(inventory.listeners().count(), 0);
}
