//! Standard input, read to its end: `kubectl logs -f …`, `journalctl -u nginx -f -o json`.

use std::{
    io::{self, Read},
    os::fd::AsFd,
    sync::Arc,
};

use anyhow::{Context, Result};
use bytes::BytesMut;
use log::warn;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Interpreter, SourceStats, file::cut_lines};
use crate::{essential, proxy::event::ProxyEvent, time::UnixMs};

const CHUNK: usize = 64 * 1024;
/// An input that is silent for so long, in milliseconds, has brought all of a record.
const SILENCE: u8 = 200;

/// Reads on a thread of its own, which ends with the input.
pub(super) fn start(
    interpreter: Interpreter,
    events: mpsc::Sender<ProxyEvent>,
    stop: CancellationToken,
) -> Result<Arc<SourceStats>> {
    let mut interpreter = interpreter.with_history();
    let stats = Arc::clone(interpreter.stats());
    let read = move || {
        let mut input = io::stdin().lock();
        let (mut unfinished, mut skipping) = (BytesMut::new(), false);
        let mut chunk = vec![0; CHUNK];
        while !stop.is_cancelled() {
            let is_silent = is_silent(&input) && unfinished.is_empty();
            let mut has_ended = false;
            let mut heard = Vec::new();
            if is_silent {
                heard = interpreter.settle();
            } else {
                // Longer than the input's own buffer, which therefore stays empty.
                match input.read(&mut chunk) {
                    Ok(0) => {
                        heard = interpreter.settle();
                        has_ended = true;
                    }
                    Ok(length) => unfinished.extend_from_slice(&chunk[..length]),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return warn!("cannot read standard input: {error}"),
                }
                let stats = Arc::clone(interpreter.stats());
                cut_lines(&mut unfinished, &mut skipping, &stats, |line| {
                    heard.extend(interpreter.read(line, UnixMs::now()));
                });
            }
            for event in heard {
                if events.blocking_send(event).is_err() {
                    return;
                }
            }
            if has_ended {
                return;
            }
        }
    };
    essential::thread("stdin", read).context("starting a thread")?;
    Ok(stats)
}

/// Waits for input; true where none came.
fn is_silent(input: &impl AsFd) -> bool {
    let mut inputs = [PollFd::new(input.as_fd(), PollFlags::POLLIN)];
    poll(&mut inputs, PollTimeout::from(SILENCE)) == Ok(0)
}
