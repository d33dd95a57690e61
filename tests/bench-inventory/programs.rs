//! What the programs that watch queues and connections take, by the kernel's own statistics.

use std::{
    collections::BTreeMap,
    fs,
    net::{TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result};
use aya::programs::loaded_programs;

/// Kernel's names of the programs, which it cuts to 15 bytes.
const NAMES: [&str; 11] = [
    "child_cloned",
    "handshake_completed",
    "connection_queued",
    "accepted_2",
    "accepted_4",
    "accept_returned",
    "listeners_changed",
    "listen_started",
    "connection_changed",
    "unix_connected",
    "connect_returned",
];
const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Runs and time of a program.
type Spent = (u64, Duration);

/// Makes connections and tells what each of the programs took for one of them.
pub fn per_connection(connections: usize) -> Result<String> {
    let was = fs::read_to_string(STATISTICS).context("reading bpf_stats_enabled")?;
    fs::write(STATISTICS, "1").context("writing bpf_stats_enabled")?;
    let before = spent();
    let made = connect(connections);
    let after = spent();
    fs::write(STATISTICS, was)?;
    made?;
    let mut page = "| program | runs per connection | time per run | per connection |\n\
                    | --- | --- | --- | --- |\n"
        .to_owned();
    let mut total = 0.0;
    for (name, (runs, time)) in &after {
        let (runs_before, time_before) = before.get(name).copied().unwrap_or_default();
        let (runs, time) = (runs - runs_before, *time - time_before);
        if runs == 0 {
            continue;
        }
        let (per_run, per_connection) =
            (time.as_nanos() as f64 / runs as f64, time.as_nanos() as f64 / connections as f64);
        total += per_connection;
        page += &format!(
            "| {name} | {:.2} | {per_run:.0} ns | {per_connection:.0} ns |\n",
            runs as f64 / connections as f64
        );
    }
    page += &format!("| together | | | {total:.0} ns |\n");
    Ok(page)
}

/// Both ends are here, so each connection is seen twice.
fn connect(times: usize) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    for _ in 0..times {
        let client = TcpStream::connect(addr)?;
        let (served, _) = listener.accept()?;
        // Reset rather than wait in TIME_WAIT for a port.
        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
        drop(client);
        drop(served);
    }
    Ok(())
}

fn spent() -> BTreeMap<String, Spent> {
    let mut spent: BTreeMap<String, Spent> = BTreeMap::new();
    for program in loaded_programs().flatten() {
        let Some(name) = program.name_as_str() else { continue };
        let full = NAMES.iter().find(|full| full.starts_with(name) && name.len() >= 10);
        if let Some(full) = full {
            let sum = spent.entry((*full).to_owned()).or_default();
            sum.0 += program.run_count();
            sum.1 += program.run_time();
        }
    }
    spent
}
