//! `floodmark replay`: the story of a recording.

use std::{
    fmt::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use super::{
    diagnose::{parse_question, status_of},
    output::{print, print_json},
    record::open,
    story,
};
use crate::{
    printable::printable,
    record::{Damage, Replay, replay as go_through},
    time::UnixMs,
    verdict::{Diagnosis, Question, Verdict},
};

/// Arguments of `floodmark replay`.
#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// Recording of `floodmark record`
    file: PathBuf,
    /// Replay the arrivals against another queue: backlog=N, accept-rate=+50%, or both
    #[arg(long, value_name = "CHANGE", value_parser = parse_question)]
    what_if: Option<Question>,
    /// Print one JSON object: the report, and data about the recording
    #[arg(long)]
    json: bool,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Replayed<'a> {
    #[serde(flatten)]
    diagnosis: &'a Diagnosis,
    recording: Recording<'a>,
}

#[derive(Serialize)]
struct Recording<'a> {
    program: &'a str,
    kernel: &'a str,
    is_redacted: bool,
    begins_late: bool,
    has_end: bool,
    gaps: &'a [crate::time::Window],
    cut_bytes: u64,
    verdicts_same: u64,
    verdicts_from_before: u64,
    verdicts_differing: u64,
    differences: Vec<Difference<'a>>,
}

#[derive(Serialize)]
struct Difference<'a> {
    live: Option<&'a Verdict>,
    replayed: Option<&'a Verdict>,
}

/// Exit status as of `floodmark diagnose`.
pub(super) fn replay(args: &ReplayArgs) -> Result<ExitCode> {
    tell_recording(&args.file, args.what_if, args.json)
}

/// Replays a recording and prints what it comes to, as a story or as JSON.
pub(super) fn tell_recording(
    file: &Path,
    question: Option<Question>,
    json: bool,
) -> Result<ExitCode> {
    let replayed =
        go_through(open(file)?, |_, _| {}).with_context(|| file.display().to_string())?;
    let diagnosis = Diagnosis::of(&replayed.report, question);
    if json {
        let diagnosis = diagnosis.clone().without_flows();
        print_json(&as_json(&replayed, &diagnosis))?;
    } else {
        print(&format!("{}\n{}", story::tell(&diagnosis), tell(&replayed)))?;
    }
    Ok(status_of(&diagnosis))
}

fn as_json<'a>(replayed: &'a Replay, diagnosis: &'a Diagnosis) -> Replayed<'a> {
    let Replay { header, comparison, damage, begins_late, .. } = replayed;
    let differences = comparison.differences.iter();
    Replayed {
        diagnosis,
        recording: Recording {
            program: &header.program,
            kernel: &header.kernel,
            is_redacted: header.is_redacted,
            begins_late: *begins_late,
            has_end: damage.has_end,
            gaps: &damage.gaps,
            cut_bytes: damage.cut_bytes,
            verdicts_same: comparison.same,
            verdicts_from_before: comparison.before,
            verdicts_differing: comparison.differing,
            differences: differences
                .map(|(live, now)| Difference { live: live.as_ref(), replayed: now.as_ref() })
                .collect(),
        },
    }
}

/// Text about the recording itself.
fn tell(replayed: &Replay) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut out, replayed);
    out
}

fn write(out: &mut String, replayed: &Replay) -> fmt::Result {
    let Replay { header, report, comparison, damage, .. } = replayed;
    writeln!(
        out,
        "Recorded from {} to {} by floodmark {} on Linux {}{}.",
        clock(report.window.from),
        clock(report.window.to),
        printable(&header.program),
        printable(&header.kernel),
        if header.is_redacted { "; clients have pseudonyms" } else { "" }
    )?;
    if replayed.begins_late {
        writeln!(
            out,
            "It begins later than the agent, which started at {}.",
            clock(header.watching_since)
        )?;
    }
    tell_damage(out, damage)?;
    match (comparison.same, comparison.differing) {
        (0, 0) => writeln!(out, "No verdicts.")?,
        (same, 0) => writeln!(out, "Verdicts: {same}, all the same as recorded.")?,
        (same, differing) => {
            writeln!(out, "Verdicts: {same} the same as recorded, {differing} DIFFERENT:")?;
        }
    }
    if comparison.before > 0 {
        writeln!(
            out,
            "Verdicts that differ because they depend on time before the recording: {}.",
            comparison.before
        )?;
    }
    for (live, now) in &comparison.differences {
        let words = |verdict: &Option<Verdict>| {
            verdict.as_ref().map_or("none".to_owned(), |verdict| {
                format!("{} ({})", verdict.cause.name(), verdict.confidence.name())
            })
        };
        let which = live.as_ref().or(now.as_ref()).map(|verdict| &verdict.event);
        let (at, upstream) =
            which.map_or_else(Default::default, |e| (clock(e.at), e.upstream.to_string()));
        writeln!(
            out,
            "  {at} {}: recorded {}, now {}",
            printable(&upstream),
            words(live),
            words(now)
        )?;
    }
    if comparison.differing > 0 && !damage.is_whole() {
        writeln!(out, "  Their evidence may be in the damaged part.")?;
    }
    Ok(())
}

/// Text about the damage of a file.
pub(super) fn tell_damage(out: &mut String, damage: &Damage) -> fmt::Result {
    for gap in &damage.gaps {
        if gap.from == gap.to {
            writeln!(out, "The file is damaged: nothing after {} can be read.", clock(gap.from))?;
        } else {
            let (from, to) = (clock(gap.from), clock(gap.to));
            writeln!(out, "The file is damaged: nothing can be read between {from} and {to}.")?;
        }
    }
    if damage.cut_bytes > 0 {
        writeln!(
            out,
            "The last {} bytes are an incomplete block: the writer was killed, or the file is cut off. \
             At least the last 5 s may be missing.",
            damage.cut_bytes
        )?;
    } else if !damage.has_end && damage.gaps.is_empty() {
        writeln!(
            out,
            "The file has no end block: the writer was killed, or the file is cut off between two \
             blocks. At least the last 5 s may be missing."
        )?;
    }
    Ok(())
}

/// Universal time, to the second.
pub(super) fn clock(at: UnixMs) -> String {
    let at = Timestamp::from_millisecond(at.0 as i64).unwrap_or_default();
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}
