//! The agent on real connections over loopback, recording and not.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, SysconfVar, sysconf},
};

use super::{Cli, load::Load};

/// The page's table.
pub fn table(cli: &Cli) -> Result<String> {
    let load = Load::start(cli.rate)?;
    let file = std::env::temp_dir().join(format!("fmbench-{}-live.fmr", std::process::id()));
    let _ = fs::remove_file(&file);
    let path = file.display().to_string();
    let run = ["run", "--listen", "127.0.0.1:0", "--watch-causes", "--watch-connections"];
    let socket = format!("{path}.sock");
    let without = [&run[..], &["--hindsight", "0"]].concat();
    let hindsight = [&run[..], &["--socket", &socket]].concat();
    let contenders: [(&str, &[&str]); 3] = [
        ("not recording", &without),
        ("with hindsight", &hindsight),
        ("`floodmark record`", &["record", &path]),
    ];
    let mut page = format!(
        "{} s each, with the same load: {} connections/s requested.\n\n| agent | connections/s | \
         of a core | file |\n| --- | ---: | ---: | ---: |\n",
        cli.seconds, cli.rate
    );
    for (name, arguments) in contenders {
        let (rate, share) = measure(&cli.agent, arguments, &load, cli.seconds)?;
        let size = fs::metadata(&file).map(|it| format!("{:.2} MB", it.len() as f64 / 1e6));
        let size = size.unwrap_or_default();
        page += &format!("| {name} | {rate:.0} | {:.1} % | {size} |\n", 100.0 * share);
    }
    let _ = fs::remove_file(&file);
    let _ = fs::remove_file(&socket);
    Ok(page)
}

/// The rate reached, and the share of a core that the agent took.
fn measure(agent: &Path, arguments: &[&str], load: &Load, seconds: u64) -> Result<(f64, f64)> {
    let mut process = Command::new(agent)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {}", agent.display()))?;
    // Attached when it first speaks; what it says later is of no interest.
    let mut words = BufReader::new(process.stderr.take().context("the agent's messages")?);
    words.read_line(&mut String::new())?;
    thread::spawn(move || words.lines().for_each(drop));
    thread::sleep(Duration::from_secs(5));
    let (began, made, used) = (Instant::now(), load.made(), time_of(&process)?);
    thread::sleep(Duration::from_secs(seconds));
    let (took, made) = (began.elapsed().as_secs_f64(), load.made() - made);
    let used = time_of(&process)? - used;
    kill(Pid::from_raw(process.id() as i32), Signal::SIGINT)?;
    process.wait()?;
    Ok((made as f64 / took, used / took))
}

/// Processor time of a process in seconds: fields 14 and 15 of proc_pid_stat(5).
fn time_of(process: &Child) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.id()))?;
    let after_name = stat.rsplit_once(") ").context("no name in stat")?.1;
    let fields: Vec<&str> = after_name.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock tick")?;
    Ok(ticks as f64 / per_second as f64)
}
