//! Floodmark's eBPF programs: what the kernel did to a handshake, listener by listener.
//!
//! One file per kernel path. The brackets (`bracket`) count by the growth of this CPU's own MIB
//! counters between a function's entry and its exit, so the count is exact by construction.

#![no_std]
#![no_main]

mod bracket;
mod calls;
mod check_req;
mod conn_request;
mod connect;
mod cookie_check;
mod drop_reason;
mod failure;
mod kernel;
mod listener;
mod maps;
mod request;
mod segment;
mod service;
mod time_wait;
mod time_wait_kprobe;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
