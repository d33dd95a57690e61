//! A program of Floodmark's at work.

use std::{
    io::{BufRead, BufReader, Read, Write},
    mem,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::de::DeserializeOwned;

use super::bus::{free_port, listens};

/// A program of Floodmark's, with what it prints.
pub struct Program<T> {
    path: PathBuf,
    args: Vec<String>,
    addr: SocketAddr,
    child: Option<Child>,
    /// All that it printed, through restarts.
    printed: Arc<Mutex<Vec<T>>>,
    readers: Vec<JoinHandle<()>>,
}

impl<T: DeserializeOwned + Send + 'static> Program<T> {
    /// One at `path`; not started yet.
    pub fn new(path: &Path, args: &[String]) -> Result<Self> {
        let addr = free_port()?;
        let mut args = args.to_vec();
        args.extend(["--listen".to_owned(), addr.to_string()]);
        let (child, printed, readers) = Default::default();
        Ok(Self { path: path.to_owned(), args, addr, child, printed, readers })
    }

    /// Starts it and waits until it serves.
    pub fn start(&mut self) -> Result<()> {
        let mut child = Command::new(&self.path)
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", self.path.display()))?;
        let stdout = BufReader::new(child.stdout.take().context("its output")?);
        let printed = Arc::clone(&self.printed);
        self.readers.push(thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                match serde_json::from_str(&line) {
                    Ok(one) => printed.lock().unwrap_or_else(PoisonError::into_inner).push(one),
                    Err(error) => eprintln!("not understood ({error}): {line}"),
                }
            }
        }));
        self.child = Some(child);
        listens(self.addr)
    }

    /// Kills it as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        self.end(Signal::SIGKILL)
    }

    fn end(&mut self, signal: Signal) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            kill(Pid::from_raw(child.id() as i32), signal).context("ending a program")?;
            child.wait()?;
        }
        Ok(())
    }

    /// What it serves at `path`.
    pub fn get(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(self.addr)?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// How much it printed.
    pub fn count(&self) -> usize {
        self.printed.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Interrupts it and takes all that it printed.
    pub fn finish(mut self) -> Result<Vec<T>> {
        self.end(Signal::SIGINT)?;
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        Ok(mem::take(&mut self.printed.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl<T> Drop for Program<T> {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
