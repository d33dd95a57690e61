use std::sync::atomic::{AtomicI64, Ordering};

use super::*;

/// A clock of a test's own, which shows what it is told.
pub(crate) struct Hands {
    monotonic_ms: AtomicI64,
    wall_ms: AtomicI64,
}

impl Hands {
    /// The wall clock, and a clock of the agent's that starts now.
    pub(crate) fn new(wall_ms: i64) -> (&'static AgentClock, Arc<Self>) {
        let hands = Arc::new(Self { monotonic_ms: 50_000_000.into(), wall_ms: wall_ms.into() });
        let read = Arc::clone(&hands);
        let clock = AgentClock::new(move || Reading {
            monotonic_ns: read.monotonic_ms.load(Ordering::Relaxed) * 1_000_000,
            wall_ns: read.wall_ms.load(Ordering::Relaxed) * 1_000_000,
            spread_ns: 0,
        });
        (Box::leak(Box::new(clock)), hands)
    }

    /// Lets time pass.
    pub(crate) fn pass(&self, ms: i64) {
        self.monotonic_ms.fetch_add(ms, Ordering::Relaxed);
        self.wall_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// Sets the wall clock.
    pub(crate) fn set_by(&self, ms: i64) {
        self.wall_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// What the wall clock shows.
    pub(crate) fn wall(&self) -> UnixMs {
        UnixMs(self.wall_ms.load(Ordering::Relaxed) as u64)
    }
}

const BEGIN: i64 = 1_795_204_000_000;

fn begin(ms: i64) -> UnixMs {
    UnixMs((BEGIN + ms) as u64)
}

/// When a stamp that is `precision` coarse was written, read now.
fn placed(clock: &AgentClock, stamp: UnixMs, precision_ms: u64) -> UnixMs {
    let read = |shift_ms: i64| {
        let from = stamp.shifted(-shift_ms);
        Some((from, from, Window { from, to: UnixMs(from.0 + precision_ms) }))
    };
    clock.compare().place(clock.now(), read).unwrap()
}

#[test]
fn the_agents_clock_does_not_step() {
    let (clock, hands) = Hands::new(BEGIN);
    assert_eq!((clock.now(), clock.compare().count), (begin(0), 0));
    for (by_ms, shift_ms) in [(-300_000, -300_000), (3_900_000, 3_600_000), (0, 3_600_000)] {
        hands.pass(1000);
        hands.set_by(by_ms);
        assert_eq!(clock.compare().shift_ms, shift_ms);
        assert_eq!(clock.wall_now(), hands.wall());
    }
    assert_eq!(clock.now(), begin(3000));
    let first = ClockStep { within: Window { from: begin(0), to: begin(1000) }, by_ms: -300_000 };
    let steps = clock.compare();
    assert_eq!((steps.count, steps.latest.front()), (2, Some(&first)));
    assert_eq!(steps.inside(&Window { from: begin(900), to: begin(1500) }).count(), 2);
    assert_eq!(steps.inside(&Window { from: begin(2001), to: begin(9000) }).count(), 0);
    assert_eq!(
        clock.at(50_001_000_000_000),
        begin(1000),
        "the kernel's clock is the monotonic one"
    );
}

#[test]
fn small_steps_are_noted_once_they_add_up_and_only_the_last_are_kept() {
    let (clock, hands) = Hands::new(BEGIN);
    for _ in 0..9 {
        hands.set_by(10);
        assert_eq!(clock.compare().count, 0);
    }
    hands.set_by(10);
    assert_eq!((clock.compare().count, clock.compare().shift_ms), (1, 100));
    for _ in 0..100 {
        hands.set_by(-1000);
        clock.compare();
    }
    let steps = clock.compare();
    assert_eq!((steps.count, steps.shift_ms), (101, 100 - 100_000));
    assert_eq!(steps.latest.len(), REMEMBERED);
}

/// Interrupted between the two, a thread reads clocks that don't belong together.
#[test]
fn an_interrupted_reading_is_no_step() {
    let (monotonic_ns, wall_ns) = (50_000_000_000, 1_795_204_000_000_000_000);
    let late = Arc::new(AtomicI64::new(0));
    let read = Arc::clone(&late);
    let clock = AgentClock::new(move || {
        let late = read.load(Ordering::Relaxed);
        Reading { monotonic_ns, wall_ns: wall_ns + late, spread_ns: late }
    });
    late.store(2_000_000_000, Ordering::Relaxed);
    assert_eq!(clock.compare().count, 0);
}

#[test]
fn a_stamp_is_read_by_the_wall_clock_of_its_time() {
    for by_ms in [-300_000, 3_900_000, -3_600_000, 86_400_000, -1500, 1500, -5000, 5000] {
        let (clock, hands) = Hands::new(BEGIN);
        for precision_ms in [1, 1000] {
            // The stamp, cut to its precision, and the time that it stands for.
            let write = || {
                let cut = hands.wall().0 % precision_ms;
                (UnixMs(hands.wall().0 - cut), UnixMs(clock.now().0 - cut))
            };
            hands.pass(10_300);
            let before = write();
            hands.pass(100);
            hands.set_by(by_ms);
            hands.pass(100);
            let after = write();
            hands.pass(200);
            for (when, (stamp, at)) in [("before", before), ("after", after)] {
                let found = placed(clock, stamp, precision_ms);
                assert_eq!(found, at, "{when} a step of {by_ms} ms, {precision_ms} ms coarse");
            }
            // A clock that is set back shows some times twice: only what is read soon is told apart.
            hands.pass(200_000);
            if !(-200_000..=0).contains(&by_ms) {
                assert_eq!(placed(clock, before.0, precision_ms), before.1, "an old line, {by_ms}");
            }
            let (stamp, at) = write();
            assert_eq!(placed(clock, stamp, precision_ms), at, "long after {by_ms}");
        }
    }
}

/// HAProxy and Envoy stamp the begin of a request and say how long it took.
#[test]
fn a_clock_that_is_set_during_a_request_does_not_move_its_end() {
    let (clock, hands) = Hands::new(BEGIN);
    for (number, by_ms) in
        [-300_000, 3_900_000, -300_000, 3_900_000, -4_000].into_iter().enumerate()
    {
        hands.pass(13_000);
        let begun = hands.wall();
        hands.pass(1500);
        hands.set_by(by_ms);
        hands.pass(1500);
        let ended = clock.now();
        hands.pass(300);
        let read = |shift_ms: i64| {
            let from = begun.shifted(-shift_ms);
            let to = from.later(Duration::from_secs(3));
            Some((to, to, Window { from, to }))
        };
        assert_eq!(clock.compare().place(clock.now(), read), Some(ended), "step {number}");
    }
}
