//! Tasks and threads without which the program does only half its work. When one of them ends though it
//! should not have, the process ends with an error instead of going on in silence.

use std::{
    fmt::Display,
    io,
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Error, Result, anyhow};
use tokio::{
    sync::Notify,
    task::{AbortHandle, JoinHandle},
};

/// What ended first.
static ENDED: Mutex<Option<String>> = Mutex::new(None);
static BELL: Notify = Notify::const_new();

/// Completes once a task or thread has ended unexpectedly, with what a person should read.
pub async fn ended() -> Error {
    loop {
        let bell = BELL.notified();
        if let Some(what) = ENDED.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return anyhow!(what);
        }
        bell.await;
    }
}

fn report(name: &str, why: impl Display) {
    let mut ended = ENDED.lock().unwrap_or_else(PoisonError::into_inner);
    ended.get_or_insert_with(|| format!("{name} {why}; this is a fault of the program"));
    BELL.notify_one();
}

/// A task that goes on until the program stops it.
#[derive(Debug)]
pub struct Task {
    work: AbortHandle,
    watched: JoinHandle<Result<()>>,
}

impl Task {
    /// Stops it.
    pub fn abort(&self) {
        self.work.abort();
    }

    /// Waits until it ends, as it was asked to.
    ///
    /// # Errors
    ///
    /// When it failed.
    pub async fn finish(self) -> Result<()> {
        self.watched.await?
    }
}

/// Starts a task that must neither fail nor end by itself.
pub fn task(name: &'static str, work: impl Future<Output = Result<()>> + Send + 'static) -> Task {
    let work = tokio::spawn(work);
    let handle = work.abort_handle();
    let watched = tokio::spawn(async move {
        match work.await {
            Ok(outcome) => {
                match &outcome {
                    Ok(()) => report(name, "ended unexpectedly"),
                    Err(error) => report(name, format_args!("ended unexpectedly: {error:#}")),
                }
                outcome
            }
            Err(error) if error.is_cancelled() => Ok(()),
            Err(_) => {
                report(name, "panicked");
                Err(anyhow!("{name} panicked"))
            }
        }
    });
    Task { work: handle, watched }
}

/// Starts a task that may end, but must not panic.
pub fn helper(name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
    let work = tokio::spawn(work);
    tokio::spawn(async move {
        if work.await.is_err_and(|error| error.is_panic()) {
            report(name, "panicked");
        }
    });
}

/// Starts a thread that may end, but must not panic.
///
/// # Errors
///
/// When there can be no thread.
pub fn thread(
    name: &'static str,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<thread::JoinHandle<()>> {
    struct Watch(&'static str);
    impl Drop for Watch {
        fn drop(&mut self) {
            if thread::panicking() {
                report(self.0, "panicked");
            }
        }
    }
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        let _watch = Watch(name);
        work();
    })
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    /// One test, since what ended is one for the process.
    #[tokio::test]
    async fn whatever_ends_unexpectedly_is_told() {
        let forever = task("forever", pending());
        forever.abort();
        forever.finish().await.unwrap();
        helper("short", async {});
        thread("quiet", || {}).unwrap().join().unwrap();

        let told = async || ended().await.to_string();
        let ending = task("ending", async { Ok(()) });
        assert!(told().await.starts_with("ending ended unexpectedly"));
        ending.finish().await.unwrap();
        let failing = task("failing", async { Err(anyhow!("no room")) });
        assert!(told().await.starts_with("failing ended unexpectedly: no room"));
        failing.finish().await.unwrap_err();
        let panicking = task("panicking", async { panic!("on purpose") });
        assert!(told().await.starts_with("panicking panicked"));
        panicking.finish().await.unwrap_err();
        helper("helping", async { panic!("on purpose") });
        assert!(told().await.starts_with("helping panicked"));
        thread("threading", || panic!("on purpose")).unwrap().join().unwrap_err();
        assert!(told().await.starts_with("threading panicked"));
    }
}
