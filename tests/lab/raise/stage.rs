//! A proxy's host and an application's host, and the command under test.

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use floodmark::kernel::{Counter, sock_diag::listeners_here};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::RaiseArgs;
use crate::{
    app,
    topology::{Namespace, Topology},
};

/// `net.core.somaxconn` of the application's host at the beginning.
pub const SOMAXCONN: u32 = 128;
/// Until a server listens, or a count has grown.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a case is played.
pub struct Stage {
    pub topology: Topology,
    /// For files of the case.
    pub directory: PathBuf,
    /// The agent's program, where any user may run it.
    pub agent: PathBuf,
    /// The application of the demo.
    pub tornado: app::Kind,
}

/// What the command said.
pub struct Said {
    pub status: i32,
    pub out: String,
    /// What it says on standard error but for warnings of the log.
    pub err: String,
}

impl Stage {
    pub fn new(args: &RaiseArgs, case: &str) -> Result<Self> {
        let label = format!("{}-{case}", std::process::id());
        let directory = env::temp_dir().join(format!("fmlab-raise-{label}"));
        fs::create_dir_all(&directory).context("making a folder")?;
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755))?;
        let agent = directory.join("floodmark");
        fs::copy(&args.agent, &agent).context("copying the agent")?;
        let tornado = app::Kind::Tornado {
            python: args.python.clone(),
            program: concat!(env!("CARGO_MANIFEST_DIR"), "/lab/tornado_app.py").into(),
        };
        let stage = Self { topology: Topology::new(&label)?, directory, agent, tornado };
        stage.set_somaxconn(SOMAXCONN)?;
        Ok(stage)
    }

    /// The application's host.
    pub fn host(&self) -> &Namespace {
        &self.topology.apps[0].0
    }

    /// Runs `floodmark raise` with these words as a script would.
    pub fn raise(&self, words: &str) -> Result<Said> {
        said(self.command(Command::new(&self.agent)).args(words.split_whitespace()).output()?)
    }

    /// Runs a line that the command printed, as it stands.
    pub fn raise_as_printed(&self, line: &str) -> Result<Said> {
        let line = line.trim().strip_prefix("floodmark ").context("no command was printed")?;
        let line = format!("{} {line} --yes", self.agent.display());
        said(Command::new("sh").args(["-c", &line]).stdin(Stdio::null()).output()?)
    }

    /// As [`raise`](Self::raise), by way of a program that takes rights away, in the application's host.
    pub fn raise_by(&self, program: &str, arguments: &[&str], words: &str) -> Result<Said> {
        let mut command = self.host().command(program)?;
        command.args(arguments).arg(&self.agent);
        said(self.command(command).args(words.split_whitespace()).output()?)
    }

    fn command(&self, mut command: Command) -> Command {
        let state = self.directory.join("state");
        command.args(["raise", "--yes", "--state-dir"]).arg(state).stdin(Stdio::null());
        command
    }

    /// The limits of all sockets that listen on a port, at 0.0.0.0, of the application's host, by `sock_diag`.
    pub fn limits(&self, port: u16) -> Result<Vec<u32>> {
        let there = self.host().inside(listeners_here)??;
        // Tornado listens at [::] as well, which is another listener.
        let addr = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let there = there.iter().filter(|socket| socket.addr == addr);
        Ok(there.map(|socket| socket.queue.limit).collect())
    }

    /// `net.core.somaxconn` of the application's host.
    pub fn somaxconn(&self) -> Result<u32> {
        self.host().inside(somaxconn)?
    }

    pub fn set_somaxconn(&self, value: u32) -> Result<()> {
        let set = || fs::write("/proc/sys/net/core/somaxconn", value.to_string());
        self.host().inside(set)?.context("setting somaxconn")
    }

    /// Handshakes that the application's host dropped.
    pub fn drops(&self) -> Result<u64> {
        Ok(self.host().counters()?[Counter::ListenDrops])
    }

    /// Waits until so many were dropped; whether they were.
    pub fn until_dropped(&self, count: u64) -> Result<bool> {
        until(|| Ok(self.drops()? >= count))
    }

    /// A server that was started, once it listens; `ends_by` is the signal that ends all of it.
    pub fn served(&self, server: Child, port: u16, ends_by: Signal) -> Result<Server> {
        let server = Server { child: server, ends_by };
        if !until(|| Ok(!self.limits(port)?.is_empty()))? {
            bail!("nobody listens on port {port}");
        }
        Ok(server)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A server, which ends with the value.
pub struct Server {
    child: Child,
    ends_by: Signal,
}

impl Server {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.child.id() as i32), self.ends_by);
        let _ = self.child.wait();
    }
}

/// `net.core.somaxconn` where it is called.
pub fn somaxconn() -> Result<u32> {
    Ok(fs::read_to_string("/proc/sys/net/core/somaxconn")?.trim().parse()?)
}

/// Waits until it `is_so`; whether it came to be.
pub fn until(mut is_so: impl FnMut() -> Result<bool>) -> Result<bool> {
    let begun = Instant::now();
    while !is_so()? {
        if begun.elapsed() > PATIENCE {
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(true)
}

fn said(output: Output) -> Result<Said> {
    let err = String::from_utf8(output.stderr)?;
    let own: Vec<&str> = err.lines().filter(|line| !line.contains(" WARN ")).collect();
    Ok(Said {
        status: output.status.code().context("the command was killed")?,
        out: String::from_utf8(output.stdout)?,
        err: own.join("\n"),
    })
}

/// The lab's own program, for a server of its own in a namespace.
pub fn this_program() -> Result<PathBuf> {
    env::current_exe().context("finding the lab's program")
}
