//! What ends a stall, by what keeps the holders from accepting.

use std::net::SocketAddr;

use super::{
    Change, Step, capitalized,
    holders::Holders,
    limit::blank,
    peer::look_at,
    place::enter,
    resources::{continue_all, cpu_limit, cpu_weight, memory_limit, open_files, thaw},
    workers::{spread, workers},
};
use crate::{
    inventory::{Owner, Server},
    shell::quoted,
    stall::{Target, Wait},
    verdict::{
        finding::Finding,
        impediment::{Detail, Impediment, ImpedimentReport, StallReport},
        report::{ListenerReport, Report},
        verdict::Confidence,
        whatif::{Replay, WhatIf},
    },
};

/// What is known, for the steps of one stall.
pub(super) struct Case<'a> {
    pub report: &'a Report,
    pub finding: &'a Finding,
    pub listener: Option<&'a ListenerReport>,
    pub stall: &'a StallReport,
}

/// The steps against what holds, most effective first, and whether they come before a longer queue.
pub(super) fn steps(case: &Case<'_>) -> (Vec<Step>, bool) {
    let holding = case.stall.impediments.iter().filter(|it| it.impediment != Impediment::Burst);
    let is_sure = holding.clone().any(|it| it.confidence > Confidence::Low);
    (holding.map(|it| case.step(it)).collect(), is_sure)
}

impl Case<'_> {
    fn step(&self, it: &ImpedimentReport) -> Step {
        let owners: Vec<&Owner> = it
            .pids
            .iter()
            .filter_map(|pid| self.stall.listener.owners.iter().find(|owner| owner.pid == *pid))
            .collect();
        let all = Holders::of(Some(&self.stall.listener));
        let holders = Holders { workers: owners, ..all };
        // Unless there is something better for a program to do.
        let accept = Change::Accept {
            listener: self.stall.id(),
            pid: holders.first().map(|owner| owner.pid),
            per_second: None,
        };
        let step =
            Step { why: self.evidence(it), changes: vec![accept], ..blank(self.finding.cause) };
        match it.impediment {
            Impediment::Stopped => stopped(step, it, &holders),
            Impediment::Frozen => Step {
                what: format!("Thaw {}: its control group is frozen.", holders.names()),
                now: thaw(&holders),
                changes: of_each(&holders, |pid| Change::Thaw { pid }),
                ..step
            },
            Impediment::NoDescriptors => no_descriptors(step, it, &holders),
            Impediment::Uneven => self.uneven(step, it, &holders),
            Impediment::Throttled => throttled(step, it, &holders),
            Impediment::Memory => memory(step, it, &holders),
            Impediment::CpuStarved => Step {
                what: format!("Give {} a greater share of the processors.", holders.names()),
                commands: cpu_weight(&holders),
                ..step
            },
            Impediment::CpuBound => Step {
                what: format!(
                    "Spread accepting over more processors: {} uses a whole one.",
                    holders.names()
                ),
                commands: spread(&holders),
                ..step
            },
            Impediment::Blocked => self.blocked(step, it, &holders),
            Impediment::WorkersBusy => self.workers_busy(step, it, &holders),
            Impediment::Sleeping => sleeping(step, &holders),
            Impediment::Burst => step,
        }
    }

    /// The measured share in words.
    fn evidence(&self, it: &ImpedimentReport) -> String {
        format!(
            "{} in {:.0} % of {} looks while connections waited ({} confidence).",
            capitalized(&description(it)),
            it.share * 100.0,
            self.stall.looks,
            it.confidence.name()
        )
    }

    fn uneven(&self, step: Step, it: &ImpedimentReport, holders: &Holders<'_>) -> Step {
        let Some(Detail::Group { members, idle }) = it.detail else { return step };
        Step {
            what: format!(
                "Have {} go on: of {members} sockets that share {} by SO_REUSEPORT only its own stands \
                 still.",
                holders.names(),
                self.report.name_of(self.stall.id())
            ),
            why: format!(
                "{} {idle} of the others had room. The kernel chooses a socket by a hash, so what \
                 is meant for this one is lost.",
                step.why
            ),
            commands: look_at(holders),
            ..step
        }
    }

    fn blocked(&self, step: Step, it: &ImpedimentReport, holders: &Holders<'_>) -> Step {
        let who = holders.names();
        let wait = match &it.detail {
            Some(Detail::Wait(wait)) => wait,
            _ => {
                let what = format!("Find the lock or the work that {who} waits for.");
                return Step { what, commands: look_at(holders), ..step };
            }
        };
        let (what, commands) = match &wait.target {
            Target::Remote(addr) => (
                format!(
                    "Have {} answer sooner, or do not wait for it on the accepting thread of {who}.",
                    name_of(*addr)
                ),
                vec![format!(
                    "{}ss -tni dst {}  # round trips and what is unanswered",
                    enter(self.report, self.stall.id().netns, holders.first()),
                    quoted(&addr.to_string())
                )],
            ),
            Target::OwnClient => (
                format!("Do not wait for clients on the accepting thread of {who}."),
                vec![
                    "# let a proxy that buffers requests stand in front, or set a short read \
                     timeout and no keep-alive"
                        .to_owned(),
                ],
            ),
            Target::File(path) => (
                format!("Do not wait for the file {path} on the accepting thread of {who}."),
                look_at(holders),
            ),
            Target::Kernel(function) => (
                format!(
                    "Find out why the kernel keeps {who} in {}: mostly a disk or a network file \
                     system.",
                    if function.is_empty() { "state D" } else { function }
                ),
                look_at(holders),
            ),
            Target::Socket | Target::Pipe | Target::Unknown => {
                (format!("Find out what {who} waits for in {}.", wait.call), look_at(holders))
            }
        };
        Step { what, commands, ..step }
    }

    fn workers_busy(&self, step: Step, it: &ImpedimentReport, holders: &Holders<'_>) -> Step {
        let Some(Detail::Workers { count }) = it.detail else { return step };
        let wanted = self.rates().and_then(|(arrivals, accepts)| {
            let wanted = (arrivals / accepts * count as f64 * 1.25).ceil();
            wanted.is_finite().then_some((arrivals, accepts, (wanted as usize).max(count + 1)))
        });
        let who = holders.names();
        let server = holders.first().and_then(|owner| owner.server);
        let change = |count| Change::Workers { listener: self.stall.id(), count };
        match wanted {
            Some((arrivals, accepts, wanted)) => Step {
                what: format!("Run {wanted} workers instead of {count}: all of {who} are busy."),
                why: format!(
                    "{} {arrivals:.0} connections per second arrived, and {count} workers took \
                     {accepts:.0}: each is busy for {:.0} ms with one.",
                    step.why,
                    1000.0 * count as f64 / accepts
                ),
                commands: workers(server, wanted),
                changes: vec![change(Some(wanted))],
                ..step
            },
            None => Step {
                what: format!(
                    "Run more than {count} workers, or free them: all of {who} are busy."
                ),
                commands: look_at(holders),
                changes: vec![change(None)],
                ..step
            },
        }
    }

    /// Arrivals and accepts per second, where these were recorded.
    fn rates(&self) -> Option<(f64, f64)> {
        let replay = self.listener?.flow.as_deref().and_then(Replay::of)?;
        let limit = self.stall.listener.queue.limit;
        match replay.answer(limit) {
            WhatIf::Rate { arrivals_per_second, accepts_per_second, .. } => {
                (accepts_per_second > 0.0).then_some((arrivals_per_second, accepts_per_second))
            }
            WhatIf::Backlog { .. } => None,
        }
    }
}

/// What holds, as a clause of a sentence.
pub fn description(it: &ImpedimentReport) -> String {
    match &it.detail {
        Some(Detail::Quota { cgroup, cores, periods, throttled, .. }) => format!(
            "control group {cgroup} is throttled at {cores} processors ({throttled} of {periods} \
             periods)"
        ),
        Some(Detail::Files { open, limit }) => {
            format!("no descriptor is left ({open} files open, limit {limit})")
        }
        Some(Detail::NotWatching) => {
            "it does not watch its listener: it is at a limit of its own".to_owned()
        }
        Some(Detail::Debugger) => "a debugger has stopped it".to_owned(),
        Some(Detail::Wait(wait)) => in_words(wait),
        Some(Detail::Lock) => "it waits for another thread (futex)".to_owned(),
        Some(Detail::Workers { count }) => format!("none of {count} workers is free to accept"),
        Some(Detail::Group { members, .. }) => {
            format!("1 of {members} sockets of the group stands still")
        }
        Some(Detail::Memory { cgroup, .. }) => {
            format!("it waits for memory of control group {cgroup}")
        }
        None => it.impediment.words().to_owned(),
    }
}

fn in_words(wait: &Wait) -> String {
    let call = &wait.call;
    match &wait.target {
        Target::Remote(addr) => {
            format!("the accepting thread is in {call} from {}", name_of(*addr))
        }
        Target::OwnClient => format!("the accepting thread is in {call} on one of its clients"),
        Target::Socket => format!("the accepting thread is in {call} on a socket"),
        Target::Pipe => format!("the accepting thread is in {call} on a pipe"),
        Target::File(path) => format!("the accepting thread is in {call} on {path}"),
        Target::Kernel(function) if function.is_empty() => {
            format!("the accepting thread is uninterruptible (state D) in {call}")
        }
        Target::Kernel(function) => {
            format!("the accepting thread is uninterruptible (state D) in {call}, {function}")
        }
        Target::Unknown => format!("the accepting thread is in {call}"),
    }
}

/// An address, with the service that mostly has its port.
fn name_of(addr: SocketAddr) -> String {
    let service = match addr.port() {
        53 => "DNS",
        80 | 8080 => "HTTP",
        443 => "HTTPS",
        3306 => "MySQL",
        5432 => "PostgreSQL",
        5672 => "AMQP",
        6379 => "Redis",
        9042 => "Cassandra",
        9092 => "Kafka",
        9200 => "Elasticsearch",
        11211 => "memcached",
        27017 => "MongoDB",
        _ => return addr.to_string(),
    };
    format!("{addr} ({service})")
}

fn of_each(holders: &Holders<'_>, change: impl Fn(u32) -> Change) -> Vec<Change> {
    holders.workers.iter().map(|owner| change(owner.pid)).collect()
}

fn stopped(step: Step, it: &ImpedimentReport, holders: &Holders<'_>) -> Step {
    let who = holders.names();
    if it.detail == Some(Detail::Debugger) {
        let tracer = |owner: &Owner| format!("grep TracerPid /proc/{}/status", owner.pid);
        return Step {
            what: format!("Have the debugger let {who} go."),
            commands: holders.workers.iter().map(|owner| tracer(owner)).collect(),
            ..step
        };
    }
    Step {
        what: format!("Continue {who}: it is stopped."),
        why: format!(
            "{} A signal did that (SIGSTOP, or SIGTSTP of a terminal): ask who sent it, and why.",
            step.why
        ),
        now: continue_all(holders),
        changes: of_each(holders, |pid| Change::Continue { pid }),
        ..step
    }
}

fn no_descriptors(step: Step, it: &ImpedimentReport, holders: &Holders<'_>) -> Step {
    let who = holders.names();
    let Some(Detail::Files { limit, .. }) = it.detail else {
        let server = holders.first().and_then(|owner| owner.server);
        let setting = match server {
            Some(Server::Nginx) => "worker_connections 4096;  # in events, nginx.conf".to_owned(),
            Some(Server::Haproxy) => "maxconn 4096  # in global, and of the frontend".to_owned(),
            _ => "# the limit of connections in its own configuration".to_owned(),
        };
        return Step {
            what: format!("Raise the limit of connections that {who} has itself."),
            commands: vec![setting],
            ..step
        };
    };
    let wanted = wanted_files(limit);
    let (now, commands) = open_files(holders, wanted);
    Step {
        what: format!("Let {who} open {wanted} files instead of {limit}."),
        why: format!(
            "{} accept(2) fails with EMFILE. If the number grows without load, it is a leak, and a \
             higher limit only postpones it.",
            step.why
        ),
        now,
        commands,
        changes: of_each(holders, |pid| Change::OpenFiles { pid, limit: wanted }),
        ..step
    }
}

/// A program that uses select(2) cannot take more than 1024, which is why that is the usual limit.
fn wanted_files(limit: u64) -> u64 {
    match limit {
        ..1024 => 1024,
        1024..16_384 => 65_536,
        _ => limit.saturating_mul(4),
    }
}

fn throttled(step: Step, it: &ImpedimentReport, holders: &Holders<'_>) -> Step {
    let Some(Detail::Quota { cgroup, cores, needed, .. }) = &it.detail else { return step };
    // A quarter to spare, in tenths of a processor.
    let wanted = ((needed * 1.25).max(cores * 1.25) * 10.0).ceil() / 10.0;
    let (now, commands) = cpu_limit(holders, wanted);
    Step {
        what: format!(
            "Raise the CPU limit of {} to {wanted:.1} processors instead of {cores}.",
            holders.names()
        ),
        why: format!("{} Unthrottled it would have used {needed:.2}.", step.why),
        now,
        commands,
        changes: vec![Change::CpuLimit { cgroup: cgroup.clone(), cores: wanted }],
        ..step
    }
}

fn memory(step: Step, it: &ImpedimentReport, holders: &Holders<'_>) -> Step {
    let who = holders.names();
    let limit = match &it.detail {
        Some(Detail::Memory { limit: Some(limit), cgroup }) => Some((*limit, cgroup)),
        _ => None,
    };
    let Some((limit, cgroup)) = limit else {
        return Step {
            what: format!("Give {who} more memory: it waits for the kernel to free some."),
            commands: vec!["cat /proc/pressure/memory; free -m".to_owned()],
            ..step
        };
    };
    let wanted = limit.saturating_mul(2);
    let (now, commands) = memory_limit(holders, wanted);
    Step {
        what: format!(
            "Raise the memory limit of {who} to {} MiB instead of {}.",
            wanted >> 20,
            limit >> 20
        ),
        now,
        commands,
        changes: vec![Change::MemoryLimit { cgroup: cgroup.clone(), bytes: wanted }],
        ..step
    }
}

fn sleeping(step: Step, holders: &Holders<'_>) -> Step {
    let hint = match holders.first().and_then(|owner| owner.server) {
        Some(Server::Tornado | Server::Aiohttp | Server::Uvicorn | Server::Hypercorn) => {
            "await asyncio.sleep(…)  # instead of time.sleep(…); blocking work: \
             loop.run_in_executor(…)"
        }
        Some(Server::Node) => "# no Atomics.wait or synchronous calls in handlers",
        _ => "# no sleep in a handler: a timer, or a thread or worker of its own",
    };
    Step {
        what: format!("Take the sleep out of the handlers of {}.", holders.names()),
        commands: [hint.to_owned()].into_iter().chain(look_at(holders)).collect(),
        ..step
    }
}
