//! A network of crafted peers: a TUN device in the calling thread's namespace. What is written to
//! it arrives from the network, what the kernel sends there is read.

#![allow(unsafe_code, reason = "system calls that no library offers")]

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd},
    os::unix::fs::OpenOptionsExt,
};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{
    counters::until,
    namespace::{ip, sysctl},
    scenario::Skip,
};

/// The namespace's own addresses on the device.
pub const HERE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
pub const HERE_V6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1);
/// The network's broadcast address.
pub const BROADCAST: Ipv4Addr = Ipv4Addr::new(10, 9, 255, 255);

const DEVICE: &str = "/dev/net/tun";
const NAME: &str = "peers0";
/// How long an answer may take; what does not come is missing.
const PATIENCE: u16 = 2000;

/// The device; it goes with the value.
pub struct Tun {
    file: File,
}

impl Tun {
    /// Makes the device and gives it its addresses.
    pub fn open() -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(DEVICE)
            .map_err(|error| Skip(format!("{DEVICE}: {error}")))?;
        // SAFETY: all zeros are a valid `ifreq`.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(NAME.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as i16;
        // SAFETY: TUNSETIFF reads and writes the `ifreq` it is given.
        let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        if made != 0 {
            return Err(io::Error::last_os_error()).context("make a TUN device");
        }
        ip(&["address", "add", &format!("{HERE}/16"), "broadcast", "+", "dev", NAME])?;
        ip(&["-6", "address", "add", &format!("{HERE_V6}/64"), "dev", NAME, "nodad"])?;
        ip(&["link", "set", NAME, "up"])?;
        until("the IPv6 address to be of use", has_local_route)?;
        Ok(Self { file })
    }

    /// As [`Tun::open`], and there is another network behind it to which no route leads.
    pub fn open_with_unreachable() -> Result<Self> {
        // Otherwise what comes from there would be dropped before TCP sees it.
        sysctl("ipv4/conf/all/rp_filter", "0")?;
        let tun = Self::open()?;
        sysctl(&format!("ipv4/conf/{NAME}/rp_filter"), "0")?;
        ip(&["route", "add", "unreachable", "10.99.0.0/16"])?;
        ip(&["-6", "route", "add", "unreachable", "fd99::/64"])?;
        Ok(tun)
    }

    /// Opens the way to that network, or closes it again.
    pub fn set_reachable(&self, reachable: bool) -> Result<()> {
        if reachable {
            ip(&["route", "replace", "10.99.0.0/16", "dev", NAME])?;
            ip(&["-6", "route", "replace", "fd99::/64", "dev", NAME])
        } else {
            ip(&["route", "replace", "unreachable", "10.99.0.0/16"])?;
            ip(&["-6", "route", "replace", "unreachable", "fd99::/64"])
        }
    }

    /// The address of a crafted peer in that network.
    pub fn unreachable_peer(number: u8, like: IpAddr) -> IpAddr {
        match like {
            IpAddr::V4(_) => Ipv4Addr::new(10, 99, 0, number).into(),
            IpAddr::V6(_) => Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, number.into()).into(),
        }
    }

    /// The address of the crafted peer of that number.
    pub fn peer(number: u16, like: IpAddr) -> IpAddr {
        let [high, low] = number.to_be_bytes();
        match like {
            IpAddr::V4(_) => Ipv4Addr::new(10, 9, 1 + high, low).into(),
            IpAddr::V6(_) => Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 1, number).into(),
        }
    }

    /// Lets a packet arrive.
    pub fn send(&self, packet: &[u8]) -> Result<()> {
        (&self.file).write_all(packet).context("write to the TUN device")
    }

    /// The next packet that the kernel sent; `None` when none comes.
    pub fn receive(&self) -> Result<Option<Vec<u8>>> {
        let mut wanted = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
        if poll(&mut wanted, PollTimeout::from(PATIENCE))? == 0 {
            return Ok(None);
        }
        let mut packet = vec![0; 2048];
        let length = (&self.file).read(&mut packet).context("read from the TUN device")?;
        packet.truncate(length);
        Ok(Some(packet))
    }
}

/// The kernel puts an IPv6 address to use in a work queue, even when it need not look for duplicates
/// (`addrconf_dad_work`). Until then there is no local route.
fn has_local_route() -> Result<bool> {
    let text = fs::read_to_string("/proc/thread-self/net/ipv6_route")?;
    let address: String = HERE_V6.octets().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(text.lines().any(|line| line.starts_with(&format!("{address} 80 "))))
}
