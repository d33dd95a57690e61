//! Scrapers of every kind.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

const REQUEST: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
/// How many at once.
const CROWD: usize = 50;
/// How long one of them waits.
const PATIENCE: Duration = Duration::from_secs(30);

/// Fifty at once: how many they were, and how many got their answer.
pub fn crowd(addr: SocketAddr) -> (u64, u64) {
    let scrapers: Vec<_> = (0..CROWD).map(|_| thread::spawn(move || scrape(addr))).collect();
    let served = scrapers.into_iter().map(|scraper| scraper.join().is_ok_and(|served| served));
    (CROWD as u64, served.map(u64::from).sum())
}

fn scrape(addr: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(addr) else { return false };
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let mut answer = Vec::new();
    let asked = stream.write_all(REQUEST).and_then(|()| stream.read_to_end(&mut answer));
    asked.is_ok() && answer.starts_with(b"HTTP/1.1 200 ")
}

/// Scrapers that hang: one never asks, one asks by halves, one never reads what it is sent.
pub fn hanging(addr: SocketAddr) -> Vec<TcpStream> {
    let asking = [&b""[..], &REQUEST[..20], REQUEST];
    let hang = |what: &&[u8]| {
        let mut stream = TcpStream::connect(addr).ok()?;
        stream.write_all(what).ok()?;
        Some(stream)
    };
    asking.iter().filter_map(hang).collect()
}
