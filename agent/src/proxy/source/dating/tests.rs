use super::*;
use crate::proxy::{
    Carrier, Upstream,
    event::{EventKind, ProxyKind},
};

/// 2026-11-20T19:47:55Z
const NOW: UnixMs = UnixMs(1_795_204_075_000);
const MINUTE: i64 = 60_000;

fn read_at(local: i64, read_at: UnixMs, stamped: Option<When>) -> ProxyEvent {
    let carrier = Carrier { stamped, ..Carrier::plain("test", read_at) };
    let when = When { at: NOW.shifted(local), is_local: true, precision_ms: 1000 };
    ProxyEvent::at(when, ProxyKind::Nginx, &carrier, EventKind::NoLivePeers, Upstream::Unnamed)
}

fn steps() -> std::sync::Arc<ClockSteps> {
    crate::clock::AgentClock::own().compare()
}

fn read(local: i64) -> ProxyEvent {
    read_at(local, NOW, None)
}

/// How long before NOW the events were, in milliseconds.
fn ages(dated: &Dated) -> Vec<i64> {
    dated.events.iter().map(|event| NOW.0 as i64 - event.at.0 as i64).collect()
}

#[test]
fn a_line_of_now_tells_its_zone() {
    for minutes in [-720, -480, -210, 0, 60, 345, 630, 840] {
        let dated = Dating::default().date(read(minutes * MINUTE - 4000), false, &steps());
        assert_eq!((ages(&dated), dated.old), (vec![4000], 0), "{minutes}");
    }
}

#[test]
fn an_old_line_is_old() {
    const DAY: i64 = 24 * 60 * MINUTE;
    for age in [20 * MINUTE, 45 * MINUTE, 26 * 60 * MINUTE, 3 * DAY, 6 * 365 * DAY] {
        let dated = Dating::default().date(read(-age), false, &steps());
        assert_eq!((ages(&dated), dated.old), (vec![], 1), "{age}");
    }
    // A little late is late, not of another zone.
    let dated = Dating::default().date(read(-5 * MINUTE), false, &steps());
    assert_eq!(ages(&dated), [5 * MINUTE]);
}

#[test]
fn history_does_not_tell_the_zone() {
    let mut dating = Dating::default();
    for hours in (1..12).rev() {
        let dated = dating.date(read(-hours * 60 * MINUTE - 1000), true, &steps());
        assert_eq!((dated.events.len(), dated.old), (0, 0));
    }
    dating.date(read(-2000), true, &steps());
    let dated = dating.settle(&steps());
    assert_eq!((ages(&dated), dated.old), (vec![2000], 11));
}

#[test]
fn the_zone_is_kept() {
    let mut dating = Dating::default();
    dating.date(read(330 * MINUTE), false, &steps());
    let dated = dating.date(read(300 * MINUTE), false, &steps());
    assert_eq!((dated.events.len(), dated.old), (0, 1), "half an hour old");
    let dated = dating.date(read(322 * MINUTE), true, &steps());
    assert_eq!(ages(&dated), [8 * MINUTE]);
}

#[test]
fn a_zone_that_cannot_be_right_is_given_up() {
    let mut dating = Dating::default();
    dating.date(read(-60 * MINUTE), false, &steps());
    // An hour ahead by the zone that was thought to be its own.
    let dated = dating.date(read(-1000), false, &steps());
    assert_eq!(ages(&dated), [1000]);
    // Set back by an hour, and read for more than a minute since.
    for seconds in [0, 30, 61] {
        let now = NOW.shifted(seconds * 1000);
        let dated = dating.date(read_at(seconds * 1000 - 60 * MINUTE, now, None), false, &steps());
        assert_eq!(dated.events.len(), usize::from(seconds > 60), "{seconds}");
    }
}

#[test]
fn a_carriers_stamp_tells_zone_and_instant() {
    let stamp = |ago: i64| Some(When { at: NOW.shifted(-ago), is_local: false, precision_ms: 1 });
    for (ahead, expected) in [(300, 3700), (1100, 2900), (2000, 4000)] {
        let event = read_at(60 * MINUTE - 4000, NOW, stamp(4000 - ahead));
        assert_eq!(ages(&Dating::default().date(event, true, &steps())), [expected]);
    }
    let event = read_at(-26 * 60 * MINUTE, NOW, stamp(26 * 60 * MINUTE));
    assert_eq!(Dating::default().date(event, true, &steps()).old, 1);
}

#[test]
fn the_writers_own_zone_is_best() {
    let own = fixed(-5 * 60 * MINUTE).unwrap();
    let mut dating = Dating::default();
    let dated = dating.date(dated_in(read(-5 * 60 * MINUTE - 1000), &own), true, &steps());
    assert_eq!(ages(&dated), [1000]);
    assert_eq!(dating.date(dated_in(read(-6 * 60 * MINUTE), &own), true, &steps()).old, 1);
    // It writes in UTC all the same.
    let dated = dating.date(dated_in(read(-1000), &own), false, &steps());
    assert_eq!(ages(&dated), [1000]);
}

#[test]
fn what_waits_is_bounded() {
    let mut dating = Dating::default();
    let given: usize =
        (0..MOST_WAITING).map(|_| dating.date(read(0), true, &steps()).events.len()).sum();
    assert_eq!((given, dating.waiting.len()), (MOST_WAITING, 0));
}
