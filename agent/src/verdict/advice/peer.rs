//! The peer itself and the way to it: what no limit of the kernel explains.

use super::{
    Change, Step,
    limit::milliseconds,
    place::{enter, restart},
};
use crate::{
    inventory::{Owner, Server},
    verdict::{
        finding::Finding,
        report::{ListenerReport, Report},
    },
};

fn step(finding: &Finding, what: String, why: String, commands: Vec<String>) -> Step {
    Step { cause: finding.cause, what, why, commands, changes: Vec::new() }
}

/// A clause as a sentence.
fn sentence(clause: &str) -> String {
    let mut letters = clause.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string());
    format!("{}{}.", first.unwrap_or_default(), letters.as_str())
}

fn place(finding: &Finding) -> String {
    let addr = finding.listener.map(|id| id.addr.to_string());
    finding.upstream.clone().or(addr).unwrap_or_else(|| "the peer".to_owned())
}

/// What a process is doing instead of accepting.
pub(super) fn look_at(owner: Option<&Owner>) -> Vec<String> {
    let Some(owner) = owner else { return vec!["ss -ltnp  # who listens there".to_owned()] };
    let pid = owner.pid;
    let look = match owner.server {
        Some(Server::Tornado | Server::Gunicorn | Server::Uvicorn | Server::Hypercorn)
        | Some(Server::Aiohttp | Server::Waitress | Server::Python | Server::Uwsgi) => {
            format!("py-spy dump --pid {pid}")
        }
        Some(Server::Tomcat | Server::Jetty | Server::Java) => format!("jstack {pid}"),
        Some(Server::Go) => format!("kill -QUIT {pid}  # prints its goroutines and ends it"),
        Some(Server::Dotnet) => format!("dotnet-stack report -p {pid}"),
        _ => format!("gdb -p {pid} -batch -ex 'thread apply all backtrace'"),
    };
    let mut commands = vec![
        format!("cat /proc/{pid}/status /proc/{pid}/wchan  # is it stopped, does it wait?"),
        look,
    ];
    commands.extend(restart(Some(owner)));
    commands
}

pub(super) fn not_accepting(finding: &Finding, listener: Option<&ListenerReport>) -> Step {
    let owner = listener.and_then(|listener| listener.listener.owners.first());
    let mut step = step(
        finding,
        format!(
            "Have whoever listens at {} accept: nothing is lost, all of it waits.",
            place(finding)
        ),
        sentence(&finding.because),
        look_at(owner),
    );
    if let Some(id) = finding.listener {
        let pid = owner.map(|owner| owner.pid);
        step.changes.push(Change::Accept { listener: id, pid, per_second: None });
    }
    step
}

pub(super) fn refused(report: &Report, finding: &Finding) -> Step {
    let at = place(finding);
    let port = at.rsplit(':').next().unwrap_or_default().to_owned();
    let enter = finding.proxy_netns.map(|netns| enter(report, netns, None)).unwrap_or_default();
    let mut step = step(
        finding,
        format!("Start what should listen at {at}, or send the proxy where it does."),
        format!("Failed attempts: {}; {}.", finding.harm.failed_attempts, finding.because),
        vec![format!("{enter}ss -ltnp 'sport = :{port}'  # on the peer's host, in its namespace")],
    );
    step.changes.push(Change::Listen { at });
    step
}

pub(super) fn path_loss(report: &Report, finding: &Finding) -> Step {
    let at = place(finding);
    let (host, port) = at.rsplit_once(':').unwrap_or((&at, ""));
    let from = finding.proxy_netns.map(|netns| enter(report, netns, None)).unwrap_or_default();
    let to = finding.listener.map(|id| enter(report, id.netns, None)).unwrap_or_default();
    let filters = format!("{from}nft list ruleset");
    let filters = if to == from { filters } else { format!("{filters}; {to}nft list ruleset") };
    step(
        finding,
        format!("Look for what loses segments on the way to {at}: not the listener."),
        sentence(&finding.because),
        vec![
            format!("{from}ip route get {host}; {from}ip neigh show {host}"),
            format!("{filters}  # what drops, on either side"),
            format!("{from}conntrack -S  # insert_failed, drop"),
            format!("{to}tcpdump -ni any 'tcp port {port} and tcp[tcpflags] & tcp-syn != 0'"),
        ],
    )
}

pub(super) fn unreachable(report: &Report, finding: &Finding) -> Step {
    let at = place(finding);
    let host = at.rsplit_once(':').map_or(at.as_str(), |(host, _)| host).to_owned();
    let from = finding.proxy_netns.map(|netns| enter(report, netns, None)).unwrap_or_default();
    step(
        finding,
        format!("Give the proxy's namespace a route to {host}."),
        sentence(&finding.because),
        vec![format!("{from}ip route get {host}"), format!("{from}ip route show table all")],
    )
}

pub(super) fn closed(finding: &Finding) -> Step {
    step(
        finding,
        format!("Find out why {} closes connections unanswered.", place(finding)),
        format!(
            "{} A worker that dies or is killed leaves a line in its log; an application that \
             closes idle connections sooner than the proxy does races with the next request.",
            sentence(&finding.because)
        ),
        vec![
            "# nginx: keepalive_timeout of the upstream below the application's idle timeout"
                .to_owned(),
            "dmesg | grep -i 'killed process'; journalctl -u UNIT --since -10min".to_owned(),
        ],
    )
}

pub(super) fn failed(finding: &Finding) -> Step {
    step(
        finding,
        format!("Mend the answers of {}: connections and queues are well.", place(finding)),
        sentence(&finding.because),
        vec![
            "# nginx: without http_5xx in proxy_next_upstream a bad answer does not mark the peer"
                .to_owned(),
        ],
    )
}

pub(super) fn slow(finding: &Finding) -> Step {
    let took = finding.harm.longest_ms.map(|ms| format!(" The longest took {}.", milliseconds(ms)));
    step(
        finding,
        format!("Make {} answer sooner, or have the proxy wait longer.", place(finding)),
        format!("{}{}", sentence(&finding.because), took.unwrap_or_default()),
        vec![
            "# nginx: proxy_read_timeout; HAProxy: timeout server; Envoy: route timeout".to_owned(),
        ],
    )
}

pub(super) fn elsewhere(finding: &Finding) -> Step {
    step(
        finding,
        format!("Run floodmark on the host of {} as well.", place(finding)),
        sentence(&finding.because),
        vec!["floodmark diagnose --duration 60s  # there".to_owned()],
    )
}
