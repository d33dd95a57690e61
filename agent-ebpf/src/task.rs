//! The current task: its name, its open files and its system call's registers.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated::{
    bpf_get_current_comm, bpf_get_current_task, bpf_get_current_task_btf, bpf_task_pt_regs,
};

use crate::kernel::{
    Access, OFF_FDT_FD, OFF_FILE_INODE, OFF_FILE_PRIVATE, OFF_FILES_FDT, OFF_INODE_MODE,
    OFF_SOCKET_SK, OFF_TASK_FILES, Open, read_or_zero,
};

const S_IFMT: u16 = 0o170_000;
const S_IFSOCK: u16 = 0o140_000;

/// The `struct sock *` behind a descriptor of the current task; 0 where it is no socket.
/// kernel: `task->files->fdt->fd[n]->private_data`, as `sock_from_file` does.
#[inline(always)]
pub fn socket_of_fd(fd: u64) -> u64 {
    // SAFETY: a helper without arguments.
    let task = unsafe { bpf_get_current_task() };
    let files: u64 = read_or_zero(task + OFF_TASK_FILES.load());
    let table: u64 = read_or_zero(files + OFF_FILES_FDT.load());
    let entries: u64 = read_or_zero(table + OFF_FDT_FD.load());
    let file: u64 = read_or_zero(entries + 8 * (fd & 0xffff_ffff));
    let inode: u64 = read_or_zero(file + OFF_FILE_INODE.load());
    let mode: u16 = read_or_zero(inode + OFF_INODE_MODE.load());
    if mode & S_IFMT != S_IFSOCK {
        return 0;
    }
    let socket: u64 = read_or_zero(file + OFF_FILE_PRIVATE.load());
    read_or_zero(socket + OFF_SOCKET_SK.load())
}

/// The registers with which the current task entered its system call: a `struct pt_regs *`.
/// kernel: `bpf_task_pt_regs`, Linux 5.15 and later.
#[inline(always)]
pub fn registers() -> *const u8 {
    // SAFETY: the task is the current one.
    unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) as *const u8 }
}

#[inline(always)]
pub fn register<A: Access>(regs: *const u8, offset: impl Open) -> u64 {
    // SAFETY: `regs` is a `struct pt_regs *`.
    unsafe { A::field(regs, offset) }
}

/// The current task's `comm`.
#[inline(always)]
pub fn command() -> [u8; 16] {
    let mut name = MaybeUninit::<[u8; 16]>::uninit();
    // SAFETY: the helper fills all of it, with zeros where it fails.
    unsafe {
        bpf_get_current_comm(name.as_mut_ptr().cast(), size_of_val(&name) as u32);
        name.assume_init()
    }
}
