//! Findings that a comment in the configuration allows: `# floodmark: allow RULE -- REASON`, on the line
//! itself or on lines of its own above it.

use std::collections::{BTreeSet, HashMap};

use super::{
    finding::Finding,
    rules,
    text::{FileId, TextFile, Texts},
};

const MARK: &str = "floodmark: allow ";

/// What a comment allows, and why.
struct Allowed<'a> {
    rules: Vec<&'a str>,
    reason: &'a str,
}

/// Parts findings into those that a comment allows, each with the reason, and the others. A comment
/// without a reason allows nothing, and one that names no rule is noted.
pub fn by_comments(
    findings: Vec<Finding>,
    texts: &Texts,
    notes: &mut Vec<String>,
) -> (Vec<(Finding, String)>, Vec<Finding>) {
    let files: BTreeSet<FileId> = findings.iter().map(|finding| finding.place.file).collect();
    let mut allowed = HashMap::new();
    for file in files {
        collect(file, texts.get(file), &mut allowed, notes);
    }
    let (mut suppressed, mut left) = (Vec::new(), Vec::new());
    for mut finding in findings {
        let line = texts.line(&finding.place);
        let here = allowed.get(&(finding.place.file, line)).into_iter().flatten();
        let mut here =
            here.filter(|allowed: &&Allowed<'_>| allowed.rules.contains(&finding.rule.id));
        match here.next() {
            Some(allowed) if !allowed.reason.is_empty() => {
                suppressed.push((finding, allowed.reason.to_owned()));
            }
            Some(_) => {
                finding.message += " (the comment that allows it gives no reason: add `-- REASON`)";
                left.push(finding);
            }
            None => left.push(finding),
        }
    }
    (suppressed, left)
}

fn collect<'a>(
    file: FileId,
    TextFile { path, text, .. }: &'a TextFile,
    allowed: &mut HashMap<(FileId, usize), Vec<Allowed<'a>>>,
    notes: &mut Vec<String>,
) {
    if !text.contains(MARK) {
        return;
    }
    // Comments on lines of their own hold for the next line that is none.
    let mut above: Vec<Allowed<'_>> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let found = comment(line);
        if let Some(comment) = &found {
            let is_unknown = |name: &&&str| !rules().any(|rule| rule.id == **name);
            let unknown = comment.rules.iter().filter(is_unknown);
            notes.extend(
                unknown.map(|name| format!("{path}:{}: no rule is called {name}", index + 1)),
            );
        }
        above.extend(found);
        if !line.trim_start().starts_with('#') && !line.trim().is_empty() {
            allowed.entry((file, index + 1)).or_default().append(&mut above);
        }
    }
}

fn comment(line: &str) -> Option<Allowed<'_>> {
    let (_, comment) = line.split_once('#')?;
    let text = comment.split_once(MARK)?.1;
    let (names, reason) = text.split_once("--").unwrap_or((text, ""));
    let rules = names.split([',', ' ']).map(str::trim).filter(|name| !name.is_empty()).collect();
    Some(Allowed { rules, reason: reason.trim() })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::lint::{
        Report,
        finding::{Facts, Format},
        root::Root,
    };

    fn looked(text: &str) -> Report {
        let mut report = Report::default();
        let root = Root::new(Path::new("/")).unwrap();
        let path = Path::new("/etc/haproxy/haproxy.cfg");
        report.look(Format::Haproxy, &root, path, text.as_bytes(), &Facts::default()).unwrap();
        report
    }

    #[test]
    fn a_comment_with_a_reason_allows_what_it_names() {
        let report = looked(
            "backend a\n # floodmark: allow haproxy-single-server -- one host only\n\n server a 10.0.0.1:80\n\
             backend b\n server b 10.0.0.1:80 # floodmark: allow haproxy-single-server -- a test\n\
             backend c\n server c 10.0.0.1:80\n",
        );
        let reasons: Vec<_> = report.suppressed.iter().map(|(_, reason)| reason.as_str()).collect();
        assert_eq!(reasons, ["one host only", "a test"]);
        assert_eq!(report.findings.len(), 1);
    }

    #[test]
    fn a_comment_without_a_reason_or_a_rule_is_pointed_out() {
        let report = looked(
            "backend a\n server a 10.0.0.1:80 # floodmark: allow haproxy-single-server, no-such-rule\n",
        );
        assert!(report.findings[0].message.contains("no reason"), "{:?}", report.findings);
        assert!(report.missing[0].ends_with("haproxy.cfg:2: no rule is called no-such-rule"));
    }
}
