//! What the privileged tests share: a namespace of their own, and sockets that overflow in it.

#![allow(dead_code, reason = "no test needs all of it")]
#![allow(unsafe_code, reason = "system calls that no library offers")]

pub mod servers;

use std::{
    io,
    net::{SocketAddr, TcpStream},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use floodmark::kernel::netns::{Netns, discover, visit};
use socket2::{Domain, SockAddr, Socket, Type};

/// The agent's program; `None`, with the reason printed, where nobody says where it is.
pub fn agent() -> Option<PathBuf> {
    let agent = std::env::var_os("FLOODMARK_AGENT").map(PathBuf::from);
    if agent.is_none() {
        println!("skipped: FLOODMARK_AGENT does not say where the agent is");
    }
    agent
}

/// A network namespace that goes with the value.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one, with loopback up. `None`, with the reason printed, where that is not allowed.
    pub fn new() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let serial = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("fmtest-{}-{serial}", std::process::id());
        let made = Command::new("ip").args(["netns", "add", &name]).status();
        if !made.is_ok_and(|status| status.success()) {
            println!("skipped: network namespaces need root and iproute2");
            return None;
        }
        let up = Command::new("ip").args(["-n", &name, "link", "set", "lo", "up"]).status();
        assert!(up.unwrap().success(), "lo comes up in {name}");
        Some(Self { name })
    }

    /// As the agent sees it.
    pub fn discovered(&self) -> Netns {
        discover().unwrap().into_iter().find(|netns| netns.name == self.name).unwrap()
    }

    /// A file to enter it by.
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// Runs `inside` in the namespace.
    pub fn run<T: Send>(&self, mut inside: impl FnMut() -> T + Send) -> T {
        visit(&[self.discovered()], |_| inside()).unwrap().remove(0)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// A listening socket that accepts nothing by itself.
pub struct Listener {
    fd: OwnedFd,
    /// Where it listens.
    pub addr: SocketAddr,
}

impl Listener {
    /// Listens on `addr` in the calling thread's namespace.
    pub fn new(addr: &str, backlog: i32) -> Self {
        // std sets its own backlog, so it is listened to a second time.
        let listener = std::net::TcpListener::bind(addr).unwrap();
        let addr = listener.local_addr().unwrap();
        let listener = Self { fd: listener.into(), addr };
        listener.set_backlog(backlog);
        listener
    }

    /// As [`new`](Self::new), but with a single `listen(2)`.
    pub fn unheard(addr: &str, backlog: i32) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&addr.parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.listen(backlog).unwrap();
        let addr = socket.local_addr().unwrap().as_socket().unwrap();
        Self { fd: socket.into(), addr }
    }

    /// Changes the backlog of a listener at work.
    pub fn set_backlog(&self, backlog: i32) {
        // SAFETY: listen(2) on a descriptor this value owns.
        assert_eq!(unsafe { libc::listen(self.fd.as_raw_fd(), backlog) }, 0);
    }

    /// Has the kernel drop every segment with the ACK flag before the listener sees it, so that
    /// handshakes stay half open.
    pub fn hold_acks(&self) {
        // Socket filters see a TCP segment from its header on; byte 13 holds the flags, 0x10 is ACK.
        let program = [
            libc::sock_filter { code: 0x30, jt: 0, jf: 0, k: 13 },
            libc::sock_filter { code: 0x45, jt: 0, jf: 1, k: 0x10 },
            libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0 },
            libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: u32::MAX },
        ];
        let mut program = program;
        let filter = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
        self.option(libc::SO_ATTACH_FILTER, (&raw const filter).cast(), size_of_val(&filter));
    }

    /// Lets ACKs through again.
    pub fn release_acks(&self) {
        let none = 0_i32;
        self.option(libc::SO_DETACH_FILTER, (&raw const none).cast(), size_of_val(&none));
    }

    fn option(&self, name: i32, value: *const libc::c_void, length: usize) {
        let (fd, level) = (self.fd.as_raw_fd(), libc::SOL_SOCKET);
        // SAFETY: the callers pass a live value of that length.
        let result = unsafe { libc::setsockopt(fd, level, name, value, length as u32) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
    }
}

/// A client that has sent a SYN to `addr` and waits for nothing. It resets when dropped.
pub fn knock(addr: SocketAddr) -> TcpStream {
    let family = if addr.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let flags = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: socket(2) gives a new descriptor, which the stream then owns.
    let stream = unsafe {
        let fd = libc::socket(family, flags, 0);
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        TcpStream::from_raw_fd(fd)
    };
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the value lives for the call.
    unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of_val(&linger) as u32,
        );
    }
    connect(&stream, addr);
    stream
}

fn connect(stream: &TcpStream, addr: SocketAddr) {
    use nix::sys::socket::{SockaddrStorage, connect};
    match connect(stream.as_raw_fd(), &SockaddrStorage::from(addr)) {
        Ok(()) | Err(nix::Error::EINPROGRESS) => {}
        Err(error) => panic!("connect to {addr}: {error}"),
    }
}

/// A Unix socket that listens on `path` and accepts nothing.
pub fn unix_listener(path: &Path, backlog: i32) -> Socket {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    socket.bind(&SockAddr::unix(path).unwrap()).unwrap();
    socket.listen(backlog).unwrap();
    socket
}

/// A client that will not wait for room in the queue of `path`.
pub fn unix_knock(path: &Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket)
}

/// Gives the kernel time for timers and softirqs.
pub fn wait(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

/// Waits until it `is_so`: an emulated machine takes a while for everything.
///
/// # Panics
///
/// When it is not after a minute and a half.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(90), "waiting until {what}");
        wait(200);
    }
}
