//! The join across hosts: a real nginx on one, its applications on another, an agent on each that
//! sees nothing of the other's, a real NATS server between them and two readers of it, and a real
//! OpenTelemetry Collector that both tell. The server is killed in the middle of an incident, and a
//! reader and the Collector with it.

pub mod bus;
mod cast;
mod collector;
mod program;
mod telling;

use std::{collections::BTreeSet, path::PathBuf, thread, time::Duration};

use anyhow::Result;
use clap::Args;
use floodmark::{
    across::Joined,
    verdict::{Cause, Confidence, Verdict},
};
use serde::Serialize;

use cast::{APP_HOST, Cast, PROXY_HOST, Said, value};
use collector::Told;

/// The requests of an act; each is tried at two peers.
const REQUESTS: usize = 2;
/// What nginx says of a request that fails at both: an attempt and a marking each.
const EVENTS: usize = 4 * REQUESTS;
/// How long the bus is away at least.
const AWAY: Duration = Duration::from_secs(3);

/// Arguments of `floodmark-lab across`.
#[derive(Debug, Args)]
pub struct AcrossArgs {
    /// The agent under test
    #[arg(long)]
    agent: PathBuf,
    /// The Collector's program
    #[arg(long)]
    collector: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Played {
    /// The verdicts of the proxy host's agent alone.
    alone: Vec<Verdict>,
    /// Those of both readers together.
    joined: Vec<Joined>,
    /// What the Collector received.
    told: Vec<Told>,
    checks: Vec<Check>,
}

/// Something that must be true.
#[derive(Debug, Serialize)]
struct Check {
    what: &'static str,
    holds: bool,
    detail: String,
}

/// Plays it; true where all checks hold.
pub fn across(args: &AcrossArgs) -> Result<bool> {
    let played = play(args)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&played)?);
    } else {
        played.joined.iter().for_each(print);
        for check in &played.checks {
            let word = if check.holds { "ok  " } else { "FAIL" };
            println!("{word} {}: {}", check.what, check.detail);
        }
    }
    Ok(played.checks.iter().all(|check| check.holds))
}

fn print(joined: &Joined) {
    let verdict = &joined.verdict;
    println!(
        "{} {} {} at {}: {} ({}), window wider by {} ms",
        joined.proxy_host,
        verdict.event.kind.name(),
        verdict.event.upstream,
        joined.listener_host.as_deref().unwrap_or("-"),
        verdict.cause.name(),
        verdict.confidence.name(),
        verdict.health.skew_ms
    );
}

fn play(args: &AcrossArgs) -> Result<Played> {
    let mut cast = Cast::start(&args.agent, &args.collector)?;
    let mut checks = Vec::new();
    cast.fail(REQUESTS)?;
    cast.wait_for(EVENTS)?;

    cast.wait_for_the_collector()?;
    cast.bus.kill()?;
    cast.collector.kill()?;
    cast.readers[0].kill()?;
    cast.fail(REQUESTS)?;
    thread::sleep(AWAY);
    let metrics = cast.proxy.get("/metrics")?;
    let ready = cast.proxy.get("/readyz")?;
    for (what, outlet) in
        [("that the bus is away shows", "nats"), ("that the Collector is away shows", "otlp")]
    {
        let of = |series: &str| {
            value(&metrics, &format!("floodmark_outlet_{series}{{outlet=\"{outlet}\"}}"))
        };
        let waiting = of("waiting");
        checks.push(Check {
            what,
            holds: of("connected") == Some(0.0)
                && waiting.is_some_and(|waiting| waiting > 0.0)
                && ready.contains(&format!("{outlet} not connected")),
            detail: format!("{} messages wait", waiting.unwrap_or_default()),
        });
    }
    cast.bus.start()?;
    cast.collector.start()?;
    cast.readers[0].start()?;
    cast.wait_for(2 * EVENTS)?;
    cast.wait_for_the_collector()?;
    let counters = cast.counters()?;
    let lost: f64 = counters.iter().map(|(_, count)| count).sum();
    checks.push(Check {
        what: "nothing was lost",
        holds: lost == 0.0 && !counters.is_empty(),
        detail: format!("{counters:?}"),
    });
    let overflows = overflows(&cast.app.get("/metrics")?);
    let Said { alone, joined, told } = cast.finish()?;
    checks.extend(compare(&alone, &joined));
    checks.extend(telling::compare(&alone, overflows, &told));
    Ok(Played { alone, joined, told, checks })
}

fn compare(alone: &[Verdict], joined: &[Joined]) -> Vec<Check> {
    let blind = |verdict: &&Verdict| verdict.cause == Cause::NoKernelEvidence;
    let right = |joined: &&Joined| {
        joined.verdict.cause == Cause::AcceptQueueOverflow
            && joined.verdict.confidence >= Confidence::Medium
            && joined.proxy_host == PROXY_HOST
            && joined.listener_host.as_deref() == Some(APP_HOST)
    };
    let ids: BTreeSet<&str> = joined.iter().map(|joined| joined.id.as_str()).collect();
    let measured = |joined: &&Joined| (1..1000).contains(&joined.verdict.health.skew_ms);
    let count = |of: &dyn Fn(&&Joined) -> bool| joined.iter().filter(|it| of(it)).count();
    let all = joined.len();
    let of_all = |count: usize| (count == all && all > 0, format!("{count} of {all}"));
    let check = |what, (holds, detail)| Check { what, holds, detail };
    vec![
        check(
            "the proxy's agent alone cannot tell",
            (
                alone.iter().all(|verdict| blind(&verdict)) && alone.len() == 2 * EVENTS,
                format!("{} verdicts", alone.len()),
            ),
        ),
        check("together they tell the cause", of_all(count(&right))),
        check(
            "each event has one verdict",
            (all == alone.len() && ids.len() == all, format!("{all} of {}", alone.len())),
        ),
        check("clocks were measured", of_all(count(&measured))),
    ]
}

/// The overflows of listeners, by an agent's metrics.
fn overflows(metrics: &str) -> u64 {
    let series = "floodmark_listener_overflows_total{";
    let counts = metrics.lines().filter(|line| line.starts_with(series));
    counts.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}
