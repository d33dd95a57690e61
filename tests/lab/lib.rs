//! The lab: network namespaces with a real proxy and applications, and the incident played in them.

pub mod guest;
