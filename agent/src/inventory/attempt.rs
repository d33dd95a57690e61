//! Work that may never end, because another process decides how long it takes: it runs on a thread
//! that is given up after a deadline.
//!
//! A file on a server that does not answer (NFS, FUSE) holds up `open`, and `/proc/PID/cmdline` waits
//! for the process's mmap lock and for its pages. Nothing ends such a wait from outside but the
//! server, so the threads that are stuck are counted, and no more than a few of them exist.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

/// Threads that may be stuck at a time, of all users and of one.
const MOST_STUCK: usize = 8;
const MOST_STUCK_OF_ONE: usize = 2;

/// Why an attempt has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// The deadline passed; the thread is stuck until whoever holds it up lets go.
    GivenUp,
    /// Too many threads are stuck already, so the work was not begun.
    NotTried,
}

/// Makes attempts, and remembers those that are stuck.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    /// For whom each thread works; the thread holds the other end.
    stuck: Vec<(u32, Arc<()>)>,
}

impl Attempts {
    /// Runs `work`, which concerns a process of the user `uid`, and waits at most `deadline` for it.
    pub(super) fn run<T: Send + 'static>(
        &mut self,
        uid: u32,
        deadline: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failed> {
        let of_one = |stuck: &[(u32, Arc<()>)]| stuck.iter().filter(|it| it.0 == uid).count();
        if self.stuck() >= MOST_STUCK || of_one(&self.stuck) >= MOST_STUCK_OF_ONE {
            return Err(Failed::NotTried);
        }
        let alive = Arc::new(());
        let held = Arc::clone(&alive);
        let (sender, receiver) = mpsc::sync_channel(1);
        let thread = thread::Builder::new().name("lookup".to_owned());
        let started = thread.spawn(move || {
            // If nobody waits any more the result is of no use.
            let _ = sender.send(work());
            drop(held);
        });
        if started.is_err() {
            return Err(Failed::NotTried);
        }
        receiver.recv_timeout(deadline).map_err(|_| {
            self.stuck.push((uid, alive));
            Failed::GivenUp
        })
    }

    /// Threads that are stuck now.
    pub(super) fn stuck(&mut self) -> usize {
        self.stuck.retain(|(_, alive)| Arc::strong_count(alive) > 1);
        self.stuck.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(60);

    /// Work that ends when the sender is dropped.
    fn hanging() -> (mpsc::Sender<()>, impl FnOnce() + Send + 'static) {
        let (sender, receiver) = mpsc::channel::<()>();
        (sender, move || assert!(receiver.recv().is_err()))
    }

    #[test]
    fn what_hangs_is_given_up_and_ends_later() {
        let mut attempts = Attempts::default();
        assert_eq!(attempts.run(1, LONG, || 7), Ok(7));
        let (release, work) = hanging();
        assert_eq!(attempts.run(1, SHORT, work), Err(Failed::GivenUp));
        assert_eq!(attempts.stuck(), 1);
        assert_eq!(attempts.run(1, LONG, || 8), Ok(8), "one stuck thread holds nobody else up");
        drop(release);
        while attempts.stuck() > 0 {
            thread::yield_now();
        }
    }

    #[test]
    fn stuck_threads_are_few_and_one_user_does_not_use_them_up() {
        let mut attempts = Attempts::default();
        let mut releases = Vec::new();
        let mut hang = |attempts: &mut Attempts, uid| {
            let (release, work) = hanging();
            releases.push(release);
            attempts.run(uid, SHORT, work)
        };
        for _ in 0..MOST_STUCK_OF_ONE {
            assert_eq!(hang(&mut attempts, 1), Err(Failed::GivenUp));
        }
        assert_eq!(hang(&mut attempts, 1), Err(Failed::NotTried));
        assert_eq!(attempts.run(2, LONG, || 9), Ok(9));
        for uid in 10..=u32::try_from(MOST_STUCK).unwrap() + 10 {
            let _ = hang(&mut attempts, uid);
        }
        assert_eq!(attempts.stuck(), MOST_STUCK);
        assert_eq!(attempts.run(3, LONG, || 9), Err(Failed::NotTried));
    }

    #[test]
    fn work_that_panics_has_no_result() {
        let mut attempts = Attempts::default();
        let failed = attempts.run(1, LONG, || -> u32 { panic!("on purpose") });
        assert_eq!(failed, Err(Failed::GivenUp));
        while attempts.stuck() > 0 {
            thread::yield_now();
        }
    }
}
