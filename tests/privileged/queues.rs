//! What the kernel tells of accept queues, `listen(2)`, connections and refused Unix connects,
//! against what the test itself did and measured.

#![expect(clippy::unwrap_used, reason = "a test's helpers may fail as the test may")]

mod support;

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixListener,
    slice::from_ref,
    time::{Duration, Instant},
};

use floodmark::kernel::{
    KernelSource, ListenerId, Reach, Rung, Signal, Standing,
    netns::Netns,
    sock_diag::listeners_here,
    watch::{ChurnId, QueueReading},
};
use floodmark_common::queue::{WAIT_FIRST, wait_bucket};
use support::{Listener, Namespace, knock, wait};

/// The agent's kernel side with everything it may have here, and the namespace of the test.
struct Watched {
    source: KernelSource,
    netns: Netns,
}

/// Runs `test` on each rung by BPF that this kernel allows for `signal`.
fn on_each_rung(namespace: &Namespace, signal: Signal, test: impl Fn(Watched)) {
    let mut seen = 0;
    for highest in [Rung::Fentry, Rung::Kprobe, Rung::Tracepoint] {
        let netns = namespace.discovered();
        let reach = Reach { system_calls: true, ..highest.into() };
        let source = KernelSource::attach_at_most(from_ref(&netns), reach).unwrap();
        let watched = Watched { source, netns };
        if watched.rung(signal) == highest {
            println!("{} by {highest}", signal.name());
            test(watched);
            seen += 1;
        }
    }
    if seen == 0 {
        println!("skipped: this kernel does not tell of {}", signal.name());
    }
}

impl Watched {
    fn rung(&self, signal: Signal) -> Rung {
        self.standing(signal).rung
    }

    fn standing(&self, signal: Signal) -> &Standing {
        self.source.standings().iter().find(|standing| standing.signal == signal).unwrap()
    }

    /// The reading of the listener at `addr`; readings of its group and of itself put together.
    fn queue(&mut self, addr: SocketAddr) -> QueueReading {
        let readings = self.source.watch().unwrap().queues().unwrap();
        let own = |id: &ListenerId| id.netns == self.netns.id && id.addr == addr;
        let own = readings.iter().filter(|(id, _)| own(id));
        own.fold(QueueReading::default(), |mut sum, (_, more)| {
            sum.high_since_look = sum.high_since_look.max(more.high_since_look);
            sum.high = sum.high.max(more.high);
            sum.syn_queue_high = sum.syn_queue_high.max(more.syn_queue_high);
            sum.enqueued += more.enqueued;
            sum.waits.iter_mut().zip(more.waits).for_each(|(sum, more)| *sum += more);
            sum.waited_ns += more.waited_ns;
            sum
        })
    }
}

#[test]
fn root_a_burst_between_two_looks_leaves_its_high_water_mark() {
    let Some(namespace) = Namespace::new() else { return };
    on_each_rung(&namespace, Signal::QueueDepth, |watched| {
        a_burst_between_two_looks_leaves_its_high_water_mark(&namespace, watched)
    });
}

fn a_burst_between_two_looks_leaves_its_high_water_mark(
    namespace: &Namespace,
    mut watched: Watched,
) {
    let listener = namespace.run(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let addr = listener.local_addr().unwrap();
    for burst in [70_u32, 30] {
        let clients: Vec<_> = namespace.run(|| (0..burst).map(|_| knock(addr)).collect());
        wait(100);
        let accepted: Vec<_> = (0..burst).map(|_| listener.accept().unwrap()).collect();
        let left = namespace.run(|| {
            listeners_here().unwrap().iter().find(|socket| socket.addr == addr).unwrap().queue.len
        });
        assert_eq!(left, 0, "whoever samples now sees nothing");
        let reading = watched.queue(addr);
        assert_eq!((reading.high_since_look, reading.high), (burst, 70));
        drop((clients, accepted));
    }
    assert_eq!(watched.queue(addr).high_since_look, 0, "nothing was enqueued since");
    // Where it has both hooks, a kernel before 6.1 shows an enqueue twice.
    assert!(watched.queue(addr).enqueued >= 100);
}

#[test]
fn root_time_in_queue_is_what_the_server_measures() {
    let Some(namespace) = Namespace::new() else { return };
    on_each_rung(&namespace, Signal::TimeInQueue, |watched| {
        time_in_queue_is_what_the_server_measures(&namespace, watched)
    });
}

/// The clocks of an emulated machine's processors differ by some tens of microseconds.
const SKEW: Duration = Duration::from_micros(100);

fn time_in_queue_is_what_the_server_measures(namespace: &Namespace, mut watched: Watched) {
    let listener = namespace.run(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let addr = listener.local_addr().unwrap();
    for pause in [0, 3, 40, 700].map(Duration::from_millis) {
        let before = watched.queue(addr);
        let started = Instant::now();
        let client = namespace.run(|| TcpStream::connect(addr).unwrap());
        let connected = Instant::now();
        std::thread::sleep(pause);
        let accepting = Instant::now();
        let accepted = listener.accept().unwrap();
        let (least, most) = (accepting - connected, started.elapsed());
        let after = watched.queue(addr);
        let bucket = (0..after.waits.len()).find(|i| after.waits[*i] > before.waits[*i]).unwrap();
        let waited = Duration::from_nanos(after.waited_ns - before.waited_ns);
        println!("waited {waited:?}, measured {least:?} to {most:?}, bucket {bucket}");
        assert_eq!(after.waits.iter().sum::<u64>(), before.waits.iter().sum::<u64>() + 1);
        let least = least.saturating_sub(SKEW);
        assert!(least <= waited && waited <= most);
        let of = |time: Duration| wait_bucket(time.as_nanos() as u64);
        assert!(of(least) <= bucket && bucket <= of(most), "from 2^{WAIT_FIRST} s on");
        drop((client, accepted));
    }
}

/// Before its listener accepts it, a connection may be reset by its client or go with its listener.
#[test]
fn root_connections_that_die_unaccepted_leave_nothing_behind() {
    let Some(namespace) = Namespace::new() else { return };
    on_each_rung(&namespace, Signal::TimeInQueue, |watched| {
        connections_that_die_unaccepted_leave_nothing_behind(&namespace, watched)
    });
}

fn connections_that_die_unaccepted_leave_nothing_behind(
    namespace: &Namespace,
    mut watched: Watched,
) {
    let listener = namespace.run(|| Listener::new("127.0.0.1:0", 50));
    let addr = listener.addr;
    drop(namespace.run(|| (0..50).map(|_| knock(addr)).collect::<Vec<_>>()));
    wait(100);
    drop(listener);
    let reading = watched.queue(addr);
    assert_eq!((reading.high, reading.waits.iter().sum::<u64>()), (50, 0));
    watched.source.forget_queues(|_| false).unwrap();
    assert_eq!(watched.queue(addr), QueueReading::default());
}

#[test]
fn root_the_backlog_asked_for_is_seen_with_its_somaxconn() {
    let Some(namespace) = Namespace::new() else { return };
    on_each_rung(&namespace, Signal::ListenCalls, |watched| {
        the_backlog_asked_for_is_seen_with_its_somaxconn(&namespace, watched)
    });
}

fn the_backlog_asked_for_is_seen_with_its_somaxconn(namespace: &Namespace, mut watched: Watched) {
    let changes = watched.source.watch().unwrap().listen_changes().unwrap();
    let listener = namespace.run(|| {
        std::fs::write("/proc/sys/net/core/somaxconn", "77").unwrap();
        Listener::unheard("127.0.0.1:0", 1000)
    });
    let netns = watched.netns.id;
    let inode = namespace.run(|| {
        listeners_here().unwrap().iter().find(|socket| socket.addr == listener.addr).unwrap().inode
    });
    if watched.standing(Signal::ListenCalls).blind_spot.starts_with("backlogs") {
        println!("skipped: before Linux 5.15 the backlog is inferred on this rung");
        return;
    }
    let call = |watched: &mut Watched| {
        watched.source.watch().unwrap().listen_calls().unwrap()[&(netns, inode)]
    };
    let first = call(&mut watched);
    assert_eq!((first.backlog, first.somaxconn), (1000, 77));
    assert_eq!(first.pid, std::process::id());
    listener.set_backlog(5);
    let asked = call(&mut watched).backlog;
    match watched.rung(Signal::ListenCalls) {
        Rung::Fentry => assert_eq!(asked, 5),
        _ => assert_eq!(asked, 1000, "as this rung says of itself"),
    }
    drop(listener);
    let after = watched.source.watch().unwrap().listen_changes().unwrap();
    assert!(after >= changes + 2, "one began, one ceased");
}

#[test]
fn root_churn_tells_who_closed_and_how_long_it_lasted() {
    let Some(namespace) = Namespace::new() else { return };
    on_each_rung(&namespace, Signal::Churn, |watched| {
        churn_tells_who_closed_and_how_long_it_lasted(&namespace, watched)
    });
}

fn churn_tells_who_closed_and_how_long_it_lasted(namespace: &Namespace, mut watched: Watched) {
    let listener = namespace.run(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let addr = listener.local_addr().unwrap();
    for (here_first, times) in [(true, 3), (false, 5)] {
        for _ in 0..times {
            let mut client = namespace.run(|| TcpStream::connect(addr).unwrap());
            let (mut served, _) = listener.accept().unwrap();
            wait(20);
            if here_first {
                drop(served);
                assert_eq!(client.read(&mut [0]).unwrap(), 0);
            } else {
                client.write_all(b"x").unwrap();
                drop(client);
                let _ = served.read_to_end(&mut Vec::new());
            }
        }
    }
    wait(50);
    let churn = watched.source.watch().unwrap().churn().unwrap();
    let of = |is_local| {
        let (netns, port) = (watched.netns.id, addr.port());
        churn[&ChurnId { netns, port, is_local, peer: IpAddr::from([127, 0, 0, 1]) }]
    };
    let (service, client) = (of(true), of(false));
    assert_eq!((service.opened, service.closed_here, service.closed_there), (8, 3, 5));
    assert_eq!((client.opened, client.closed_here, client.closed_there), (8, 5, 3));
    let lived = wait_bucket(20_000_000);
    let lifetimes = &service.lifetimes;
    assert_eq!(lifetimes.iter().sum::<u64>(), 8);
    assert_eq!(lifetimes[..lived].iter().sum::<u64>(), 0, "none lasted less than its 20 ms");
}

#[test]
fn root_unix_refusals_name_path_and_cause() {
    let Some(namespace) = Namespace::new() else { return };
    on_each_rung(&namespace, Signal::UnixRefusals, |watched| {
        unix_refusals_name_path_and_cause(&namespace, watched)
    });
}

fn unix_refusals_name_path_and_cause(namespace: &Namespace, mut watched: Watched) {
    let directory = tempfile::tempdir().unwrap();
    let (full, deserted) = (directory.path().join("full"), directory.path().join("deserted"));
    let listener = namespace.run(|| {
        drop(UnixListener::bind(&deserted).unwrap());
        support::unix_listener(&full, 1)
    });
    let refused = namespace.run(|| {
        let clients: Vec<_> = (0..6).map(|_| support::unix_knock(&full)).collect();
        let nobody = support::unix_knock(&deserted);
        let errors = clients.iter().filter(|client| client.is_err()).count();
        (errors as u64, nobody.is_err())
    });
    assert_eq!(refused, (4, true), "a limit of 1 holds 2");
    let told = watched.source.watch().unwrap().unix_refused().unwrap();
    println!("{told:?}");
    let count = |path: &std::path::Path, errno| {
        let here = told.iter().filter(|r| r.netns == watched.netns.id && r.errno == errno);
        here.filter(|r| r.path == path.to_str().unwrap()).map(|r| r.count).sum::<u64>()
    };
    assert_eq!(count(&full, libc::EAGAIN), 4);
    assert_eq!(count(&deserted, libc::ECONNREFUSED), 1);
    drop(listener);
}
