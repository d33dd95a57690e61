//! A thread that works while the tick goes on: asked and heard without waiting.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};

/// A thread that answers questions, one at a time. It ends after its work once this is dropped;
/// nobody waits for that, since its work may hang.
#[derive(Debug)]
pub(super) struct Worker<Q, A> {
    questions: Sender<Q>,
    answers: Receiver<Step<A>>,
    is_busy: bool,
}

/// What comes from the thread: parts of an answer, and that it is whole.
#[derive(Debug)]
enum Step<A> {
    Part(A),
    Done,
}

impl<Q: Send + 'static, A: Send + 'static> Worker<Q, A> {
    /// Starts the thread. `work` hands each part of its answer over as soon as it has it.
    pub(super) fn start(
        name: &str,
        mut work: impl FnMut(Q, &mut dyn FnMut(A)) + Send + 'static,
    ) -> Result<Self> {
        let (questions, asked) = channel::<Q>();
        let (sender, answers) = channel();
        let serve = move || {
            for question in asked {
                // Whoever asked may have gone, which ends the loop at the next question.
                work(question, &mut |part| drop(sender.send(Step::Part(part))));
                let _ = sender.send(Step::Done);
            }
        };
        let thread = thread::Builder::new().name(name.to_owned());
        thread.spawn(serve).context("starting a thread")?;
        Ok(Self { questions, answers, is_busy: false })
    }

    /// Whether it works on a question.
    pub(super) fn is_busy(&self) -> bool {
        self.is_busy
    }

    /// Asks, unless it is busy.
    ///
    /// # Errors
    ///
    /// When the thread has ended, which it does only by a panic.
    pub(super) fn ask(&mut self, question: Q) -> Result<()> {
        if !self.is_busy {
            let sent = self.questions.send(question);
            sent.map_err(|_| anyhow!("a thread of the inventory ended unexpectedly"))?;
            self.is_busy = true;
        }
        Ok(())
    }

    /// The next part of the answer, if it comes within `patience`.
    pub(super) fn next(&mut self, patience: Duration) -> Option<A> {
        let until = Instant::now() + patience;
        while self.is_busy {
            match self.answers.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Step::Part(part)) => return Some(part),
                Ok(Step::Done) => self.is_busy = false,
                Err(RecvTimeoutError::Timeout) => return None,
                // It panicked: there are no more answers.
                Err(RecvTimeoutError::Disconnected) => self.is_busy = false,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn answers_come_in_parts_and_nobody_waits_longer_than_he_likes() {
        let (release, held) = channel::<()>();
        let mut worker = Worker::start("test", move |number: u32, tell| {
            tell(number);
            let _ = held.recv();
            tell(number + 1);
        })
        .unwrap();
        assert_eq!(worker.next(LONG), None, "nothing was asked");
        worker.ask(7).unwrap();
        assert_eq!(worker.next(LONG), Some(7));
        assert_eq!(worker.next(Duration::ZERO), None);
        worker.ask(100).unwrap();
        release.send(()).unwrap();
        assert_eq!(worker.next(LONG), Some(8));
        assert_eq!((worker.next(LONG), worker.is_busy()), (None, false));
        drop(release);
        worker.ask(1).unwrap();
        assert_eq!(worker.next(LONG), Some(1));
    }

    #[test]
    fn a_worker_that_panics_is_not_waited_for() {
        let mut worker = Worker::<u32, u32>::start("test", |_, _| panic!("on purpose")).unwrap();
        worker.ask(1).unwrap();
        assert_eq!((worker.next(LONG), worker.is_busy()), (None, false));
        assert!(worker.ask(2).is_err());
    }
}
