//! The lab: network namespaces with a real proxy and applications, and the incident played in them.

pub mod across;
pub mod act;
pub mod advice;
pub mod agent;
pub mod app;
pub mod chain;
mod check;
pub mod demo;
pub mod hostile;
pub mod impediments;
pub mod load;
pub mod nginx;
pub mod raise;
pub mod serving;
pub mod soak;
pub mod topology;
pub mod verdicts;
