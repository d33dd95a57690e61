//! The system calls that `floodmark run` may make once it has started (seccomp(2)). Others are refused
//! with EPERM and written to the kernel's log, so that a fault in the agent gives away no more than
//! its purpose takes: no program can be started, no other process traced, nothing mounted.

#![allow(unsafe_code, reason = "no library installs a filter that logs what it refuses")]

use std::{
    collections::BTreeMap,
    io,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, Result, ensure};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// Memory, threads, time, signals: what the runtime takes, whatever the agent does.
const RUNTIME: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_get_robust_list,
    libc::SYS_getcpu,
    libc::SYS_getcwd,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getgroups,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_getresgid,
    libc::SYS_getresuid,
    libc::SYS_getrusage,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_ppoll,
    libc::SYS_prctl,
    libc::SYS_prlimit64,
    libc::SYS_pselect6,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_sigaltstack,
    libc::SYS_sysinfo,
    libc::SYS_tgkill,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_times,
    libc::SYS_tkill,
    libc::SYS_uname,
];

/// Files and directories: procfs, logs, state.
const FILES: &[i64] = &[
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getdents64,
    libc::SYS_ioctl,
    libc::SYS_lseek,
    libc::SYS_mkdirat,
    libc::SYS_name_to_handle_at,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_pidfd_open,
    libc::SYS_pipe2,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_umask,
    libc::SYS_unlinkat,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Sockets: HTTP, syslog, NATS, OTLP, netlink. Which families is said by [`FAMILIES`].
const SOCKETS: &[i64] = &[
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_listen,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_socketpair,
];

/// Programs that are attached later: rarer causes, an nginx that starts, another rung.
const PROGRAMS: &[i64] = &[libc::SYS_bpf, libc::SYS_perf_event_open];

/// What C libraries on x86-64 still call by its older name.
#[cfg(target_arch = "x86_64")]
const OLDER: &[i64] = &[
    libc::SYS_access,
    libc::SYS_arch_prctl,
    libc::SYS_chmod,
    libc::SYS_dup2,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd,
    libc::SYS_getrlimit,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_select,
    libc::SYS_stat,
    libc::SYS_time,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[i64] = &[];

/// Families of sockets, as in the unit's `RestrictAddressFamilies=`.
const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Whether [`restrict`] has taken effect, for those who report it.
static IS_RESTRICTED: AtomicBool = AtomicBool::new(false);

/// Restricts all threads of this process, and those to come, for good.
///
/// # Errors
///
/// When the kernel or what this process runs in does not allow a filter, or there is none for this
/// processor.
pub fn restrict() -> Result<()> {
    install(libc::SECCOMP_FILTER_FLAG_TSYNC)?;
    IS_RESTRICTED.store(true, Ordering::Relaxed);
    Ok(())
}

/// Whether this process has been restricted.
pub fn is_restricted() -> bool {
    IS_RESTRICTED.load(Ordering::Relaxed)
}

fn filter() -> Result<BpfProgram> {
    let target: TargetArch =
        std::env::consts::ARCH.try_into().context("this architecture has no filter")?;
    let plain = [RUNTIME, FILES, SOCKETS, PROGRAMS, OLDER].into_iter().flatten();
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        plain.map(|call| (*call, Vec::new())).collect();
    let families: Result<_> = FAMILIES.iter().map(|family| argument(0, *family)).collect();
    rules.insert(libc::SYS_socket, families?);
    rules.insert(libc::SYS_setns, vec![argument(1, libc::CLONE_NEWNET)?]);
    rules.insert(libc::SYS_unshare, vec![argument(0, libc::CLONE_NEWNET)?]);
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, refuse, SeccompAction::Allow, target)?;
    Ok(filter.try_into()?)
}

/// A rule that takes one value of an argument.
fn argument(number: u8, value: i32) -> Result<SeccompRule> {
    let (width, is) = (SeccompCmpArgLen::Dword, SeccompCmpOp::Eq);
    let condition = SeccompCondition::new(number, width, is, value as u64)?;
    Ok(SeccompRule::new(vec![condition])?)
}

fn install(flags: libc::c_ulong) -> Result<()> {
    nix::sys::prctl::set_no_new_privs().context("setting no_new_privs")?;
    let program = filter()?;
    // SECCOMP_FILTER_FLAG_LOG: refusals are written to the kernel's log.
    let flags = flags | libc::SECCOMP_FILTER_FLAG_LOG;
    let length = program.len() as libc::c_ushort;
    let filter = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: the kernel copies the program, which `filter` describes and which lives until then.
    let outcome = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter)
    };
    ensure!(outcome >= 0, io::Error::last_os_error());
    // With TSYNC, the id of a thread that has a filter of its own.
    ensure!(outcome == 0, "thread {outcome} has a different filter");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        net::{TcpListener, TcpStream},
        process::Command,
        thread,
    };

    use nix::{
        errno::Errno,
        sched::{CloneFlags, unshare},
        sys::socket::{AddressFamily, SockFlag, SockType, socket},
    };

    use super::*;

    /// On a thread of its own: without TSYNC a filter is the thread's, and of those it starts.
    fn restricted<T: Send>(run: impl FnOnce() -> T + Send) -> T {
        let run = || {
            install(0).unwrap();
            run()
        };
        thread::scope(|scope| scope.spawn(run).join().unwrap())
    }

    #[test]
    fn no_program_is_started_and_no_other_namespace_or_family_entered() {
        restricted(|| {
            let started = Command::new("/bin/true").status();
            assert_eq!(started.unwrap_err().raw_os_error(), Some(libc::EPERM));
            assert_eq!(unshare(CloneFlags::CLONE_NEWNS), Err(Errno::EPERM));
            let flags = SockFlag::empty();
            let vsock = socket(AddressFamily::Vsock, SockType::Stream, flags, None);
            assert_eq!(vsock.err(), Some(Errno::EPERM));
            assert_eq!(nix::unistd::chdir("/"), Err(Errno::EPERM));
        });
    }

    /// Which `floodmark raise` does; the agent never may.
    #[test]
    fn no_descriptor_is_taken_from_another_process() {
        use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
        let take = || {
            let process = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
            pidfd_getfd(process, 0, PidfdGetfdFlags::empty()).map(drop)
        };
        assert_ne!(take(), Err(rustix::io::Errno::PERM));
        assert_eq!(restricted(take), Err(rustix::io::Errno::PERM));
    }

    #[test]
    fn files_sockets_and_threads_still_work() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let read = restricted(|| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            listener.accept().unwrap();
            thread::spawn(|| fs::read_dir("/proc/self/fd").unwrap().count()).join().unwrap();
            fs::write(&path, "text").unwrap();
            crate::untrusted_file::read(&path, 4)
        });
        assert_eq!(read.unwrap(), b"text");
    }
}
