//! Floodmark's eBPF programs: what the kernel did to a handshake, listener by listener.
//!
//! One file per kernel path. The brackets (`bracket`) count by the growth of this CPU's own MIB
//! counters between a function's entry and its exit, so the count is exact by construction.

// The one way to an atomic addition on this target.
#![feature(asm_experimental_arch)]
#![no_std]
#![no_main]

mod accept_queue;
mod bracket;
mod calls;
mod cast;
mod check_req;
mod churn;
mod conn_request;
mod connect;
mod cookie_check;
mod drop_reason;
mod failure;
mod flow;
mod kernel;
mod listener;
mod listening;
mod maps;
mod netns;
mod not_unicast;
mod program;
mod request;
mod segment;
mod service;
mod syn_retransmit;
mod task;
mod time_wait;
mod time_wait_kprobe;
mod unix;
