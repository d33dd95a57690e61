//! The words of nginx's configurations, compared with those of crossplane, nginx's own parser.

#![expect(clippy::unwrap_used, reason = "a test's helpers may fail as the test may")]

use std::{fs, path::PathBuf, process::Command};

use floodmark::lint::{
    nginx::token::{Kind, tokens},
    text::line_and_column,
};

const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/tools/crossplane/bin/python");
const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/corpora/lint");

/// Prints, for each file named, its tokens but for comments.
const SCRIPT: &str = "
import json, sys, crossplane
for name in sys.argv[1:]:
    tokens = [(t, line, quoted) for t, line, quoted in crossplane.lex(name)
              if quoted or not t.startswith('#')]
    print(json.dumps(tokens))
";

/// Text, line, quoted.
type Said = (String, usize, bool);

#[test]
fn every_word_is_crossplanes_word_on_crossplanes_line() {
    let files = configurations();
    assert!(files.len() > 20, "{files:?}");
    let Ok(output) = Command::new(PYTHON).args(["-c", SCRIPT]).args(&files).output() else {
        println!("skipped: crossplane is not installed; cargo xtask setup does that");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    assert_eq!(lines.lines().count(), files.len());
    let mut compared = 0;
    for (file, line) in files.iter().zip(lines.lines()) {
        let theirs: Vec<Said> = serde_json::from_str(line).unwrap();
        let ours = ours(&fs::read_to_string(file).unwrap());
        for (index, their) in theirs.iter().enumerate() {
            assert_eq!(ours.get(index), Some(their), "{} at word {index}", file.display());
        }
        assert_eq!(ours.len(), theirs.len(), "{}", file.display());
        compared += ours.len();
    }
    println!("{compared} words of {} files are the same", files.len());
}

/// nginx's configurations in the corpus, and this host's own.
fn configurations() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![PathBuf::from(CORPUS), PathBuf::from("/etc/nginx")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                directories.push(path);
            } else if path.is_file() && matches!(extension.as_str(), "" | "conf" | "types") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn ours(text: &str) -> Vec<Said> {
    let mut said: Vec<Said> = Vec::new();
    let mut after_lua = false;
    for token in tokens(text).unwrap() {
        let raw = &text[token.span.clone()];
        let line_of = |byte| line_and_column(text, byte).0;
        let line = line_of(token.span.start);
        match token.kind {
            // crossplane takes off no escapes but those of the quote itself.
            Kind::Word { is_quoted: true, .. } => {
                let quote = &raw[..1];
                let inner = raw[1..raw.len() - 1].replace(&format!("\\{quote}"), quote);
                said.push((inner, line, true));
            }
            // To crossplane a block of Lua is one quoted word, on the line of its end, and a `;`.
            Kind::Lua => {
                said.pop();
                said.push((raw.to_owned(), line_of(token.span.end), true));
            }
            Kind::Close if after_lua => said.push((";".to_owned(), line, false)),
            _ => said.push((raw.to_owned(), line, false)),
        }
        after_lua = token.kind == Kind::Lua;
    }
    said
}
