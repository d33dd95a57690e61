//! Applications that fail their proxy, each in one way.

#![allow(unsafe_code, reason = "system calls that no library offers")]

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    os::fd::AsRawFd,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
};
use socket2::{Domain, SockRef, Socket, Type};

/// What an application does with its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Answers at once.
    Fine,
    /// Answers later than at once, but in time.
    Late,
    /// Accepts one connection in ten milliseconds, and closes it.
    Paced,
    /// The same, and has the kernel wait for data before a connection counts (TCP_DEFER_ACCEPT).
    PacedDeferring,
    /// Never accepts.
    Stuck,
    /// Never accepts, and has the kernel wait for data before a connection counts (TCP_DEFER_ACCEPT).
    StuckDeferring,
    /// Closes without an answer.
    Close,
    /// Resets without an answer.
    Reset,
    /// Answers 503.
    Status503,
    /// Answers what is no HTTP.
    Invalid,
    /// Does not answer in time.
    Slow,
}

/// Longer than the kernel waits for data before it counts the connection all the same.
const DEFER: Duration = Duration::from_secs(30);

/// How long a paced application takes for a connection.
const PACE: Duration = Duration::from_millis(10);

/// Serves until it is killed.
pub fn serve(mode: Mode, port: u16, backlog: i32) -> Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).context("making a socket")?;
    socket.set_reuse_address(true)?;
    if matches!(mode, Mode::StuckDeferring | Mode::PacedDeferring) {
        defer_accept(&socket)?;
    }
    socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port).into()).context("binding")?;
    socket.listen(backlog).context("listening")?;
    let listener = TcpListener::from(socket);
    println!("listening");
    if matches!(mode, Mode::Stuck | Mode::StuckDeferring) {
        loop {
            thread::park();
        }
    }
    if matches!(mode, Mode::Paced | Mode::PacedDeferring) {
        return accept_at_pace(&listener);
    }
    for stream in listener.incoming() {
        let stream = stream.context("accepting")?;
        thread::spawn(move || treat(stream, mode));
    }
    Ok(())
}

/// Waits between two connections where it waits for them, so that nothing else holds it up: a server that
/// accepts at its usual rate while more arrive.
fn accept_at_pace(listener: &TcpListener) -> Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::empty()).context("making an epoll set")?;
    let arrivals = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0);
    epoll.add(listener, arrivals).context("watching the listener")?;
    for stream in listener.incoming() {
        let _served = stream.context("accepting")?;
        let accepted = Instant::now();
        while let Some(rest) = PACE.checked_sub(accepted.elapsed()) {
            let rest = EpollTimeout::try_from(rest.as_millis() as u32 + 1)?;
            match epoll.wait(&mut [EpollEvent::empty()], rest) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("waiting"),
            }
        }
    }
    Ok(())
}

fn defer_accept(socket: &Socket) -> Result<()> {
    let seconds = DEFER.as_secs() as libc::c_int;
    // SAFETY: reads one integer of the length given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size_of_val(&seconds) as libc::socklen_t,
        )
    };
    anyhow::ensure!(result == 0, "TCP_DEFER_ACCEPT: {}", std::io::Error::last_os_error());
    Ok(())
}

fn treat(mut stream: TcpStream, mode: Mode) {
    let mut request = [0; 4096];
    if !matches!(stream.read(&mut request), Ok(1..)) {
        return;
    }
    let answer: &[u8] = match mode {
        Mode::Fine => b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        Mode::Late => {
            thread::sleep(Duration::from_secs(1));
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        }
        Mode::Status503 => {
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        }
        Mode::Invalid => b"\x01\x02 no HTTP at all\r\n\r\n",
        Mode::Slow => {
            thread::sleep(Duration::from_secs(30));
            b""
        }
        Mode::Reset => {
            // A close with a linger time of zero is a reset.
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            return;
        }
        Mode::Close | Mode::Paced | Mode::PacedDeferring | Mode::Stuck | Mode::StuckDeferring => {
            return;
        }
    };
    let _ = stream.write_all(answer);
}
