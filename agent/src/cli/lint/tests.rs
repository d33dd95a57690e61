//! Every configuration below `tests/corpora/lint` with the findings that are due, and without any
//! once it is fixed.
//!
//! `NAME.findings` holds the arguments in its first line and a finding, `RULE FILE:LINE`, in each
//! further one. `BLESS=1` writes what is found now, to be compared by eye.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use clap::Parser;

use super::*;
use crate::{
    lint::finding::{Finding, Fix},
    printable::printable_lines,
};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: LintArgs,
}

struct Case {
    name: String,
    arguments: Vec<String>,
    expected: Vec<String>,
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpora/lint")
}

fn cases() -> Vec<Case> {
    let files = fs::read_dir(corpus()).unwrap().map(|entry| entry.unwrap().path());
    let sidecars = files.filter(|path| path.extension().is_some_and(|ext| ext == "findings"));
    let mut cases: Vec<_> = sidecars
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let mut lines = text.lines().map(str::to_owned);
            let arguments = lines.next().unwrap().split(' ').map(str::to_owned).collect();
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            Case { name, arguments, expected: lines.collect() }
        })
        .collect();
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    cases
}

impl Case {
    /// The corpus being at `corpus`.
    fn look(&self, corpus: &Path) -> Report {
        let here = |argument: &String| match corpus.join(argument) {
            path if !argument.starts_with(['/', '-']) && path.exists() => {
                path.display().to_string()
            }
            _ => argument.clone(),
        };
        let words = std::iter::once("lint".to_owned()).chain(self.arguments.iter().map(here));
        look_at_files(&Line::parse_from(words).args).unwrap()
    }

    /// Where a file lies that is shown by this path.
    fn file(&self, corpus: &Path, shown: &str) -> PathBuf {
        match self.arguments.iter().position(|argument| argument == "--root") {
            Some(at) => corpus.join(&self.arguments[at + 1]).join(shown.trim_start_matches('/')),
            None => PathBuf::from(shown),
        }
    }
}

fn told(report: &Report, corpus: &Path) -> Vec<String> {
    let corpus = format!("{}/", corpus.display());
    let line = |finding: &Finding| {
        format!("{} {}", finding.rule.id, report.texts.shown(&finding.place).replace(&corpus, ""))
    };
    report.findings.iter().map(line).collect()
}

#[test]
fn every_planted_fault_is_found_and_no_other() {
    let cases = cases();
    assert!(cases.len() > 20, "the corpus is not all there");
    for case in cases {
        let found = told(&case.look(&corpus()), &corpus());
        if env::var_os("BLESS").is_some() {
            let lines = [vec![case.arguments.join(" ")], found].concat().join("\n") + "\n";
            fs::write(corpus().join(format!("{}.findings", case.name)), lines).unwrap();
            continue;
        }
        assert_eq!(found, case.expected, "{}", case.name);
    }
}

#[test]
fn the_corpus_has_a_fault_for_every_rule() {
    let found: String = cases().into_iter().flat_map(|case| case.expected).collect();
    for rule in rules() {
        assert!(found.contains(rule.id), "no configuration has the fault {}", rule.id);
    }
}

#[test]
fn the_fixes_fix() {
    for case in cases() {
        if case.name.starts_with("dump") {
            continue; // What was printed is no file to fix.
        }
        let directory = tempfile::tempdir().unwrap();
        let corpus = copy(directory.path());
        // What is fixed may bring something else to light: a new group, for one.
        for _ in 0..3 {
            fix(&case, &corpus);
        }
        let left = case.look(&corpus);
        for finding in &left.findings {
            let is_for_the_user = finding.fixes.is_empty() || case.name.ends_with("-json");
            assert!(is_for_the_user, "{}: {:?} is left", case.name, told(&left, &corpus));
        }
    }
}

fn copy(to: &Path) -> PathBuf {
    let status = Command::new("cp").arg("-r").arg(corpus()).arg(to).status().unwrap();
    assert!(status.success());
    to.join("lint")
}

/// Puts all fixed lines into the files.
fn fix(case: &Case, corpus: &Path) {
    let report = case.look(corpus);
    for (id, file) in report.texts.iter() {
        let fixes = report.findings.iter().flat_map(|finding| &finding.fixes);
        let mut fixes: Vec<&Fix> = fixes.filter(|fix| fix.place.file == id).collect();
        fixes.sort_by(|a, b| (&a.place, &a.text).cmp(&(&b.place, &b.text)));
        fixes.dedup();
        let mut text = file.text.to_string();
        for fix in fixes.iter().rev() {
            text.replace_range(fix.place.range(), &fix.text);
        }
        if !fixes.is_empty() {
            fs::write(case.file(corpus, &file.path), text).unwrap();
        }
    }
}

#[test]
fn what_a_terminal_would_obey_is_shown_harmless() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nginx\x1b[2J\u{9b}.conf");
    let text = "upstream a\x1b[31m\u{9b}\u{202e} { server 10.0.0.1; server 10.0.0.2; }\n\
                server { location / { proxy_pass http://a\x1b[31m\u{9b}\u{202e}; } }\n";
    fs::write(&path, text).unwrap();
    let words = ["lint", path.to_str().unwrap()];
    let report = look_at_files(&Line::parse_from(words).args).unwrap();
    assert!(!report.findings.is_empty());
    let told = human::tell(&report, 0);
    assert!(told.contains("upstream a?[31m"), "{told}");
    assert_eq!(printable_lines(&told), told);
}

#[test]
fn a_baseline_leaves_out_what_it_knows_wherever_it_moved() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("haproxy.cfg");
    let look = |text: &str| {
        fs::write(&path, text).unwrap();
        look_at_files(&Line::parse_from(["lint", path.to_str().unwrap()]).args).unwrap()
    };
    let old = "backend a\n server a 10.0.0.1:80\n";
    let file = directory.path().join("baseline.json");
    fs::write(&file, serde_json::to_vec(&Baseline::of(&look(old))).unwrap()).unwrap();
    let mut report = look(&format!("backend b\n server b 10.0.0.1:80\n{old}"));
    assert_eq!(Baseline::read(&file).unwrap().apply(&mut report), 1);
    assert_eq!(report.findings.len(), 1, "only the new one is left");
    assert!(report.texts.shown(&report.findings[0].place).ends_with(":2"));
    assert!(Baseline::read(&path).is_err(), "a configuration is no baseline");
}

/// Twice the virtual hosts take about twice the time: this size would run for minutes if each looked at
/// all others.
#[test]
fn thousands_of_virtual_hosts_are_looked_at() {
    let host = |n: usize| {
        format!(
            "upstream g{n} {{ server 10.0.0.1:{0}; server 10.0.0.2:{0}; }}\n\
             server {{ server_name h{n}; error_log /var/log/{n}; set $to g{n};\n\
             location / {{ proxy_pass http://g{n}; }} location /a {{ proxy_pass http://10.1.1.1:{0}; }}\n\
             location /b {{ proxy_pass http://$to; }} }}\n",
            1 + n % 65000
        )
    };
    let text: String = (0..5_000).map(host).collect();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nginx.conf");
    fs::write(&path, format!("worker_processes 4; events {{}} http {{\n{text}}}\n")).unwrap();
    let report = look_at_files(&Line::parse_from(["lint", path.to_str().unwrap()]).args).unwrap();
    assert!(report.findings.len() > 25_000, "{}", report.findings.len());
    assert!(!human::tell(&report, 0).is_empty());
}

#[test]
fn a_broken_or_foreign_file_leaves_the_findings_in_others() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let files = [
        write("compose.yaml", "services:\n  web: { image: nginx }\n"),
        write("ingress.yaml", "apiVersion: networking.k8s.io/v1\nkind: Ingress\n"),
        write("chart.yaml", "static_resources:\n  clusters: {{ .Values.clusters }}\n"),
        write("broken.conf", "\u{feff}upstream a { server 10.0.0.1; }\n"),
        write("haproxy.cfg", "backend a\n server a 10.0.0.1:80\n"),
    ];
    let words = std::iter::once("lint").chain(files.iter().map(String::as_str));
    let args = Line::parse_from(words).args;
    let report = look_at_files(&args).unwrap();
    let expected = ["Compose", "Kubernetes' Ingress", "Go template", "byte order mark"];
    assert_eq!(report.broken.len(), expected.len(), "{:?}", report.broken);
    for (broken, word) in report.broken.iter().zip(expected) {
        assert!(broken.contains(word), "{broken}");
    }
    assert_eq!(report.findings.len(), 1);
    assert_eq!(status(&args, &report), UNABLE);
    let alone = Line::parse_from(["lint", &files[0]]).args;
    assert!(look_at_files(&alone).is_err());
    let lenient = Line::parse_from(["lint", "--fail-on", "warning", &files[4]]).args;
    assert_eq!(status(&lenient, &look_at_files(&lenient).unwrap()), HEALTHY);
}

#[test]
fn the_documentation_names_every_rule_as_the_program_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/lint.md");
    let text = fs::read_to_string(&path).unwrap();
    if env::var_os("BLESS").is_some() {
        let rules = text.find("\n## nginx\n").unwrap() + 1;
        fs::write(&path, format!("{}{}", &text[..rules], human::rules())).unwrap();
        return;
    }
    assert!(
        text.ends_with(&human::rules()),
        "docs/lint.md is behind: run `BLESS=1 cargo test -p floodmark the_documentation_names`"
    );
}

#[test]
fn a_number_below_zero_is_refused_for_what_it_is() {
    let line = ["lint", "--rate", "-3", "--latency", "1", "nginx.conf"];
    let error = Line::try_parse_from(line).err().unwrap().to_string();
    assert!(error.contains("must be more than nothing"), "{error}");
}
