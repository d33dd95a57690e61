//! Finds the addresses of servers that a proxy calls by name.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use log::warn;

use super::{ProxyEvent, Servers, Upstream};

/// An answer is taken for right this long, for servers come and go (`server-template`, agents).
const PERIOD: Duration = Duration::from_secs(10);

/// The servers of the HAProxies of this host.
#[derive(Debug, Default)]
pub struct Directory {
    places: Vec<Place>,
}

#[derive(Debug)]
struct Place {
    path: PathBuf,
    servers: Servers,
    asked: Option<Instant>,
    has_complained: bool,
}

impl Directory {
    /// Asks at command sockets, or in files.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        let place =
            |path| Place { path, servers: Servers::default(), asked: None, has_complained: false };
        let mut places: Vec<Place> = paths.into_iter().map(place).collect();
        // A wrong path is told of now, not when the first name comes.
        for place in &mut places {
            place.current();
        }
        Self { places }
    }

    /// Adds the peer's address to an event that has only its name.
    pub fn look_up(&mut self, event: &mut ProxyEvent) {
        let Upstream::Server { group, name } = &event.upstream else { return };
        if event.peer_addr.is_none() {
            let mut places = self.places.iter_mut();
            event.peer_addr = places.find_map(|place| place.current().get(group, name));
        }
    }
}

impl Place {
    fn current(&mut self) -> &Servers {
        if self.asked.is_none_or(|asked| asked.elapsed() >= PERIOD) {
            self.asked = Some(Instant::now());
            match Servers::ask(&self.path) {
                Ok(servers) => {
                    self.servers = servers;
                    self.has_complained = false;
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.has_complained, true) {
                        let path = self.path.display();
                        warn!("addresses of HAProxy's servers: {path}: {error}");
                    }
                }
            }
        }
        &self.servers
    }
}
