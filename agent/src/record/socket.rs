//! A running agent's hindsight, to be had over a Unix socket.

use std::{
    fs::{self, DirBuilder},
    io::{self, Read, Write},
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use log::warn;
use nix::sys::stat::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream as AsyncStream},
    time::{sleep, timeout},
};

use super::hindsight::Hindsight;

/// What a client asks.
const QUESTION: &[u8; 7] = b"record\n";
/// Bytes read of an answer; an agent keeps 32 MiB.
const LONGEST_ANSWER: u64 = 256 << 20;
/// Clients that may wait for their turn.
const CLIENTS_WAITING: i32 = 16;
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
        made.with_context(|| format!("creating {}", directory.display()))?;
    }
    anyhow::ensure!(
        UnixStream::connect(path).is_err(),
        "another agent uses {}: set another --socket",
        path.display()
    );
    // Left behind by one that was killed.
    if fs::symlink_metadata(path).is_ok_and(|there| there.file_type().is_socket()) {
        let _ = fs::remove_file(path);
    }
    let listener = bind(path).with_context(|| format!("listening on {}", path.display()))?;
    let place = Place(path.to_owned());
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
                Ok(Err(error)) => warn!("cannot answer a client of the agent's socket: {error}"),
                Err(_) => warn!("a client of the agent's socket took too long"),
            }
        }
    })
}

/// Binds a socket for the agent's user alone. Its mode is set before there is a path (kernel:
/// net/unix/af_unix.c `unix_bind_bsd`), which somebody could exchange for a link.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(CLIENTS_WAITING)?;
    socket.set_nonblocking(true)?;
    UnixListener::from_std(socket.into())
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
            "no agent answers at {}; check that `floodmark run` runs with the same --socket, and \
             that --hindsight is not 0",
            path.display()
        )
    })?;
    stream.set_read_timeout(Some(PATIENCE)).context("setting a time limit")?;
    stream.write_all(QUESTION).context("asking the agent")?;
    Ok(stream.take(LONGEST_ANSWER))
}
