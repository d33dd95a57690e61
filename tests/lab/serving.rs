//! A verb of the agent's that serves: `floodmark run`, `floodmark correlate`.

use std::{
    ffi::OsString,
    fs::File,
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A running `floodmark run`.
pub struct Serving {
    child: Child,
    /// Where it serves.
    pub addr: SocketAddr,
}

impl Serving {
    /// Starts it with these arguments and waits until it serves; what it prints goes to `out`, what it
    /// says to `log`.
    pub fn start(program: &Path, arguments: &[OsString], out: File, log: &Path) -> Result<Self> {
        Self::start_as("run", program, arguments, out, log)
    }

    /// The same for any verb that serves.
    pub fn start_as(
        verb: &str,
        program: &Path,
        arguments: &[OsString],
        out: File,
        log: &Path,
    ) -> Result<Self> {
        let addr = free_address()?;
        let child = Command::new(program)
            .args([verb, "--listen", &addr.to_string()])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(File::create(log)?)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let serving = Self { child, addr };
        until_connected(addr, "the agent")?;
        Ok(serving)
    }
}

impl Serving {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.child.id() as i32), signal).context("signalling the agent")
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Its namespaces and programs go with it in order.
        let _ = self.signal(Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// Free a moment ago, and for as long as nobody else takes it.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Waits until somebody listens there.
pub fn until_connected(addr: SocketAddr, who: &str) -> Result<()> {
    let begun = Instant::now();
    while TcpStream::connect(addr).is_err() {
        if begun.elapsed() > Duration::from_secs(60) {
            bail!("{who} does not listen on {addr}");
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
