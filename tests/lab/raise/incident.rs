//! The incident: Tornado, whose handler sleeps, behind nginx. Its queue overflows, `diagnose` says what
//! to do now, that is done while the load goes on, and undone.

use std::{
    io::{Read, Write},
    net::{SocketAddrV4, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use floodmark::verdict::Diagnosis;

use super::stage::{SOMAXCONN, Said, Stage, somaxconn};
use crate::{
    agent::Agent,
    app::{self, App},
    check::Check,
    load::{self, Seen},
    nginx::{Nginx, Tuning},
};

/// The application's own backlog, and the clients: some hundred more than that wait at once.
const BACKLOG: u32 = 16;
const CLIENTS: usize = 150;
/// Drops after which it is an incident, and how long `diagnose` then goes on.
const INCIDENT: u64 = 30;
const WATCHED: Duration = Duration::from_secs(5);
/// How long nothing may be lost.
const QUIET: Duration = Duration::from_secs(10);
/// The load ends by itself after so long.
const LONGEST: Duration = Duration::from_secs(120);
/// Connections that are open all the time.
const KEPT: usize = 5;

pub(super) fn run(stage: &Stage) -> Result<Vec<Check>> {
    let addr = SocketAddrV4::new(stage.topology.apps[0].1, app::PORT);
    let _app = App::start(stage.host(), &stage.tornado, BACKLOG)?;
    let tuning = Tuning { keepalive: None, connect_timeout: None };
    let nginx = Nginx::start(&stage.topology.proxy, &stage.directory, &[addr], tuning)?;
    let mut kept = stage.topology.proxy.inside(|| connections(addr))??;
    let agent = Agent::start(&stage.agent, Some(&nginx.error_log), &stage.topology.names())?;
    let own_somaxconn = somaxconn()?;
    let load = Load::begin(stage)?;
    let mut checks = Vec::new();
    let is_incident = stage.until_dropped(INCIDENT)?;
    let dropped = stage.drops()?;
    checks.push(Check::that(
        "the queue overflows under load",
        is_incident,
        format!("{dropped} drops"),
    ));
    thread::sleep(WATCHED);
    let diagnosis: Diagnosis = agent.finish()?;
    let mut now = diagnosis.advice.iter().flat_map(|step| &step.now);
    let command = now.next().with_context(|| format!("none now of {:?}", diagnosis.advice))?;
    let words = command.strip_prefix("floodmark raise ").context("another command")?;

    let raised = stage.raise(words)?;
    let before = stage.drops()?;
    checks.push(Check::that(command.clone(), raised.status == 0, told(&raised)));
    thread::sleep(QUIET);
    let lost = stage.drops()? - before;
    checks.push(Check::at_most("lost in the next 10 s", "handshakes", lost as f64, 0.0));
    let wanted: u32 = words.rsplit(' ').next().unwrap_or_default().parse()?;
    let limits = stage.limits(app::PORT)?;
    checks.push(Check::that("sock_diag shows it", limits == [wanted], format!("{limits:?}")));
    checks.push(Check::that(
        "the namespace's somaxconn is raised, no other",
        stage.somaxconn()? == wanted.max(SOMAXCONN) && somaxconn()? == own_somaxconn,
        format!("{} there, {own_somaxconn} here", stage.somaxconn()?),
    ));
    let answered = asked(&mut kept)?;
    checks.push(Check::that("open connections stay open", answered == KEPT, answered.to_string()));

    let undone = stage.raise_as_printed(raised.out.lines().last().unwrap_or_default())?;
    checks.push(Check::that("it is undone as it says", undone.status == 0, told(&undone)));
    let state = (stage.limits(app::PORT)?, stage.somaxconn()?);
    let is_restored = state == (vec![BACKLOG], SOMAXCONN);
    checks.push(Check::that("--undo restores both", is_restored, format!("{state:?}")));
    let before = stage.drops()?;
    let again = stage.until_dropped(before + INCIDENT)?;
    let dropped = format!("{} drops", stage.drops()? - before);
    checks.push(Check::that("and the same load overflows again", again, dropped));
    let answered = asked(&mut kept)?;
    checks.push(Check::that("open connections stay open", answered == KEPT, answered.to_string()));
    let seen = load.end()?;
    let all_200 = seen.statuses.keys().eq([&200]);
    let statuses = format!("{:?}", seen.statuses);
    checks.push(Check::that("every request of the load is answered", all_200, statuses));
    Ok(checks)
}

fn told(said: &Said) -> String {
    let last = said.out.lines().last().unwrap_or_default().trim().to_owned();
    if said.err.is_empty() { last } else { said.err.clone() }
}

/// Clients of nginx, one request at a time each, on threads in its namespace.
struct Load {
    stops: Arc<AtomicBool>,
    clients: JoinHandle<Result<Seen>>,
}

impl Load {
    fn begin(stage: &Stage) -> Result<Self> {
        let stops = Arc::new(AtomicBool::new(false));
        let (end, is_over) = (Instant::now() + LONGEST, Arc::clone(&stops));
        // A thread begins in the network namespace of the one that starts it.
        let clients = stage.topology.proxy.inside(move || {
            let is_over = Arc::clone(&is_over);
            thread::spawn(move || {
                let goes_on = move || Instant::now() < end && !is_over.load(Ordering::Relaxed);
                tokio::runtime::Runtime::new()?.block_on(load::run_while(CLIENTS, goes_on))
            })
        })?;
        Ok(Self { stops, clients })
    }

    /// Has them end what they are at.
    fn end(self) -> Result<Seen> {
        self.stops.store(true, Ordering::Relaxed);
        self.clients.join().map_err(|_| anyhow!("the load panicked"))?
    }
}

/// Connections to the application itself, each with a request answered.
fn connections(addr: SocketAddrV4) -> Result<Vec<TcpStream>> {
    let connect = |_| -> Result<TcpStream> {
        let stream = TcpStream::connect(addr).context("reaching the application")?;
        stream.set_read_timeout(Some(LONGEST))?;
        Ok(stream)
    };
    let mut all = (0..KEPT).map(connect).collect::<Result<Vec<_>>>()?;
    asked(&mut all)?;
    Ok(all)
}

/// Asks on each connection; how many answer.
fn asked(connections: &mut [TcpStream]) -> Result<usize> {
    for stream in connections.iter_mut() {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: app\r\n\r\n")?;
    }
    let answers = connections.iter_mut().map(|stream| {
        let (mut answer, mut part) = (Vec::new(), [0; 4096]);
        while !answer.ends_with(b"hello\n") {
            match stream.read(&mut part) {
                Ok(0) | Err(_) => return false,
                Ok(length) => answer.extend_from_slice(&part[..length]),
            }
        }
        answer.starts_with(b"HTTP/1.1 200")
    });
    Ok(answers.filter(|answer| *answer).count())
}
