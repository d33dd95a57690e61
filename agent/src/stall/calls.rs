//! System calls by what they wait for: the table that says how `/proc/PID/task/TID/syscall` is read.

/// Where a system call's descriptors are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// accept(2) on the descriptor in its first argument.
    Accept,
    /// epoll_wait(2): an epoll descriptor.
    Epoll,
    /// poll(2): an array of `struct pollfd` and its length.
    Poll,
    /// select(2): the highest descriptor plus one, and a set of those to read from, and to write to.
    Select,
    /// Nothing but time.
    Sleep,
    /// Another thread.
    Lock,
    /// Children or signals.
    Supervise,
    /// The descriptor in its first argument.
    Descriptor,
}

type Row = (i64, &'static str, Kind);

/// Calls of every processor.
const CALLS: &[Row] = &[
    (libc::SYS_accept, "accept", Kind::Accept),
    (libc::SYS_accept4, "accept4", Kind::Accept),
    (libc::SYS_clock_nanosleep, "clock_nanosleep", Kind::Sleep),
    (libc::SYS_connect, "connect", Kind::Descriptor),
    (libc::SYS_epoll_pwait, "epoll_pwait", Kind::Epoll),
    (libc::SYS_epoll_pwait2, "epoll_pwait2", Kind::Epoll),
    (libc::SYS_fcntl, "fcntl", Kind::Descriptor),
    (libc::SYS_fdatasync, "fdatasync", Kind::Descriptor),
    (libc::SYS_flock, "flock", Kind::Descriptor),
    (libc::SYS_fsync, "fsync", Kind::Descriptor),
    (libc::SYS_futex, "futex", Kind::Lock),
    (libc::SYS_nanosleep, "nanosleep", Kind::Sleep),
    (libc::SYS_ppoll, "ppoll", Kind::Poll),
    (libc::SYS_pread64, "pread64", Kind::Descriptor),
    (libc::SYS_pselect6, "pselect6", Kind::Select),
    (libc::SYS_pwrite64, "pwrite64", Kind::Descriptor),
    (libc::SYS_read, "read", Kind::Descriptor),
    (libc::SYS_readv, "readv", Kind::Descriptor),
    (libc::SYS_recvfrom, "recvfrom", Kind::Descriptor),
    (libc::SYS_recvmsg, "recvmsg", Kind::Descriptor),
    (libc::SYS_rt_sigsuspend, "rt_sigsuspend", Kind::Supervise),
    (libc::SYS_rt_sigtimedwait, "rt_sigtimedwait", Kind::Supervise),
    (libc::SYS_sendfile, "sendfile", Kind::Descriptor),
    (libc::SYS_sendmsg, "sendmsg", Kind::Descriptor),
    (libc::SYS_sendto, "sendto", Kind::Descriptor),
    (libc::SYS_splice, "splice", Kind::Descriptor),
    (libc::SYS_wait4, "wait4", Kind::Supervise),
    (libc::SYS_waitid, "waitid", Kind::Supervise),
    (libc::SYS_write, "write", Kind::Descriptor),
    (libc::SYS_writev, "writev", Kind::Descriptor),
];

/// Those that only older processors have.
#[cfg(target_arch = "x86_64")]
const OLDER: &[Row] = &[
    (libc::SYS_epoll_wait, "epoll_wait", Kind::Epoll),
    (libc::SYS_pause, "pause", Kind::Supervise),
    (libc::SYS_poll, "poll", Kind::Poll),
    (libc::SYS_select, "select", Kind::Select),
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[Row] = &[];

/// Name and kind of a system call, where the table has it.
pub(super) fn find(number: i64) -> Option<(&'static str, Kind)> {
    let row = CALLS.iter().chain(OLDER).find(|(known, ..)| *known == number)?;
    Some((row.1, row.2))
}

/// What `/proc/PID/task/TID/syscall` says of a thread (fs/proc/base.c, proc_pid_syscall).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// It runs.
    Running,
    /// It waits outside of a system call: in a page fault.
    None,
    /// It waits in a system call.
    In {
        /// The call's number.
        number: i64,
        /// Its first three arguments.
        args: [u64; 3],
    },
}

impl Call {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let first = words.next()?;
        if first == "running" {
            return Some(Self::Running);
        }
        let number: i64 = first.parse().ok()?;
        if number < 0 {
            return Some(Self::None);
        }
        let mut argument = || {
            let hex = words.next()?.strip_prefix("0x")?;
            u64::from_str_radix(hex, 16).ok()
        };
        Some(Self::In { number, args: [argument()?, argument()?, argument()?] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let text = "230 0x1 0x1 0x7ffd72c312d0 0x0 0x0 0x0 0x7ffd72c312b8 0x7f8fe04ed503\n";
        let Some(Call::In { number, args }) = Call::parse(text) else { panic!("{text}") };
        assert_eq!((number, args), (230, [1, 1, 0x7ffd_72c3_12d0]));
        assert_eq!(Call::parse("running\n"), Some(Call::Running));
        assert_eq!(Call::parse("-1 0x7ffe68847210 0x7f3d5c5d3503\n"), Some(Call::None));
        for damaged in ["", "x", "230", "230 1 2 3"] {
            assert_eq!(Call::parse(damaged), None, "{damaged}");
        }
    }

    #[test]
    fn each_call_has_one_row() {
        for (number, name, kind) in CALLS.iter().chain(OLDER) {
            assert_eq!(find(*number), Some((*name, *kind)));
        }
        assert_eq!(find(-5), None);
    }
}
