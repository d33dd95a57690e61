//! Listening sockets as netlink shows them. kernel: net/ipv4/inet_diag.c, net/ipv4/tcp_diag.c
//! (`tcp_diag_get_info`: for a listener idiag_rqueue is `sk_ack_backlog`, idiag_wqueue
//! `sk_max_ack_backlog`).

use std::{ffi::OsStr, io, net::SocketAddr};

use anyhow::{Context, Result, anyhow, bail};
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla},
};
use netlink_sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_SOCK_DIAG};

use super::sample::{ListenerId, NetnsId, QueueDepth};

/// The inode of the socket that a descriptor's link in procfs leads to: `socket:[N]`
/// (net/socket.c, `sockfs_dname`).
pub fn inode_of_link(link: &OsStr) -> Option<u32> {
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// A listening TCP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenSocket {
    /// Local address and port.
    pub addr: SocketAddr,
    /// Its inode in sockfs.
    pub inode: u32,
    /// The kernel's unique cookie for the socket.
    pub cookie: u64,
    /// Its accept queue.
    pub queue: QueueDepth,
    /// `SK_MEMINFO_DROPS`: one per `tcp_listendrop`, and one more for each segment that
    /// `tcp_v4_rcv` discards for it.
    pub drops: u32,
    /// Whether an IPv6 wildcard socket leaves IPv4 alone (IPV6_V6ONLY).
    pub v6_only: bool,
}

impl ListenSocket {
    /// Its identity among all of the host's, given the namespace it was listed in.
    pub fn id(&self, netns: NetnsId) -> ListenerId {
        ListenerId { netns, addr: self.addr, inode: self.inode }
    }
}

/// Room for one datagram of a dump; the kernel fills at most 32 KiB.
const DATAGRAM: usize = 64 * 1024;

/// All listening TCP sockets of the calling thread's namespace.
///
/// # Errors
///
/// When the kernel refuses the question, most often for want of its modules.
pub fn listeners_here() -> Result<Vec<ListenSocket>> {
    listeners_among(&Family::BOTH)
}

/// As [`listeners_here`], but only those of `families`: for each, the kernel goes through the host's
/// whole table of listeners.
///
/// # Errors
///
/// As there.
pub fn listeners_among(families: &[Family]) -> Result<Vec<ListenSocket>> {
    let mut found = Vec::new();
    each_listener(families, |socket| found.push(socket))?;
    Ok(found)
}

/// Hands every listening TCP socket of the calling thread's namespace to `take`, as the kernel lists
/// them, so that not all of them have to be in memory at once.
///
/// # Errors
///
/// As for [`listeners_here`].
pub fn each_listener(families: &[Family], mut take: impl FnMut(ListenSocket)) -> Result<()> {
    each_inet(families, StateFlags::LISTEN, ExtensionFlags::SKMEMINFO, |socket| {
        take(listen_socket(socket));
    })
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6, dual-stack sockets included.
    V6,
}

impl Family {
    /// Either.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// That of an address.
    pub fn of(addr: SocketAddr) -> Self {
        if addr.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// Hands every TCP socket of the calling thread's namespace in one of `states` to `take`.
pub(super) fn each_inet(
    families: &[Family],
    states: StateFlags,
    extensions: ExtensionFlags,
    mut take: impl FnMut(&InetResponse),
) -> Result<()> {
    if families.is_empty() {
        return Ok(());
    }
    let socket = open()?;
    for family in families {
        let (family, any) = match family {
            Family::V4 => (AF_INET, SocketId::new_v4()),
            Family::V6 => (AF_INET6, SocketId::new_v6()),
        };
        let request = InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: extensions.clone(),
            states: states.clone(),
            socket_id: any,
        };
        dump(&socket, SockDiagMessage::InetRequest(request), &mut |answer| {
            if let SockDiagMessage::InetResponse(response) = answer {
                take(&response);
            }
        })?;
    }
    Ok(())
}

pub(super) fn open() -> Result<Socket> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG).context("opening a sock_diag socket")?;
    socket.bind_auto().context("binding a sock_diag socket")?;
    socket.connect(&NetlinkAddr::new(0, 0)).context("connecting a sock_diag socket")?;
    Ok(socket)
}

/// Asks one question and hands every part of the answer to `take`.
pub(super) fn dump(
    socket: &Socket,
    request: SockDiagMessage,
    take: &mut impl FnMut(SockDiagMessage),
) -> Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, request.into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0).context("sending a sock_diag request")?;
    let mut buffer = Vec::with_capacity(DATAGRAM);
    loop {
        buffer.clear();
        socket.recv(&mut buffer, 0).context("reading sock_diag's answer")?;
        if take_datagram(&buffer, take)? {
            return Ok(());
        }
    }
}

/// Takes in one datagram of the answer; true at its end.
fn take_datagram(mut bytes: &[u8], take: &mut impl FnMut(SockDiagMessage)) -> Result<bool> {
    while !bytes.is_empty() {
        let message = NetlinkMessage::<SockDiagMessage>::deserialize(bytes)
            .map_err(|error| anyhow!("cannot decode sock_diag's answer: {error}"))?;
        match message.payload {
            // netlink_dump() hands a dump's failure over in the message that ends it.
            NetlinkPayload::Done(done) if done.code < 0 => bail!(refusal(done.code)),
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) => {
                bail!(refusal(error.code.map_or(0, i32::from)))
            }
            NetlinkPayload::InnerMessage(answer) => take(answer),
            _ => {}
        }
        let length = (message.header.length as usize).next_multiple_of(4).max(16);
        bytes = bytes.get(length..).unwrap_or_default();
    }
    Ok(false)
}

/// Why the kernel would not answer, and the remedy where there is one. It knows no handler (ENOENT)
/// where the modules are missing and cannot be loaded by request.
fn refusal(code: i32) -> String {
    let error = io::Error::from_raw_os_error(code.saturating_neg());
    match error.raw_os_error() {
        Some(libc::ENOENT) => format!(
            "this kernel has no sock_diag for this family ({error}): load its modules with \
             `modprobe -a inet_diag tcp_diag unix_diag`"
        ),
        _ => format!("sock_diag refuses to list listeners: {error}"),
    }
}

fn listen_socket(response: &InetResponse) -> ListenSocket {
    let header = &response.header;
    let id = &header.socket_id;
    let drops = response.nlas.iter().find_map(|nla| match nla {
        Nla::MemInfo(memory) => Some(memory.drops),
        _ => None,
    });
    ListenSocket {
        addr: SocketAddr::new(id.source_address, id.source_port),
        inode: header.inode,
        cookie: u64::from_ne_bytes(id.cookie),
        queue: QueueDepth { len: header.recv_queue, limit: header.send_queue },
        drops: drops.unwrap_or(0),
        v6_only: response.nlas.contains(&Nla::SkV6Only(true)),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn reads_a_socket_link() {
        assert_eq!(inode_of_link(OsStr::new("socket:[4711]")), Some(4711));
        assert_eq!(inode_of_link(OsStr::new("pipe:[4711]")), None);
        assert_eq!(inode_of_link(OsStr::new("socket:[x]")), None);
    }

    #[test]
    fn finds_a_listener_of_this_process() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let found = listeners_here().unwrap();
        let own = found.iter().find(|socket| socket.addr == addr).unwrap();
        assert_eq!((own.queue.len, own.drops), (0, 0));
        assert!(own.queue.limit > 0 && own.inode > 0 && own.cookie > 0);
    }

    /// A bound IPv6 address other than the wildcard makes a socket IPv6-only (`inet6_bind`).
    #[test]
    fn tells_a_dual_stack_socket_from_an_ipv6_only_one() {
        for (bind, v6_only) in [("[::]:0", false), ("[::1]:0", true)] {
            let listener = TcpListener::bind(bind).unwrap();
            let addr = listener.local_addr().unwrap();
            let found = listeners_here().unwrap();
            let own = found.iter().find(|socket| socket.addr == addr).unwrap();
            assert_eq!(own.v6_only, v6_only, "{bind}");
        }
    }

    /// As seen on Linux 6.18 for a protocol without a handler: no message but NLMSG_DONE (3), with
    /// -ENOENT in it.
    #[test]
    fn missing_modules_are_an_error_and_not_an_empty_host() {
        let answer = |kind: u16, code: i32| {
            let mut bytes = 20_u32.to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.extend([0; 10]);
            bytes.extend(code.to_ne_bytes());
            // NLMSG_ERROR (2) repeats the header it answers.
            if kind == 2 {
                bytes.extend([0; 16]);
                bytes[0] = 36;
            }
            bytes
        };
        for kind in [2, 3] {
            let error = take_datagram(&answer(kind, -libc::ENOENT), &mut drop).unwrap_err();
            assert!(
                error.to_string().contains("modprobe -a inet_diag tcp_diag unix_diag"),
                "{error}"
            );
            let error = take_datagram(&answer(kind, -libc::EPERM), &mut drop).unwrap_err();
            assert!(!error.to_string().contains("modprobe"), "{error}");
        }
        assert!(take_datagram(&answer(3, 0), &mut drop).unwrap());
    }

    #[test]
    fn refuses_a_damaged_answer() {
        assert!(take_datagram(&[1, 2, 3], &mut drop).is_err());
    }
}
