//! The soak: everything that happens to an agent in a day, in half an hour, and whether it costs memory,
//! descriptors or counts.

pub(crate) mod measure;
mod page;
mod scrapers;
mod turmoil;

use std::{
    ffi::OsString,
    fs::{self, File},
    net::SocketAddrV4,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Args;
use floodmark::kernel::{Counter, MibCounts};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::{
    app::{self, App},
    serving::Serving,
    topology::{Namespace, Topology},
};
use measure::{Measure, Row, Rungs};
use page::{Check, Soak};
use turmoil::Turmoil;

/// Arguments of `floodmark-lab soak`.
#[derive(Debug, Args)]
pub struct SoakArgs {
    /// The agent
    #[arg(long)]
    agent: PathBuf,
    /// How it was built, in words
    #[arg(long, default_value = "as for tests")]
    build: String,
    /// How long, in seconds
    #[arg(long, default_value_t = 1800)]
    seconds: u64,
    /// The page to write
    #[arg(long)]
    page: Option<PathBuf>,
}

/// Shorter than any load, so that the application's queue overflows now and then.
const BACKLOG: u32 = 8;
/// Size of the disk for the agent's state and its verdicts.
const SMALL_DISK: &str = "size=512k";
/// How often the agent is measured.
const INTERVAL: Duration = Duration::from_secs(5);
/// Until the last losses are attributed.
const SETTLE: Duration = Duration::from_secs(15);
/// What may grow by so much from the third quarter to the last, in per cent: what an allocator holds back
/// differs from time to time, and how many listeners a stretch of time saw. Before, memory grows by the
/// accounts of listeners that closed, which are kept for ten minutes.
const MOST_GROWTH: f64 = 5.0;

/// Plays it; true if every check holds.
pub fn soak(args: &SoakArgs) -> Result<bool> {
    let directory = std::env::temp_dir().join(format!("fmlab-{}-soak", std::process::id()));
    let disk = directory.join("disk");
    fs::create_dir_all(&disk)?;
    mount(Some("none"), &disk, Some("tmpfs"), MsFlags::empty(), Some(SMALL_DISK))
        .context("mounting a small disk")?;
    let played = play(args, &directory, &disk);
    let _ = umount2(&disk, MntFlags::MNT_DETACH);
    let _ = fs::remove_dir_all(&directory);
    let soak = played?;
    print!("{soak}");
    if let Some(page) = &args.page {
        fs::write(page, soak.markdown()).with_context(|| format!("writing {}", page.display()))?;
    }
    Ok(soak.checks.iter().all(|check| check.holds))
}

fn play(args: &SoakArgs, directory: &Path, disk: &Path) -> Result<Soak> {
    let label = format!("{}-soak", std::process::id());
    let topology = Topology::new(&label)?;
    let apps =
        topology.apps.iter().map(|(netns, _)| App::start(netns, &app::Kind::StandIn, BACKLOG));
    let apps = apps.collect::<Result<Vec<App>>>()?;
    let lasting: Vec<&Namespace> =
        topology.apps.iter().map(|(netns, _)| netns).chain([&topology.proxy]).collect();
    let before = counters(&lasting)?;
    let log = directory.join("error.log");
    fs::write(&log, "")?;
    let arguments: Vec<OsString> = vec![
        "--watch-connections".into(),
        "--verdicts".into(),
        "--nginx-error-log".into(),
        log.into(),
        "--state-dir".into(),
        disk.join("state").into(),
        "--socket".into(),
        directory.join("agent.sock").into(),
        // Filled within a minute, so that what it holds does not look like growth.
        "--hindsight".into(),
        "60s".into(),
    ];
    let verdicts = File::create(disk.join("verdicts"))?;
    let agent = Serving::start(&args.agent, &arguments, verdicts, &directory.join("agent.log"))?;
    let upstreams: Vec<SocketAddrV4> =
        topology.apps.iter().map(|(_, addr)| SocketAddrV4::new(*addr, app::PORT)).collect();

    let measure = Measure::of(&agent)?;
    let begun = Instant::now();
    let duration = Duration::from_secs(args.seconds);
    let mut rows = Vec::new();
    let turmoil = Turmoil::new(&topology, (directory, disk), &upstreams, &agent);
    thread::scope(|scope| {
        turmoil.begin(scope);
        let measured = (|| {
            while begun.elapsed() < duration {
                thread::sleep(INTERVAL);
                rows.push(measure.row(begun)?);
            }
            anyhow::Ok(())
        })();
        // In any case: the scope waits for all of it.
        turmoil.stop();
        measured
    })?;
    let tally = turmoil.tally();
    thread::sleep(SETTLE);
    let text = measure.scrape()?;
    let rungs = Rungs::of(&text);
    let mut checks = vec![
        counts_hold(&lasting, &before, &text)?,
        nothing_is_left(&lasting, &text),
        Check::new(
            "a crowd of scrapers is served",
            tally.answered == tally.scrapes,
            format!("{} of {}", tally.answered, tally.scrapes),
        ),
    ];
    checks.extend(is_attributed(&rows, &rungs));
    checks.extend(is_flat(&rows));
    let said = fs::read_to_string(directory.join("agent.log")).unwrap_or_default();
    let panics = said.lines().filter(|line| line.contains("panicked")).count();
    checks.push(Check::new("the agent does not panic", panics == 0, format!("{panics} times")));
    drop((agent, apps));
    Ok(Soak { seconds: args.seconds, build: args.build.clone(), rungs, rows, tally, checks })
}

fn counters(namespaces: &[&Namespace]) -> Result<Vec<MibCounts>> {
    namespaces.iter().map(|netns| netns.counters()).collect()
}

/// What the agent says the kernel counted is what the kernel counted.
fn counts_hold(lasting: &[&Namespace], before: &[MibCounts], text: &str) -> Result<Check> {
    let mut wrong = Vec::new();
    let mut overflows = 0;
    for ((netns, now), before) in lasting.iter().zip(counters(lasting)?).zip(before) {
        for counter in [Counter::ListenOverflows, Counter::ListenDrops] {
            let grown = now[counter] - before[counter];
            let labels = [netns.name(), &format!("mib=\"{}\"", counter.name())];
            let said = measure::values(text, "floodmark_kernel_mib_total{", &labels);
            if said != [grown as f64] {
                wrong.push(format!("{} {}: {grown}, not {said:?}", netns.name(), counter.name()));
            }
        }
        overflows += now[Counter::ListenOverflows] - before[Counter::ListenOverflows];
    }
    let detail = if wrong.is_empty() { format!("{overflows} overflows") } else { wrong.join("; ") };
    Ok(Check::new("the kernel's counters are the agent's", wrong.is_empty(), detail))
}

fn nothing_is_left(lasting: &[&Namespace], text: &str) -> Check {
    let rest: f64 = lasting.iter().map(|netns| measure::unattributed(text, netns.name())).sum();
    let what = "every overflow and drop in a namespace that lasts belongs to a listener";
    Check::new(what, rest == 0.0, format!("{rest} do not"))
}

/// At every moment everything lost in a namespace that lasts is attributed; where hooks count every loss,
/// also in those that come and go.
fn is_attributed(rows: &[Row], rungs: &Rungs) -> Vec<Check> {
    let most = |of: fn(&Row) -> f64| rows.iter().map(of).fold(0.0, f64::max);
    let throughout = |what, most: f64| Check::new(what, most == 0.0, format!("at most {most} not"));
    let mut checks = vec![throughout(
        "everything is attributed throughout in namespaces that last",
        most(|row| row.unattributed),
    )];
    if rungs.see_everything() {
        checks.push(throughout(
            "everything is attributed throughout in namespaces that come and go",
            most(|row| row.unattributed_gone),
        ));
    }
    checks
}

fn is_flat(rows: &[Row]) -> Vec<Check> {
    let quarter = rows.len() / 4;
    let (early, late) = (&rows[2 * quarter..3 * quarter], &rows[rows.len() - quarter..]);
    let mean = |rows: &[Row], of: fn(&Row) -> u64| {
        rows.iter().map(|row| of(row) as f64).sum::<f64>() / rows.len().max(1) as f64
    };
    let flat = |what, unit, of: fn(&Row) -> u64| {
        let (early, late) = (mean(early, of), mean(late, of));
        let detail = format!("{early:.0}{unit} in the third quarter, {late:.0} in the last");
        Check::new(what, late <= early * (1.0 + MOST_GROWTH / 100.0), detail)
    };
    let (open, open_late) = (mean(early, |row| row.descriptors), mean(late, |row| row.descriptors));
    let zombies: u64 = rows.iter().map(|row| row.zombies).sum();
    vec![
        flat("memory is flat", " KiB", |row| row.rss_kib),
        flat("the agent's own memory is flat", " KiB", |row| row.own_kib),
        flat("series are flat", "", |row| row.series as u64),
        Check::new(
            "descriptors are flat",
            open_late <= open + 5.0,
            format!("{open:.1} in the third quarter, {open_late:.1} in the last"),
        ),
        Check::new("no zombie", zombies == 0, zombies.to_string()),
    ]
}
