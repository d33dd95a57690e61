//! What happened, in a few sentences for whoever never saw the tool.

use super::timeline::Timeline;
use crate::{
    inventory::Listener,
    kernel::Counter,
    proxy::{EventKind, ProxyKind},
    verdict::{ListenerReport, Report},
};

/// How bad it is; also the banner's class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grade {
    /// Connections were lost.
    Bad,
    /// A proxy had trouble, but no loss was counted here.
    Warn,
    /// Nothing.
    Good,
}

impl Grade {
    pub fn class(self) -> &'static str {
        match self {
            Self::Bad => "bad",
            Self::Warn => "warn",
            Self::Good => "good",
        }
    }
}

pub(super) struct Summary {
    pub grade: Grade,
    pub headline: String,
    pub sentences: Vec<String>,
}

/// A listener by address, namespace and what it belongs to.
pub(super) fn named(listener: &Listener) -> String {
    // The host's own namespace has no name but its number, which tells nobody anything.
    let netns = match listener.netns_name.as_str() {
        name if name.starts_with("net:[") => String::new(),
        name => format!(" in {name}"),
    };
    format!("{}{netns} ({})", listener.id.addr, owner(listener))
}

/// Who holds the socket: the process, with pod, container or unit.
pub(super) fn owner(listener: &Listener) -> String {
    let Some(owner) = listener.owners.first() else { return "owner unknown".to_owned() };
    let workload = &owner.workload;
    let pod = workload.pod.as_ref().map(|pod| pod.name.clone().unwrap_or_else(|| pod.uid.clone()));
    let container = workload
        .container
        .as_ref()
        .map(|container| container.name.clone().unwrap_or_else(|| container.short_id().to_owned()));
    let place = match (pod, container) {
        (Some(pod), _) => format!(", pod {pod}"),
        (None, Some(container)) => format!(", container {container}"),
        (None, None) => workload.unit.as_ref().map(|unit| format!(", {unit}")).unwrap_or_default(),
    };
    format!("{}, pid {}{place}", owner.command, owner.pid)
}

pub(super) fn summary(report: &Report, timeline: &Timeline) -> Summary {
    let lossy: Vec<&ListenerReport> =
        report.listeners.iter().filter(|listener| listener.tally.drops() > 0).collect();
    let attributed: u64 = lossy.iter().map(|listener| listener.tally.drops()).sum();
    let counted: u64 = report.namespaces.iter().map(|it| it.kernel[Counter::ListenDrops]).sum();
    let lost = attributed.max(counted);
    let proxy = &report.proxy;
    let has_trouble = proxy.markings + proxy.no_live_peers + proxy.failed_attempts > 0;
    let (grade, headline) = match (lossy.as_slice(), has_trouble) {
        ([worst, ..], _) => {
            let what = if overflows_mostly(worst) {
                "its accept queue was full"
            } else {
                "mostly for reasons other than a full accept queue"
            };
            let more = match lossy.len() - 1 {
                0 => String::new(),
                more => format!(" {more} more listeners had losses."),
            };
            let drops = number(worst.tally.drops());
            let text = format!("{} lost {drops} handshakes: {what}.{more}", named(&worst.listener));
            (Grade::Bad, text)
        }
        ([], _) if lost > 0 => (
            Grade::Bad,
            format!("The kernel dropped {} handshakes of unknown listeners.", number(lost)),
        ),
        ([], true) => (
            Grade::Warn,
            "A proxy had problems with its peers, but no listener on this host lost a connection."
                .to_owned(),
        ),
        ([], false) => (Grade::Good, "No listener on this host lost a connection.".to_owned()),
    };
    let mut sentences = Vec::new();
    if let Some(worst) = lossy.first() {
        sentences.push(of_listener(worst));
    }
    if has_trouble {
        sentences.push(of_proxies(report, timeline));
    }
    if counted > 0 {
        sentences.push(of_reconciliation(report, counted));
    }
    Summary { grade, headline, sentences }
}

fn overflows_mostly(listener: &ListenerReport) -> bool {
    2 * listener.tally.overflows() > listener.tally.drops()
}

fn of_listener(worst: &ListenerReport) -> String {
    let queue = worst.listener.queue;
    let holds = u64::from(queue.limit) + 1;
    if overflows_mostly(worst) {
        format!(
            "Finished connections wait in a listener's accept queue until the application takes them. \
             This one holds {}, and {} times a handshake found it full. The kernel drops such a \
             handshake in silence: the application never learns of it, its log shows nothing, and \
             the client waits until it tries again or gives up.",
            number(holds),
            number(worst.tally.overflows())
        )
    } else {
        format!(
            "Its accept queue holds {} connections and was {} deep at most, so most of this was \
             dropped for other reasons than a full queue; the table of listeners has them.",
            number(holds),
            number(u64::from(worst.queue_high))
        )
    }
}

fn of_proxies(report: &Report, timeline: &Timeline) -> String {
    let proxy = &report.proxy;
    let kinds: std::collections::BTreeSet<ProxyKind> =
        proxy.verdicts.iter().map(|verdict| verdict.event.proxy).collect();
    let names: Vec<&str> = kinds.into_iter().map(ProxyKind::name).collect();
    let who = enumerate(&names);
    let failed = match proxy.failed_attempts {
        0 => String::new(),
        count => format!("reported {} and ", times(count, "failed attempt")),
    };
    let mut text =
        format!("{who} {failed}took a peer out of use {}", times(proxy.markings, "time"));
    if proxy.markings > 0 {
        text += &format!(
            "; {} of these were caused by losses that the kernel counted here",
            number(proxy.markings_joined)
        );
    }
    text.push('.');
    if proxy.no_live_peers > 0 {
        let length: f64 = timeline.outages.iter().map(|it| it.length().as_secs_f64()).sum();
        text += &format!(
            " {} had no live peer, so clients immediately got an error (such as 502), although \
             the applications were running",
            times(proxy.no_live_peers, "request")
        );
        text += &format!(
            ": {}, {length:.0} s in all.",
            times(timeline.outages.len() as u64, "such period")
        );
    }
    text
}

fn of_reconciliation(report: &Report, counted: u64) -> String {
    let rest: i64 = report
        .namespaces
        .iter()
        .filter_map(|netns| netns.unattributed.get(Counter::ListenDrops.name()))
        .map(|rest| rest.abs())
        .sum();
    match rest {
        0 => format!(
            "The kernel's counter of dropped handshakes grew by {}, and all of them are \
             attributed here.",
            number(counted)
        ),
        rest => format!(
            "The kernel's counter of dropped handshakes grew by {}; {} of them could not be \
             attributed to a listener.",
            number(counted),
            number(rest.unsigned_abs())
        ),
    }
}

fn times(count: u64, what: &str) -> String {
    format!("{} {what}{}", number(count), if count == 1 { "" } else { "s" })
}

fn enumerate(names: &[&str]) -> String {
    match names {
        [] => "The proxy".to_owned(),
        [name] => (*name).to_owned(),
        [others @ .., last] => format!("{} and {last}", others.join(", ")),
    }
}

/// With a thin space between thousands.
pub(super) fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push('\u{2009}');
        }
        text.push(digit);
    }
    text
}

/// An event of a proxy, in words.
pub(super) fn event_words(kind: &EventKind) -> &'static str {
    match kind {
        EventKind::AttemptFailed { .. } => "attempt failed",
        EventKind::PeerMarked { .. } => "peer marked as down",
        EventKind::PeerBack => "peer back in use",
        EventKind::NoLivePeers => "no live peer",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        let shown = [0, 999, 1000, 1_234_567].map(number);
        assert_eq!(shown, ["0", "999", "1\u{2009}000", "1\u{2009}234\u{2009}567"]);
    }
}
