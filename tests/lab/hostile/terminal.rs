//! Names that a terminal would obey.

use std::{
    fs::{self, File},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Case, Check, Target};

pub(super) const CASES: &[Case] = &[Case {
    name: "hostile-names",
    attack: "processes and Unix sockets have names with control and bidirectional characters",
    run: hostile_names,
}];

const NAMES: &str = include_str!("names.py");
/// What ends the names of the program's sockets, which an abstract one may hold exactly.
const MARK: &str = "fm-hostile-";

fn hostile_names(target: &Target) -> Result<Vec<Check>> {
    let out = target.directory().join("ports");
    let mut program = Command::new("/usr/bin/python3");
    program.args(["-c", NAMES]).stdout(File::create(&out)?);
    let _names = target.spawn(&mut program)?;
    while !fs::read_to_string(&out)?.contains("ready") {
        thread::sleep(Duration::from_millis(50));
    }
    let served = target.serve(&[])?;
    let table = listeners(target, &[])?;
    let shown = table.lines().filter(|line| line.contains(MARK)).count();
    let json = listeners(target, &["--json"])?;
    let object: Value = serde_json::from_str(&json).context("listeners --json")?;
    let paths = object["unix_listeners"].as_array().into_iter().flatten();
    let exact = paths.filter_map(|it| it["path"].as_str()).any(|it| it.contains("\u{202e}exe"));
    let mut checks = vec![
        Check::that("the names are listed", shown >= 7, format!("{shown} lines")),
        Check::that("JSON has the exact name", exact, "U+202E"),
    ];
    let api = served.get("/api/v1/listeners")?;
    let page = served.get("/")?;
    let log = served.log()?;
    let outputs = [
        ("the table", table),
        ("the JSON", json),
        ("the API", api),
        ("the page", page),
        ("the log", log),
    ];
    for (what, text) in outputs {
        let obeyed = text.chars().filter(|it| is_obeyed(*it)).count();
        let limit = format!("{what} holds nothing that a terminal obeys");
        checks.push(Check::that(limit, obeyed == 0, format!("{obeyed} characters")));
    }
    Ok(checks)
}

fn listeners(target: &Target, arguments: &[&str]) -> Result<String> {
    let output = Command::new(&target.agent).arg("listeners").args(arguments).output();
    let output = output.context("starting floodmark listeners")?;
    String::from_utf8(output.stdout).context("it is not UTF-8")
}

/// Control characters, and those that change the direction or show nothing: written down here again, so
/// that the agent's own table is not what it is held against.
fn is_obeyed(char: char) -> bool {
    (char.is_control() && char != '\n')
        || matches!(char, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{ad}' | '\u{e0000}'..='\u{e007f}')
}
