//! `cargo xtask dashboards`: Grafana's dashboards, from a description that says only what matters.

mod agent;
mod fleet;
mod listener;
mod model;
mod proxy;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};

use crate::place;
use model::Dashboard;

/// Generate deploy/grafana/*.json.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the verb.
///
/// # Errors
///
/// When a file cannot be written.
pub fn main(_: &Args) -> Result<ExitCode> {
    for dashboard in all() {
        let file = file_of(&dashboard);
        fs::write(&file, dashboard.json()?).with_context(|| format!("write {}", file.display()))?;
        println!("{}", file.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn all() -> [Dashboard; 4] {
    [fleet::dashboard(), listener::dashboard(), proxy::dashboard(), agent::dashboard()]
}

fn file_of(dashboard: &Dashboard) -> PathBuf {
    place::workspace().join("deploy/grafana").join(format!("{}.json", dashboard.uid))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    #[test]
    fn what_is_checked_in_is_what_is_described() {
        for dashboard in all() {
            let file = file_of(&dashboard);
            let there = fs::read_to_string(&file).unwrap_or_default();
            let current = there == dashboard.json().unwrap();
            assert!(current, "{}: out of date: run `cargo xtask dashboards`", file.display());
        }
    }

    #[test]
    fn every_panel_has_its_own_id_a_place_a_unit_and_words() {
        for dashboard in all() {
            let json: Value = serde_json::from_str(&dashboard.json().unwrap()).unwrap();
            let panels = json["panels"].as_array().unwrap();
            let ids: BTreeSet<u64> = panels.iter().map(|p| p["id"].as_u64().unwrap()).collect();
            assert_eq!(ids.len(), panels.len());
            let mut taken: Vec<[u64; 4]> = Vec::new();
            for panel in panels {
                let at = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
                let [x, y, w, h] = at;
                assert!(x + w <= 24, "{panel}");
                let apart = |[ox, oy, ow, oh]: &[u64; 4]| {
                    x >= ox + ow || *ox >= x + w || y >= oy + oh || *oy >= y + h
                };
                assert!(taken.iter().all(apart), "{} lies on another", panel["title"]);
                taken.push(at);
                if panel["type"] == "row" {
                    continue;
                }
                assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{panel}");
                assert!(!panel["description"].as_str().unwrap().is_empty(), "{panel}");
            }
        }
    }

    #[test]
    fn every_choice_that_a_query_names_is_a_variable() {
        for dashboard in all() {
            let text = dashboard.json().unwrap();
            let json: Value = serde_json::from_str(&text).unwrap();
            let list = json["templating"]["list"].as_array().unwrap();
            let names: BTreeSet<&str> = list.iter().map(|v| v["name"].as_str().unwrap()).collect();
            for word in text.split("=~\\\"$").skip(1) {
                let name = word.split('\\').next().unwrap();
                assert!(names.contains(name), "{} has no variable {name}", dashboard.title);
            }
        }
    }
}
