//! Programs that do nothing, one for each way to attach: what the kernel itself takes for running a
//! program. `floodmark-bench` attaches them where the agent's programs go.

#![no_std]
#![no_main]

mod program;

use aya_ebpf::{
    macros::{btf_tracepoint, fentry, fexit, kprobe, kretprobe},
    programs::{BtfTracePointContext, FEntryContext, FExitContext, ProbeContext, RetProbeContext},
};

/// At a function's entry.
#[fentry]
pub fn empty_fentry(_: FEntryContext) -> i32 {
    0
}

/// At a function's exit.
#[fexit]
pub fn empty_fexit(_: FExitContext) -> i32 {
    0
}

/// At a tracepoint.
#[btf_tracepoint]
pub fn empty_tp_btf(_: BtfTracePointContext) -> i32 {
    0
}

/// At a function's entry, by kprobe.
#[kprobe]
pub fn empty_kprobe(_: ProbeContext) -> u32 {
    0
}

/// At a function's exit, by kretprobe.
#[kretprobe]
pub fn empty_kretprobe(_: RetProbeContext) -> u32 {
    0
}
