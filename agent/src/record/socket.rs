//! A running agent's hindsight, to be had over a Unix socket.

use std::{
    fs::{self, DirBuilder, Permissions},
    io::{self, Read, Write},
    os::unix::{
        fs::{DirBuilderExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use log::warn;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream as AsyncStream},
    time::{sleep, timeout},
};

use super::hindsight::Hindsight;

/// What a client asks.
const QUESTION: &[u8; 7] = b"record\n";
/// How long a client may take for its question or the answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait after a client could not be taken.
const RESPITE: Duration = Duration::from_millis(100);

/// Answers at `path`, one client after the other; never ends by itself. Only the agent's own user may
/// ask, for a recording tells who talks with whom.
///
/// # Errors
///
/// When the socket cannot be made.
pub fn serve(path: &Path, hindsight: Hindsight) -> Result<impl Future<Output = ()> + use<>> {
    if let Some(directory) = path.parent() {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.with_context(|| format!("making {}", directory.display()))?;
    }
    anyhow::ensure!(
        UnixStream::connect(path).is_err(),
        "another agent answers at {}: choose another --socket",
        path.display()
    );
    // Left behind by one that was killed.
    let _ = fs::remove_file(path);
    let listener =
        UnixListener::bind(path).with_context(|| format!("listening on {}", path.display()))?;
    let place = Place(path.to_owned());
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(async move {
        let _place = place;
        loop {
            let Ok((client, _)) = listener.accept().await else {
                // Without descriptors, say.
                sleep(RESPITE).await;
                continue;
            };
            match timeout(PATIENCE, answer(client, &hindsight)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => warn!("a client of the agent's socket: {error}"),
                Err(_) => warn!("a client of the agent's socket took too long"),
            }
        }
    })
}

/// The socket's path, where nothing is left once nobody answers there.
struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

async fn answer(mut client: AsyncStream, hindsight: &Hindsight) -> io::Result<()> {
    let mut question = [0; QUESTION.len()];
    client.read_exact(&mut question).await?;
    if &question != QUESTION {
        return Err(io::Error::other("it asked for something unknown"));
    }
    for piece in hindsight.snapshot().await {
        client.write_all(&piece).await?;
    }
    client.shutdown().await
}

/// Asks the agent that answers at `path`. What is read from the stream is a recording.
///
/// # Errors
///
/// When none answers.
pub fn fetch(path: &Path) -> Result<impl Read + use<>> {
    let mut stream = UnixStream::connect(path).with_context(|| {
        format!(
            "no agent answers at {}; `floodmark run` does, unless --hindsight is 0 (see --socket)",
            path.display()
        )
    })?;
    stream.set_read_timeout(Some(PATIENCE)).context("setting a time limit")?;
    stream.write_all(QUESTION).context("asking the agent")?;
    Ok(stream)
}
