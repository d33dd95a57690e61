//! What the kernel drops of a UDP socket's datagrams: the last column of `/proc/net/udp` and
//! `/proc/net/udp6` (`udp4_format_sock`, `sk_drops`).

use std::{fs, os::fd::AsRawFd};

use crate::kernel::sock_diag::inode_of_link;

/// The inode of a socket of this process.
pub(super) fn inode(socket: &impl AsRawFd) -> Option<u64> {
    let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).ok()?;
    inode_of_link(link.as_os_str()).map(u64::from)
}

/// Datagrams dropped at the socket with that inode, in this thread's network namespace.
pub(super) fn of(inode: u64) -> Option<u64> {
    ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"]
        .iter()
        .find_map(|path| find(&fs::read_to_string(path).ok()?, inode))
}

fn find(table: &str, inode: u64) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        (fields.get(9)?.parse() == Ok(inode)).then(|| fields.last()?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn what_overflows_a_socket_is_counted() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let own = inode(&socket).unwrap();
        assert_eq!(of(own), Some(0));
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let addr = socket.local_addr().unwrap();
        // More than any default buffer holds.
        for _ in 0..20_000 {
            sender.send_to(&[0; 1000], addr).unwrap();
        }
        assert!(of(own).unwrap() > 0);
    }
}
