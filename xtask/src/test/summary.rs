//! What the steps came to: a table, and one line that sums up.

use std::{fmt, time::Duration};

/// What one step came to.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    name: String,
    passed: usize,
    failed: usize,
    took: Duration,
}

impl Outcome {
    /// Counts the tests that `output` reports in the words of Rust's test harness or of the
    /// scenarios. A step that
    /// reports none counts as one test, and so does a failure that no test accounts for.
    pub fn of(name: &str, succeeded: bool, output: &str, took: Duration) -> Self {
        let (mut passed, mut failed) = output
            .lines()
            .filter_map(|line| test_result(line).or_else(|| scenarios_result(line)))
            .fold((0, 0), |(passed, failed), result| (passed + result.0, failed + result.1));
        if succeeded && passed + failed == 0 {
            passed = 1;
        }
        if !succeeded && failed == 0 {
            failed = 1;
        }
        Self { name: name.to_owned(), passed, failed, took }
    }

    /// A step that did not come so far as to run.
    pub fn broken(name: &str) -> Self {
        Self::of(name, false, "", Duration::ZERO)
    }
}

/// Passed and failed in `test result: ok. 12 passed; 0 failed; 3 ignored; ...`.
fn test_result(line: &str) -> Option<(usize, usize)> {
    let (_, counts) = line.trim().strip_prefix("test result: ")?.split_once(". ")?;
    let mut counts = counts.split("; ");
    let passed = counts.next()?.strip_suffix(" passed")?.parse().ok()?;
    let failed = counts.next()?.strip_suffix(" failed")?.parse().ok()?;
    Some((passed, failed))
}

/// Passed and failed in the last line of the scenarios: `53 passed, 0 skipped, 0 failed`.
fn scenarios_result(line: &str) -> Option<(usize, usize)> {
    let mut counts = line.trim().split(", ");
    let passed = counts.next()?.strip_suffix(" passed")?.parse().ok()?;
    counts.next()?.strip_suffix(" skipped")?;
    let failed = counts.next()?.strip_suffix(" failed")?.parse().ok()?;
    Some((passed, failed))
}

/// All steps' outcomes.
#[derive(Default)]
pub struct Summary(Vec<Outcome>);

impl Summary {
    /// Adds a step's outcome.
    pub fn add(&mut self, outcome: Outcome) {
        self.0.push(outcome);
    }

    /// Whether nothing failed.
    pub fn all_passed(&self) -> bool {
        self.0.iter().all(|outcome| outcome.failed == 0)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<16} {:>6} {:>6} {:>9}", "step", "passed", "failed", "seconds")?;
        for Outcome { name, passed, failed, took } in &self.0 {
            writeln!(f, "{name:<16} {passed:>6} {failed:>6} {:>9.1}", took.as_secs_f64())?;
        }
        let total = |count: fn(&Outcome) -> usize| self.0.iter().map(count).sum::<usize>();
        let (passed, failed) = (total(|step| step.passed), total(|step| step.failed));
        writeln!(f, "{passed} passed, {failed} failed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_HARNESSES: &str = "\
running 3 tests
test result: ok. 12 passed; 0 failed; 3 ignored; 0 measured; 0 filtered out; finished in 0.02s
   Doc-tests floodmark
test result: FAILED. 4 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    fn counts(succeeded: bool, output: &str) -> (usize, usize) {
        let outcome = Outcome::of("step", succeeded, output, Duration::ZERO);
        (outcome.passed, outcome.failed)
    }

    #[test]
    fn sums_every_harness_of_a_step() {
        assert_eq!(counts(false, TWO_HARNESSES), (16, 1));
    }

    #[test]
    fn a_step_without_tests_is_one_test() {
        assert_eq!(counts(true, "Checking floodmark"), (1, 0));
        assert_eq!(counts(false, "error: expected `;`"), (0, 1));
    }

    #[test]
    fn a_failure_that_no_test_accounts_for_is_not_lost() {
        let crashed = TWO_HARNESSES.lines().take(2).collect::<Vec<_>>().join("\n");
        assert_eq!(counts(false, &crashed), (12, 1));
    }

    #[test]
    fn a_harness_in_which_nothing_ran_does_not_hide_that_the_step_passed() {
        assert_eq!(counts(true, "test result: ok. 0 passed; 0 failed; 0 ignored;"), (1, 0));
    }

    #[test]
    fn the_last_line_sums_up() {
        let mut summary = Summary::default();
        summary.add(Outcome::of("unit", false, TWO_HARNESSES, Duration::from_secs(3)));
        summary.add(Outcome::broken("demo"));
        assert_eq!(summary.to_string().lines().last(), Some("16 passed, 2 failed"));
        assert!(!summary.all_passed());
    }
}
