//! The tools that people use today for the same job.
//!
//! Of bcc itself only what `libbpf-tools` has compiled beforehand is here. Its Python programs compile
//! against the kernel's headers as they start, and Debian 12's cannot for Linux 6.12: `tcpdrop-bpfcc`
//! and `tcpsynbl-bpfcc` 0.26 both end with [`BCC`].

use std::fs;

use anyhow::{Context, Result};

use crate::contender::{Contender, Kind};

const DROPS: &str = include_str!("drops.bt");

/// What became of bcc's Python programs, tried by hand.
pub const BCC: &str = "bcc's tcpdrop and tcpsynbl in Python (Debian's bpfcc-tools 0.26.0) were tried \
                       with the headers of Linux 6.12.117. Both end before they load anything: \
                       \"include/linux/bpf.h:368:10: error: invalid application of 'sizeof' to an \
                       incomplete type 'struct bpf_wq'\", \"Failed to compile BPF module\".";

/// Every tool.
pub fn all() -> Result<Vec<Contender>> {
    let bpftrace = |args: [&str; 2]| Kind::Tool("bpftrace", args.map(str::to_owned).to_vec());
    Ok(vec![
        Contender {
            name: "bpftrace, kprobe and kretprobe",
            tells: "drops by port, from sk_drops",
            kind: bpftrace(["-e", DROPS]),
        },
        Contender {
            name: "bpftrace's tcpsynbl.bt",
            tells: "queue lengths at the final ACK, and whether it is dropped",
            kind: bpftrace(["-e", &script("tcpsynbl.bt")?]),
        },
        Contender {
            name: "bpftrace's tcpdrop.bt",
            tells: "each segment freed for a reason, with a stack",
            kind: bpftrace(["-e", &without_header(&script("tcpdrop.bt")?)]),
        },
        Contender {
            name: "bcc's tcpsynbl (libbpf-tools)",
            tells: "queue lengths at the final ACK",
            kind: Kind::Tool("tcpsynbl", Vec::new()),
        },
    ])
}

/// A script as Debian ships it.
fn script(name: &str) -> Result<String> {
    let path = format!("/usr/sbin/{name}");
    fs::read_to_string(&path).with_context(|| format!("reading {path} (package bpftrace)"))
}

/// The script needs two numbers of the header, whose other content contradicts the kernel's BTF.
fn without_header(script: &str) -> String {
    let numbers = format!("#define AF_INET {}\n#define AF_INET6 {}", libc::AF_INET, libc::AF_INET6);
    script.replace("#include <sys/socket.h>", &numbers)
}
