//! The rules for nginx, by what they are about.

mod bare;
mod logging;
mod marking;
mod reuse;
mod size;
mod timing;

use super::model::{Model, Pass};
use crate::lint::finding::{Facts, Finding, Rule};

/// Every rule.
pub static ALL: [&Rule; 16] = [
    &reuse::WITHOUT_KEEPALIVE,
    &reuse::WITHOUT_HTTP11,
    &reuse::CONNECTION_CLOSE,
    &reuse::BEFORE_BALANCER,
    &reuse::KEEP_CONN_OFF,
    &bare::PASS_WITHOUT_UPSTREAM,
    &size::TOO_FEW,
    &size::FEW_REQUESTS,
    &size::OUTLIVES_APPLICATION,
    &marking::ONE_FAILURE,
    &marking::PER_WORKER,
    &marking::SINGLE_SERVER,
    &marking::APPLICATION_ERRORS,
    &timing::LONG,
    &timing::SHORT,
    &logging::HIDDEN,
];

/// Applies every rule.
pub fn check(model: &Model<'_>, facts: &Facts) -> Vec<Finding> {
    let checks =
        [reuse::check, bare::check, size::check, marking::check, timing::check, logging::check];
    checks.iter().flat_map(|check| check(model, facts)).collect()
}

/// Passes by the `server` they stand in: one finding is enough for what one line fixes.
fn by_server<'a, 'p>(passes: &[&'p Pass<'a>]) -> Vec<Vec<&'p Pass<'a>>> {
    let mut servers: Vec<Vec<&Pass<'a>>> = Vec::new();
    for pass in passes {
        let place = |pass: &Pass<'_>| pass.server().map(|server| server.place.clone());
        match servers.iter_mut().find(|known| place(known[0]) == place(pass)) {
            Some(known) if place(pass).is_some() => known.push(pass),
            _ => servers.push(vec![pass]),
        }
    }
    servers
}
