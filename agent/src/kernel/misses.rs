//! How often a program was not run though its hook was reached.

#![allow(unsafe_code, reason = "a system call that no library offers")]

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, RawFd},
};

use aya::programs::{KProbe, Program};

/// `BPF_OBJ_GET_INFO_BY_FD` of `enum bpf_cmd`.
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
/// `BPF_LINK_TYPE_PERF_EVENT` of `enum bpf_link_type`.
const LINK_PERF_EVENT: u32 = 7;
/// `BPF_PERF_EVENT_KPROBE` and `BPF_PERF_EVENT_KRETPROBE` of `enum bpf_perf_event_type`.
const PERF_KPROBES: [u32; 2] = [3, 4];

/// The kprobes that are attached, each with its program's name.
#[derive(Default)]
pub struct Kprobes(Vec<(String, RawFd)>);

impl Kprobes {
    /// Looks for the links of `programs` among this process's files: aya keeps them to itself.
    pub fn of<'a>(programs: impl Iterator<Item = (&'a str, &'a Program)>) -> Self {
        let kprobes = programs.filter_map(|(name, program)| match program {
            Program::KProbe(program) => Some((name, id(program)?)),
            _ => None,
        });
        let kprobes: Vec<(&str, u32)> = kprobes.collect();
        if kprobes.is_empty() {
            return Self::default();
        }
        let links = fs::read_dir("/proc/self/fdinfo").into_iter().flatten().flatten();
        let links = links.filter_map(|entry| {
            let fd = entry.file_name().to_str()?.parse().ok()?;
            let program = program_of_link(&fs::read_to_string(entry.path()).ok()?)?;
            let (name, _) = kprobes.iter().find(|(_, id)| *id == program)?;
            Some(((*name).to_owned(), fd))
        });
        Self(links.collect())
    }

    /// How often the probes of program `name` were hit while the CPU was in another kprobe (`nmissed`
    /// of `struct kprobe` and `struct kretprobe`), as far as the kernel tells: Linux 6.7 and later.
    pub fn missed(&self, name: &str) -> u64 {
        let own = self.0.iter().filter(|(program, _)| program == name);
        own.filter_map(|(_, fd)| missed(*fd).ok()).sum()
    }
}

fn id(program: &KProbe) -> Option<u32> {
    program.info().ok().map(|info| info.id())
}

/// kernel: `bpf_link_show_fdinfo`. `None` for a file that is no link.
fn program_of_link(info: &str) -> Option<u32> {
    number(info, "link_id:")?;
    number(info, "prog_id:").and_then(|id| id.try_into().ok())
}

/// kernel: `bpf_prog_show_fdinfo`, Linux 5.12 and later; aya does not hand this number on. `None` for a
/// program that is not loaded.
pub fn recursion_misses(program: &Program) -> Option<u64> {
    let fd = program.fd().ok()?.as_fd().as_raw_fd();
    number(&fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?, "recursion_misses:")
}

fn number(info: &str, label: &str) -> Option<u64> {
    info.lines().find_map(|line| line.strip_prefix(label))?.trim().parse().ok()
}

/// `struct bpf_link_info` (include/uapi/linux/bpf.h) of a link of type `BPF_LINK_TYPE_PERF_EVENT`, up to
/// the last member that is wanted.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    padding: u32,
    event: u32,
    padding_of_event: u32,
    function: u64,
    function_length: u32,
    offset: u32,
    address: u64,
    missed: u64,
}

/// The part of `union bpf_attr` that `BPF_OBJ_GET_INFO_BY_FD` reads.
#[repr(C)]
struct Question {
    fd: u32,
    length: u32,
    info: u64,
}

/// kernel: `bpf_perf_link_fill_kprobe`. A kernel that does not tell leaves zero.
fn missed(fd: RawFd) -> io::Result<u64> {
    let mut info = LinkInfo::default();
    let length = size_of_val(&info) as u32;
    let question = Question { fd: fd.cast_unsigned(), length, info: (&raw mut info) as u64 };
    // SAFETY: bpf(2) reads the question and writes no more than `length` bytes of the answer.
    let result = unsafe {
        let size = size_of_val(&question);
        libc::syscall(libc::SYS_bpf, OBJ_GET_INFO_BY_FD, &raw const question, size)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let is_kprobe = info.kind == LINK_PERF_EVENT && PERF_KPROBES.contains(&info.event);
    Ok(if is_kprobe { info.missed } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_tells_its_program_and_a_program_is_no_link() {
        let link = "pos:\t0\nlink_type:\tperf\nlink_id:\t12\nprog_tag:\tab\nprog_id:\t345\n";
        assert_eq!(program_of_link(link), Some(345));
        assert_eq!(program_of_link("prog_type:\t2\nprog_id:\t345\nrecursion_misses:\t3\n"), None);
    }

    #[test]
    fn the_answer_is_laid_out_as_the_kernels() {
        use aya_obj::generated::{bpf_link_info, bpf_link_type};
        // SAFETY: plain numbers, for which zero is a value.
        let mut kernels: bpf_link_info = unsafe { std::mem::zeroed() };
        kernels.type_ = bpf_link_type::BPF_LINK_TYPE_PERF_EVENT as u32;
        // SAFETY: unions of plain numbers; and of both structures the agent's is the shorter.
        let ours: LinkInfo = unsafe {
            let event = &mut kernels.__bindgen_anon_1.perf_event;
            event.type_ = PERF_KPROBES[1];
            event.__bindgen_anon_1.kprobe.missed = 77;
            std::ptr::read((&raw const kernels).cast())
        };
        assert_eq!((ours.kind, ours.event, ours.missed), (LINK_PERF_EVENT, PERF_KPROBES[1], 77));
    }
}
