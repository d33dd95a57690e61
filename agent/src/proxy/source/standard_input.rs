//! Standard input, read to its end: `kubectl logs -f …`, `journalctl -u nginx -f -o json`.

use std::{
    io::{self, BufReader, Read},
    sync::Arc,
    thread,
};

use anyhow::{Context, Result};
use bytes::BytesMut;
use log::warn;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Interpreter, SourceStats, file::cut_lines};
use crate::{proxy::event::ProxyEvent, time::UnixMs};

const CHUNK: usize = 64 * 1024;

/// Reads on a thread of its own, which ends with the input.
pub(super) fn start(
    mut interpreter: Interpreter,
    events: mpsc::Sender<ProxyEvent>,
    stop: CancellationToken,
) -> Result<Arc<SourceStats>> {
    let stats = Arc::clone(interpreter.stats());
    let read = move || {
        let mut input = BufReader::with_capacity(CHUNK, io::stdin());
        let (mut unfinished, mut skipping) = (BytesMut::new(), false);
        let mut chunk = vec![0; CHUNK];
        while !stop.is_cancelled() {
            let length = match input.read(&mut chunk) {
                Ok(0) => return,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return warn!("standard input: {error}"),
            };
            unfinished.extend_from_slice(&chunk[..length]);
            let stats = Arc::clone(interpreter.stats());
            let mut heard = Vec::new();
            cut_lines(&mut unfinished, &mut skipping, &stats, |line| {
                heard.extend(interpreter.read(line, UnixMs::now()));
            });
            for event in heard {
                if events.blocking_send(event).is_err() {
                    return;
                }
            }
        }
    };
    thread::Builder::new().name("stdin".to_owned()).spawn(read).context("starting a thread")?;
    Ok(stats)
}
