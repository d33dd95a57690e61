//! Connections over loopback, at a steady rate and with little besides the kernel's own work.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use socket2::{Domain, SockRef, Socket, Type};

/// How often connections are made and accepted, all that are due at once: a thread that slept for each
/// would take more time for waking up than for the connection.
const PACE: Duration = Duration::from_millis(2);
/// Far more than come in that time.
const BACKLOG: i32 = 4096;

/// Connections at a steady rate, until dropped.
pub struct Load {
    made: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Load {
    /// Begins to connect, so many times per second.
    pub fn start(rate: u64) -> Result<Self> {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        listener.bind(&"127.0.0.1:0".parse::<SocketAddr>()?.into())?;
        listener.listen(BACKLOG)?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from(listener);
        let addr = listener.local_addr()?;
        let load = Self { made: Arc::default(), stop: Arc::default() };
        let stop = Arc::clone(&load.stop);
        thread::spawn(move || accept(&listener, &stop));
        let (made, stop) = (Arc::clone(&load.made), Arc::clone(&load.stop));
        thread::spawn(move || connect(addr, rate, &made, &stop));
        Ok(load)
    }

    /// Connections made so far.
    pub fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn accept(listener: &TcpListener, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        while listener.accept().is_ok() {}
        thread::sleep(PACE);
    }
}

/// What could not be made in its time is made up for.
fn connect(addr: SocketAddr, rate: u64, made: &AtomicU64, stop: &AtomicBool) {
    let (began, mut tried) = (Instant::now(), 0);
    while !stop.load(Ordering::Relaxed) {
        let due = (began.elapsed().as_secs_f64() * rate as f64) as u64;
        for _ in tried..due {
            if let Ok(stream) = TcpStream::connect(addr) {
                // Closed by a reset, it leaves no TIME_WAIT behind and its port is free again.
                let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                made.fetch_add(1, Ordering::Relaxed);
            }
        }
        tried = due;
        thread::sleep(PACE);
    }
}
