//! A host on the bus against `floodmark correlate` and the hosts that share the bus with it: the cases
//! of a server that lets every client publish everything, which is the worst.

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use floodmark::{across::Joined, time::UnixMs};

use super::{
    Case, Check,
    target::{Attacker, Served, Target},
};
use crate::{
    across::bus::NATS_SERVER,
    serving::{free_address, until_connected},
};

/// A publisher, honest or not.
const PUBLISHER: &str = include_str!("bus.py");
/// The honest hosts publish for so many seconds; the attack begins after some of them.
const SECONDS: u64 = 24;
const BEFORE: Duration = Duration::from_secs(8);
/// How long after an event its verdict may come: 3 s for what may still be heard of it, ticks a second
/// apart on a busy host, 5 s in which a host may be late without being left behind, and what a reader
/// without optimisation takes to go through all that one host may publish at once.
const MOST_LAG_MS: f64 = 20_000.0;
/// How long verdicts are waited for after the last event.
const PATIENCE: Duration = Duration::from_secs(30);
const MOST_MIB: f64 = 160.0;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "bus-takeover",
        attack: "a host publishes in the name of another, with a run of the distant future",
        run: |target| attack(target, &["takeover"]),
    },
    Case {
        name: "bus-stall",
        attack: "hosts publish fresh messages of the past and of the future",
        run: |target| attack(target, &["stall", "12"]),
    },
    Case {
        name: "bus-escape",
        attack: "a host puts control characters in names, groups, subjects and nonsense",
        run: escape,
    },
    Case {
        name: "bus-exchange",
        attack: "a host measures its clock with numbers that overflow",
        run: |target| attack(target, &["exchange"]),
    },
    Case {
        name: "bus-hosts",
        attack: "10,000 hosts publish one message each",
        run: |target| attack(target, &["hosts", "10000"]),
    },
    Case {
        name: "bus-namespaces",
        attack: "a host has 3000 namespaces of 1000 listeners",
        run: |target| attack(target, &["namespaces", "3000", "1000"]),
    },
    Case {
        name: "bus-flood",
        attack: "a host publishes valid messages as fast as it can",
        run: |target| attack(target, &["flood", "5"]),
    },
    Case {
        name: "bus-nonsense",
        attack: "a host publishes nested, cut and very long messages",
        run: |target| attack(target, &["nonsense"]),
    },
];

fn attack(target: &Target, attacker: &[&str]) -> Result<Vec<Check>> {
    let (checks, verdicts) = under_attack(target, attacker, &["--json"])?;
    let lags = verdicts.lines.iter().map(|(read, line)| {
        let joined: Joined = serde_json::from_str(line)?;
        Ok(read.0.saturating_sub(joined.verdict.event.at.0))
    });
    let lags: Vec<u64> = lags.collect::<Result<_>>()?;
    let most_lag = lags.into_iter().max().unwrap_or_default() as f64;
    Ok(checks
        .into_iter()
        .chain([Check::at_most("a verdict's lag", "ms", most_lag, MOST_LAG_MS)])
        .collect())
}

/// Lines for people.
fn escape(target: &Target) -> Result<Vec<Check>> {
    Ok(under_attack(target, &["escape", "4"], &[])?.0)
}

/// Two honest hosts publish, a reader reads, and `attacker` attacks meanwhile. Gives the verdicts on
/// honest hosts.
fn under_attack(
    target: &Target,
    attacker: &[&str],
    options: &[&str],
) -> Result<(Vec<Check>, Verdicts)> {
    let (_server, port) = nats(target)?;
    let url = format!("nats://127.0.0.1:{port}");
    let arguments = [&["--nats", &url, "--name", "lab"], options].concat();
    let reader = target.serve_as("correlate", "reader", &arguments)?;
    let publisher =
        |arguments: &[&str]| target.python(PUBLISHER, &[&[port.as_str()], arguments].concat());
    let mut honest = publisher(&["honest", &SECONDS.to_string()])?;
    let mut verdicts = Verdicts::default();
    verdicts.watch(&reader, BEFORE)?;
    let mut evil = publisher(attacker)?;
    verdicts.watch(&reader, Duration::from_secs(SECONDS) - BEFORE)?;
    let was_carried_out = evil.wait()?;
    honest.wait()?;
    // Those of the last seconds are made only when a host tells more.
    let expected = 2 * (SECONDS as usize - 6);
    let begun = Instant::now();
    while verdicts.lines.len() < expected && begun.elapsed() < PATIENCE {
        verdicts.watch(&reader, Duration::from_millis(500))?;
    }
    let count = verdicts.lines.len();
    let printed = reader.printed()? + &reader.log()?;
    let hidden: String = printed.chars().filter(|c| is_hidden(*c)).collect();
    let checks = vec![
        Check::that("the attack is carried out", was_carried_out, ""),
        Check::that(
            "each event of an honest host has its verdict",
            count >= expected,
            format!("{count}, expected {expected}"),
        ),
        reader.answers_health_check(),
        Check::at_most("resident memory", "MiB", reader.peak_mib()?, MOST_MIB),
        Check::that(
            "no control character is printed",
            hidden.is_empty(),
            hidden.escape_unicode().to_string(),
        ),
        Check::that("nobody begins a line of another's", !printed.contains("\n[fake]"), ""),
    ];
    Ok((checks, verdicts))
}

/// What a terminal obeys, or does not show.
fn is_hidden(c: char) -> bool {
    c.is_control() && c != '\n' || ('\u{202a}'..='\u{202e}').contains(&c)
}

/// The verdicts on honest hosts.
#[derive(Default)]
struct Verdicts {
    /// Each with the time at which it was read.
    lines: Vec<(UnixMs, String)>,
    /// How much of the reader's output has been looked at.
    looked_at: usize,
}

impl Verdicts {
    fn watch(&mut self, reader: &Served, length: Duration) -> Result<()> {
        let begun = Instant::now();
        loop {
            let (printed, now) = (reader.printed()?, UnixMs::now());
            let new = printed[self.looked_at..].split_inclusive('\n');
            for line in new.filter(|line| line.ends_with('\n')) {
                self.looked_at += line.len();
                if line.starts_with("web") || line.contains("\"proxy_host\":\"web") {
                    self.lines.push((now, line.to_owned()));
                }
            }
            if begun.elapsed() >= length {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// A server without users, and its port.
fn nats(target: &Target) -> Result<(Attacker, String)> {
    if !Path::new(NATS_SERVER).is_file() {
        bail!("there is no {NATS_SERVER} (package nats-server)");
    }
    let addr = free_address()?;
    let store = target.directory().join("streams");
    fs::create_dir_all(&store)?;
    let port = addr.port().to_string();
    let mut command = Command::new(NATS_SERVER);
    command
        .args(["--addr", "127.0.0.1", "--port", &port, "--jetstream", "--store_dir"])
        .arg(&store);
    command.arg("--log").arg(target.directory().join("nats.log"));
    let server = target.spawn(&mut command)?;
    until_connected(addr, "the NATS server")?;
    Ok((server, port))
}
