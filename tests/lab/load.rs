//! The load: a fixed number of clients, each with one request at a time, bounded in time.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Mutex,
    time::{Instant, sleep, timeout},
};

use crate::nginx;

/// A client's pause after an error: people reload, they do not spin.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);
/// Longest wait for one answer: more than nginx's own timeouts together.
const PATIENCE: Duration = Duration::from_secs(150);

/// What the clients saw.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Seen {
    /// Requests answered, or failed.
    pub requests: u64,
    /// Answers by status; 0 stands for none at all.
    pub statuses: BTreeMap<u16, u64>,
}

/// Loads nginx, from inside its namespace, with `clients` for `duration`; then waits for what is
/// under way.
pub async fn run(clients: usize, duration: Duration) -> Result<Seen> {
    let end = Instant::now() + duration;
    run_while(clients, move || Instant::now() < end).await
}

/// The same for as long as `goes_on` says.
pub async fn run_while(
    clients: usize,
    goes_on: impl Fn() -> bool + Clone + Send + 'static,
) -> Result<Seen> {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let mut tasks = Vec::new();
    for _ in 0..clients {
        let (seen, goes_on) = (Arc::clone(&seen), goes_on.clone());
        tasks.push(tokio::spawn(async move {
            while goes_on() {
                let status = timeout(PATIENCE, request()).await.ok().flatten().unwrap_or(0);
                let mut seen = seen.lock().await;
                seen.requests += 1;
                *seen.statuses.entry(status).or_default() += 1;
                drop(seen);
                if status != 200 {
                    sleep(PAUSE_AFTER_ERROR).await;
                }
            }
        }));
    }
    for task in tasks {
        task.await?;
    }
    Ok(seen.lock().await.clone())
}

/// One request on a connection of its own; its status.
async fn request() -> Option<u16> {
    let mut stream = TcpStream::connect(nginx::ADDR).await.ok()?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n").await.ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok()?;
    status_of(&answer)
}

fn status_of(answer: &[u8]) -> Option<u16> {
    let line = answer.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    std::str::from_utf8(line).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_status() {
        assert_eq!(status_of(b"HTTP/1.1 502 Bad Gateway\r\n"), Some(502));
        assert_eq!(status_of(b"HTTP/1.1"), None);
        assert_eq!(status_of(b""), None);
    }
}
