//! What both agents told a Collector, against what the one printed and the other counted.

use std::collections::BTreeSet;

use floodmark::{
    proxy::EventKind,
    verdict::{Cause, Verdict},
};

use super::{
    Check,
    cast::{APP_HOST, PROXY_HOST},
    collector::Told,
};

/// Compares them. `overflows` is what the application host's agent counted.
pub fn compare(alone: &[Verdict], overflows: u64, told: &[Told]) -> Vec<Check> {
    vec![
        verdicts(alone, &named(told, "floodmark.verdict")),
        events(
            alone,
            &[
                named(told, "floodmark.proxy.attempt_failed"),
                named(told, "floodmark.proxy.peer_marked"),
            ],
        ),
        losses(overflows, &named(told, "floodmark.losses")),
    ]
}

fn named<'a>(told: &'a [Told], name: &str) -> Vec<&'a Told> {
    told.iter().filter(|one| one.name == name).collect()
}

impl Told {
    fn is_from(&self, host: &str) -> bool {
        let is = |key: &str, value: &str| self.resource.get(key) == Some(&format!("Str({value})"));
        is("service.name", "floodmark") && is("host.name", host)
    }

    /// An attribute that is text.
    fn text(&self, key: &str) -> Option<&str> {
        self.attributes.get(key)?.strip_prefix("Str(")?.strip_suffix(')')
    }

    /// An attribute that is a number.
    fn number(&self, key: &str) -> Option<u64> {
        self.attributes.get(key)?.strip_prefix("Int(")?.strip_suffix(')')?.parse().ok()
    }

    /// The peer that it is about.
    fn peer(&self) -> Option<String> {
        Some(format!(
            "{}:{}",
            self.text("network.peer.address")?,
            self.number("network.peer.port")?
        ))
    }
}

/// Each verdict that the agent printed, in the same order.
fn verdicts(alone: &[Verdict], told: &[&Told]) -> Check {
    let same = |(one, told): &(&Verdict, &&Told)| {
        told.is_from(PROXY_HOST)
            && told.peer() == one.event.addr().map(|addr| addr.to_string())
            && told.text("floodmark.proxy.name") == Some("nginx")
            && told.text("floodmark.proxy.event") == Some(one.event.kind.name())
            && told.text("floodmark.verdict.cause") == Some(Cause::NoKernelEvidence.name())
            && told.text("floodmark.verdict.confidence") == Some(one.confidence.name())
            && told.number("floodmark.verdict.window.from") == Some(one.window.from.0)
            && told.number("floodmark.verdict.window.to") == Some(one.window.to.0)
            && told.attributes.get("floodmark.verdict.is_exact") == Some(&"Bool(false)".to_owned())
    };
    let right = alone.iter().zip(told).filter(same).count();
    Check {
        what: "the Collector has each verdict, with its attributes",
        holds: right == alone.len() && told.len() == right && right > 0,
        detail: format!("{right} of {}, {} in all", alone.len(), told.len()),
    }
}

/// Each attempt and each marking that nginx told of.
fn events(alone: &[Verdict], [attempts, markings]: &[Vec<&Told>; 2]) -> Check {
    let marks =
        alone.iter().filter(|one| matches!(one.event.kind, EventKind::PeerMarked { .. })).count();
    let peers: BTreeSet<Option<String>> = alone
        .iter()
        .filter_map(|one| one.event.addr())
        .map(|addr| Some(addr.to_string()))
        .collect();
    let same = |told: &&&Told| {
        told.is_from(PROXY_HOST)
            && told.severity == "WARN"
            && told.text("error.type") == Some("ETIMEDOUT")
            && told.text("floodmark.attempt.phase") == Some("connect")
            && told.text("network.transport") == Some("tcp")
            && peers.contains(&told.peer())
    };
    let count = |told: &[&Told]| told.iter().filter(same).count();
    let (right_attempts, right_marks) = (count(attempts), markings.len());
    Check {
        what: "the Collector has each attempt and each marking",
        holds: (right_attempts, right_marks) == (alone.len() - marks, marks)
            && attempts.len() == right_attempts
            && markings.iter().all(|told| told.is_from(PROXY_HOST) && peers.contains(&told.peer()))
            && marks > 0,
        detail: format!("{right_attempts} attempts, {right_marks} markings"),
    }
}

/// As many losses as the application host's agent counted.
fn losses(overflows: u64, told: &[&Told]) -> Check {
    const LOSSES: &str = "floodmark.losses.";
    let of = |told: &&Told| -> u64 {
        let losses = told
            .attributes
            .keys()
            .filter(|key| key.starts_with(LOSSES) && key.ends_with("/accept_queue_full"));
        losses.filter_map(|key| told.number(key)).sum()
    };
    let sum: u64 = told.iter().map(of).sum();
    let is_whole = |told: &&Told| {
        told.is_from(APP_HOST)
            && told.number("floodmark.accept_queue.limit") == Some(1)
            // The application is the lab's program, started by way of /proc/self/exe.
            && told.text("process.executable.name") == Some("exe")
            && told.text("floodmark.netns.name").is_some_and(|name| name.ends_with("-app1"))
            && told.number("server.port").is_some()
    };
    Check {
        what: "the Collector has every loss, with its owner",
        holds: sum == overflows && sum > 0 && told.iter().all(is_whole),
        detail: format!("{sum} of {overflows} overflows, {} records", told.len()),
    }
}
