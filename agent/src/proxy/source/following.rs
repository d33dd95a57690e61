//! The sources being read, which may be others after a reload of the configuration.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, channel},
    },
    time::Duration,
};

use anyhow::Error;
use log::warn;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Positions, Source, SourceStats};
use crate::proxy::event::ProxyEvent;

/// How long to wait until all files have been opened, so that what is written to them from now on is
/// read. On a hung mount that never comes to pass.
const OPENING_TIME: Duration = Duration::from_millis(200);

/// Held by a source as long as it opens what it reads.
pub type Opening = std::sync::mpsc::Sender<Infallible>;

/// Sources being read, until the value is dropped.
#[derive(Debug)]
pub struct Following {
    events: mpsc::Sender<ProxyEvent>,
    positions: Option<Arc<Positions>>,
    followed: Vec<Followed>,
}

#[derive(Debug)]
struct Followed {
    source: Source,
    stats: Arc<SourceStats>,
    /// Ends the reading when it is dropped.
    reading: Option<DropGuard>,
}

impl Following {
    /// Reads nothing yet. What will be read goes to `events`.
    pub fn new(events: mpsc::Sender<ProxyEvent>, positions: Option<Arc<Positions>>) -> Self {
        Self { events, positions, followed: Vec::new() }
    }

    /// Reads the sources `wanted` and no others; what was read already is read on. Says which could
    /// not be begun with.
    pub fn follow(&mut self, wanted: &[Source]) -> Vec<Error> {
        self.followed.retain(|followed| wanted.contains(&followed.source));
        let mut failures = Vec::new();
        let (opening, all_open) = channel();
        for source in wanted {
            if self.followed.iter().any(|followed| followed.source == *source) {
                continue;
            }
            let stop = CancellationToken::new();
            let positions = self.positions.clone();
            match source.start(self.events.clone(), stop.clone(), positions, opening.clone()) {
                Ok(stats) => self.followed.push(Followed {
                    source: source.clone(),
                    stats,
                    reading: Some(stop.drop_guard()),
                }),
                Err(error) => failures.push(error),
            }
        }
        drop(opening);
        if all_open.recv_timeout(OPENING_TIME) == Err(RecvTimeoutError::Timeout) {
            warn!(
                "a log is on a file system that does not respond; the agent reads it as soon as \
                   it responds"
            );
        }
        failures
    }

    /// Ends the reading; what was counted stays.
    pub fn stop(&mut self) {
        for followed in &mut self.followed {
            followed.reading = None;
        }
    }

    /// What each has read, by its name.
    pub fn stats(&self) -> impl Iterator<Item = (String, Arc<SourceStats>)> {
        self.followed.iter().map(|it| (it.source.name(), Arc::clone(&it.stats)))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{SocketAddr, UdpSocket},
        sync::atomic::Ordering,
        time::Duration,
    };

    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::proxy::source::Format;

    const MESSAGE: &[u8] = b"<129>1 - - haproxy 2 - - Server app/s1 is DOWN, reason: Layer4 \
                             timeout, check duration: 300ms.";

    /// A free port: bound, and left again.
    fn free() -> SocketAddr {
        UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    #[tokio::test]
    async fn what_is_still_wanted_is_read_on_and_what_is_not_lets_go() {
        let (sender, mut events) = mpsc::channel(8);
        let mut following = Following::new(sender, None);
        let (kept, dropped, taken) = (free(), free(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let source = |addr| Source::SyslogUdp(Format::default(), addr);
        assert!(following.follow(&[source(kept), source(dropped)]).is_empty());
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(MESSAGE, kept).unwrap();
        events.recv().await.unwrap();

        let failures = following.follow(&[source(kept), source(taken.local_addr().unwrap())]);
        assert_eq!(failures.len(), 1, "somebody else has the port");
        client.send_to(MESSAGE, kept).unwrap();
        events.recv().await.unwrap();
        let stats: Vec<_> = following.stats().collect();
        assert_eq!(stats.len(), 1);
        assert_eq!(stats[0].1.events.load(Ordering::Relaxed), 2, "counts go on");
        let is_free = async {
            while UdpSocket::bind(dropped).is_err() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(60), is_free).await.expect("the port is let go");
    }
}
