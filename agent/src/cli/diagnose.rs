//! `floodmark diagnose`: watch this host for a while, or read a recording, then report.

mod enough;
mod question;

use std::{
    io::{IsTerminal, stderr},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::SignedDuration;
use tokio::sync::{mpsc, watch};

use super::{
    HEALTHY, ProxyArgs, TROUBLE,
    output::{print, print_json, say},
    replay::tell_recording,
    run::stop_signal,
    story,
};
use crate::{
    agent::{Agent, AgentConfig, Snapshot},
    verdict::{Diagnosis, Question, Report},
};
use enough::Enough;
pub(super) use question::parse as parse_question;

/// Difference between the watched and the requested time that is not reported: the samples at the end take
/// some time.
const UNTOLD: Duration = Duration::from_secs(2);

/// Arguments of `floodmark diagnose`.
#[derive(Debug, Args)]
pub(super) struct DiagnoseArgs {
    /// Diagnose this recording of `floodmark record` instead of this host
    #[arg(conflicts_with_all = ["duration", "full", "namespaces", "ProxyArgs"])]
    file: Option<PathBuf>,
    /// Watch at most this long; Ctrl-C ends earlier and reports
    #[arg(long, default_value = "30s", value_parser = duration)]
    duration: Duration,
    /// Watch for the whole --duration even if the answer is clear earlier
    #[arg(long)]
    full: bool,
    /// Observe only this network namespace, by its name under /run/netns (repeatable). Default: all
    #[arg(long = "netns", value_name = "NAME")]
    namespaces: Vec<String>,
    /// Replay the arrivals against another queue: backlog=N, accept-rate=+50%, accept-rate=200 (per second),
    /// or both, separated by a comma
    #[arg(long, value_name = "CHANGE", value_parser = parse_question)]
    what_if: Option<Question>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    proxy: ProxyArgs,
}

impl DiagnoseArgs {
    /// The recording to diagnose.
    pub(super) fn recording(&self) -> Option<&Path> {
        self.file.as_deref()
    }
}

/// Diagnoses a recording. Exit status as of [`diagnose`].
pub(super) fn diagnose_recording(file: &Path, args: &DiagnoseArgs) -> Result<ExitCode> {
    tell_recording(file, args.what_if, args.json)
}

/// Exit status 0 if nothing was lost and no peer failed, otherwise 1.
pub(super) async fn diagnose(args: DiagnoseArgs) -> Result<ExitCode> {
    let stop = stop_signal()?;
    let config = AgentConfig {
        watch_causes: true,
        watch_connections: true,
        namespaces: args.namespaces,
        ..args.proxy.config()?
    };
    let agent = Agent::start(&config)?;
    let (snapshots, latest) = watch::channel(None);
    let bar = progress(args.duration);
    let clear = advance(bar.clone(), latest.clone(), !args.full);
    let mut ended = Ended::InTime;
    let enough = async {
        ended = tokio::select! {
            () = tokio::time::sleep(args.duration) => Ended::InTime,
            () = stop => Ended::Interrupted,
            () = clear => Ended::Clear,
        };
    };
    let (_, no_changes) = mpsc::channel(1);
    agent.run(&snapshots, enough, no_changes, |_| {}).await?;
    bar.finish_and_clear();
    let snapshot = latest.borrow().clone().context("the agent ended without a report")?;
    let watched = snapshot.report.window.length();
    if let Some(note) = ended.note(args.duration, watched) {
        say(&note);
    }
    tell(&snapshot.report, Some(args.duration), args.what_if, args.json)
}

/// Why watching ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    InTime,
    Interrupted,
    Clear,
}

impl Ended {
    /// What to say where the stretch of time watched is not the one asked for.
    fn note(self, asked: Duration, watched: Duration) -> Option<String> {
        if asked.abs_diff(watched) <= UNTOLD {
            return None;
        }
        let why = match self {
            _ if watched > asked => "this host was too busy for the agent to sample in time",
            Self::Interrupted => "it was interrupted",
            Self::Clear => "the answer was clear; --full watches for the whole time",
            Self::InTime => return None,
        };
        let (asked, watched) = (asked.as_secs_f64(), watched.as_secs_f64());
        Some(format!("watched {watched:.1} s instead of {asked:.1} s: {why}"))
    }
}

/// Prints the diagnosis of a report as text or JSON; the exit status says whether there is trouble.
fn tell(
    report: &Report,
    asked: Option<Duration>,
    question: Option<Question>,
    json: bool,
) -> Result<ExitCode> {
    let asked_ms = asked.map(|asked| asked.as_millis() as u64);
    let diagnosis = Diagnosis { asked_ms, ..Diagnosis::of(report, question) };
    if json {
        print_json(&diagnosis.clone().without_flows())?;
    } else {
        print(&story::tell(&diagnosis))?;
    }
    Ok(status_of(&diagnosis))
}

/// Whether there is trouble.
pub(super) fn status_of(diagnosis: &Diagnosis) -> ExitCode {
    ExitCode::from(if diagnosis.healthy { HEALTHY } else { TROUBLE })
}

/// A bar on a terminal, a line elsewhere; both on standard error.
fn progress(duration: Duration) -> ProgressBar {
    if !stderr().is_terminal() {
        say(&format!("watching for {} s", duration.as_secs()));
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(duration.as_secs());
    let style = ProgressStyle::with_template("watching {bar:30} {pos}/{len} s  {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// Moves the bar along with what has been found so far; ends when the answer is clear, if that may
/// be, else never.
async fn advance(
    bar: ProgressBar,
    mut latest: watch::Receiver<Option<Arc<Snapshot>>>,
    may_end: bool,
) {
    let mut enough = Enough::default();
    while latest.changed().await.is_ok() {
        if let Some(snapshot) = latest.borrow_and_update().as_ref() {
            let report = &snapshot.report;
            let lost: u64 = report.listeners.iter().map(|l| l.tally.drops()).sum();
            bar.set_position(report.window.length().as_secs());
            bar.set_message(format!("{lost} dropped, {} markings", report.proxy.markings));
            if enough.is_clear(report) && may_end {
                return;
            }
        }
    }
    std::future::pending().await
}

/// A duration on the command line.
pub(super) fn duration(text: &str) -> Result<Duration> {
    let parsed: SignedDuration =
        text.parse().map_err(|_| anyhow!("not a duration; write it like 30s, 5m or 1h30m"))?;
    let duration =
        Duration::try_from(parsed).map_err(|_| anyhow!("a duration must not be negative"))?;
    (!duration.is_zero()).then_some(duration).context("must be greater than zero")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::{super::Cli, *};

    fn is_taken(words: &str) -> bool {
        let words = ["floodmark", "diagnose"].into_iter().chain(words.split_whitespace());
        Cli::command().try_get_matches_from(words).is_ok()
    }

    #[test]
    fn another_time_than_asked_for_is_said_with_its_reason() {
        let note = |ended: Ended, watched| {
            ended.note(Duration::from_secs(16), Duration::from_secs(watched)).unwrap_or_default()
        };
        assert_eq!(note(Ended::InTime, 17), "");
        assert!(
            note(Ended::InTime, 37).contains("37.0 s instead of 16.0 s: this host was too busy")
        );
        assert!(note(Ended::Clear, 12).contains("the answer was clear"));
        assert!(note(Ended::Interrupted, 3).contains("interrupted"));
    }

    #[test]
    fn a_recording_is_told_of_and_nothing_watched() {
        assert!(is_taken("incident.fmr --json --what-if backlog=1024"));
        for watching in
            ["--duration 5s", "--full", "--nginx-uprobes", "--netns a", "--nginx-error-log /x"]
        {
            assert!(!is_taken(&format!("incident.fmr {watching}")), "{watching}");
            assert!(is_taken(watching), "{watching}");
        }
    }
}
