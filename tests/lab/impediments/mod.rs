//! Why nobody accepts, against the truth: each impediment induced at a real server in a namespace of its
//! own, in mixed order, and what `floodmark diagnose` names.

mod case;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use floodmark::{
    kernel::sock_diag::listeners_here,
    verdict::{Confidence, Diagnosis, ImpedimentReport},
};
use socket2::{Domain, Socket, Type};

use self::case::{CASES, Case, Group};
use crate::topology::Namespace;

const PORT: u16 = 9100;
const BACKLOG: u32 = 8;
/// Until the server listens, and the agent watches.
const PATIENCE: Duration = Duration::from_secs(20);
const WARM_UP: Duration = Duration::from_secs(3);
/// How much of it must be right.
const RIGHT: f64 = 0.95;

/// Arguments of `floodmark-lab impediments`.
#[derive(Debug, Args)]
pub struct ImpedimentsArgs {
    /// The agent
    #[arg(long)]
    agent: PathBuf,
    /// A Python
    #[arg(long, default_value = "python3")]
    python: PathBuf,
    /// Number of runs of each case
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Run only these cases
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

/// How often which impediment was named first for which case.
type Matrix = BTreeMap<&'static str, BTreeMap<&'static str, usize>>;

/// Runs the cases; true if enough is right and nothing is wrong with high confidence.
pub fn impediments(args: &ImpedimentsArgs) -> Result<bool> {
    let is_meant =
        |case: &&Case| args.only.is_empty() || args.only.iter().any(|it| it == case.name);
    let cases: Vec<&Case> = CASES.iter().filter(is_meant).collect();
    let mut matrix = Matrix::new();
    let (mut right, mut surely_wrong, mut all) = (0, 0, 0);
    for round in 0..args.rounds {
        for place in 0..cases.len() {
            // Another order in each round.
            let case = cases[(place * (2 * round + 1) + round) % cases.len()];
            let found = run(args, case).with_context(|| case.name.to_owned())?;
            let first = found.first();
            let named = first.map_or("nothing", |it| it.impediment.name());
            let is_right = first.is_some_and(|it| it.impediment == case.first);
            *matrix.entry(case.name).or_default().entry(named).or_default() += 1;
            all += 1;
            right += usize::from(is_right);
            let is_sure = first.is_some_and(|it| it.confidence == Confidence::High);
            surely_wrong += usize::from(!is_right && is_sure);
            println!(
                "{} {:<20} {}",
                if is_right { "ok  " } else { "FAIL" },
                case.name,
                told(&found)
            );
        }
    }
    print_matrix(&matrix);
    println!("{right} of {all} right, {surely_wrong} wrong with high confidence");
    Ok(right as f64 >= RIGHT * all as f64 && surely_wrong == 0)
}

fn told(found: &[ImpedimentReport]) -> String {
    let one = |it: &ImpedimentReport| {
        format!("{} {:.0} % {}", it.impediment.name(), it.share * 100.0, it.confidence.name())
    };
    found.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn print_matrix(matrix: &Matrix) {
    println!("\ncase: named first");
    for (case, named) in matrix {
        let counts: Vec<String> = named.iter().map(|(name, n)| format!("{name} {n}")).collect();
        println!("  {case:<20} {}", counts.join(", "));
    }
}

fn run(args: &ImpedimentsArgs, case: &Case) -> Result<Vec<ImpedimentReport>> {
    let host = Namespace::new(format!("fmlab-{}-why", std::process::id()))?;
    let server = concat!(env!("CARGO_MANIFEST_DIR"), "/lab/impediments/server.py");
    let mut server = Running(
        host.command(&args.python)?
            .args([server, case.mode, &PORT.to_string(), &BACKLOG.to_string()])
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .context("starting the server")?,
    );
    wait_until_it_listens(&host)?;
    let held = Group::hold(case.means, server.0.id());
    let held = held.inspect_err(|_| server.end())?;
    let agent = Command::new(&args.agent)
        .args(["diagnose", "--json", "--full", "--duration", "9s", "--netns", host.name()])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the agent")?;
    thread::sleep(WARM_UP);
    let (count, time) = case.load;
    let clients = host.inside(|| connect(count, time))??;
    let output = agent.wait_with_output()?;
    drop((clients, held));
    server.end();
    let diagnosis: Diagnosis =
        serde_json::from_slice(&output.stdout).context("reading what diagnose printed")?;
    let Some(finding) = diagnosis.findings.first() else { return Ok(Vec::new()) };
    Ok(finding.impediments.clone())
}

/// A process that ends with the value.
struct Running(Child);

impl Running {
    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

fn wait_until_it_listens(host: &Namespace) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        let sockets = host.inside(listeners_here)??;
        if sockets.iter().any(|socket| socket.addr.port() == PORT) {
            // The other members of a group as well.
            thread::sleep(Duration::from_millis(300));
            return Ok(());
        }
        thread::sleep(Duration::from_millis(50));
    }
    bail!("the server does not listen")
}

/// Connects so often, spread over a time, without waiting for any.
fn connect(count: u32, time: Duration) -> Result<Vec<TcpStream>> {
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)).into();
    let begun = Instant::now();
    let mut all = Vec::new();
    for number in 0..count {
        let due = begun + time * number / count;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        // In progress, as a rule.
        let _ = socket.connect(&to);
        all.push(socket.into());
    }
    Ok(all)
}
