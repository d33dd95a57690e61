//! The thread that looks at stalled listeners, within a budget of processor time.

use std::{
    collections::BTreeMap,
    mem,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};

use super::{
    evidence::Evidence,
    watched::{Holder, Stalled, Watched},
};
use crate::{essential, kernel::ListenerId};

/// Shortest time between two looks at a listener.
const PAUSE: Duration = Duration::from_millis(60);
/// What the first looks at a listener may cost in advance, since they find out most.
const ADVANCE: Duration = Duration::from_millis(10);
/// Longest time, however costly a look is.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A listener may take one part in so many of a processor's time: 0.5 %.
const SHARE: u32 = 200;
/// All listeners together: 2 %.
const SHARE_OF_ALL: u32 = 50;

type Taken = Arc<Mutex<BTreeMap<ListenerId, Evidence>>>;

/// Looks at stalled listeners on a thread of its own. The thread sleeps while there are none. It ends
/// once this is dropped; nobody waits for that, since reading another process's files may hang.
#[derive(Debug)]
pub struct Sampler {
    asked: SyncSender<Vec<Stalled>>,
    taken: Taken,
    is_idle: bool,
}

impl Sampler {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// When there can be no thread.
    pub fn start() -> Result<Self> {
        let (asked, questions) = sync_channel(2);
        let taken = Taken::default();
        let results = Arc::clone(&taken);
        essential::thread("stalls", move || serve(&questions, &results))
            .context("starting the thread that looks at stalled listeners")?;
        Ok(Self { asked, taken, is_idle: true })
    }

    /// Looks at these listeners from now on, and at no others. Never waits: a thread that is behind gets
    /// the next list.
    pub fn watch(&mut self, stalled: Vec<Stalled>) {
        if self.is_idle && stalled.is_empty() {
            return;
        }
        let is_idle = stalled.is_empty();
        if self.asked.try_send(stalled).is_ok() {
            self.is_idle = is_idle;
        }
    }

    /// What was seen since the last time.
    pub fn take(&self) -> BTreeMap<ListenerId, Evidence> {
        mem::take(&mut *self.taken.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A listener with the time of its next look.
#[derive(Debug)]
struct Watch {
    holders: Vec<Holder>,
    watched: Watched,
    due: Instant,
    begun: Instant,
    spent: Duration,
}

fn serve(questions: &Receiver<Vec<Stalled>>, results: &Taken) {
    let mut watches: BTreeMap<ListenerId, Watch> = BTreeMap::new();
    let mut not_before = Instant::now();
    loop {
        let asked = match watches.values().map(|watch| watch.due).min() {
            None => questions.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(due) => {
                let pause = due.max(not_before).saturating_duration_since(Instant::now());
                questions.recv_timeout(pause)
            }
        };
        let begun = used();
        match asked {
            Ok(stalled) => follow(&mut watches, &stalled),
            Err(RecvTimeoutError::Timeout) => look(&mut watches, results),
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let cost = used().saturating_sub(begun);
        not_before = not_before.max(Instant::now()) + (cost * SHARE_OF_ALL).min(LONGEST_PAUSE);
    }
}

/// Processor time that this thread has used.
fn used() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

fn follow(watches: &mut BTreeMap<ListenerId, Watch>, stalled: &[Stalled]) {
    // Workers that were replaced are opened anew.
    let is_same = |id: ListenerId, holders: &Vec<Holder>| {
        stalled.iter().any(|it| it.listener == id && it.holders == *holders)
    };
    watches.retain(|id, watch| is_same(*id, &watch.holders));
    for it in stalled {
        let new = || Watch {
            holders: it.holders.clone(),
            watched: Watched::open(it),
            due: Instant::now(),
            begun: Instant::now(),
            spent: Duration::ZERO,
        };
        watches.entry(it.listener).or_insert_with(new);
    }
}

/// Looks at the listener whose turn it is.
fn look(watches: &mut BTreeMap<ListenerId, Watch>, results: &Taken) {
    let Some((id, watch)) = watches.iter_mut().min_by_key(|(_, watch)| watch.due) else { return };
    let begun = used();
    let evidence = watch.watched.look();
    watch.spent += used().saturating_sub(begun);
    // When the budget has grown to what was spent.
    let affordable = watch.begun + watch.spent.saturating_sub(ADVANCE) * SHARE;
    let pause = affordable.saturating_duration_since(Instant::now());
    watch.due = Instant::now() + pause.clamp(PAUSE, LONGEST_PAUSE);
    let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
    results.entry(*id).or_default().add(&evidence);
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::fd::AsRawFd, process::id, thread};

    use super::*;
    use crate::kernel::NetnsId;

    #[test]
    fn looks_while_there_is_something_to_look_at() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let inode = link.to_str().unwrap()["socket:[".len()..].trim_end_matches(']').parse();
        let listener = ListenerId {
            netns: NetnsId(1),
            addr: socket.local_addr().unwrap(),
            inode: inode.unwrap(),
        };
        let mut sampler = Sampler::start().unwrap();
        assert!(sampler.take().is_empty());
        let holders = vec![Holder { pid: id(), parent: None }];
        sampler.watch(vec![Stalled { listener, holders }]);
        let mut seen = Evidence::default();
        for _ in 0..200 {
            thread::sleep(Duration::from_millis(20));
            sampler.take().values().for_each(|evidence| seen.add(evidence));
            if seen.looks > 2 {
                break;
            }
        }
        assert_eq!(seen.processes[0].pid, id());
        assert!(seen.threads().count() > 0 && seen.processes[0].descriptors.unwrap().open > 0);
        sampler.watch(Vec::new());
        assert!(sampler.is_idle);
    }
}
