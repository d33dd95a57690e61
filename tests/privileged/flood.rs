//! A SYN flood from a million spoofed sources, or as many as an emulated machine sends in a while:
//! the agent's memory stays flat, its counts exact.

#![expect(clippy::unwrap_used, reason = "a test's helpers may fail as the test may")]

mod support;

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use etherparse::{PacketBuilder, TcpOptionElement};
use floodmark::{kernel::Tally, verdict::Report};
use socket2::{Domain, Protocol, Socket, Type};
use support::{Listener, Namespace, knock, wait};

const SOURCES: u32 = 1_000_000;
const MOST_SYNS: usize = SOURCES as usize;
const AT_MOST: Duration = Duration::from_secs(12);
/// What a million sources may cost more than a thousand, in KiB: the allocator's whims.
const FLAT: u64 = 4096;

/// The agent as its users run it.
struct Agent {
    process: Child,
    addr: SocketAddr,
}

impl Agent {
    /// Starts one that looks into this namespace only.
    fn start(namespace: &Namespace) -> Option<Self> {
        let program = std::env::var_os("FLOODMARK_AGENT")?;
        // Free a moment ago, and for as long as nobody else takes it.
        let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new(program)
            .args(["run", "--listen", &addr.to_string()])
            .args(["--netns", &namespace.discovered().name])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Some(Self { process: child.unwrap(), addr })
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.addr).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    fn report(&self) -> Report {
        serde_json::from_str(&self.get("/api/v1/report")).unwrap()
    }

    /// Resident memory of its own in KiB: its program's pages come as they are first needed, and are no
    /// less for a flood.
    fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Sends SYNs from `sources` addresses in turn to a listener of this namespace, until it has taken long
/// enough; returns how many. What a raw socket sends over the loopback is not asked where it comes
/// from.
fn flood(sources: u32, to: SocketAddrV4) -> u64 {
    let began = Instant::now();
    let raw =
        Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW))).unwrap();
    let mut packet = Vec::new();
    for (sent, source) in (0..sources).cycle().take(MOST_SYNS).enumerate() {
        if began.elapsed() > AT_MOST {
            return sent as u64;
        }
        let from = Ipv4Addr::from(u32::from(Ipv4Addr::new(11, 0, 0, 0)) + source);
        packet.clear();
        PacketBuilder::ipv4(from.octets(), to.ip().octets(), 64)
            .tcp(20_000, to.port(), 1, 64_000)
            .syn()
            .options(&[TcpOptionElement::MaximumSegmentSize(1460)])
            .unwrap()
            .write(&mut packet, &[])
            .unwrap();
        raw.send_to(&packet, &to.into()).unwrap();
    }
    MOST_SYNS as u64
}

/// What the agent knows of the listener.
fn lost(report: &Report, port: u16) -> Option<(Tally, usize, u64)> {
    let of = report.listeners.iter().find(|report| report.listener.id.addr.port() == port)?;
    let shown: u64 = of.peers.iter().map(|(_, count)| count).sum();
    Some((of.tally, of.peers.len(), shown + of.peers_other))
}

#[test]
fn root_a_flood_from_many_sources_leaves_memory_flat_and_counts_exact() {
    let Some(namespace) = Namespace::new() else { return };
    let listener = namespace.run(|| Listener::new("127.0.0.1:8080", 1));
    let _waiting = namespace.run(|| [knock(listener.addr), knock(listener.addr)]);
    wait(200);
    let Some(agent) = Agent::start(&namespace) else {
        println!("skipped: FLOODMARK_AGENT does not name the agent");
        return;
    };
    let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, listener.addr.port());
    // Long enough for the canary, and for whatever the agent grows by once.
    wait(7000);
    let begin = agent.memory();
    // What is kept for a time grows with the time, not with who sent what is kept.
    let few = namespace.run(|| flood(1000, to));
    wait(2500);
    let before = agent.memory();
    let sent = few + namespace.run(|| flood(SOURCES, to));
    wait(2500);
    let after = agent.memory();
    let (by_few, by_many) = (before.saturating_sub(begin), after.saturating_sub(before));

    let report = agent.report();
    let (tally, peers, of_peers) = lost(&report, to.port()).unwrap();
    let grown = format!("{by_few} KiB for a thousand sources, {by_many} KiB for a million");
    println!("{sent} SYNs, {begin}, {before}, {after}: {grown}, {peers} peers, {tally:?}");
    assert_eq!(tally.overflows(), sent);
    assert_eq!(tally.drops(), sent);
    assert_eq!(of_peers, sent, "what is not told of a peer is told of the others");
    assert!(by_many < by_few + FLAT, "{grown}");
    let metrics = agent.get("/metrics");
    let unattributed: Vec<&str> = metrics
        .lines()
        .filter(|line| line.starts_with("floodmark_kernel_mib_unattributed"))
        .filter(|line| line.contains("fmtest-") && line.contains("\"Listen"))
        .collect();
    assert!(!unattributed.is_empty() && unattributed.iter().all(|line| line.ends_with(" 0")));
}
