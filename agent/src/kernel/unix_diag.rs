//! Listening Unix sockets as netlink shows them. kernel: net/unix/diag.c (`sk_diag_show_rqlen`: for
//! a listener the connections waiting, and `sk_max_ack_backlog`).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use anyhow::Result;
use netlink_packet_sock_diag::{
    SockDiagMessage,
    unix::{
        ShowFlags, StateFlags, UnixRequest, UnixResponse,
        nlas::{Nla, UnixDiagName},
    },
};

use super::{
    sample::QueueDepth,
    sock_diag::{dump, open},
    watch::unix_path,
};

/// A listening Unix socket, as unix_diag(7) lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixListenSocket {
    /// The path it is bound to, as its process gave it; an abstract name begins with `@`.
    pub path: String,
    /// Its inode in sockfs.
    pub inode: u32,
    /// Its queue: a client that will not wait is refused when `len > limit`.
    pub queue: QueueDepth,
}

/// All listening Unix sockets of the calling thread's namespace.
///
/// # Errors
///
/// When the kernel refuses the question, most often for want of its module.
pub fn unix_listeners_here() -> Result<Vec<UnixListenSocket>> {
    let mut found = Vec::new();
    each_unix_listener(|socket| found.push(socket))?;
    Ok(found)
}

/// Hands every listening Unix socket of the calling thread's namespace to `take`.
///
/// # Errors
///
/// As for [`unix_listeners_here`].
pub fn each_unix_listener(mut take: impl FnMut(UnixListenSocket)) -> Result<()> {
    let request = UnixRequest {
        state_flags: StateFlags::LISTEN,
        inode: 0,
        show_flags: ShowFlags::NAME | ShowFlags::RQLEN,
        cookie: [0xff; 8],
    };
    dump(&open()?, SockDiagMessage::UnixRequest(request), &mut |answer| {
        if let SockDiagMessage::UnixResponse(response) = answer {
            take(listen_socket(&response));
        }
    })
}

fn listen_socket(response: &UnixResponse) -> UnixListenSocket {
    let mut socket = UnixListenSocket {
        path: String::new(),
        inode: response.header.inode,
        queue: QueueDepth::default(),
    };
    for nla in &response.nlas {
        match nla {
            Nla::Name(UnixDiagName::Pathname(path)) => socket.path = shown(path),
            Nla::Name(UnixDiagName::Abstract(name)) => {
                socket.path = unix_path(&[&[0], &name[..]].concat());
            }
            Nla::ReceiveQueueLength(len, limit) => {
                socket.queue = QueueDepth { len: *len, limit: *limit };
            }
            _ => {}
        }
    }
    socket
}

fn shown(path: &OsStr) -> String {
    unix_path(path.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    };

    use super::*;

    #[test]
    fn finds_listeners_of_this_process_with_their_queues() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("listener");
        let by_path = UnixListener::bind(&path).unwrap();
        let name = format!("floodmark-test-{}", std::process::id());
        let addr = SocketAddr::from_abstract_name(&name).unwrap();
        let _by_name = UnixListener::bind_addr(&addr).unwrap();
        let _waiting = UnixStream::connect(&path).unwrap();
        let found = unix_listeners_here().unwrap();
        let own = |path: &str| found.iter().find(|socket| socket.path == path).unwrap();
        assert_eq!(own(path.to_str().unwrap()).queue.len, 1);
        assert!(own(path.to_str().unwrap()).inode > 0);
        assert_eq!(own(&format!("@{name}")).queue.len, 0);
        drop(by_path);
    }
}
