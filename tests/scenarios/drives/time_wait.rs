//! Connections that end in TIME_WAIT, and what becomes of them there.

use std::{
    io,
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    claim::{Claim, at_least, exactly},
    counters::{count, time_wait_is_counted_at_entry, until, until_counted},
    namespace::{Namespace, sysctl},
    scenario::{Driven, Scenario},
    sockets::Listener,
};

pub const ALL: &[Scenario] = &[
    Scenario::new("time_wait_closed_by_client", |_| closed_first(Side::Client)),
    Scenario::new("time_wait_closed_by_service", |_| closed_first(Side::Service)),
    Scenario::new("time_wait_half_closed", |_| half_closed("60", "TW")),
    Scenario::new("time_wait_half_closed_briefly", |_| half_closed("2", "TWKilled")),
    Scenario::new("time_wait_table_full", table_full),
    Scenario::new("time_wait_reused_by_connect", reused_by_connect),
    Scenario::new("time_wait_reopened_by_syn", reopened_by_syn),
    Scenario::new("time_wait_reopened_at_full_queue", reopened_at_full_queue),
];

const CONNECTIONS: u64 = 10;
/// An acknowledgement is delayed by at most 0.2 s (TCP_DELACK_MAX).
const ACKNOWLEDGED: Duration = Duration::from_millis(250);
const CLIENT: &str = "time_wait/closed_by_client";
const SERVICE: &str = "time_wait/closed_by_service";

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Client,
    Service,
}

/// Lower than any ephemeral port, by which the agent knows the service.
fn service() -> Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 8080)).context("listen on 8080")
}

fn connection(listener: &TcpListener) -> Result<(TcpStream, TcpStream)> {
    let client = TcpStream::connect(listener.local_addr()?).context("connect")?;
    Ok((client, listener.accept()?.0))
}

/// Both sides close, `first` first, which is in TIME_WAIT then.
fn close(mut first: TcpStream, mut second: TcpStream) -> Result<()> {
    first.shutdown(Shutdown::Write)?;
    read_to_end(&mut second)?;
    drop(second);
    read_to_end(&mut first)
}

fn read_to_end(stream: &mut TcpStream) -> Result<()> {
    io::copy(stream, &mut io::sink())?;
    Ok(())
}

/// That so many entered, by which side, and by which counter where it is counted on entry.
fn entered(class: &'static str, counter: &'static str, number: u64) -> Vec<Claim> {
    let mut claims = vec![exactly(class, number)];
    if time_wait_is_counted_at_entry() {
        claims.push(exactly(counter, number));
    }
    claims
}

fn closed_first(side: Side) -> Result<Driven> {
    let listener = service()?;
    for _ in 0..CONNECTIONS {
        let (client, server) = connection(&listener)?;
        match side {
            Side::Client => close(client, server)?,
            Side::Service => close(server, client)?,
        }
    }
    let class = if side == Side::Client { CLIENT } else { SERVICE };
    Ok(Driven::new(entered(class, "TW", CONNECTIONS), listener))
}

/// The service closes and its clients do not: small sockets in FIN_WAIT2. Those of up to four
/// seconds are counted in TWKilled (`__inet_twsk_schedule`).
fn half_closed(fin_timeout: &str, counter: &'static str) -> Result<Driven> {
    sysctl("ipv4/tcp_fin_timeout", fin_timeout)?;
    let listener = service()?;
    let is_counted = time_wait_is_counted_at_entry();
    let mut clients = Vec::new();
    let mut number = 0;
    // None enters where the FIN's acknowledgement finds the socket still locked by close(2)
    // (`tcp_rcv_state_process`, "Bad case"): then another has to do.
    until(&format!("{counter} >= {CONNECTIONS}"), || {
        clients.push(half_close(&listener)?);
        thread::sleep(ACKNOWLEDGED);
        number = if is_counted { count(counter)? } else { clients.len() as u64 };
        Ok(number >= CONNECTIONS)
    })?;
    Ok(Driven::new(entered(SERVICE, counter, number), (listener, clients)))
}

/// The client of a connection that the service has closed.
fn half_close(listener: &TcpListener) -> Result<TcpStream> {
    let (mut client, server) = connection(listener)?;
    drop(server);
    read_to_end(&mut client)?;
    Ok(client)
}

/// Beyond `tcp_max_tw_buckets` connections just end (`inet_twsk_alloc`).
fn table_full(_: &[Namespace]) -> Result<Driven> {
    const ROOM: u64 = 3;
    sysctl("ipv4/tcp_max_tw_buckets", &ROOM.to_string())?;
    let listener = service()?;
    for _ in 0..CONNECTIONS {
        let (client, server) = connection(&listener)?;
        close(server, client)?;
    }
    let mut claims = vec![exactly("TCPTimeWaitOverflow", CONNECTIONS - ROOM)];
    if time_wait_is_counted_at_entry() {
        claims.push(exactly("TW", ROOM));
    }
    Ok(Driven::new(claims, listener))
}

/// All four ports are in TIME_WAIT when four more connections are made, a second later at the
/// earliest (`tcp_twsk_unique`).
fn reused_by_connect(_: &[Namespace]) -> Result<Driven> {
    sysctl("ipv4/ip_local_port_range", "40000 40003")?;
    sysctl("ipv4/tcp_tw_reuse", "1")?;
    let listener = service()?;
    for _ in 0..4 {
        let (client, server) = connection(&listener)?;
        close(client, server)?;
    }
    let mut again = Vec::new();
    until("ports to be reused", || {
        if let Ok(client) = TcpStream::connect(listener.local_addr()?) {
            again.push((client, listener.accept()?.0));
        }
        Ok(again.len() == 4)
    })?;
    let mut claims = entered(CLIENT, "TW", 4);
    claims.push(exactly("TWRecycled", 4));
    Ok(Driven::new(claims, (listener, again)))
}

/// A client with a port of its own choice, which it may take again.
fn client_from(port: u16, to: SocketAddr) -> Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    socket.connect(&to.into()).with_context(|| format!("connect from {port}"))?;
    Ok(socket)
}

const FIRST_PORT: u16 = 45_000;

/// The service's side is in TIME_WAIT when the same client calls again (`TCP_TW_SYN`).
fn reopened_by_syn(_: &[Namespace]) -> Result<Driven> {
    let listener = service()?;
    let mut again = Vec::new();
    for number in 0..CONNECTIONS as u16 {
        let port = FIRST_PORT + number;
        let client = client_from(port, listener.local_addr()?)?;
        close(listener.accept()?.0, client.into())?;
        again.push((client_from(port, listener.local_addr()?)?, listener.accept()?.0));
    }
    let mut claims = entered(SERVICE, "TW", CONNECTIONS);
    claims.push(exactly("time_wait/reopened", CONNECTIONS));
    Ok(Driven::new(claims, (listener, again)))
}

/// As above, with no room for the connection that the client opens again.
fn reopened_at_full_queue(_: &[Namespace]) -> Result<Driven> {
    let listener = Listener::new("127.0.0.1:8080", 64)?;
    let client = client_from(FIRST_PORT, listener.addr)?;
    close(listener.socket.accept()?.0.into(), client.into())?;
    listener.set_backlog(1)?;
    let waiting = listener.fill(listener.addr, 2)?;
    let again = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    again.set_reuse_address(true)?;
    again.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, FIRST_PORT)).into())?;
    again.set_nonblocking(true)?;
    // In progress, and to remain so.
    let _ = again.connect(&listener.addr.into());
    until_counted("ListenOverflows", 1)?;
    drop(again);
    let claims =
        [at_least("syn/accept_queue_full", 1).all_of("ListenOverflows"), exactly(SERVICE, 1)];
    Ok(Driven::new(claims, (listener, waiting)))
}
