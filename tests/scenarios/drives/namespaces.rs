//! Namespaces that come and go: the kernel gives their numbers again, and some end before anybody has
//! looked into them.

use std::{
    any::Any,
    collections::BTreeMap,
    env,
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::Command,
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use socket2::Protocol;

use crate::{
    claim::{Claim, at_least},
    counters::{Counters, namespaces_have_cookies, time_wait_is_counted_at_entry, until_counted},
    namespace::{Namespace, sysctl},
    scenario::{Driven, Scenario, Skip},
    sockets::{Listener, knocks, set_tcp_option},
};

pub const ALL: &[Scenario] = &[
    Scenario::new("namespaces_reused", reused),
    Scenario::new("namespaces_beside_self_test", beside_self_test).with_self_test(),
    Scenario::new("namespaces_two_agents", two_agents),
    Scenario::new("namespaces_young", young),
    Scenario::new("namespaces_many", many),
];

/// The agent looks every quarter of a second.
const SEEN: Duration = Duration::from_millis(700);
const ALWAYS: &str = "2";
const NEVER: &str = "0";

/// Whatever moves a counter within moments; each at least once.
const MOVED: &[&str] = &[
    "ListenOverflows",
    "ListenDrops",
    "TCPReqQFullDrop",
    "TCPReqQFullDoCookies",
    "SyncookiesSent",
    "SyncookiesRecv",
    "EmbryonicRsts",
    "TCPDeferAcceptDrop",
    "TCPTimeWaitOverflow",
];

/// Sockets that stay open until the agent has looked: what a listener lost that closes before is lost to
/// the lower rungs.
type Kept = Box<dyn Any + Send>;

fn lose_of_each() -> Result<Kept> {
    let here = Ipv4Addr::LOCALHOST;
    sysctl("ipv4/tcp_syncookies", NEVER)?;
    let full = Listener::new("127.0.0.1:8081", 0)?;
    let waiting = full.fill(full.at(here), 1)?;
    let refused = knocks(full.at(here), 2)?;
    until_counted("ListenOverflows", 2)?;
    drop(refused);
    let deaf = Listener::new("127.0.0.1:8082", 1)?;
    deaf.hold_acks()?;
    let pending = knocks(deaf.at(here), 6)?;
    until_counted("TCPReqQFullDrop", 1)?;
    deaf.release_acks()?;
    // Reset as they close.
    drop(pending);
    until_counted("EmbryonicRsts", 1)?;
    let patient = Listener::with(Protocol::TCP, "127.0.0.1:8083", 8, |socket| {
        set_tcp_option(socket, libc::TCP_DEFER_ACCEPT, 30)
    })?;
    let silent = knocks(patient.at(here), 1)?;
    until_counted("TCPDeferAcceptDrop", 1)?;
    drop(silent);
    sysctl("ipv4/tcp_syncookies", ALWAYS)?;
    let service = TcpListener::bind((here, 8080)).context("listen on 8080")?;
    close_first(&service)?;
    until_counted("SyncookiesRecv", 1)?;
    sysctl("ipv4/tcp_max_tw_buckets", "0")?;
    close_first(&service)?;
    until_counted("TCPTimeWaitOverflow", 1)?;
    Ok(Box::new((full, waiting, deaf, patient, service)))
}

/// What most short-lived namespaces do: some connections, of which one or two find no room.
fn lose_a_little() -> Result<Kept> {
    let service = TcpListener::bind((Ipv4Addr::LOCALHOST, 8080)).context("listen on 8080")?;
    close_first(&service)?;
    let full = Listener::new("127.0.0.1:8081", 0)?;
    let waiting = full.fill(full.addr, 1)?;
    let refused = knocks(full.addr, 2)?;
    until_counted("ListenOverflows", 2)?;
    drop(refused);
    Ok(Box::new((full, waiting, service)))
}

/// A connection that its client closes first.
fn close_first(service: &TcpListener) -> Result<()> {
    let client = TcpStream::connect(service.local_addr()?).context("connect")?;
    let (mut server, _) = service.accept()?;
    client.shutdown(std::net::Shutdown::Write)?;
    std::io::copy(&mut server, &mut std::io::sink())?;
    drop(server);
    std::io::copy(&mut (&client), &mut std::io::sink())?;
    Ok(())
}

/// What the kernel counted in a namespace for as long as it was there.
type Gone = BTreeMap<String, Counters>;

/// Makes a namespace in which `lose` does what it does, and which ends `after` it.
fn live(
    serial: usize,
    after: Duration,
    lose: fn() -> Result<Kept>,
    gone: &mut Gone,
) -> Result<u64> {
    let namespace = Namespace::new(serial)?;
    let inode = namespace.inode()?;
    let (kept, counters) = namespace.inside(|| Ok((lose()?, Counters::when_still()?)))?;
    sleep(after);
    drop(kept);
    gone.insert(namespace.name().to_owned(), counters);
    Ok(inode)
}

fn claims(moved: &'static [&'static str]) -> Vec<Claim> {
    let mut claims: Vec<Claim> = moved.iter().map(|counter| at_least(counter, 1)).collect();
    if time_wait_is_counted_at_entry() {
        claims.push(at_least("TW", 1));
    }
    // Nothing moves these, and what is attributed to them is some other namespace's.
    for counter in
        ["TCPSynRetrans", "TWKilled", "TWRecycled", "SyncookiesFailed", "TCPFastOpenPassiveFail"]
    {
        claims.push(at_least(counter, 0));
    }
    claims
}

fn driven(moved: &'static [&'static str], gone: Gone) -> Driven {
    Driven::new(claims(moved), ()).and_namespaces_went(gone)
}

/// One after the other, of which every second is gone before the agent looks, and leaves its number to
/// one that stays a moment.
fn reused(_: &[Namespace]) -> Result<Driven> {
    let (mut gone, mut inodes) = (Gone::new(), Vec::new());
    for serial in (100..124).step_by(2) {
        inodes.push(live(serial, Duration::ZERO, lose_a_little, &mut gone)?);
        inodes.push(live(serial + 1, SEEN, lose_of_each, &mut gone)?);
    }
    let number = inodes.len();
    inodes.sort_unstable();
    inodes.dedup();
    ensure!(inodes.len() < number, "no number was given twice");
    Ok(driven(MOVED, gone).and_listeners_went())
}

/// The agent's own test makes namespaces too, whose numbers these may get.
fn beside_self_test(_: &[Namespace]) -> Result<Driven> {
    let mut gone = Gone::new();
    for serial in 200..212 {
        live(serial, SEEN, lose_of_each, &mut gone)?;
    }
    Ok(driven(MOVED, gone))
}

/// Two more agents begin, and test themselves, while namespaces come and go.
fn two_agents(_: &[Namespace]) -> Result<Driven> {
    if !namespaces_have_cookies() {
        let reason = "without cookies, one made while another agent attaches may not be counted";
        return Err(Skip(reason.to_owned()).into());
    }
    let program = env::current_exe()?;
    let start = || Command::new(&program).arg("--self-test-only").spawn().context("a second agent");
    let mut agents = [start()?, start()?];
    let mut gone = Gone::new();
    let mut serial = 300;
    let mut are_done = false;
    while !are_done {
        ensure!(serial < 400, "the other agents' tests do not end");
        live(serial, SEEN, lose_of_each, &mut gone)?;
        serial += 1;
        are_done = true;
        for agent in &mut agents {
            are_done &= agent.try_wait()?.is_some();
        }
    }
    for agent in &mut agents {
        ensure!(agent.wait()?.success(), "an agent failed");
    }
    live(serial, SEEN, lose_of_each, &mut gone)?;
    Ok(driven(MOVED, gone))
}

/// Everything happens before the agent has met the namespace, and it forgets meanwhile.
fn young(_: &[Namespace]) -> Result<Driven> {
    let mut gone = Gone::new();
    for serial in 400..412 {
        live(serial, SEEN, lose_a_little, &mut gone)?;
    }
    Ok(driven(&["ListenOverflows"], gone))
}

/// Three hundred in all, some dozens at a time.
fn many(_: &[Namespace]) -> Result<Driven> {
    const AT_A_TIME: usize = 60;
    let mut gone = Gone::new();
    for generation in 0..300 / AT_A_TIME {
        let first = 500 + generation * AT_A_TIME;
        let namespaces: Vec<Namespace> =
            (first..first + AT_A_TIME).map(Namespace::new).collect::<Result<_>>()?;
        let kept: Vec<Kept> = namespaces
            .iter()
            .map(|namespace| namespace.inside(lose_a_little))
            .collect::<Result<_>>()?;
        sleep(SEEN);
        drop(kept);
        for namespace in &namespaces {
            gone.insert(namespace.name().to_owned(), namespace.inside(Counters::here)?);
        }
    }
    Ok(driven(&["ListenOverflows"], gone))
}
