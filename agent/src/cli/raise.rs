//! `floodmark raise`: a longer accept queue for a running listener, without a restart.

mod select;

use std::{
    fs,
    io::{IsTerminal, stdin},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{self, ExitCode},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use log::info;
use nix::unistd::Uid;
use serde::Serialize;

use self::select::{Address, select};
use super::{
    HEALTHY, TROUBLE,
    listeners::{Filter, LIMITS, PATIENCE},
    output::{print, print_json, say},
};
use crate::{
    inventory::Listener,
    kernel::netns::Netns,
    printable::printable,
    raise::{Memory, Place, Plan},
    shell::quoted,
    stock::Stock,
};

/// Where what `--undo` needs is kept, unless it is said: as long as the host is up, and so the sockets.
const STATE_DIR: &str = "/run/floodmark";
/// Where the host's log takes lines (syslog(3)).
const SYSLOG: &str = "/dev/log";
/// LOG_DAEMON and LOG_NOTICE.
const PRIORITY: u32 = (3 << 3) | 5;

/// Arguments of `floodmark raise`.
#[derive(Debug, Args)]
pub(super) struct RaiseArgs {
    /// Listener: the address and port that it is bound to or that clients connect to, or a port
    #[arg(
        value_name = "LISTENER",
        required_unless_present_any = ["pid", "unit", "container", "pod", "port"]
    )]
    address: Option<Address>,
    /// Set the limit of its accept queue to N connections
    #[arg(
        long,
        value_name = "N",
        required_unless_present = "undo",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(i32::MAX))
    )]
    backlog: Option<u32>,
    /// Restore the queue's limit and somaxconn as they were before `raise`
    #[arg(long, conflicts_with = "backlog")]
    undo: bool,
    #[command(flatten)]
    filter: Filter,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
    /// Print one JSON object; needs --yes
    #[arg(long, requires = "yes")]
    json: bool,
    /// Store the data for --undo in this directory
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Outcome<'a> {
    #[serde(flatten)]
    plan: &'a Plan,
    /// Parts of the plan that failed.
    not_changed: &'a [String],
    /// The command that restores the earlier limits.
    undo: Option<String>,
}

/// Shows what is to change, asks, changes it and checks that it is so.
pub(super) fn raise(args: &RaiseArgs) -> Result<ExitCode> {
    ensure!(
        args.yes || stdin().is_terminal(),
        "raise asks for confirmation, but standard input is no terminal; use --yes"
    );
    let mut stock = Stock::take(&[], LIMITS)?;
    stock.settle(PATIENCE)?;
    let view = stock.view(usize::MAX);
    let group = select(&stock.inventory, view, args.address, &args.filter)?;
    let group: Vec<&Listener> = group.iter().collect();
    let first = group.first().context("a listener has a socket")?;
    let netns = stock.namespaces.iter().find(|netns| netns.id == first.id.netns);
    let netns = netns
        .with_context(|| format!("network namespace {} no longer exists", first.netns_name))?;
    let place = Place::of(netns)?;
    let plan = match args.backlog {
        Some(backlog) => Plan::raise(&group, backlog)?,
        None => Memory::open(&args.state_dir)?.read()?.undo(place, &group)?,
    };
    if plan.is_empty() {
        return nothing(args, &plan, place);
    }
    plan.check()?;
    if !args.json {
        print(&told(&plan, args.undo))?;
    }
    if !args.yes && !is_confirmed()? {
        say("nothing changed");
        return Ok(ExitCode::from(TROUBLE));
    }
    let short = apply(args, &plan, place, netns)?;
    let undo = (!args.undo).then(|| undo_command(first, &args.state_dir));
    log(&plan, args.undo, &short);
    if args.json {
        print_json(&Outcome { plan: &plan, not_changed: &short, undo: undo.clone() })?;
    } else if short.is_empty() {
        print(&done(&plan, undo.as_deref()))?;
    }
    if !short.is_empty() {
        let undo = undo.map(|undo| format!("; undo the rest with `{undo}`")).unwrap_or_default();
        bail!("{}: {}{undo}", plan.place(), short.join("; "));
    }
    Ok(ExitCode::from(HEALTHY))
}

/// As a shell takes it.
fn undo_command(listener: &Listener, state_dir: &Path) -> String {
    let command = format!("floodmark raise {} --undo", listener.selector());
    if state_dir == Path::new(STATE_DIR) {
        return command;
    }
    format!("{command} --state-dir {}", quoted(&state_dir.to_string_lossy()))
}

fn apply(args: &RaiseArgs, plan: &Plan, place: Place, netns: &Netns) -> Result<Vec<String>> {
    let memory = Memory::open(&args.state_dir)?;
    let before = memory.read()?;
    let mut after = before.clone();
    if args.undo {
        let short = plan.apply(netns)?;
        if short.is_empty() {
            after.forget(place, plan.addr);
            memory.write(&after)?;
        }
        return Ok(short);
    }
    // Kept before anything changes: nothing may be raised that could not be restored.
    after.add(place, plan);
    memory.write(&after)?;
    let outcome = plan.apply(netns);
    if outcome.is_err() {
        memory.write(&before)?;
    }
    outcome
}

fn nothing(args: &RaiseArgs, plan: &Plan, place: Place) -> Result<ExitCode> {
    if args.undo {
        let memory = Memory::open(&args.state_dir)?;
        let mut raised = memory.read()?;
        raised.forget(place, plan.addr);
        memory.write(&raised)?;
    }
    if args.json {
        print_json(&Outcome { plan, not_changed: &[], undo: None })?;
    }
    let what = if args.undo { "undo" } else { "change" };
    say(&format!("nothing to {what} at {}: {}", plan.place(), plan.notes.join("; ")));
    Ok(ExitCode::from(HEALTHY))
}

/// What is to change.
fn told(plan: &Plan, is_undo: bool) -> String {
    let mut lines = vec![format!("{}:", printable(&plan.place()))];
    for socket in plan.changes() {
        let owner = match (socket.command.as_deref(), &socket.pids[..]) {
            (Some(command), [pid]) => format!("{} (pid {pid})", printable(command)),
            (Some(command), [pid, rest @ ..]) => {
                format!("{} (pid {pid} and {} more)", printable(command), rest.len())
            }
            _ => "an unknown process".to_owned(),
        };
        lines.push(format!(
            "  accept queue of socket {}, held by {owner}: limit {} -> {} connections, {} waiting",
            socket.inode, socket.limit.from, socket.limit.to, socket.waiting
        ));
    }
    if let Some(change) = plan.somaxconn {
        let name = printable(&plan.netns_name);
        lines.push(format!("  net.core.somaxconn of {name}: {} -> {}", change.from, change.to));
    }
    lines.extend(plan.notes.iter().map(|note| format!("  {}", printable(note))));
    lines.push("No process restarts, and no connection is closed.".to_owned());
    if !is_undo {
        lines.push(
            "The limit lasts until the application calls listen(2) again: at a restart, and at \
             some reloads."
                .to_owned(),
        );
    }
    lines.join("\n") + "\n"
}

fn done(plan: &Plan, undo: Option<&str>) -> String {
    let place = plan.place();
    let place = printable(&place);
    match undo {
        Some(undo) => format!("{place}: limit raised and verified. To undo:\n  {undo}\n"),
        None => format!("{place}: earlier limit restored and verified.\n"),
    }
}

fn is_confirmed() -> Result<bool> {
    say("Apply these changes? [y/N]");
    let mut answer = String::new();
    stdin().read_line(&mut answer).context("reading the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Who changed what goes to the host's log: others will want to know.
fn log(plan: &Plan, is_undo: bool, short: &[String]) {
    let changes: Vec<String> = plan
        .changes()
        .map(|socket| {
            format!("socket {} from {} to {}", socket.inode, socket.limit.from, socket.limit.to)
        })
        .chain(
            plan.somaxconn.map(|change| format!("somaxconn from {} to {}", change.from, change.to)),
        )
        .collect();
    let line = format!(
        "{} by uid {}{}: {}, {}{}",
        if is_undo { "raise undone" } else { "raised" },
        Uid::current(),
        login(),
        plan.place(),
        changes.join(", "),
        short.iter().map(|what| format!("; {what}")).collect::<String>()
    );
    info!("{line}");
    if let Err(error) = to_syslog(Path::new(SYSLOG), &line) {
        info!("cannot write to the host's log at {SYSLOG}: {error}");
    }
}

/// Who logged in before becoming root (proc_pid_loginuid(5)); all ones where nobody did.
fn login() -> String {
    let text = fs::read_to_string("/proc/self/loginuid").unwrap_or_default();
    match text.trim().parse() {
        Ok(u32::MAX) | Err(_) => String::new(),
        Ok(uid) => format!(" (login uid {uid})"),
    }
}

fn to_syslog(socket: &Path, line: &str) -> std::io::Result<()> {
    let message = format!("<{PRIORITY}>floodmark[{}]: {}", process::id(), printable(line));
    UnixDatagram::unbound()?.send_to(message.as_bytes(), socket).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raise::tests::listener;

    #[test]
    fn a_plan_tells_old_and_new_and_hides_what_a_name_may_do_to_a_terminal() {
        let mut hostile = listener(7, 5, 128);
        hostile.netns_name = "we\x1b[2Jb".to_owned();
        hostile.owners[0].command = "a\npp".to_owned();
        let plan = Plan::raise(&[&hostile], 1024).unwrap();
        let told = told(&plan, false);
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(
            &lines[..3],
            [
                "0.0.0.0:80 in we?[2Jb:",
                "  accept queue of socket 7, held by a?pp (pid 47): limit 5 -> 1024 connections, 3 \
                 waiting",
                "  net.core.somaxconn of we?[2Jb: 128 -> 1024",
            ]
        );
        assert_eq!(lines.len(), 5);
    }

    #[test]
    fn what_undoes_it_names_the_directory_if_it_is_another() {
        let undo = |directory: &str| undo_command(&listener(7, 5, 128), Path::new(directory));
        assert_eq!(undo(STATE_DIR), "floodmark raise 0.0.0.0:80 --netns web --undo");
        assert_eq!(
            undo("/tmp/it's"),
            r"floodmark raise 0.0.0.0:80 --netns web --undo --state-dir '/tmp/it'\''s'"
        );
    }

    #[test]
    fn the_hosts_log_gets_one_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let log = UnixDatagram::bind(&path).unwrap();
        to_syslog(&path, "raised\n<0>forged").unwrap();
        let mut buffer = [0; 100];
        let length = log.recv(&mut buffer).unwrap();
        let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
        assert_eq!(message, format!("<29>floodmark[{}]: raised?<0>forged", process::id()));
    }
}
