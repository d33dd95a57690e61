//! The listeners, a row for each: those in trouble first.

use ratatui::{
    Frame,
    layout::{Constraint, Rect},
    style::{Color, Modifier, Style},
    widgets::{Cell, Row, Table, TableState},
};

use super::{
    super::listeners::{address, owners},
    state::{Growth, State},
};
use crate::{
    inventory::{Listener, Trouble},
    printable::printable,
};

/// Columns of a queue's gauge.
const GAUGE: usize = 10;
/// Columns that do not depend on what is in them, with the space after each: trouble, gauge, depth,
/// drops, and drops in the last second.
const FIXED: [u16; 5] = [7, GAUGE as u16 + 2, 10, 7, 5];
/// Columns of an address, and of a namespace's name, where there is room.
const ADDRESS: usize = 28;
const NETNS: usize = 40;

/// Colours, or none.
#[derive(Clone, Copy)]
pub struct Palette {
    colours: bool,
}

impl Palette {
    pub fn new(colours: bool) -> Self {
        Self { colours }
    }

    fn of(self, trouble: Trouble) -> Style {
        let style = Style::new();
        match trouble {
            Trouble::Full if self.colours => style.fg(Color::Red).add_modifier(Modifier::BOLD),
            Trouble::Filling if self.colours => style.fg(Color::Yellow),
            Trouble::Full => style.add_modifier(Modifier::BOLD),
            _ => style,
        }
    }
}

/// Draws the table.
pub fn draw(frame: &mut Frame<'_>, area: Rect, state: &State, palette: Palette) {
    let all = state.listeners();
    let longest = |of: &dyn Fn(&Listener) -> usize, least, most| {
        all.iter().map(of).max().unwrap_or(0).clamp(least, most)
    };
    let addresses = longest(&|listener| address(listener).chars().count(), 8, ADDRESS);
    // Namespaces and owners share what the others leave.
    let spaces = FIXED.len() as u16 + 2;
    let left = area.width.saturating_sub(FIXED.iter().sum::<u16>() + addresses as u16 + spaces);
    let most = NETNS.min(usize::from(left / 2)).max(5);
    let netns = longest(&|listener| listener.netns_name.chars().count(), 5, most);
    let rows = all.iter().map(|listener| {
        let lost = state.lost(listener.id).map_or(0, |lost| lost.tally.drops());
        let now = state.by_listener.get(&listener.id).map_or(0, Growth::now);
        let trouble = listener.trouble();
        Row::new([
            Cell::new(trouble.name()).style(palette.of(trouble)),
            Cell::new(end_of(&address(listener), addresses)),
            Cell::new(gauge(listener)),
            Cell::new(format!("{:>10}", depth(listener))),
            Cell::new(format!("{lost:>7}")),
            Cell::new(format!("{now:>5}")),
            Cell::new(end_of(&printable(&listener.netns_name), netns)),
            Cell::new(printable(&owner_and_reason(listener, state)).into_owned()),
        ])
    });
    let [trouble, queue, depth, drops, now] = FIXED.map(Constraint::Length);
    let listener = Constraint::Length(addresses as u16);
    let netns = Constraint::Length(netns as u16);
    let widths = [trouble, listener, queue, depth, drops, now, netns, Constraint::Fill(1)];
    let names =
        ["", "listener", "queue |=high", " now/limit", "dropped", "  1/s", "netns", "owner"];
    let header = Row::new(names).style(Style::new().add_modifier(Modifier::UNDERLINED));
    let selected = Style::new().add_modifier(Modifier::REVERSED);
    let table = Table::new(rows, widths).header(header).row_highlight_style(selected);
    let mut rows = TableState::new().with_selected(Some(state.row()));
    frame.render_stateful_widget(table, area, &mut rows);
}

/// Who holds it, and why it is stalled.
fn owner_and_reason(listener: &Listener, state: &State) -> String {
    let owners = owners(&listener.owners);
    match state.impediment(listener.id) {
        Some(it) => format!("{owners}: {} {:.0} %", it.impediment.name(), it.share * 100.0),
        None => owners,
    }
}

/// Its end, which tells names of one kind apart, in so many columns.
fn end_of(name: &str, columns: usize) -> String {
    let too_many = name.chars().count().saturating_sub(columns);
    if too_many == 0 {
        return name.to_owned();
    }
    "…".chars().chain(name.chars().skip(too_many + 1)).collect()
}

/// `[####....|......]`: how full it is, and how high it rose.
pub fn gauge(listener: &Listener) -> String {
    // A queue is full when it holds one more than its limit (sk_acceptq_is_full).
    let limit = f64::from(listener.queue.limit).max(1.0);
    let cell = |len: u32| ((f64::from(len) / limit * GAUGE as f64).ceil() as usize).min(GAUGE);
    let (now, high) = (cell(listener.queue.len), cell(high(listener)));
    let inner: String = (1..=GAUGE)
        .map(|at| match () {
            () if at == high && high > now => '|',
            () if at <= now => '#',
            () => '.',
        })
        .collect();
    format!("[{inner}]")
}

pub fn high(listener: &Listener) -> u32 {
    listener.depth.map_or(0, |depth| depth.high).max(listener.queue.len)
}

pub fn depth(listener: &Listener) -> String {
    format!("{}/{}", listener.queue.len, listener.queue.limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{export::fixture, kernel::QueueDepth};

    #[test]
    fn names_keep_their_ends() {
        assert_eq!(end_of("fmlab-14287-broken-app1", 10), "…oken-app1");
        assert_eq!(end_of("app1", 4), "app1");
    }

    #[test]
    fn the_gauge_shows_depth_and_high_water_mark() {
        let mut listener = fixture::listener(1, "x").listener;
        listener.queue = QueueDepth { len: 0, limit: 128 };
        assert_eq!(gauge(&listener), "[..........]");
        listener.queue.len = 129;
        assert_eq!(gauge(&listener), "[##########]");
        listener.queue.len = 8;
        listener.depth = Some(crate::inventory::Depth { high: 64, ..Default::default() });
        assert_eq!(gauge(&listener), "[#...|.....]");
    }
}
