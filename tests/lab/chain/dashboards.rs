//! The shipped dashboards' queries, put to Prometheus while there is something to show.

use std::{
    collections::BTreeMap,
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::monitoring::Monitoring;

const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/grafana");

/// What came of the queries.
#[derive(Default)]
pub struct Outcome {
    /// Panels with queries.
    pub panels: usize,
    /// Queries that returned data.
    pub queries: usize,
    /// Those that returned none, with the panel.
    pub problems: Vec<String>,
}

/// Puts every query of every panel of every dashboard, again and again until all have data: a rate
/// takes two scrapes, a median lifetime connections that ended.
pub fn query_all(monitoring: &Monitoring, until: Instant) -> Result<Outcome> {
    loop {
        let outcome = query_once(monitoring)?;
        if outcome.problems.is_empty() || Instant::now() > until {
            return Ok(outcome);
        }
        thread::sleep(Duration::from_secs(1));
    }
}

fn query_once(monitoring: &Monitoring) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for entry in fs::read_dir(SHIPPED).context("reading the dashboards")? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let dashboard: Value = serde_json::from_slice(&fs::read(&path)?)
            .with_context(|| format!("reading {}", path.display()))?;
        query_one(monitoring, &dashboard, &mut outcome)?;
    }
    Ok(outcome)
}

fn query_one(monitoring: &Monitoring, dashboard: &Value, outcome: &mut Outcome) -> Result<()> {
    let title = dashboard["title"].as_str().unwrap_or_default();
    for panel in dashboard["panels"].as_array().into_iter().flatten() {
        let targets = panel["targets"].as_array().map_or(&[][..], Vec::as_slice);
        outcome.panels += usize::from(!targets.is_empty());
        for target in targets {
            let expression = with_variables(target["expr"].as_str().unwrap_or_default());
            if monitoring.query(&expression)?.is_empty() {
                let panel = panel["title"].as_str().unwrap_or_default();
                outcome.problems.push(format!("{title}, {panel}: no data for {expression}"));
            } else {
                outcome.queries += 1;
            }
        }
    }
    Ok(())
}

/// As Grafana fills them in where everything is chosen, at the lab's scrape interval.
fn with_variables(expression: &str) -> String {
    let known = BTreeMap::from([("$__rate_interval", "15s"), ("$__range", "1m")]);
    let mut filled = expression.to_owned();
    for (variable, value) in known {
        filled = filled.replace(variable, value);
    }
    // What is left are choices, each matched by a regular expression.
    let mut parts = filled.split('$');
    let mut result = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(part.len());
        result.push_str(".*");
        result.push_str(&part[end..]);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_filled_in() {
        let expression = "rate(a{instance=~\"$instance\", b=~\"$b_c\"}[$__rate_interval])";
        assert_eq!(with_variables(expression), "rate(a{instance=~\".*\", b=~\".*\"}[15s])");
    }
}
