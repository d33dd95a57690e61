//! What every object has to bring along: a panic handler, which no program ever reaches, and the
//! license, by which the kernel decides what helpers to lend.
//!
//! What every program has to do without: a call of another function, `memset` and `memcpy` included,
//! if it reads kernel memory by typed loads. On Linux 5.10 the JIT gives a program that has one no
//! exception table (kernel: `jit_subprogs`, `search_bpf_extables`), so a load that faults, instead of
//! reading as zero, brings the machine down. The agent's tests look for such calls.

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
