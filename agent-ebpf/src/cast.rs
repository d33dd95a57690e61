//! Whether this kernel takes typed reads of plain addresses (`read_row`): the agent loads this program before
//! all others, attaches it nowhere, and hands out no types where it is refused.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

use crate::kernel::{TYPE_LINUX_MIB, read_row};

/// Any tracepoint will do.
#[btf_tracepoint(function = "tcp_retransmit_synack")]
pub fn cast_tried(ctx: BtfTracePointContext) -> i32 {
    let read = read_row::<u64, 1>(TYPE_LINUX_MIB, ctx.arg(0), 0);
    i32::from(read.is_none())
}
