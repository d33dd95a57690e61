//! What a kretprobe needs of the call it ends: an argument noted at the entry. Trampolines have the
//! arguments at the exit; kretprobes have nothing but the result.
//!
//! Calls are told apart by where their return address stands on the stack, which no two calls under
//! way share: neither one in softirq that interrupts another in a process, nor a task that is moved
//! to another CPU in between.

use aya_ebpf::{
    EbpfContext,
    bindings::pt_regs,
    macros::map,
    maps::LruHashMap,
    programs::{ProbeContext, RetProbeContext},
};

/// Least recently used first out: a return that the kernel missed leaves its call behind.
#[map]
static CALLS: LruHashMap<u64, u64> = LruHashMap::with_max_entries(1024, 0);

/// Bytes by which a return moves the stack pointer: x86 pops the return address, arm64 has it in a
/// register.
#[cfg(not(bpf_target_arch = "aarch64"))]
const POPPED: u64 = 8;
#[cfg(bpf_target_arch = "aarch64")]
const POPPED: u64 = 0;

#[cfg(not(bpf_target_arch = "aarch64"))]
fn stack_pointer(ctx: &impl EbpfContext) -> u64 {
    // SAFETY: the context of a kprobe or kretprobe is a `struct pt_regs`.
    unsafe { (*ctx.as_ptr().cast::<pt_regs>()).rsp }
}

#[cfg(bpf_target_arch = "aarch64")]
fn stack_pointer(ctx: &impl EbpfContext) -> u64 {
    // SAFETY: the context of a kprobe or kretprobe begins with a `struct user_pt_regs`.
    unsafe { (*ctx.as_ptr().cast::<pt_regs>()).sp }
}

/// Notes argument number `which` at the entry.
#[inline(always)]
pub fn entered(ctx: &ProbeContext, which: usize) {
    if let Some(argument) = ctx.arg::<u64>(which) {
        let _ = CALLS.insert(stack_pointer(ctx), argument, 0);
    }
}

/// The argument noted at the entry of the call that now returns.
#[inline(always)]
pub fn left(ctx: &RetProbeContext) -> Option<*const u8> {
    let call = stack_pointer(ctx) - POPPED;
    // SAFETY: a copy is taken before anybody else may write, since the call is still under way.
    let argument = unsafe { CALLS.get(call) }.copied();
    let _ = CALLS.remove(call);
    argument.map(|argument| argument as *const u8)
}
