//! Findings for people who fix them: the lines, what is wrong, and the lines fixed.

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
/// `known` findings were left out.
pub fn tell(report: &Report, known: usize) -> String {
    let colours = stdout().is_terminal() && env::var_os("NO_COLOR").is_none();
    let renderer = if colours { Renderer::styled() } else { Renderer::plain() };
    draw(report, known, &renderer.decor_style(DecorStyle::Ascii))
}

fn draw(report: &Report, known: usize, renderer: &Renderer) -> String {
    let mut told = String::new();
    let mut explained = BTreeSet::new();
    for finding in &report.findings {
        let is_first = explained.insert(finding.rule.id);
        let groups = groups(finding, &report.texts, is_first);
        let _ = writeln!(told, "{}\n", renderer.render(&groups));
    }
    told + &sum(report, known)
}

fn sum(report: &Report, known: usize) -> String {
    let count = |level| report.findings.iter().filter(|f| f.level == level).count();
    let plural = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let files = plural(report.texts.len(), "file");
    let missing = match report.missing.len() + report.broken.len() {
        0 => String::new(),
        n => format!("; {n} more could not be read"),
    };
    let left_out = [(report.suppressed.len(), "allowed by comments"), (known, "in the baseline")];
    let left_out = left_out.iter().filter(|(count, _)| *count > 0);
    let left_out: String = left_out.map(|(count, why)| format!("; {count} {why}")).collect();
    let missing = missing + &left_out;
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
    let places = std::iter::once(&finding.place).chain(finding.also.iter().map(|(at, _)| at));
    let mut group = level
        .primary_title(finding.rule.title)
        .id(finding.rule.id)
        .elements(stretches(texts, places).into_iter().map(|it| snippet(finding, texts, &it)));
    if with_why {
        let why = textwrap::fill(finding.rule.why, WIDTH);
        group = group.element(Drawn::NOTE.with_name("why").message(why));
    }
    let places = finding.fixes.iter().map(|fix| &fix.place);
    let fixed = Drawn::HELP.secondary_title("fixed:").elements(
        stretches(texts, places).into_iter().map(|it| {
            let here = finding.fixes.iter().filter(|fix| it.has(&fix.place));
            source(texts, &it).patches(joined(here, it.bytes.start))
        }),
    );
    let mut groups = vec![group];
    if !finding.fixes.is_empty() {
        groups.push(fixed);
    }
    groups
}

/// Lines of a file that are shown together.
struct Stretch {
    file: FileId,
    first_line: usize,
    bytes: Range<usize>,
}

impl Stretch {
    fn has(&self, place: &Place) -> bool {
        self.file == place.file && self.bytes.start <= place.start && place.end <= self.bytes.end
    }

    fn range(&self, place: &Place) -> Range<usize> {
        place.start - self.bytes.start..place.end - self.bytes.start
    }
}

/// Lines further apart than this are shown apart, so that little of a long file is drawn.
const TOGETHER: usize = 50;

/// The lines of these places, in the order of the files they are in.
fn stretches<'a>(texts: &Texts, places: impl Iterator<Item = &'a Place>) -> Vec<Stretch> {
    let mut files: Vec<(FileId, Vec<(usize, usize)>)> = Vec::new();
    for place in places {
        let line = |byte| texts.line_and_column(place.file, byte).0;
        let lines = (line(place.start), line(place.end));
        match files.iter_mut().find(|(file, _)| *file == place.file) {
            Some((_, known)) => known.push(lines),
            None => files.push((place.file, vec![lines])),
        }
    }
    let mut found = Vec::new();
    for (file, mut lines) in files {
        lines.sort_unstable();
        let mut joined: Vec<(usize, usize)> = Vec::new();
        for (first, last) in lines {
            match joined.last_mut() {
                Some(before) if first <= before.1 + TOGETHER => before.1 = before.1.max(last),
                _ => joined.push((first, last)),
            }
        }
        found.extend(joined.into_iter().map(|(first, last)| Stretch {
            file,
            first_line: first,
            bytes: texts.lines(file, first, last),
        }));
    }
    found
}

/// Patches must not touch each other: those at one place become one.
fn joined<'a>(fixes: impl Iterator<Item = &'a Fix>, from: usize) -> Vec<Patch<'static>> {
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
    let patch = |(range, text): (Range<usize>, String)| {
        let range = range.start - from..range.end - from;
        Patch::new(range, printable_lines(&text).into_owned())
    };
    joined.into_iter().map(patch).collect()
}

fn source<'a, T: Clone>(texts: &'a Texts, stretch: &Stretch) -> Snippet<'a, T> {
    let file = texts.get(stretch.file);
    // What is pointed at is counted in bytes.
    let text = printable_in_place(&file.text[stretch.bytes.clone()]);
    Snippet::source(text).line_start(stretch.first_line).path(printable(&file.path))
}

fn snippet<'a>(
    finding: &'a Finding,
    texts: &'a Texts,
    stretch: &Stretch,
) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
    let mut snippet = source(texts, stretch);
    if stretch.has(&finding.place) {
        let span = AnnotationKind::Primary.span(stretch.range(&finding.place));
        snippet = snippet.annotation(span.label(printable(&finding.message)));
    }
    for (place, message) in finding.also.iter().filter(|(place, _)| stretch.has(place)) {
        let span = AnnotationKind::Context.span(stretch.range(place));
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
