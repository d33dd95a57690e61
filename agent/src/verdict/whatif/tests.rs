//! Replays against a queue simulated connection by connection, which knows nothing of slots.

use super::*;
use crate::verdict::flow::FlowSlot;

/// Slots of a world.
const LENGTH: usize = 1500;

/// A listener's history: arrivals by slot, and how many it accepts in each.
#[derive(Clone)]
struct World {
    arrivals: Vec<u32>,
    accepts: Vec<u32>,
}

/// Numbers without order, the same every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most.max(1)
    }
}

impl World {
    /// Some arrivals all the time, and bursts; accepts that keep up with the former.
    fn rolled(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let every = 2 + dice.below(5);
        let mut arrivals: Vec<u32> =
            (0..LENGTH).map(|_| u32::from(dice.below(every) == 0)).collect();
        for _ in 0..1 + dice.below(3) {
            let at = dice.below(LENGTH as u64 / 2) as usize;
            arrivals[at] += 20 + dice.below(400) as u32;
        }
        Self { arrivals, accepts: vec![1; LENGTH] }
    }

    /// What a queue of `backlog` makes of it: the connections it loses, and the record of it.
    fn run(&self, backlog: u32) -> (u64, Flow) {
        let (mut depth, mut lost_in_all) = (0_u32, 0);
        let mut flow = Flow::default();
        for (at, (came, accepts)) in self.arrivals.iter().zip(&self.accepts).enumerate() {
            let enqueued = (*came).min(backlog + 1 - depth);
            let lost = came - enqueued;
            depth += enqueued;
            lost_in_all += u64::from(lost);
            if *came > 0 || at % 100 == 99 {
                let at = at as u64;
                flow.slots.push_back(FlowSlot { at, enqueued, again: 0, lost, depth });
            }
            depth -= depth.min(*accepts);
        }
        (lost_in_all, flow)
    }
}

fn advised(flow: &Flow, limit: u32) -> Option<u32> {
    match Replay::of(flow)?.answer(limit) {
        WhatIf::Backlog { backlog, .. } => Some(backlog),
        WhatIf::Rate { .. } => None,
    }
}

#[test]
fn the_advised_backlog_loses_nothing_and_half_of_it_does() {
    let mut checked = 0;
    for seed in 0..80 {
        let world = World::rolled(seed);
        let (lost, flow) = world.run(16);
        if lost == 0 {
            continue;
        }
        let backlog = advised(&flow, 16).expect("a burst passes");
        // A hundredth for what falls between two slots.
        assert_eq!(world.run(backlog + backlog / 100 + 1).0, 0, "seed {seed}: backlog {backlog}");
        assert!(world.run(backlog / 2).0 > 0, "seed {seed}: half of {backlog}");
        checked += 1;
    }
    assert!(checked > 60, "{checked}");
}

#[test]
fn a_longer_queue_never_loses_more_nor_does_a_faster_one() {
    for seed in 0..12 {
        let (_, flow) = World::rolled(seed).run(16);
        let replay = Replay::of(&flow).unwrap();
        let by_backlog = |b: u32| replay.play(b, Rate::Measured).lost;
        let by_rate = |rate: u32| replay.play(16, Rate::Times(f64::from(rate) / 4.0)).lost;
        for step in 0..40 {
            assert!(by_backlog(8 * step + 8) <= by_backlog(8 * step), "seed {seed}, {step}");
            assert!(by_rate(step + 1) <= by_rate(step), "seed {seed}, {step}");
        }
    }
}

#[test]
fn the_replay_loses_what_was_lost() {
    for seed in 0..60 {
        let (lost, flow) = World::rolled(seed).run(16);
        let replayed = Replay::of(&flow).unwrap().play(16, Rate::Measured);
        let off = replayed.lost.abs_diff(lost);
        assert!(off * 10 <= lost, "seed {seed}: {replayed:?}, but {lost} were lost");
        assert_eq!(
            replayed.arrived,
            flow.slots.iter().map(|s| u64::from(s.enqueued + s.lost)).sum::<u64>()
        );
    }
}

#[test]
fn no_backlog_helps_where_arrivals_outrun_accepts() {
    let world = World { arrivals: vec![3; LENGTH], accepts: vec![1; LENGTH] };
    let (_, flow) = world.run(50);
    let replay = Replay::of(&flow).unwrap();
    let WhatIf::Rate { arrivals_per_second, accepts_per_second, needed_per_second } =
        replay.answer(50)
    else {
        panic!("a queue was advised: {:?}", replay.answer(50));
    };
    assert!((arrivals_per_second - 300.0).abs() < 5.0, "{arrivals_per_second}");
    assert!((accepts_per_second - 100.0).abs() < 5.0, "{accepts_per_second}");
    assert_eq!(replay.play(50, Rate::PerSecond(needed_per_second)).lost, 0);
    assert!(replay.play(50, Rate::PerSecond(0.9 * needed_per_second)).lost > 0);
    assert!((250.0..310.0).contains(&needed_per_second), "{needed_per_second}");
}

#[test]
fn a_listener_that_never_accepts_needs_to() {
    let mut world = World { arrivals: vec![0; LENGTH], accepts: vec![0; LENGTH] };
    world.arrivals[10] = 40;
    world.arrivals[500] = 5;
    let (lost, flow) = world.run(16);
    assert!(lost > 0);
    let replay = Replay::of(&flow).unwrap();
    assert!(matches!(replay.answer(16), WhatIf::Rate { accepts_per_second: 0.0, .. }));
    assert_eq!(replay.play(100, Rate::Measured).longest_wait_ms, None);
}

#[test]
fn a_wait_is_the_queue_before_it_at_the_measured_rate() {
    let mut world = World { arrivals: vec![0; LENGTH], accepts: vec![1; LENGTH] };
    world.arrivals[10] = 200;
    world.arrivals[150] = 1;
    let (_, flow) = world.run(16);
    let WhatIf::Backlog { backlog, longest_wait_ms, .. } = Replay::of(&flow).unwrap().answer(16)
    else {
        panic!("a burst passes");
    };
    assert_eq!(backlog, 199);
    // 200 connections at one in 10 ms, as far as 17 of them in 90 slots tell the rate.
    assert!((1900..=20_000).contains(&longest_wait_ms), "{longest_wait_ms}");
}

#[test]
fn nothing_came_nothing_is_said() {
    assert!(Replay::of(&Flow::default()).is_none());
}
