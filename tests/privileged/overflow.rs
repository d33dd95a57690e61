//! Accept queues that overflow, and the agent's count of it against the kernel's own.

#![expect(clippy::unwrap_used, reason = "a test's helpers may fail as the test may")]

mod support;

use std::{collections::BTreeMap, io::Write, net::SocketAddr};

use floodmark::kernel::{
    Attribution, Class, Counter, KernelSample, KernelSource, MibCounts, Rung, Signal, Tally,
    netns::discover,
};
use support::{Listener, Namespace, knock, wait};

/// The kernel side attached, looking at one namespace of its own.
struct Lab {
    namespace: Namespace,
    source: KernelSource,
}

impl Lab {
    fn new() -> Option<Self> {
        let namespace = Namespace::new()?;
        let source = KernelSource::attach(&discover().unwrap()).unwrap();
        for standing in source.standings() {
            println!("{}: {}", standing.signal.name(), standing.rung);
        }
        Some(Self { namespace, source })
    }

    fn rung(&self, signal: Signal) -> Rung {
        self.source.standings().iter().find(|s| s.signal == signal).unwrap().rung
    }

    /// What each listener of the namespace lost, and what the kernel counted there, once both stand
    /// still: the kernel goes on sending what clients left unacknowledged, and a lower rung leaves to the
    /// next sample what comes while it takes one.
    fn sample(&mut self) -> (BTreeMap<SocketAddr, Tally>, MibCounts, KernelSample) {
        let netns = self.namespace.discovered();
        let mut sample = self.source.sample(std::slice::from_ref(&netns)).unwrap();
        let mut counted = self.source.kernel_counts()[&netns.id].1;
        loop {
            wait(100);
            let late = self.source.sample(std::slice::from_ref(&netns)).unwrap();
            let before = std::mem::replace(&mut counted, self.source.kernel_counts()[&netns.id].1);
            let is_quiet = late.listeners.iter().all(|delta| delta.listener.netns != netns.id);
            sample.listeners.extend(late.listeners);
            if is_quiet && counted == before {
                break;
            }
        }
        let mut tallies: BTreeMap<SocketAddr, Tally> = BTreeMap::new();
        for delta in sample.listeners.iter().filter(|delta| delta.listener.netns == netns.id) {
            *tallies.entry(delta.listener.addr).or_default() += delta.tally;
        }
        (tallies, counted, sample)
    }
}

fn total(tallies: &BTreeMap<SocketAddr, Tally>) -> Tally {
    tallies.values().fold(Tally::default(), |mut sum, tally| {
        sum += *tally;
        sum
    })
}

#[test]
fn root_syns_dropped_at_a_full_queue_are_all_attributed() {
    let Some(mut lab) = Lab::new() else { return };
    let (full, quiet) = lab.namespace.run(|| {
        let full = Listener::new("127.0.0.1:0", 2);
        let quiet = Listener::new("127.0.0.1:0", 2);
        let clients: Vec<_> = (0..20).map(|_| knock(full.addr)).collect();
        let one = knock(quiet.addr);
        // Long enough for the clients' SYNs to be sent again.
        wait(2500);
        drop((clients, one));
        (full, quiet)
    });
    wait(300);
    let (tallies, kernel, sample) = lab.sample();
    println!("{tallies:?}\n{kernel:?}");
    assert!(kernel[Counter::ListenOverflows] >= 17, "17 of 20 SYNs find no room");
    let tally = tallies[&full.addr];
    assert_eq!(tally.overflows(), kernel[Counter::ListenOverflows]);
    assert_eq!(tally.drops(), kernel[Counter::ListenDrops]);
    assert!(!tallies.contains_key(&quiet.addr), "a listener that dropped nothing is not accused");
    let delta = sample.listeners.iter().find(|delta| delta.listener.addr == full.addr).unwrap();
    let queue = delta.queue.unwrap();
    assert_eq!((queue.len, queue.limit), (3, 2), "a queue of limit 2 holds 3");
    if lab.rung(Signal::SynDrops) >= Rung::Kprobe {
        assert_eq!(tally[Class::SynAcceptQueueFull], kernel[Counter::ListenOverflows]);
        assert_eq!(delta.attribution, Attribution::Exact);
        let events = lab.source.events(10_000);
        let syns = events.iter().filter(|event| event.class == Class::SynAcceptQueueFull);
        let own: Vec<_> = syns.filter(|event| event.listener.addr == full.addr).collect();
        assert_eq!(own.len() as u64, kernel[Counter::ListenOverflows]);
        assert!(own.iter().all(|event| event.peer.ip() == full.addr.ip()));
    } else {
        assert_eq!(delta.attribution, Attribution::Exclusive);
    }
}

/// The final ACKs are held back until the queue has no room, so each data segment the clients send
/// again is an overflow in `tcp_check_req`.
#[test]
fn root_final_acks_dropped_at_a_full_queue_are_all_attributed() {
    let Some(mut lab) = Lab::new() else { return };
    let listener = lab.namespace.run(|| {
        let listener = Listener::new("127.0.0.1:0", 512);
        listener.hold_acks();
        let mut clients: Vec<_> = (0..40).map(|_| knock(listener.addr)).collect();
        wait(300);
        for client in &mut clients {
            client.write_all(b"x").unwrap();
        }
        listener.set_backlog(1);
        listener.release_acks();
        wait(3000);
        drop(clients);
        listener
    });
    wait(300);
    let (tallies, kernel, _) = lab.sample();
    println!("{tallies:?}\n{kernel:?}");
    assert!(kernel[Counter::ListenOverflows] >= 38, "38 of 40 connections find no room");
    let tally = tallies[&listener.addr];
    assert_eq!(tally.overflows(), kernel[Counter::ListenOverflows]);
    assert_eq!(tally.drops(), kernel[Counter::ListenDrops]);
    assert!(tally.synack_retransmits() > 0, "SYN/ACKs are sent again while ACKs are held");
    if lab.rung(Signal::AckDrops) > Rung::Netlink {
        assert_eq!(tally[Class::AckAcceptQueueFull], kernel[Counter::ListenOverflows]);
    }
}

/// IPv4, IPv6 and IPv4 to a dual-stack listener at once.
#[test]
fn root_every_family_is_attributed_to_its_own_listener() {
    let Some(mut lab) = Lab::new() else { return };
    let (listeners, dual_v4) = lab.namespace.run(|| {
        let v4 = Listener::new("127.0.0.1:0", 1);
        let v6 = Listener::new("[::1]:0", 1);
        let dual = Listener::new("[::]:0", 1);
        let dual_v4 = SocketAddr::new([127, 0, 0, 1].into(), dual.addr.port());
        let targets = [v4.addr, v6.addr, dual_v4];
        let clients: Vec<_> =
            targets.iter().flat_map(|addr| (0..12).map(|_| knock(*addr))).collect();
        wait(1500);
        drop(clients);
        ([v4, v6, dual], dual_v4)
    });
    wait(300);
    let (tallies, kernel, _) = lab.sample();
    println!("{tallies:?}\n{kernel:?}");
    let sum = total(&tallies);
    assert_eq!(sum.overflows(), kernel[Counter::ListenOverflows]);
    assert_eq!(sum.drops(), kernel[Counter::ListenDrops]);
    for listener in &listeners {
        assert!(tallies[&listener.addr].overflows() >= 10, "{}", listener.addr);
    }
    if lab.rung(Signal::SynDrops) >= Rung::Kprobe {
        let events = lab.source.events(10_000);
        let dual = events.iter().find(|event| event.listener.addr == listeners[2].addr).unwrap();
        assert_eq!(dual.peer.ip(), dual_v4.ip(), "the peer of a dual-stack listener is IPv4");
    }
}

/// With SYN cookies the overflow happens in `cookie_v4_check`, where no request is left.
#[test]
fn root_cookie_acks_are_attributed() {
    let Some(mut lab) = Lab::new() else { return };
    let listener = lab.namespace.run(|| {
        // 2: cookies for every SYN. The file shows the namespace of whoever writes it.
        std::fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2").unwrap();
        let listener = Listener::new("127.0.0.1:0", 512);
        listener.hold_acks();
        let mut clients: Vec<_> = (0..20).map(|_| knock(listener.addr)).collect();
        wait(200);
        for client in &mut clients {
            client.write_all(b"x").unwrap();
        }
        listener.set_backlog(1);
        listener.release_acks();
        wait(2500);
        drop(clients);
        listener
    });
    wait(300);
    let (tallies, kernel, _) = lab.sample();
    println!("{tallies:?}\n{kernel:?}");
    assert!(kernel[Counter::ListenOverflows] > 0, "cookie ACKs find no room");
    let tally = tallies[&listener.addr];
    assert_eq!(tally.overflows(), kernel[Counter::ListenOverflows]);
    assert_eq!(tally.drops(), kernel[Counter::ListenDrops]);
    if lab.rung(Signal::CookieDrops) >= Rung::Kprobe {
        assert_eq!(tally[Class::CookieAcceptQueueFull], kernel[Counter::ListenOverflows]);
    }
}

/// A connection closed by its client first enters TIME_WAIT there.
#[test]
fn root_time_wait_is_counted_by_service_and_side() {
    let Some(mut lab) = Lab::new() else { return };
    let port = lab.namespace.run(|| {
        let listener = std::net::TcpListener::bind("127.0.0.1:8080").unwrap();
        for _ in 0..7 {
            let client = std::net::TcpStream::connect("127.0.0.1:8080").unwrap();
            let (server, _) = listener.accept().unwrap();
            drop(client);
            wait(20);
            drop(server);
        }
        8080
    });
    wait(300);
    let (_, kernel, _) = lab.sample();
    let netns = lab.namespace.discovered().id;
    let (services, _) = lab.source.services();
    let own: Vec<_> = services.iter().filter(|service| service.netns == netns).collect();
    println!("{own:?}\n{kernel:?}");
    assert_eq!(own.len(), 1);
    let entries: u64 = own[0].counts.values().sum();
    assert_eq!((own[0].port, own[0].is_local, entries), (port, false, 7));
}

/// Debian's kernels refuse nothing, so a signal that is not on its best rung there means that a hook
/// no longer fits.
#[test]
fn root_debian_kernels_take_every_best_rung() {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    if !release.trim_end().ends_with("-cloud-amd64") {
        println!("skipped: {} is not a Debian cloud kernel", release.trim_end());
        return;
    }
    let source = KernelSource::attach_at_most(&discover().unwrap(), Rung::Fentry).unwrap();
    for standing in source.standings() {
        assert_ne!(standing.rung, Rung::None, "{standing:?}");
        assert!(standing.higher_refused().next().is_none(), "{standing:?}");
    }
}

/// Every signal that is had packet by packet tells of each loss that the canary causes.
#[test]
fn root_every_hook_hears_the_canary() {
    let mut source = KernelSource::attach_at_most(&[], Rung::Fentry).unwrap();
    source.release_canary();
    let heard = loop {
        source.sample(&[]).unwrap();
        if let Some(heard) = source.heard().unwrap() {
            break heard.clone();
        }
        wait(100);
    };
    println!("{heard:?}");
    for standing in source.standings().iter().filter(|standing| standing.rung >= Rung::Kprobe) {
        assert!(heard.contains_key(&standing.signal), "{:?} was not sung of", standing.signal);
    }
    // Its losses are nobody's.
    assert_eq!(source.no_port().unwrap(), []);
    for (signal, heard) in &heard {
        assert!(heard.is_exact(), "{signal:?}: {heard:?}");
    }
}

/// The kernel gives the number of a namespace that has gone to the next one, which has counts of its own.
#[test]
fn root_a_namespace_that_takes_over_a_number_is_counted_from_zero() {
    fn overflow(namespace: &Namespace, times: usize) {
        namespace.run(|| {
            let listener = Listener::new("127.0.0.1:0", 0);
            let _waiting = knock(listener.addr);
            wait(100);
            let _refused: Vec<_> = (0..times).map(|_| knock(listener.addr)).collect();
            wait(100);
        });
    }
    let Some(first) = Namespace::new() else { return };
    let mut source = KernelSource::attach(&discover().unwrap()).unwrap();
    let before = first.discovered().id;
    overflow(&first, 3);
    source.sample(&discover().unwrap()).unwrap();
    drop(first);
    // It ends in a work queue.
    wait(1000);
    let second = Namespace::new().unwrap();
    let after = second.discovered().id;
    if after.inode() != before.inode() {
        println!("skipped: the number was not given again");
        return;
    }
    assert_ne!(before, after);
    overflow(&second, 5);
    source.sample(&discover().unwrap()).unwrap();
    let counts = source.kernel_counts();
    let overflows = |netns| counts[&netns].1[Counter::ListenOverflows];
    assert_eq!((overflows(before), overflows(after)), (3, 5));
}
