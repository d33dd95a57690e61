//! The agent's verdicts against the truth.

use std::collections::BTreeMap;

use floodmark::{
    proxy::{EventKind, Failure, Phase},
    verdict::{Cause, Confidence, Verdict},
};
use serde::Serialize;

use super::{
    case::{CASES, Case, Proxy},
    proxies::port,
};

/// One verdict and what it should have been.
#[derive(Clone, Debug, Serialize)]
pub struct Judged {
    /// Name of the case.
    pub case: &'static str,
    pub proxy: &'static str,
    pub event: &'static str,
    /// How the attempt failed, by the event's own word.
    pub failure: Option<Failure>,
    /// The peer or group.
    pub upstream: String,
    pub truth: Cause,
    /// The agent's verdict.
    pub verdict: Cause,
    /// How sure it was.
    pub confidence: Confidence,
    /// By how much the kernel knew earlier, in milliseconds.
    pub lead_ms: Option<u64>,
    /// Whether the join was by the four addresses and ports.
    pub is_exact: bool,
    /// Whether the verdict is right.
    pub right: bool,
    /// The agent's words.
    pub because: String,
}

/// What the suite came to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Score {
    /// Verdicts that belong to a case.
    pub verdicts: usize,
    /// Of them right.
    pub right: usize,
    /// Of them wrong, and given with high confidence.
    pub wrong_and_sure: usize,
    /// "No kernel evidence" that was the truth.
    pub honest: usize,
    /// "No kernel evidence" where there was some.
    pub blind: usize,
    /// Verdicts of no case at all.
    pub strays: usize,
    /// Cases, by proxy, of which no verdict came.
    pub silent: Vec<String>,
    /// Right and all, by case and proxy.
    pub by_case: BTreeMap<String, (usize, usize)>,
}

impl Score {
    /// Whether it is good enough.
    pub fn passes(&self) -> bool {
        self.verdicts > 0
            && self.right * 100 >= self.verdicts * 95
            && self.wrong_and_sure == 0
            && self.strays == 0
            && self.silent.is_empty()
    }
}

/// Compares each verdict with the truth of its case. Of each of the `runs` at least one is expected.
pub fn judge(verdicts: &[Verdict], runs: &[(usize, Proxy)]) -> (Vec<Judged>, Score) {
    let mut score = Score::default();
    for (number, proxy) in runs {
        score.by_case.insert(format!("{} {}", CASES[*number].name, proxy.name()), (0, 0));
    }
    let mut judged = Vec::new();
    for verdict in verdicts {
        match case_of(verdict) {
            Some((case, proxy)) => {
                let one = compare(verdict, case, proxy);
                score.verdicts += 1;
                score.right += usize::from(one.right);
                let sure = one.confidence == Confidence::High;
                score.wrong_and_sure += usize::from(!one.right && sure);
                if one.verdict == Cause::NoKernelEvidence {
                    score.honest += usize::from(one.right);
                    score.blind += usize::from(!one.right);
                }
                let key = format!("{} {}", case.name, proxy.name());
                let (right, all) = score.by_case.entry(key).or_default();
                *right += usize::from(one.right);
                *all += 1;
                judged.push(one);
            }
            None => score.strays += 1,
        }
    }
    let silent = score.by_case.iter().filter(|(_, (_, all))| *all == 0);
    score.silent = silent.map(|(name, _)| name.clone()).collect();
    (judged, score)
}

fn compare(verdict: &Verdict, case: &Case, proxy: Proxy) -> Judged {
    Judged {
        case: case.name,
        proxy: proxy.name(),
        event: verdict.event.kind.name(),
        failure: failed(verdict).1,
        upstream: verdict.event.upstream.to_string(),
        truth: case.truth,
        verdict: verdict.cause,
        confidence: verdict.confidence,
        lead_ms: verdict.lead_ms,
        is_exact: verdict.is_exact,
        right: is_right(verdict, case),
        because: verdict.because.clone(),
    }
}

fn is_right(verdict: &Verdict, case: &Case) -> bool {
    let (phase, failure) = failed(verdict);
    let in_silence = failure == Some(Failure::TIMEOUT) && case.in_silence == Some(verdict.cause);
    let later = verdict.cause == case.truth || case.also.contains(&verdict.cause) || in_silence;
    match (case.at_connect, phase) {
        (Some(truth), Phase::Connect) => verdict.cause == truth,
        (Some(truth), Phase::Other) => verdict.cause == truth || later,
        _ => later,
    }
}

/// When and how the attempt failed, as far as the event tells.
fn failed(verdict: &Verdict) -> (Phase, Option<Failure>) {
    match verdict.event.kind {
        EventKind::AttemptFailed { phase, failure } => (phase, Some(failure)),
        EventKind::PeerMarked { phase, failure } => (phase, failure),
        _ => (Phase::Other, None),
    }
}

/// The case that an event belongs to: by its peer's port, or its group's name.
fn case_of(verdict: &Verdict) -> Option<(&'static Case, Proxy)> {
    let event = &verdict.event;
    let proxy = Proxy::ALL.into_iter().find(|proxy| proxy.name() == event.proxy.name())?;
    let by_name = event.group_name().and_then(|name| CASES.iter().find(|c| c.name == name));
    let by_port = || {
        let addr = event.addr().filter(|_| event.kind != EventKind::NoLivePeers)?;
        let mut numbered = CASES.iter().enumerate();
        numbered.find(|(number, _)| port(*number, proxy) == addr.port()).map(|(_, case)| case)
    };
    Some((by_name.or_else(by_port)?, proxy))
}
