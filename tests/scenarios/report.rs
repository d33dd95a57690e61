//! What came of the scenarios, as a table or as JSON.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::Serialize;

use crate::claim::{Claim, Expected};

/// Depths of queues for which the kernel had no memory at once, as [`Run::troubles`] calls them: no
/// scenario asks for a queue's mark.
const QUEUES: &str = "no room in queues";

/// Everything of one run.
#[derive(Debug, Serialize)]
pub struct Run {
    pub kernel: String,
    /// How the agent has each of its signals here.
    pub rungs: BTreeMap<String, String>,
    /// Why not better.
    pub refusals: Vec<String>,
    pub scenarios: Vec<Report>,
    /// What would make the agent's counts wrong.
    pub troubles: BTreeMap<String, u64>,
}

/// What came of one scenario.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub name: &'static str,
    /// Why it could not be played here.
    pub skipped: Option<String>,
    /// What kept its drive from its end.
    pub error: Option<String>,
    pub rows: Vec<Row>,
    /// How often the kernel skipped a program of the agent's meanwhile, as it says.
    pub misses: u64,
    pub ok: bool,
    /// What came of it before, where it failed and was played once more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_play: Option<Box<Report>>,
}

impl Report {
    pub fn of(name: &'static str, rows: Vec<Row>, misses: u64) -> Self {
        let ok = rows.iter().all(|row| row.ok);
        Self { name, rows, misses, ok, ..Self::default() }
    }

    pub fn skipped(name: &'static str, reason: String) -> Self {
        Self { name, skipped: Some(reason), ok: true, ..Self::default() }
    }

    pub fn failed(name: &'static str, error: String) -> Self {
        Self { name, error: Some(error), ..Self::default() }
    }

    /// The scenario's part of the table.
    pub fn print(&self) {
        if let Some(first) = &self.first_play {
            print!("first play of ");
            first.print();
        }
        let said = match (&self.skipped, &self.error, self.ok) {
            (Some(reason), ..) => format!("skipped: {reason}"),
            (_, Some(error), _) => format!("FAILED: {error}"),
            (.., true) => "ok".to_owned(),
            (.., false) => "FAILED".to_owned(),
        };
        println!("{}: {said}", self.name);
        for row in self.rows.iter().filter(|row| !row.is_idle()) {
            row.print();
        }
        if self.misses > 0 {
            println!("  programs skipped by the kernel: {}", self.misses);
        }
    }
}

/// One claim, and what was found.
#[derive(Debug, Serialize)]
pub struct Row {
    pub class: &'static str,
    /// The one listener it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<SocketAddr>,
    pub expected: Expected,
    /// What the agent says; `None` if it cannot tell yet, or not on its rung.
    pub attributed: Option<u64>,
    /// What the kernel counted; `None` if it has no counter for that.
    pub kernel: Option<u64>,
    /// By how much the two differ, added up over the namespaces.
    pub unattributed: Option<u64>,
    pub ok: bool,
}

impl Row {
    pub fn new(
        claim: &Claim,
        attributed: Option<u64>,
        kernel: Option<u64>,
        unattributed: Option<u64>,
        ok: bool,
    ) -> Self {
        let Claim { class, listener, expected, .. } = *claim;
        Self { class, listener, expected, attributed, kernel, unattributed, ok }
    }

    /// A total that was checked and that nothing moved.
    fn is_idle(&self) -> bool {
        self.ok && self.expected == Expected::AtLeast(0) && self.kernel == Some(0)
    }

    fn print(&self) {
        let number = |found: Option<u64>| found.map_or("-".to_owned(), |found| found.to_string());
        let class = match self.listener {
            Some(listener) => format!("{} at {listener}", self.class),
            None => self.class.to_owned(),
        };
        let mark = match (self.ok, self.attributed) {
            (false, _) => "WRONG",
            (true, None) => "not attributed yet",
            (true, Some(_)) => "",
        };
        let line = format!(
            "  {class:<44} expected {:<9} attributed {:<7} kernel {:<7} unattributed {:<4} {mark}",
            self.expected.to_string(),
            number(self.attributed),
            number(self.kernel),
            number(self.unattributed),
        );
        println!("{}", line.trim_end());
    }
}

impl Run {
    /// The table's heading.
    pub fn print_heading(&self) {
        println!("kernel {}", self.kernel);
        for (signal, rung) in &self.rungs {
            println!("  {signal}: {rung}");
        }
        for refusal in &self.refusals {
            println!("  {refusal}");
        }
    }

    /// The table's last lines, with what failed once more: above them is a long table.
    pub fn print_sum(&self) {
        self.scenarios.iter().filter(|report| !report.ok).for_each(Report::print);
        let count = |what: fn(&Report) -> bool| self.scenarios.iter().filter(|r| what(r)).count();
        let skipped = count(|report| report.skipped.is_some());
        let failed = count(|report| !report.ok);
        let passed = self.scenarios.len() - skipped - failed;
        for (trouble, count) in self.troubles.iter().filter(|(_, count)| **count > 0) {
            println!("the agent's own trouble: {trouble} {count}");
        }
        println!("{passed} passed, {skipped} skipped, {failed} failed");
    }

    /// Whether everything that could be played passed.
    pub fn is_ok(&self) -> bool {
        let wrong = self.troubles.iter().filter(|(trouble, _)| *trouble != QUEUES);
        self.scenarios.iter().all(|report| report.ok)
            && wrong.map(|(_, count)| count).sum::<u64>() == 0
    }
}
