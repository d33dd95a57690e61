//! Findings as SARIF 2.1.0 (OASIS, sarif-v2.1.0-os), which code hosts and editors show beside the
//! lines.

use serde_json::{Value, json};

use crate::lint::{
    Report,
    finding::{Finding, Fix, Level},
    rules,
    text::{Place, Texts},
};

const SCHEMA: &str =
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/schemas/sarif-schema-2.1.0.json";

/// The log, with one run.
pub fn log(report: &Report) -> Value {
    let rules: Vec<Value> = rules()
        .map(|rule| {
            json!({
                "id": rule.id,
                "shortDescription": {"text": rule.title},
                "fullDescription": {"text": rule.why},
                "help": {"text": format!("{} Versions: {}.", rule.why, rule.versions)},
                "defaultConfiguration": {"level": level(rule.level)},
            })
        })
        .collect();
    let results = report.findings.iter().map(|finding| result(finding, &report.texts));
    let suppressed = report.suppressed.iter().map(|(finding, reason)| {
        let mut result = result(finding, &report.texts);
        result["suppressions"] = json!([{"kind": "inSource", "justification": reason}]);
        result
    });
    let results: Vec<Value> = results.chain(suppressed).collect();
    let notifications =
        [notifications("warning", &report.missing), notifications("error", &report.broken)]
            .concat();
    json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "floodmark",
                "version": env!("CARGO_PKG_VERSION"),
                "informationUri": env!("CARGO_PKG_REPOSITORY"),
                "rules": rules,
            }},
            "columnKind": "unicodeCodePoints",
            "invocations": [{
                "executionSuccessful": report.broken.is_empty(),
                "toolExecutionNotifications": notifications,
            }],
            "results": results,
        }],
    })
}

fn notifications(level: &str, texts: &[String]) -> Vec<Value> {
    texts.iter().map(|text| json!({"level": level, "message": {"text": text}})).collect()
}

fn level(level: Level) -> &'static str {
    match level {
        Level::Warning => "warning",
        Level::Note => "note",
    }
}

fn result(finding: &Finding, texts: &Texts) -> Value {
    let related: Vec<Value> = finding
        .also
        .iter()
        .map(|(place, message)| {
            let mut location = location(place, texts);
            location["message"] = json!({"text": message});
            location
        })
        .collect();
    let mut result = json!({
        "ruleId": finding.rule.id,
        "ruleIndex": rules().position(|rule| rule == finding.rule),
        "level": level(finding.level),
        "message": {"text": format!("{}: {}", finding.rule.title, finding.message)},
        "locations": [location(&finding.place, texts)],
        "relatedLocations": related,
    });
    if !finding.fixes.is_empty() {
        result["fixes"] = json!([{
            "description": {"text": "the lines fixed"},
            "artifactChanges": changes(&finding.fixes, texts),
        }]);
    }
    result
}

/// One for each file.
fn changes(fixes: &[Fix], texts: &Texts) -> Vec<Value> {
    let mut files: Vec<_> = fixes.iter().map(|fix| fix.place.file).collect();
    files.sort_unstable();
    files.dedup();
    let of = |file| {
        let here = fixes.iter().filter(move |fix| fix.place.file == file);
        let replacements: Vec<Value> = here
            .map(|fix| {
                json!({
                    "deletedRegion": region(&fix.place, texts),
                    "insertedContent": {"text": fix.text},
                })
            })
            .collect();
        json!({"artifactLocation": {"uri": uri(&texts.get(file).path)}, "replacements": replacements})
    };
    files.into_iter().map(of).collect()
}

fn location(place: &Place, texts: &Texts) -> Value {
    json!({"physicalLocation": {
        "artifactLocation": {"uri": uri(&texts.get(place.file).path)},
        "region": region(place, texts),
    }})
}

fn region(place: &Place, texts: &Texts) -> Value {
    let (line, column) = texts.line_and_column(place.file, place.start);
    let (end_line, end_column) = texts.line_and_column(place.file, place.end);
    json!({
        "startLine": line, "startColumn": column, "endLine": end_line, "endColumn": end_column,
    })
}

/// A path as a URI reference (RFC 3986): relative ones stay so, for code hosts to find them.
fn uri(path: &str) -> String {
    let escaped: String = path
        .bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect();
    if path.starts_with('/') { format!("file://{escaped}") } else { escaped }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_sarif::sarif::Sarif;

    use super::*;
    use crate::lint::{
        finding::{Facts, Format},
        root::Root,
    };

    /// The types of `serde-sarif` are made from the standard's own schema, and refuse what is not in
    /// it.
    #[test]
    fn the_log_keeps_to_the_schema() {
        let text = "upstream a { server 10.0.0.1; server 10.0.0.2; }
            server { location / { proxy_pass http://a; } } include absent;";
        let mut report = Report::default();
        let root = Root::new(Path::new("/")).unwrap();
        let look = report.look(
            Format::Nginx,
            &root,
            Path::new("/etc/nginx/a site"),
            text.as_bytes(),
            &Facts::default(),
        );
        look.unwrap();
        let log = log(&report);
        let read: Sarif = serde_json::from_value(log.clone()).unwrap();
        assert_eq!(serde_json::to_value(read).unwrap(), log, "something is not in the schema");
        let result = &log["runs"][0]["results"][0];
        let uri = &result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"];
        assert_eq!(uri, "file:///etc/nginx/a%20site");
        assert!(result["fixes"].is_array());
        let rule = result["ruleIndex"].as_u64().unwrap() as usize;
        assert_eq!(log["runs"][0]["tool"]["driver"]["rules"][rule]["id"], result["ruleId"]);
    }
}
