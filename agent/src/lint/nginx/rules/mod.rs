//! The rules for nginx, by what they are about.

mod bare;
mod include;
mod limits;
mod logging;
mod marking;
mod retries;
mod reuse;
mod size;
mod timing;

use std::collections::HashMap;

use super::model::{Model, Pass};
use crate::lint::{
    finding::{Facts, Finding, Rule},
    text::Place,
};

/// Every rule.
pub static ALL: [&Rule; 25] = [
    &include::UNREADABLE,
    &reuse::WITHOUT_KEEPALIVE,
    &reuse::WITHOUT_HTTP11,
    &reuse::CONNECTION_CLOSE,
    &reuse::CONNECTION_FROM_CLIENT,
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
    &retries::NON_IDEMPOTENT,
    &retries::UNLIMITED,
    &limits::MAX_CONNS_PER_WORKER,
    &limits::COMPUTED_HOST,
    &limits::NO_RESOLVER,
    &limits::FEW_DESCRIPTORS,
    &limits::SHORT_BACKLOG,
    &timing::LONG,
    &timing::SHORT,
    &logging::HIDDEN,
];

/// Applies every rule.
pub fn check(model: &Model<'_>, facts: &Facts) -> Vec<Finding> {
    let checks = [
        include::check,
        reuse::check,
        bare::check,
        size::check,
        marking::check,
        retries::check,
        limits::check,
        timing::check,
        logging::check,
    ];
    checks.iter().flat_map(|check| check(model, facts)).collect()
}

/// Passes by the `server` they stand in: one finding is enough for what one line fixes.
fn by_server<'a, 'p>(passes: &[&'p Pass<'a>]) -> Vec<Vec<&'p Pass<'a>>> {
    let mut servers: Vec<Vec<&Pass<'a>>> = Vec::new();
    let mut known: HashMap<&Place, usize> = HashMap::new();
    for pass in passes {
        let index = match pass.server() {
            Some(server) => *known.entry(&server.place).or_insert(servers.len()),
            None => servers.len(),
        };
        match servers.get_mut(index) {
            Some(server) => server.push(pass),
            None => servers.push(vec![pass]),
        }
    }
    servers
}
