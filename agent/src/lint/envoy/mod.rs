//! Envoy's bootstrap and cluster files, YAML or JSON.

pub mod rules;
mod yaml;

use anyhow::{Result, bail};

use self::yaml::Node;
use super::{
    finding::{Facts, Finding},
    kind,
    text::{FileId, TextFile, Texts},
};

/// Keys of a bootstrap, a list of resources or a dump of `/config_dump`.
const KEYS: [&str; 16] = [
    "static_resources",
    "dynamic_resources",
    "cluster_manager",
    "admin",
    "node",
    "layered_runtime",
    "stats_sinks",
    "stats_config",
    "hds_config",
    "tracing",
    "overload_manager",
    "bootstrap_extensions",
    "clusters",
    "listeners",
    "resources",
    "configs",
];

/// Applies every rule to a file.
///
/// # Errors
///
/// When the file is no YAML (JSON is), with its line, or nothing of Envoy's, with what it looks like.
pub fn check(file: FileId, texts: &Texts, facts: &Facts) -> Result<Vec<Finding>> {
    let TextFile { path, text, .. } = texts.get(file);
    if let Some(kind) = kind::template(text) {
        bail!("{path}: {kind}");
    }
    let documents = yaml::read(file, texts)?;
    let foreign = documents.iter().find(|document| !is_envoys(document));
    if let Some(document) = foreign.or(documents.is_empty().then_some(&Node::nothing(file))) {
        bail!("{path}: not a configuration of Envoy: {}", foreign_kind(document));
    }
    Ok(documents.iter().flat_map(|document| rules::check(document, texts, facts)).collect())
}

fn is_envoys(document: &Node) -> bool {
    let is_list_of_resources = document.list().iter().any(|node| node.get("@type").is_some());
    let is_cluster = document.get("@type").is_some() || document.get("load_assignment").is_some();
    is_list_of_resources || is_cluster || KEYS.iter().any(|key| document.get(key).is_some())
}

/// What a document is that is not Envoy's.
fn foreign_kind(document: &Node) -> String {
    let text = |key| document.get(key).and_then(Node::scalar);
    let has = |key| document.get(key).is_some();
    if let (Some(version), Some(kind)) = (text("apiVersion"), text("kind")) {
        return format!("it looks like Kubernetes' {kind} ({version})");
    }
    let kind = if has("services") {
        "a Compose file"
    } else if has("entryPoints") || has("providers") || has("http") || has("tcp") {
        "Traefik's configuration"
    } else if has("openapi") || has("swagger") {
        "an OpenAPI document"
    } else if has("apps") {
        "Caddy's configuration"
    } else if has("_format_version") {
        "Kong's declarative configuration"
    } else if has("on") || has("jobs") {
        "a workflow of a CI system"
    } else if has("scrape_configs") || has("groups") {
        "Prometheus' configuration"
    } else {
        return "no key of a bootstrap, a list of resources or a config dump is in it".to_owned();
    };
    format!("it looks like {kind}")
}
