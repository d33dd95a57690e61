//! Calls listen(2) again on a socket on which another process listens, to change the limit of its
//! accept queue: pidfd_getfd(2) (Linux 5.6) duplicates the process's descriptor. On a socket that
//! listens already, listen(2) changes the limit and nothing else (kernel: net/ipv4/af_inet.c
//! `__inet_listen_sk`); the socket's own namespace caps it at `somaxconn` (net/socket.c).
//!
//! **Invariant:** listen(2) is called only on the TCP socket that was meant, as its cookie proves, and
//! only while it listens. A pid or descriptor number may belong to somebody else by now, and on a Unix
//! socket listen(2) makes the caller the one whose credentials clients see (SO_PEERCRED, unix(7)).

use std::{fs, os::fd::OwnedFd, path::Path};

use rustix::{
    io::Errno,
    net::{ipproto, listen, sockopt},
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};

/// Descriptors of one process that are looked at, as by the inventory.
const MOST_DESCRIPTORS: usize = 1 << 16;
/// Yama's setting (Documentation/admin-guide/LSM/Yama.rst); absent where Yama is not built in.
const PTRACE_SCOPE: &str = "/proc/sys/kernel/yama/ptrace_scope";

/// Why a socket was not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No process holds it, as far as this one can see.
    #[error(
        "cannot find the process that holds the socket: run as root, in the host's PID namespace"
    )]
    NoHolder,
    /// The processes that held it have ended or closed it.
    #[error("the socket was closed in the meantime: run `floodmark listeners` again")]
    Closed,
    /// The process may not be touched.
    #[error("cannot duplicate a descriptor of pid {pid}: {why}")]
    Denied {
        /// The process.
        pid: u32,
        /// What it takes.
        why: &'static str,
    },
    /// The kernel does not have the system call.
    #[error("this kernel has no pidfd_getfd(2): Linux 5.6 or newer is needed")]
    TooOld,
    /// It does not listen any more, or is no plain TCP socket.
    #[error("the socket no longer listens, or is not plain TCP")]
    NotListening,
    /// A system call failed.
    #[error("{call}: {error}")]
    Failed {
        /// Name of the call, with its manual section.
        call: &'static str,
        /// The error that it returned.
        error: Errno,
    },
}

/// Sets the limit of the socket with this inode and cookie, by the descriptor of one of the processes
/// that hold it.
///
/// # Errors
///
/// As for [`reach`], and when listen(2) fails.
pub fn listen_again(holders: &[u32], inode: u32, cookie: u64, backlog: u32) -> Result<(), Refusal> {
    let socket = reach(holders, inode, cookie)?;
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    listen(socket, backlog).map_err(|error| Refusal::Failed { call: "listen(2)", error })
}

/// The socket with this inode and cookie, which is a TCP socket and listens. Not to be kept: it goes on
/// listening while anybody has it open.
///
/// # Errors
///
/// When none of its holders lets its descriptor be duplicated, or it does not listen.
pub fn reach(holders: &[u32], inode: u32, cookie: u64) -> Result<OwnedFd, Refusal> {
    let mut refusal = Refusal::NoHolder;
    for pid in holders {
        match duplicate(*pid, inode, cookie) {
            Ok(socket) if is_tcp_listener(&socket) => return Ok(socket),
            Ok(_) => return Err(Refusal::NotListening),
            // That one holder may not be touched says more than that another has ended.
            Err(Refusal::Closed) if refusal != Refusal::NoHolder => {}
            Err(error) => refusal = error,
        }
    }
    Err(refusal)
}

fn is_tcp_listener(socket: &OwnedFd) -> bool {
    sockopt::socket_protocol(socket) == Ok(Some(ipproto::TCP))
        && sockopt::socket_acceptconn(socket) == Ok(true)
}

/// The process's descriptor of the socket, as one of this process's.
fn duplicate(pid: u32, inode: u32, cookie: u64) -> Result<OwnedFd, Refusal> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Refusal::Closed)?;
    // Opened first: from here on it is this process or none.
    let process = pidfd_open(raw, PidfdFlags::empty())
        .map_err(|error| refusal(pid, "pidfd_open(2)", error))?;
    let descriptors = descriptors(pid, inode).map_err(|error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        refusal(pid, "reading its descriptors in procfs", errno)
    })?;
    for descriptor in descriptors {
        match pidfd_getfd(&process, descriptor, PidfdGetfdFlags::empty()) {
            Ok(socket) if sockopt::socket_cookie(&socket) == Ok(cookie) => return Ok(socket),
            // Closed since it was listed, or another's by now.
            Ok(_) | Err(Errno::BADF) => {}
            Err(error) => return Err(refusal(pid, "pidfd_getfd(2)", error)),
        }
    }
    Err(Refusal::Closed)
}

/// The numbers of the process's descriptors that are the socket with this inode.
fn descriptors(pid: u32, inode: u32) -> std::io::Result<Vec<i32>> {
    let wanted = format!("socket:[{inode}]");
    let entries = fs::read_dir(format!("/proc/{pid}/fd"))?.flatten().take(MOST_DESCRIPTORS);
    let is_wanted = |path: &Path| fs::read_link(path).is_ok_and(|link| link == Path::new(&wanted));
    let own = entries.filter(|entry| is_wanted(&entry.path()));
    Ok(own.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

fn refusal(pid: u32, call: &'static str, error: Errno) -> Refusal {
    match error {
        Errno::PERM | Errno::ACCESS => Refusal::Denied { pid, why: why_denied() },
        Errno::SRCH | Errno::NOENT | Errno::BADF => Refusal::Closed,
        Errno::NOSYS => Refusal::TooOld,
        error => Refusal::Failed { call, error },
    }
}

/// kernel: kernel/pid.c `__pidfd_fget` asks for PTRACE_MODE_ATTACH_REALCREDS (ptrace(2)).
fn why_denied() -> &'static str {
    let scope = fs::read_to_string(PTRACE_SCOPE).unwrap_or_default();
    let has_ptrace = caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_SYS_PTRACE);
    match (scope.trim(), has_ptrace) {
        ("3", _) => "kernel.yama.ptrace_scope is 3, which denies it to everyone until a reboot",
        (_, Ok(true)) => {
            "a security module or seccomp filter denies it, or the process is in a parent user \
             namespace"
        }
        _ => "CAP_SYS_PTRACE is needed: run as root",
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{SocketAddr, TcpListener, TcpStream},
        os::unix::net::UnixListener,
        process,
    };

    use super::*;
    use crate::kernel::sock_diag::{ListenSocket, listeners_here};

    fn listed(addr: SocketAddr) -> ListenSocket {
        listeners_here().unwrap().into_iter().find(|socket| socket.addr == addr).unwrap()
    }

    #[test]
    fn a_listener_gets_another_limit_and_keeps_what_waits() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let _waits = TcpStream::connect(addr).unwrap();
        for backlog in [7, 3] {
            let socket = listed(addr);
            listen_again(&[process::id()], socket.inode, socket.cookie, backlog).unwrap();
            let after = listed(addr);
            assert_eq!((after.queue.limit, after.queue.len), (backlog, 1));
        }
        listener.accept().unwrap();
    }

    #[test]
    fn another_socket_with_the_same_inode_is_left_alone() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = listed(listener.local_addr().unwrap());
        let outcome = listen_again(&[process::id()], socket.inode, socket.cookie + 1, 7);
        assert_eq!(outcome, Err(Refusal::Closed));
        assert_eq!(listed(socket.addr).queue.limit, socket.queue.limit);
    }

    #[test]
    fn only_a_tcp_socket_that_listens_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let unix = UnixListener::bind(directory.path().join("socket")).unwrap();
        assert!(!is_tcp_listener(&unix.into()));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(!is_tcp_listener(&client.into()));
        // Linux ends listening by this, and would begin again at another listen(2).
        let socket = listed(listener.local_addr().unwrap());
        rustix::net::shutdown(&listener, rustix::net::Shutdown::Read).unwrap();
        let outcome = listen_again(&[process::id()], socket.inode, socket.cookie, 7);
        assert_eq!(outcome, Err(Refusal::NotListening));
    }

    #[test]
    fn who_has_ended_or_holds_nothing_is_told_from_who_may_not_be_touched() {
        assert_eq!(listen_again(&[], 1, 1, 7), Err(Refusal::NoHolder));
        // Above the kernel's greatest pid (PID_MAX_LIMIT).
        assert_eq!(listen_again(&[1 << 23], 1, 1, 7), Err(Refusal::Closed));
        assert_eq!(listen_again(&[process::id()], 1, 1, 7), Err(Refusal::Closed));
        let denied = |error| matches!(refusal(7, "", error), Refusal::Denied { pid: 7, .. });
        assert!(denied(Errno::PERM) && denied(Errno::ACCESS) && !denied(Errno::SRCH));
        assert_eq!(refusal(7, "", Errno::NOSYS), Refusal::TooOld);
    }
}
