//! A real NATS server with JetStream, that can be killed and comes back with what it had.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// How long a program may take to listen.
const PATIENCE: Duration = Duration::from_secs(30);

/// The server.
pub struct Bus {
    /// Where it listens.
    pub addr: SocketAddr,
    directory: PathBuf,
    server: Option<Child>,
}

impl Bus {
    /// One that keeps its streams in `directory`; not started yet.
    pub fn new(directory: &Path) -> Result<Self> {
        Ok(Self { addr: free_port()?, directory: directory.join("nats"), server: None })
    }

    /// Starts it and waits until it listens.
    pub fn start(&mut self) -> Result<()> {
        let port = self.addr.port().to_string();
        let server = Command::new("/usr/sbin/nats-server")
            .args(["--jetstream", "--addr", "127.0.0.1", "--port", &port, "--store_dir"])
            .arg(&self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting nats-server (package nats-server)")?;
        self.server = Some(server);
        listens(self.addr)
    }

    /// Kills it as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut server) = self.server.take() {
            server.kill().context("killing nats-server")?;
            server.wait()?;
        }
        Ok(())
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// A port that nobody has.
pub fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0").context("finding a port")?.local_addr()?)
}

/// Waits until somebody listens.
pub fn listens(addr: SocketAddr) -> Result<()> {
    let begun = Instant::now();
    while TcpStream::connect(addr).is_err() {
        if begun.elapsed() > PATIENCE {
            bail!("nobody listens at {addr}");
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
