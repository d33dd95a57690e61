//! Where the canary sits: its namespace, listeners that accept nothing, clients that wait for
//! nothing, and the raw sockets it takes to write an ICMP error.

#![allow(unsafe_code, reason = "system calls that no library offers")]

use std::{
    fs::File,
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, unshare};
use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};

use super::ADDRESS_V6;
use crate::kernel::{NetnsId, netns::of_this_thread};

/// The index of `lo`, which is the first device of every namespace.
const LOOPBACK: i32 = 1;
const SYN_ACK: u8 = 0x12;

/// A canary's namespace, which stays as long as this is kept: its number goes to no other until then.
pub struct Nest {
    pub netns: NetnsId,
    _open: File,
}

/// Moves the thread into a new namespace with its loopback up.
pub fn settle_in() -> Result<Nest> {
    unshare(CloneFlags::CLONE_NEWNET)
        .context("creating a network namespace for the self-test, which takes CAP_SYS_ADMIN")?;
    raise_loopback().context("self-test: bringing the loopback up")?;
    let open = File::open("/proc/thread-self/ns/net")
        .context("self-test: opening the network namespace")?;
    Ok(Nest { netns: of_this_thread()?, _open: open })
}

/// Gives the loopback the canary's IPv6 address.
///
/// # Errors
///
/// Where this host has no IPv6.
pub fn add_ipv6() -> Result<()> {
    /// kernel: include/uapi/linux/ipv6.h
    #[repr(C)]
    struct In6Ifreq {
        address: [u8; 16],
        prefix: u32,
        device: i32,
    }
    let any = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
    let request = In6Ifreq { address: ADDRESS_V6.octets(), prefix: 128, device: LOOPBACK };
    // SAFETY: SIOCSIFADDR on an IPv6 socket reads the in6_ifreq it is given.
    let result =
        unsafe { libc::ioctl(any.as_raw_fd(), libc::SIOCSIFADDR as libc::Ioctl, &request) };
    ensure!(result == 0, "self-test: adding an IPv6 address: {}", io::Error::last_os_error());
    Ok(())
}

fn raise_loopback() -> Result<()> {
    let any = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    // SAFETY: all zeros is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[..2].copy_from_slice(&[b'l' as libc::c_char, b'o' as libc::c_char]);
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads the ifreq it is given.
    let result =
        unsafe { libc::ioctl(any.as_raw_fd(), libc::SIOCSIFFLAGS as libc::Ioctl, &request) };
    ensure!(result == 0, "{}", io::Error::last_os_error());
    Ok(())
}

/// A listener that accepts nothing unless told to.
pub struct Perch {
    listener: Socket,
    addr: SocketAddr,
}

impl Perch {
    /// Listens at `address`. A backlog of n lets n + 1 connections wait.
    pub fn new(address: impl Into<IpAddr>, backlog: i32) -> Result<Self> {
        let address = SocketAddr::new(address.into(), 0);
        let listener = stream(address)?;
        listener.bind(&address.into()).context("self-test: creating a listener")?;
        listener.listen(backlog).context("self-test: creating a listener")?;
        let addr = listener
            .local_addr()?
            .as_socket()
            .context("self-test: a listener without an address")?;
        Ok(Self { listener, addr })
    }

    /// Changes the backlog.
    pub fn set_backlog(&self, backlog: i32) -> Result<()> {
        Ok(self.listener.listen(backlog)?)
    }

    /// A connection that waits.
    pub fn accept(&self) -> Result<Socket> {
        Ok(self.listener.accept().context("self-test: accept")?.0)
    }

    /// Takes every connection that waits.
    pub fn accept_all(&self) -> Result<()> {
        self.listener.set_nonblocking(true)?;
        while self.listener.accept().is_ok() {}
        Ok(())
    }

    /// Clients that have sent a SYN and wait for nothing. They reset when dropped: a FIN would leave
    /// sockets behind that outlive the namespace.
    pub fn knocks(&self, count: usize) -> Result<Vec<Socket>> {
        (0..count).map(|_| self.knock()).collect()
    }

    fn knock(&self) -> Result<Socket> {
        let client = stream(self.addr)?;
        client.set_nonblocking(true)?;
        client.set_linger(Some(Duration::ZERO))?;
        match client.connect(&self.addr.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => {
                Err(error).context("self-test: connect")
            }
            _ => Ok(client),
        }
    }

    /// A client that is connected, and closes as anybody would.
    ///
    /// # Errors
    ///
    /// Those of `connect(2)`.
    pub fn visit(&self) -> io::Result<Socket> {
        let client = stream(self.addr)?;
        client.connect(&self.addr.into())?;
        Ok(client)
    }

    /// Has the kernel drop every segment with one of `flags` before the listener sees it: handshakes
    /// stay half open, or do not begin.
    pub fn deafen(&self, flags: u8) -> Result<()> {
        // A socket filter sees a TCP segment from its header on; byte 13 holds the flags.
        let program = [
            SockFilter::new(0x30, 0, 0, 13),
            SockFilter::new(0x45, 0, 1, flags.into()),
            SockFilter::new(0x06, 0, 0, 0),
            SockFilter::new(0x06, 0, 0, u32::MAX),
        ];
        Ok(self.listener.attach_filter(&program)?)
    }

    /// Lets every segment through again.
    pub fn listen_up(&self) -> Result<()> {
        Ok(self.listener.detach_filter()?)
    }
}

fn stream(address: SocketAddr) -> io::Result<Socket> {
    Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))
}

/// What a raw socket saw of a listener's SYN/ACK.
pub struct SynAck {
    from: SocketAddrV4,
    to: SocketAddrV4,
    sequence: [u8; 4],
}

/// Sees every IPv4 TCP segment of the namespace.
pub struct Ear(Socket);

impl Ear {
    /// Opens the raw socket.
    ///
    /// # Errors
    ///
    /// Without CAP_NET_RAW.
    pub fn open() -> Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP))?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        Ok(Self(socket))
    }

    /// The next SYN/ACK that `perch` sends.
    ///
    /// # Errors
    ///
    /// When none comes.
    pub fn next_from(&mut self, perch: &Perch) -> Result<SynAck> {
        let mut packet = [0; 256];
        loop {
            let length = self.0.read(&mut packet).context("self-test: no SYN/ACK arrived")?;
            if let Some(seen) = synack(&packet[..length])
                && SocketAddr::V4(seen.from) == perch.addr
            {
                return Ok(seen);
            }
        }
    }
}

/// Reads an IPv4 packet without options (RFC 791) with a TCP header (RFC 9293).
fn synack(packet: &[u8]) -> Option<SynAck> {
    let (ip, tcp) = packet.split_at_checked(20)?;
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?));
    let port = |at: usize| Some(u16::from_be_bytes(tcp.get(at..at + 2)?.try_into().ok()?));
    let is_synack = ip[0] == 0x45 && *tcp.get(13)? & SYN_ACK == SYN_ACK;
    is_synack.then_some(SynAck {
        from: SocketAddrV4::new(address(12)?, port(0)?),
        to: SocketAddrV4::new(address(16)?, port(2)?),
        sequence: tcp.get(4..8)?.try_into().ok()?,
    })
}

impl SynAck {
    /// Tells its sender that its receiver's host cannot be reached (RFC 792).
    ///
    /// # Errors
    ///
    /// Without CAP_NET_RAW.
    pub fn refuse(&self) -> Result<()> {
        // Type 3, code 1, no checksum yet, unused; then the packet's header and its first 8 bytes.
        let mut error = vec![3, 1, 0, 0, 0, 0, 0, 0];
        error.extend([0x45, 0, 0, 40, 0, 0, 0, 0, 64, libc::IPPROTO_TCP as u8, 0, 0]);
        error.extend(self.from.ip().octets());
        error.extend(self.to.ip().octets());
        error.extend(self.from.port().to_be_bytes());
        error.extend(self.to.port().to_be_bytes());
        error.extend(self.sequence);
        let sum = checksum(&error).to_be_bytes();
        error[2..4].copy_from_slice(&sum);
        let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
        raw.send_to(&error, &SockAddr::from(SocketAddrV4::new(*self.from.ip(), 0)))?;
        Ok(())
    }
}

/// RFC 1071, of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_synack_is_not_taken_for_one() {
        let mut packet = [0; 40];
        packet[0] = 0x45;
        packet[33] = SYN_ACK;
        packet[12..16].copy_from_slice(&[127, 0, 0, 1]);
        packet[20..22].copy_from_slice(&80_u16.to_be_bytes());
        assert_eq!(synack(&packet).unwrap().from, "127.0.0.1:80".parse().unwrap());
        packet[33] = 0x10;
        assert!(synack(&packet).is_none());
        assert!(synack(&packet[..30]).is_none() && synack(&[]).is_none());
    }

    #[test]
    fn a_message_with_its_checksum_sums_to_nothing() {
        let mut message = [3, 1, 0, 0, 0x12, 0x34, 0xff, 0xfe];
        let sum = checksum(&message).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
        assert_eq!(checksum(&message), 0);
    }
}
