//! The timeline as SVG: queues against their limits, drops, and what the proxies said, on one axis.

use jiff::Timestamp;
use maud::{Markup, html};

use super::{
    summary::named,
    timeline::{Column, Lane, Timeline},
};
use crate::time::{UnixMs, Window};

/// Queues drawn at most.
const QUEUES: usize = 4;
/// All in the units of the drawing.
const WIDTH: f64 = 960.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 30.0;
const TITLE: f64 = 26.0;
const QUEUE: f64 = 96.0;
const BARS: f64 = 56.0;
const BETWEEN: f64 = 14.0;
const AXIS: f64 = 34.0;

/// Draws it; `gaps` are stretches that could not be read.
pub(super) fn draw(timeline: &Timeline, gaps: &[Window]) -> Markup {
    let queues = timeline.worst(QUEUES);
    let bars = [
        ("Handshakes dropped", "drops", count(timeline, |column| column.drops)),
        (
            "Failed connects and requests, reported by the proxy",
            "failed",
            count(timeline, |column| column.failed),
        ),
        (
            "Peers marked as down by the proxy",
            "markings",
            count(timeline, |column| column.markings),
        ),
        ("Requests without a live peer", "nolive", count(timeline, |column| column.no_live)),
    ];
    // What never happened needs no room; that nothing was dropped is worth showing.
    let bars: Vec<_> = bars
        .into_iter()
        .filter(|(_, class, counts)| *class == "drops" || counts.iter().any(|count| *count > 0))
        .collect();
    let panel = |body: f64| TITLE + body + BETWEEN;
    let height = queues.len() as f64 * panel(QUEUE) + bars.len() as f64 * panel(BARS) + AXIS;
    let scale = Scale::of(timeline);
    let bottom = height - AXIS;
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {height}")) role="img"
            aria-label="Queues, drops and proxy events over time" {
            @for gap in gaps { (band(&scale, gap, bottom, "gap", "could not be read")) }
            @for outage in &timeline.outages { (band(&scale, outage, bottom, "outage", "no live peer")) }
            (ticks(&scale, bottom))
            @for (number, lane) in queues.iter().enumerate() {
                (queue(&scale, lane, number as f64 * panel(QUEUE)))
            }
            @for (number, (title, class, counts)) in bars.iter().enumerate() {
                @let top = queues.len() as f64 * panel(QUEUE) + number as f64 * panel(BARS);
                (bar_panel(&scale, (title, class), counts, top))
            }
        }
    }
}

fn count(timeline: &Timeline, of: impl Fn(&Column) -> u64) -> Vec<u64> {
    timeline.columns.iter().map(of).collect()
}

/// From time to place.
struct Scale {
    from: UnixMs,
    length_ms: f64,
    width_ms: u64,
}

impl Scale {
    fn of(timeline: &Timeline) -> Self {
        let columns = timeline.columns.len().max(1) as u64;
        let length_ms = (columns * timeline.width_ms) as f64;
        Self { from: timeline.window.from, length_ms, width_ms: timeline.width_ms }
    }

    fn x(&self, at: UnixMs) -> f64 {
        let part = at.0.saturating_sub(self.from.0) as f64 / self.length_ms;
        LEFT + part.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    fn column(&self, place: usize) -> f64 {
        self.x(self.time(place))
    }

    fn time(&self, place: usize) -> UnixMs {
        UnixMs(self.from.0 + place as u64 * self.width_ms)
    }
}

/// A stretch of time through all panels.
fn band(scale: &Scale, window: &Window, bottom: f64, class: &str, what: &str) -> Markup {
    let from = scale.x(window.from);
    let width = (scale.x(window.to) - from).max(1.5);
    let (begin, seconds) = (time_of_day(window.from), window.length().as_secs_f64());
    html! {
        rect class=(class) x=(round(from)) y="0" width=(round(width)) height=(round(bottom)) {
            title { (what) ", from " (begin) " for " (format!("{seconds:.1} s")) }
        }
    }
}

/// Upright lines with the time of day.
fn ticks(scale: &Scale, bottom: f64) -> Markup {
    let step = step_of(scale.length_ms / 8.0);
    let first = scale.from.0.next_multiple_of(step);
    let end = scale.from.0 + scale.length_ms as u64;
    let times = (first..=end).step_by(step as usize).map(UnixMs);
    html! {
        @for at in times {
            @let x = round(scale.x(at));
            line class="grid" x1=(x) x2=(x) y1="0" y2=(round(bottom)) {}
            text class="tick" x=(x) y=(round(bottom + 18.0)) text-anchor="middle" { (time_of_day(at)) }
        }
    }
}

/// A round number of milliseconds, not less than `least`.
fn step_of(least: f64) -> u64 {
    const STEPS: [u64; 14] = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200];
    let fitting =
        STEPS.into_iter().map(|seconds| seconds * 1000).find(|step| *step as f64 >= least);
    fitting.unwrap_or((least as u64).next_multiple_of(3_600_000))
}

fn heading(top: f64, text: &str) -> Markup {
    html! { text class="panel" x=(LEFT) y=(round(top + 17.0)) { (text) } }
}

fn queue(scale: &Scale, lane: &Lane, top: f64) -> Markup {
    let depths = || lane.depth.iter().flatten();
    let limit = depths().map(|depth| depth.limit).max().unwrap_or(0);
    let highest = depths().map(|depth| depth.len).max().unwrap_or(0).max(limit + 1);
    let (base, most) = (top + TITLE + QUEUE, f64::from(highest) * 1.08);
    let y = |value: u32| base - f64::from(value) / most * QUEUE;
    let title = format!("Accept queue of {}", named(&lane.listener));
    html! {
        (heading(top, &title))
        line class="axis" x1=(LEFT) x2=(WIDTH - RIGHT) y1=(round(base)) y2=(round(base)) {}
        @for path in areas(scale, lane, base, y) { path class="depth" d=(path) {} }
        path class="limit" d=(limit_line(scale, lane, y)) {
            title { "the queue's limit; with more than one connection above it, the kernel drops \
                     handshakes" }
        }
        text class="tick" x=(LEFT - 6.0) y=(round(y(limit) + 4.0)) text-anchor="end" { (limit) }
        text class="tick" x=(LEFT - 6.0) y=(round(base + 1.0)) text-anchor="end" { "0" }
        text class="limit-label" x=(round(scale.column(lane.depth.len()) - 4.0))
            y=(round(y(limit) - 4.0)) text-anchor="end" {
            "limit " (limit)
        }
    }
}

/// The depth as areas, one for each stretch in which it is known.
fn areas(scale: &Scale, lane: &Lane, base: f64, y: impl Fn(u32) -> f64) -> Vec<String> {
    let mut paths = Vec::new();
    let mut path = String::new();
    for (place, depth) in lane.depth.iter().chain([&None]).enumerate() {
        let (from, to) = (scale.column(place), scale.column(place + 1));
        match depth {
            Some(depth) => {
                if path.is_empty() {
                    path = format!("M{:.1} {base:.1}", from);
                }
                path += &format!("L{from:.1} {0:.1}L{to:.1} {0:.1}", y(depth.len));
            }
            None if !path.is_empty() => {
                paths.push(format!("{path}L{from:.1} {base:.1}Z"));
                path.clear();
            }
            None => {}
        }
    }
    paths
}

/// The limit, which a further `listen(2)` moves.
fn limit_line(scale: &Scale, lane: &Lane, y: impl Fn(u32) -> f64) -> String {
    let mut path = String::new();
    for (place, depth) in lane.depth.iter().enumerate() {
        let Some(depth) = depth else { continue };
        let verb = if path.is_empty() { 'M' } else { 'L' };
        let (from, to, y) = (scale.column(place), scale.column(place + 1), y(depth.limit));
        path += &format!("{verb}{from:.1} {y:.1}L{to:.1} {y:.1}");
    }
    path
}

fn bar_panel(scale: &Scale, (title, class): (&str, &str), counts: &[u64], top: f64) -> Markup {
    let highest = counts.iter().copied().max().unwrap_or(0).max(1);
    let base = top + TITLE + BARS;
    let total: u64 = counts.iter().sum();
    let per = match scale.width_ms {
        1000 => "each second".to_owned(),
        width => format!("each {} s", width / 1000),
    };
    html! {
        (heading(top, &format!("{title}: {total}")))
        line class="axis" x1=(LEFT) x2=(WIDTH - RIGHT) y1=(round(base)) y2=(round(base)) {}
        text class="tick" x=(LEFT - 6.0) y=(round(top + TITLE + 9.0)) text-anchor="end" { (highest) }
        text class="tick" x=(LEFT - 6.0) y=(round(base + 1.0)) text-anchor="end" { "0" }
        text class="note" x=(WIDTH - RIGHT - 4.0) y=(round(top + 17.0)) text-anchor="end" { (per) }
        @for (place, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            @let height = (*count as f64 / highest as f64 * BARS).max(1.5);
            @let (from, to) = (scale.column(place), scale.column(place + 1));
            rect class=(class) x=(round(from)) width=(round((to - from).max(1.0)))
                y=(round(base - height)) height=(round(height)) {
                title { (time_of_day(scale.time(place))) ": " (count) }
            }
        }
    }
}

fn time_of_day(at: UnixMs) -> String {
    Timestamp::from_millisecond(at.0 as i64).unwrap_or_default().strftime("%H:%M:%S").to_string()
}

fn round(value: f64) -> String {
    format!("{value:.1}")
}
