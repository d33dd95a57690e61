//! What is attacked: the agent's program, a directory of the case's own, and what an agent costs
//! meanwhile.

use std::{
    fs::{self, File, Permissions},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use super::Check;
use crate::{serving::Serving, soak::measure::values};

/// How long the agent may take until it has attached its programs and sampled.
const START: Duration = Duration::from_secs(180);
/// How long a kubelet waits for a health check by default.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// The program under attack, with a directory that anybody may write to.
pub struct Target {
    /// The agent's program.
    pub agent: PathBuf,
    directory: PathBuf,
}

impl Target {
    /// A target for the case of this name.
    pub fn new(agent: &Path, case: &str) -> Result<Self> {
        let directory =
            std::env::temp_dir().join(format!("fm-hostile-{}-{case}", std::process::id()));
        fs::create_dir_all(&directory)
            .with_context(|| format!("making {}", directory.display()))?;
        fs::set_permissions(&directory, Permissions::from_mode(0o777))?;
        Ok(Self { agent: agent.to_owned(), directory })
    }

    /// The case's own directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Starts `floodmark run` with these arguments and waits until it is ready.
    pub fn serve(&self, arguments: &[&str]) -> Result<Served> {
        self.serve_as("run", "agent", arguments)
    }

    /// Starts a verb that serves, and keeps what it prints under a name.
    pub fn serve_as(&self, verb: &str, name: &str, arguments: &[&str]) -> Result<Served> {
        let arguments: Vec<_> = arguments.iter().map(Into::into).collect();
        let [out, log] = ["out", "log"].map(|kind| self.directory.join(format!("{name}.{kind}")));
        let printing = File::create(&out)?;
        let agent = Serving::start_as(verb, &self.agent, &arguments, printing, &log)?;
        let served = Served { agent, out, log };
        let begun = Instant::now();
        while served.get("/readyz").is_err() {
            ensure!(begun.elapsed() < START, "{verb} is not ready: {}", served.log()?);
            thread::sleep(Duration::from_millis(100));
        }
        Ok(served)
    }

    /// Starts a Python program with these arguments.
    pub fn python(&self, source: &str, arguments: &[&str]) -> Result<Attacker> {
        self.spawn(Command::new("/usr/bin/python3").args(["-c", source]).args(arguments))
    }

    /// Starts a program in the case's directory.
    pub fn spawn(&self, command: &mut Command) -> Result<Attacker> {
        command.current_dir(&self.directory).stdin(Stdio::null()).process_group(0);
        let child = command.spawn().with_context(|| format!("starting {command:?}"))?;
        Ok(Attacker(child))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A program that attacks; it ends, with all that it started, as the value does.
pub struct Attacker(Child);

impl Attacker {
    /// Waits until it ends by itself.
    pub fn wait(&mut self) -> Result<bool> {
        Ok(self.0.wait()?.success())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        let _ = killpg(Pid::from_raw(self.0.id() as i32), Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

/// A running agent or reader.
pub struct Served {
    pub agent: Serving,
    out: PathBuf,
    log: PathBuf,
}

impl Served {
    /// What it wrote to its standard error so far.
    pub fn log(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.log)?).into_owned())
    }

    /// What it printed so far.
    pub fn printed(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.out)?).into_owned())
    }

    /// A page of it.
    pub fn get(&self, path: &str) -> Result<String> {
        let mut answer = ureq::get(format!("http://{}{path}", self.agent.addr))
            .config()
            .timeout_global(Some(Duration::from_secs(10)))
            .build()
            .call()?;
        Ok(answer.body_mut().read_to_string()?)
    }

    /// The values of a metric's series that have all of these labels (`name="value"`).
    pub fn metric(&self, name: &str, labels: &[&str]) -> Result<Vec<f64>> {
        Ok(values(&self.get("/metrics")?, name, labels))
    }

    /// A health check must be answered as a kubelet wants it: with 200, within a second.
    pub fn answers_health_check(&self) -> Check {
        let begun = Instant::now();
        let answer = ureq::get(format!("http://{}/healthz", self.agent.addr))
            .config()
            .timeout_global(Some(PROBE_TIMEOUT))
            .build()
            .call();
        let seen = match &answer {
            Ok(answer) => format!("{} in {} ms", answer.status(), begun.elapsed().as_millis()),
            Err(error) => error.to_string(),
        };
        Check::that("a health check is answered within 1 s", answer.is_ok(), seen)
    }

    /// Resident memory at its highest, in MiB (`VmHWM` of proc(5)).
    pub fn peak_mib(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.agent.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib: f64 = line
            .and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok())
            .context("no VmHWM; has the agent ended?")?;
        Ok(kib / 1024.0)
    }

    pub fn threads(&self) -> Result<f64> {
        self.entries("task")
    }

    /// How many file descriptors it has.
    pub fn descriptors(&self) -> Result<f64> {
        self.entries("fd")
    }

    fn entries(&self, directory: &str) -> Result<f64> {
        let path = format!("/proc/{}/{directory}", self.agent.pid());
        Ok(fs::read_dir(&path).with_context(|| path.clone())?.count() as f64)
    }

    /// The share of one core that it uses while `length` passes, in percent.
    pub fn core_percent(&self, length: Duration) -> Result<f64> {
        let (begun, before) = (Instant::now(), self.cpu_seconds()?);
        thread::sleep(length);
        Ok(100.0 * (self.cpu_seconds()? - before) / begun.elapsed().as_secs_f64())
    }

    /// User and system time of all its threads (`utime`, `stime` of proc(5), in USER_HZ of 100).
    fn cpu_seconds(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.agent.pid()))?;
        let (_, fields) = stat.rsplit_once(')').context("no stat")?;
        let times = fields.split_whitespace().skip(11).take(2);
        let ticks: u64 = times.filter_map(|field| field.parse::<u64>().ok()).sum();
        Ok(ticks as f64 / 100.0)
    }
}
