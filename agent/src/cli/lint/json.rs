//! Findings as one JSON object.

use serde_json::{Value, json};

use crate::lint::{
    Report,
    finding::{Finding, Fix},
    text::{Place, Texts},
};

/// Everything that was found.
pub fn object(report: &Report) -> Value {
    let texts = &report.texts;
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "files": texts.iter().map(|(_, file)| &file.path).collect::<Vec<_>>(),
        "not_read": report.missing,
        "broken": report.broken,
        "suppressed": report.suppressed.iter().map(|(f, reason)| {
            with(finding(f, texts), "reason", json!(reason))
        }).collect::<Vec<_>>(),
        "findings": report.findings.iter().map(|f| finding(f, texts)).collect::<Vec<_>>(),
    })
}

fn finding(finding: &Finding, texts: &Texts) -> Value {
    let also: Vec<Value> = finding
        .also
        .iter()
        .map(|(at, message)| with(place(at, texts), "message", json!(message)))
        .collect();
    let fixes: Vec<Value> = finding.fixes.iter().map(|m| fix(m, texts)).collect();
    let said = [
        ("rule", json!(finding.rule.id)),
        ("level", json!(finding.level)),
        ("title", json!(finding.rule.title)),
        ("message", json!(finding.message)),
        ("why", json!(finding.rule.why)),
        ("versions", json!(finding.rule.versions)),
        ("also", json!(also)),
        ("fixes", json!(fixes)),
    ];
    said.into_iter()
        .fold(place(&finding.place, texts), |object, (key, value)| with(object, key, value))
}

fn with(mut object: Value, key: &str, value: Value) -> Value {
    object[key] = value;
    object
}

fn place(place: &Place, texts: &Texts) -> Value {
    let (line, column) = texts.line_and_column(place.file, place.start);
    let (end_line, end_column) = texts.line_and_column(place.file, place.end);
    json!({
        "file": texts.get(place.file).path,
        "line": line, "column": column, "end_line": end_line, "end_column": end_column,
    })
}

fn fix(fix: &Fix, texts: &Texts) -> Value {
    with(place(&fix.place, texts), "text", json!(fix.text))
}
