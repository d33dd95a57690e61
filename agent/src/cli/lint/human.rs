//! Findings for whoever fixes them: the lines, what is wrong, and the lines fixed.

use std::{
    collections::BTreeSet,
    env,
    fmt::Write,
    io::{IsTerminal, stdout},
    ops::Range,
};

use annotate_snippets::{
    AnnotationKind, Group, Level as Drawn, Patch, Renderer, Snippet, renderer::DecorStyle,
};

use crate::{
    lint::{
        Report,
        finding::{Finding, Fix, Format, Level},
        rules as all_rules,
        text::{FileId, Place, Texts},
    },
    printable::{printable, printable_in_place, printable_lines},
};

/// Columns for an explanation.
const WIDTH: usize = 88;

/// The whole of it; the last line sums up.
pub fn tell(report: &Report) -> String {
    let colours = stdout().is_terminal() && env::var_os("NO_COLOR").is_none();
    let renderer = if colours { Renderer::styled() } else { Renderer::plain() };
    draw(report, &renderer.decor_style(DecorStyle::Ascii))
}

fn draw(report: &Report, renderer: &Renderer) -> String {
    let mut told = String::new();
    let mut explained = BTreeSet::new();
    for finding in &report.findings {
        let is_first = explained.insert(finding.rule.id);
        let groups = groups(finding, &report.texts, is_first);
        let _ = writeln!(told, "{}\n", renderer.render(&groups));
    }
    told + &sum(report)
}

fn sum(report: &Report) -> String {
    let count = |level| report.findings.iter().filter(|f| f.level == level).count();
    let plural = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let files = plural(report.texts.len(), "file");
    let missing = match report.missing.len() + report.broken.len() {
        0 => String::new(),
        n => format!("; {n} more could not be read"),
    };
    if report.findings.is_empty() {
        return format!("nothing found in {files}{missing}\n");
    }
    let (warnings, notes) = (count(Level::Warning), count(Level::Note));
    let (warnings, notes) = (plural(warnings, "warning"), plural(notes, "note"));
    format!("{warnings} and {notes} in {files}{missing}\n")
}

fn groups<'a>(finding: &'a Finding, texts: &'a Texts, with_why: bool) -> Vec<Group<'a>> {
    let level = match finding.level {
        Level::Warning => Drawn::WARNING,
        Level::Note => Drawn::NOTE,
    };
    let mut group = level.primary_title(finding.rule.title).id(finding.rule.id).elements(
        files(std::iter::once(&finding.place).chain(finding.also.iter().map(|(at, _)| at)))
            .into_iter()
            .map(|file| snippet(finding, texts, file)),
    );
    if with_why {
        let why = textwrap::fill(finding.rule.why, WIDTH);
        group = group.element(Drawn::NOTE.with_name("why").message(why));
    }
    let fixed = Drawn::HELP.secondary_title("fixed:").elements(
        files(finding.fixes.iter().map(|fix| &fix.place)).into_iter().map(|file| {
            let patches = finding.fixes.iter().filter(|fix| fix.place.file == file);
            source(texts, file).patches(joined(patches))
        }),
    );
    let mut groups = vec![group];
    if !finding.fixes.is_empty() {
        groups.push(fixed);
    }
    groups
}

/// Each once, in the order in which they come.
fn files<'a>(places: impl Iterator<Item = &'a Place>) -> Vec<FileId> {
    let mut files: Vec<FileId> = Vec::new();
    for place in places {
        if !files.contains(&place.file) {
            files.push(place.file);
        }
    }
    files
}

/// Patches must not touch each other: those at one place become one.
fn joined<'a>(fixes: impl Iterator<Item = &'a Fix>) -> Vec<Patch<'static>> {
    let mut joined: Vec<(Range<usize>, String)> = Vec::new();
    let mut sorted: Vec<&Fix> = fixes.collect();
    sorted.sort_by_key(|fix| fix.place.clone());
    sorted.dedup();
    for fix in sorted {
        match joined.last_mut() {
            Some((range, text)) if range.end >= fix.place.start => {
                range.end = range.end.max(fix.place.end);
                text.push_str(&fix.text);
            }
            _ => joined.push((fix.place.range(), fix.text.clone())),
        }
    }
    let patch = |(range, text): (_, String)| Patch::new(range, printable_lines(&text).into_owned());
    joined.into_iter().map(patch).collect()
}

fn source<'a, T: Clone>(texts: &'a Texts, file: FileId) -> Snippet<'a, T> {
    let file = texts.get(file);
    // What is pointed at is counted in bytes.
    Snippet::source(printable_in_place(&file.text)).path(printable(&file.path))
}

fn snippet<'a>(
    finding: &'a Finding,
    texts: &'a Texts,
    file: FileId,
) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
    let mut snippet = source(texts, file);
    if finding.place.file == file {
        let span = AnnotationKind::Primary.span(finding.place.range());
        snippet = snippet.annotation(span.label(printable(&finding.message)));
    }
    for (place, message) in finding.also.iter().filter(|(place, _)| place.file == file) {
        let span = AnnotationKind::Context.span(place.range());
        snippet = snippet.annotation(span.label(printable(message)));
    }
    snippet
}

/// Every rule, in Markdown; docs/lint.md holds the same.
pub fn rules() -> String {
    let mut told = String::new();
    for format in [Format::Nginx, Format::Haproxy, Format::Envoy] {
        let _ = writeln!(told, "## {}\n", format.name());
        for rule in all_rules().filter(|rule| rule.format == format) {
            let level = match rule.level {
                Level::Warning => "warning",
                Level::Note => "note",
            };
            let _ = writeln!(
                told,
                "### {}\n\n**{}** ({level}; versions: {}). {}\n",
                rule.id, rule.title, rule.versions, rule.why
            );
        }
    }
    told
}
