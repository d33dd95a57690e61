//! Finds the addresses of servers that a proxy calls by name.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        mpsc::{Sender, channel},
    },
    thread,
    time::Duration,
};

use log::warn;

use super::{ProxyEvent, Servers, Upstream};
use crate::essential;

/// How often to ask, for servers come and go (`server-template`, agents).
const PERIOD: Duration = Duration::from_secs(10);
/// How long to wait for the first answers.
const FIRST_ANSWERS: Duration = Duration::from_millis(200);

/// The servers of the HAProxies of this host. Each is asked on a thread of its own: one that does not
/// answer keeps nobody else waiting.
#[derive(Debug, Default)]
pub struct Directory {
    places: Vec<Arc<Mutex<Servers>>>,
}

impl Directory {
    /// Asks at command sockets, or in files, from now on and until the value is dropped.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        let (asking, all_asked) = channel();
        let watch = |path: PathBuf| {
            let place = Arc::default();
            let (known, asking) = (Arc::downgrade(&place), asking.clone());
            let ask = move || keep_current(&path, &known, asking);
            if let Err(error) = essential::thread("haproxy", ask) {
                warn!("cannot read the addresses of HAProxy's servers: starting a thread: {error}");
            }
            place
        };
        let places = paths.into_iter().map(watch).collect();
        drop(asking);
        let _ = all_asked.recv_timeout(FIRST_ANSWERS);
        Self { places }
    }

    /// Adds the peer's address to an event that has only its name.
    pub fn look_up(&self, event: &mut ProxyEvent) {
        let Upstream::Server { group, name } = &event.upstream else { return };
        if event.peer_addr.is_none() {
            let servers = |place: &Arc<Mutex<Servers>>| {
                place.lock().unwrap_or_else(PoisonError::into_inner).get(group, name)
            };
            event.peer_addr = self.places.iter().find_map(servers);
        }
    }
}

/// Asks again and again, as long as somebody is interested; `asking` is dropped after the first time.
fn keep_current(path: &Path, known: &Weak<Mutex<Servers>>, asking: Sender<Infallible>) {
    let mut asking = Some(asking);
    let mut has_complained = false;
    loop {
        let answer = Servers::ask(path);
        let Some(place) = known.upgrade() else { return };
        match answer {
            Ok(servers) => {
                *place.lock().unwrap_or_else(PoisonError::into_inner) = servers;
                has_complained = false;
            }
            Err(error) => {
                if !std::mem::replace(&mut has_complained, true) {
                    warn!(
                        "cannot read the addresses of HAProxy's servers from {}: {error}",
                        path.display()
                    );
                }
            }
        }
        drop(place);
        asking.take();
        thread::sleep(PERIOD);
    }
}
