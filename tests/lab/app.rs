//! The slow application: the real Tornado, or a stand-in for places without Python.

use std::{
    collections::HashMap,
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd},
    path::PathBuf,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::sys::{
    epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
    socket::{Backlog, listen},
};

use crate::topology::Namespace;

/// Port the applications listen on.
pub const PORT: u16 = 8000;
/// How long a request blocks the application.
const WORK: Duration = Duration::from_millis(20);
/// Connections that Tornado accepts in a row before it looks at requests again
/// (`tornado.netutil.add_accept_handler`).
const ACCEPTED_IN_A_ROW: usize = 128;

/// Which application to run.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Tornado in the given Python, with the program at the given path.
    Tornado {
        /// Interpreter with Tornado installed.
        python: PathBuf,
        /// `tornado_app.py`.
        program: PathBuf,
    },
    /// The stand-in of this module, behaving as Tornado does: one thread, accepting in bursts.
    StandIn,
}

/// A running application.
pub struct App(Child);

impl App {
    /// Starts it in `namespace` and waits until it listens.
    pub fn start(namespace: &Namespace, kind: &Kind, backlog: u32) -> Result<Self> {
        let (port, backlog) = (PORT.to_string(), backlog.to_string());
        let mut command = match kind {
            Kind::Tornado { python, program } => {
                let mut command = namespace.command(python)?;
                command.arg(program);
                command
            }
            Kind::StandIn => {
                let mut command = namespace.command("/proc/self/exe")?;
                command.arg("app");
                command
            }
        };
        command.args([port, backlog]).stdin(Stdio::null()).stdout(Stdio::null());
        let app = Self(command.spawn().context("starting the application")?);
        let begun = Instant::now();
        while namespace.inside(|| !is_listening())? {
            if begun.elapsed() > Duration::from_secs(30) {
                bail!("the application does not listen on port {PORT}");
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(app)
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn is_listening() -> bool {
    floodmark::kernel::sock_diag::listeners_here()
        .is_ok_and(|listeners| listeners.iter().any(|listener| listener.addr.port() == PORT))
}

/// The stand-in: serves until it is killed.
pub fn serve(port: u16, backlog: u32) -> Result<()> {
    let addr = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let listener = TcpListener::bind(addr).with_context(|| format!("binding {addr}"))?;
    listener.set_nonblocking(true).context("making the listener non-blocking")?;
    // std has listened with a backlog of its own.
    listen(&listener, Backlog::new(backlog as i32)?).context("listening")?;
    let epoll = Epoll::new(EpollCreateFlags::empty())?;
    watch(&epoll, &listener)?;
    let mut connections: HashMap<u64, TcpStream> = HashMap::new();
    let mut ready = vec![EpollEvent::empty(); 256];
    loop {
        let count = epoll.wait(&mut ready, EpollTimeout::NONE)?;
        for event in &ready[..count] {
            let fd = event.data();
            if fd == listener.as_raw_fd() as u64 {
                accept(&epoll, &listener, &mut connections)?;
            } else if connections.get_mut(&fd).is_some_and(|stream| !answer(stream)) {
                // Closing takes it out of the epoll set.
                connections.remove(&fd);
            }
        }
    }
}

fn watch(epoll: &Epoll, socket: impl AsFd) -> Result<()> {
    let fd = socket.as_fd();
    epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, fd.as_raw_fd() as u64))?;
    Ok(())
}

fn accept(
    epoll: &Epoll,
    listener: &TcpListener,
    connections: &mut HashMap<u64, TcpStream>,
) -> Result<()> {
    for _ in 0..ACCEPTED_IN_A_ROW {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true)?;
                watch(epoll, &stream)?;
                connections.insert(stream.as_raw_fd() as u64, stream);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            // The client has given up meanwhile.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error).context("accepting"),
        }
    }
    Ok(())
}

/// Answers one request after 20 ms of "work"; false when the connection is done with.
fn answer(stream: &mut TcpStream) -> bool {
    let mut request = [0; 4096];
    let length = match stream.read(&mut request) {
        Ok(0) | Err(_) => return false,
        Ok(length) => length,
    };
    thread::sleep(WORK);
    let keep = request[..length].windows(8).any(|window| window == b"HTTP/1.1");
    let header = if keep { "" } else { "Connection: close\r\n" };
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n{header}\r\nhello\n");
    stream.write_all(answer.as_bytes()).is_ok() && keep
}
