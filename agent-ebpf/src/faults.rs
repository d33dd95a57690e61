//! Faults that the scenarios make on purpose (tests/scenarios); the agent does not contain them.

#![no_std]
#![no_main]

mod program;

use aya_ebpf::{Global, macros::lsm, programs::LsmContext};

/// `sock.__sk_common.skc_num`, as the agent's layout has it.
#[unsafe(no_mangle)]
static OFF_SK_NUM: Global<u64> = Global::new(0);

/// Who comes to this port is refused.
#[unsafe(no_mangle)]
static REFUSED_PORT: Global<u16> = Global::new(0);

const EPERM: i32 = 1;
const ENOMEM: i32 = 12;

/// Who may not sleep has none of this bit in what it asks memory for (`___GFP_DIRECT_RECLAIM` in
/// include/linux/gfp_types.h): a child is made in softirq, a socket of socket(2) is not.
const DIRECT_RECLAIM: u32 = 0x400;

/// kernel: security/security.c `security_inet_conn_request(sk, skb, req)`, which `tcp_conn_request` asks
/// before it answers a SYN.
#[lsm(hook = "inet_conn_request")]
pub fn request_refused(ctx: LsmContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    // SAFETY: `sk` is a program argument of type `struct sock *`; the verifier checks the load.
    let port = unsafe { sk.add(OFF_SK_NUM.load() as usize).cast::<u16>().read_volatile() };
    if port == REFUSED_PORT.load() { -EPERM } else { 0 }
}

/// kernel: net/core/sock.c `sk_prot_alloc`, by which `tcp_create_openreq_child` clones the listener, asks
/// security/security.c `security_sk_alloc(sk, family, priority)`.
#[lsm(hook = "sk_alloc_security")]
pub fn child_refused(ctx: LsmContext) -> i32 {
    if ctx.arg::<u32>(2) & DIRECT_RECLAIM == 0 { -ENOMEM } else { 0 }
}
