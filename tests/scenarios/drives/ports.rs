//! No ephemeral port left to connect from (`inet_hash_connect`), which no counter shows.

use std::{
    io,
    net::{Ipv4Addr, TcpListener, TcpStream},
};

use anyhow::{Result, ensure};

use crate::{
    claim::exactly,
    namespace::{Namespace, sysctl},
    scenario::{Driven, Scenario},
};

pub const ALL: &[Scenario] = &[Scenario::new("ephemeral_ports_exhausted", exhausted)];

/// Four ports, four connections; five more find none.
fn exhausted(_: &[Namespace]) -> Result<Driven> {
    sysctl("ipv4/ip_local_port_range", "40000 40003")?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 8080))?;
    let to = listener.local_addr()?;
    let clients = (0..4).map(|_| TcpStream::connect(to)).collect::<io::Result<Vec<_>>>()?;
    for _ in 0..5 {
        let error = TcpStream::connect(to).err().and_then(|error| error.raw_os_error());
        ensure!(error == Some(libc::EADDRNOTAVAIL), "connect without a port left: {error:?}");
    }
    let claims = [exactly("connect/ports_exhausted", 5), exactly("ListenDrops", 0)];
    Ok(Driven::new(claims, (listener, clients)))
}
