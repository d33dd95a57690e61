//! Listeners that accept nothing by themselves, and clients that wait for nothing.

#![allow(unsafe_code, reason = "system calls that no library offers")]

use std::{io, net::SocketAddr, os::fd::AsRawFd, time::Duration};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};

use crate::counters::{until, waiting};

/// A listening socket.
pub struct Listener {
    pub socket: Socket,
    /// Where it listens.
    pub addr: SocketAddr,
}

impl Listener {
    /// Listens on `addr` in the calling thread's namespace.
    pub fn new(addr: &str, backlog: i32) -> Result<Self> {
        Self::with(Protocol::TCP, addr, backlog, |_| Ok(()))
    }

    /// Listens with options that have to be set before.
    pub fn with(
        protocol: Protocol,
        addr: &str,
        backlog: i32,
        prepare: impl FnOnce(&Socket) -> Result<()>,
    ) -> Result<Self> {
        let addr: SocketAddr = addr.parse()?;
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(protocol))?;
        prepare(&socket)?;
        socket.bind(&addr.into()).with_context(|| format!("bind {addr}"))?;
        socket.listen(backlog).with_context(|| format!("listen on {addr}"))?;
        let addr = socket.local_addr()?.as_socket().context("a listener without address")?;
        Ok(Self { socket, addr })
    }

    /// Its port at another of its addresses.
    pub fn at(&self, ip: impl Into<std::net::IpAddr>) -> SocketAddr {
        SocketAddr::new(ip.into(), self.addr.port())
    }

    /// Changes the backlog of a listener at work. A backlog of n lets n + 1 connections wait.
    pub fn set_backlog(&self, backlog: i32) -> Result<()> {
        self.socket.listen(backlog).context("listen again")
    }

    /// Lets its queue fill with `count` clients that call at `addr`. What calls after that meets a
    /// full queue; without the wait SYNs might be handled in a batch before any final ACK.
    pub fn fill(&self, addr: SocketAddr, count: usize) -> Result<Vec<Socket>> {
        let clients = knocks(addr, count)?;
        until(&format!("{count} connections to wait"), || Ok(waiting(self.addr.port())? >= count))?;
        Ok(clients)
    }

    /// Has the kernel drop every segment with the ACK flag before the listener sees it, so that
    /// handshakes stay half open.
    pub fn hold_acks(&self) -> Result<()> {
        // Socket filters see a TCP segment from its header on; byte 13 holds the flags, 0x10 is ACK.
        let program = [
            SockFilter::new(0x30, 0, 0, 13),
            SockFilter::new(0x45, 0, 1, 0x10),
            SockFilter::new(0x06, 0, 0, 0),
            SockFilter::new(0x06, 0, 0, u32::MAX),
        ];
        self.socket.attach_filter(&program).context("attach a filter")
    }

    /// Lets ACKs through again.
    pub fn release_acks(&self) -> Result<()> {
        self.socket.detach_filter().context("detach the filter")
    }
}

/// Sets an integer option of TCP (`linux/tcp.h`).
pub fn set_tcp_option(socket: &Socket, option: i32, value: i32) -> Result<()> {
    // SAFETY: the value lives for the call and has the length given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as u32,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()).context("set a TCP option") }
}

/// A client that has sent a SYN to `addr` and waits for nothing. It resets when dropped.
pub fn knock(addr: SocketAddr) -> Result<Socket> {
    knock_with(Protocol::TCP, addr)
}

/// [`knock`] with TCP or MPTCP.
pub fn knock_with(protocol: Protocol, addr: SocketAddr) -> Result<Socket> {
    let socket = client(protocol, addr)?;
    match socket.connect(&SockAddr::from(addr)) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => {
            Err(error).with_context(|| format!("connect to {addr}"))
        }
        _ => Ok(socket),
    }
}

/// A client that has not sent anything yet.
pub fn client(protocol: Protocol, addr: SocketAddr) -> Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(protocol))?;
    socket.set_nonblocking(true)?;
    socket.set_linger(Some(Duration::ZERO))?;
    Ok(socket)
}

/// Several clients that have sent their SYNs.
pub fn knocks(addr: SocketAddr, count: usize) -> Result<Vec<Socket>> {
    (0..count).map(|_| knock(addr)).collect()
}
