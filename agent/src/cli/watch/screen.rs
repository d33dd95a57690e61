//! The picture: words and ASCII say everything, colour only repeats it.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    symbols::bar::Set,
    text::Line,
    widgets::{Cell, Paragraph, Row, Sparkline, Table, TableState, Wrap},
};

use super::state::{Growth, State};
use crate::{
    inventory::{Listener, Trouble},
    verdict::Verdict,
};

/// Columns of a queue's gauge.
const GAUGE: usize = 10;

const KEYS: &str = " q quit   up/down select   Enter detail   Esc back   p pause";

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

/// Draws the whole of it.
pub fn draw(frame: &mut Frame<'_>, state: &mut State, palette: Palette) {
    let [head, middle, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1)])
            .areas(frame.area());
    let bold = Style::new().add_modifier(Modifier::BOLD);
    frame.render_widget(Paragraph::new(heading(state)).style(bold), head);
    let reversed = Style::new().add_modifier(Modifier::REVERSED);
    frame.render_widget(Paragraph::new(KEYS).style(reversed), foot);
    match state.selected().filter(|_| state.is_open) {
        Some(listener) => detail(frame, middle, state, listener),
        None => overview(frame, middle, state, palette),
    }
}

fn heading(state: &State) -> String {
    let Some(snapshot) = &state.snapshot else { return " floodmark: looking ...".to_owned() };
    let proxy = &snapshot.report.proxy;
    let listeners = state.listeners();
    let troubled = listeners.iter().filter(|l| l.trouble() > Trouble::None).count();
    let paused = if state.is_paused { "  PAUSED" } else { "" };
    format!(
        " floodmark{paused}  listeners {}, in trouble {troubled}  markings {}  no live peers {}",
        listeners.len() + snapshot.view.listeners_left_out,
        proxy.markings,
        proxy.no_live_peers,
    )
}

fn overview(frame: &mut Frame<'_>, area: Rect, state: &State, palette: Palette) {
    let [table, drops, repeated, verdicts] = Layout::vertical([
        Constraint::Fill(3),
        Constraint::Length(3),
        Constraint::Length(3),
        Constraint::Fill(2),
    ])
    .areas(area);
    listeners(frame, table, state, palette);
    sparkline(frame, drops, "handshakes dropped", &state.drops);
    sparkline(frame, repeated, "SYNs and SYN/ACKs sent again", &state.retransmits);
    let lines = state.verdicts(None).map(|verdict| Line::raw(told(verdict)));
    below(frame, verdicts, "what proxies said, and why", lines.collect());
}

fn listeners(frame: &mut Frame<'_>, area: Rect, state: &State, palette: Palette) {
    let rows = state.listeners().iter().map(|listener| {
        let lost = state.lost(listener.id);
        let now = state.by_listener.get(&listener.id).map_or(0, Growth::now);
        let trouble = listener.trouble();
        Row::new([
            Cell::new(trouble.name()).style(palette.of(trouble)),
            Cell::new(harmless(&listener.id.addr.to_string())),
            Cell::new(gauge(listener)),
            Cell::new(format!("{:>9}", depth(listener))),
            Cell::new(format!("{:>7}", lost.map_or(0, |lost| lost.tally.drops()))),
            Cell::new(format!("{now:>5}")),
            Cell::new(owner(listener)),
        ])
    });
    let widths = [
        Constraint::Length(7),
        Constraint::Max(20),
        Constraint::Length(GAUGE as u16 + 2),
        Constraint::Length(9),
        Constraint::Length(7),
        Constraint::Length(5),
        Constraint::Fill(1),
    ];
    let names = ["", "listener", "queue |=high", "now/limit", "dropped", "  1/s", "owner"];
    let header = Row::new(names).style(Style::new().add_modifier(Modifier::UNDERLINED));
    let selected = Style::new().add_modifier(Modifier::REVERSED);
    let table = Table::new(rows, widths).header(header).row_highlight_style(selected);
    let mut rows = TableState::new().with_selected(Some(state.row()));
    frame.render_stateful_widget(table, area, &mut rows);
}

/// `[####....|......]`: how full it is, and how high it rose.
fn gauge(listener: &Listener) -> String {
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

fn high(listener: &Listener) -> u32 {
    listener.depth.map_or(0, |depth| depth.high).max(listener.queue.len)
}

fn depth(listener: &Listener) -> String {
    format!("{}/{}", listener.queue.len, listener.queue.limit)
}

fn owner(listener: &Listener) -> String {
    let first = listener.owners.first().map(|owner| harmless(&owner.command));
    let more = match listener.owners.len() {
        0 | 1 => String::new(),
        several => format!("({several})"),
    };
    format!("{}{more}", first.unwrap_or_default())
}

fn sparkline(frame: &mut Frame<'_>, area: Rect, what: &str, growth: &Growth) {
    let [title, plot] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
    let seconds = growth.latest(usize::from(plot.width));
    let most = seconds.iter().max().copied().unwrap_or(0);
    let so_far = match seconds.len() {
        0 | 1 => String::new(),
        several => format!(", at most {most} in the last {several} s"),
    };
    let words = format!(" {what}: {} in the last second{so_far}", growth.now());
    frame.render_widget(Paragraph::new(words), title);
    let bars = Set { empty: "_", ..ratatui::symbols::bar::NINE_LEVELS };
    frame.render_widget(Sparkline::default().data(seconds).bar_set(bars), plot);
}

fn below(frame: &mut Frame<'_>, area: Rect, title: &str, lines: Vec<Line<'_>>) {
    let [head, rest] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
    let style = Style::new().add_modifier(Modifier::UNDERLINED);
    frame.render_widget(Paragraph::new(title.to_owned()).style(style), head);
    let nothing = if lines.is_empty() { vec![Line::raw(" nothing so far")] } else { lines };
    frame.render_widget(Paragraph::new(nothing), rest);
}

/// `12:03:04 nginx app peer_marked: the reason`.
fn told(verdict: &Verdict) -> String {
    let event = &verdict.event;
    let seconds = i64::try_from(event.at.0 / 1000).unwrap_or(0);
    let clock = jiff::Timestamp::from_second(seconds).unwrap_or_default();
    let clock = clock.to_zoned(jiff::tz::TimeZone::UTC).strftime("%H:%M:%SZ").to_string();
    let (proxy, kind) = (event.proxy.name(), event.kind.name());
    harmless(&format!(" {clock} {proxy} {} {kind}: {}", event.upstream, verdict.because))
}

fn detail(frame: &mut Frame<'_>, area: Rect, state: &State, listener: &Listener) {
    let [facts, drops, peers, verdicts] = Layout::vertical([
        Constraint::Length(6),
        Constraint::Length(3),
        Constraint::Fill(1),
        Constraint::Fill(1),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(about(state, listener)).wrap(Wrap { trim: false }), facts);
    let none = Growth::default();
    let growth = state.by_listener.get(&listener.id).unwrap_or(&none);
    sparkline(frame, drops, "handshakes dropped here", growth);
    below(frame, peers, "whose segments were dropped", of_peers(state, listener));
    let lines = state.verdicts(Some(listener.id)).map(|verdict| Line::raw(told(verdict)));
    below(frame, verdicts, "what proxies said of it, and why", lines.collect());
}

fn about<'a>(state: &State, listener: &Listener) -> Vec<Line<'a>> {
    let pids: Vec<String> =
        listener.owners.iter().take(8).map(|owner| owner.pid.to_string()).collect();
    let asked = listener.backlog.asked.map_or("unknown".to_owned(), |asked| asked.to_string());
    let somaxconn = listener.somaxconn.map_or("unknown".to_owned(), |limit| limit.to_string());
    let mut lines = vec![
        format!(" {} in {}  {}", listener.id.addr, listener.netns_name, listener.trouble().name()),
        format!(" owner {}  process {}", owner(listener), pids.join(", ")),
        format!(" queue {} {}, highest {}", gauge(listener), depth(listener), high(listener)),
        format!(" backlog asked for {asked}, somaxconn {somaxconn}"),
    ];
    if let Some(lost) = state.lost(listener.id) {
        let counts: Vec<String> = lost
            .tally
            .counts()
            .map(|(class, count)| format!("{} {count}", crate::kernel::class::word(class)))
            .collect();
        lines.push(format!(" lost: {}", counts.join(", ")));
    }
    lines.into_iter().map(|line| Line::raw(harmless(&line))).collect()
}

fn of_peers<'a>(state: &State, listener: &Listener) -> Vec<Line<'a>> {
    let Some(lost) = state.lost(listener.id) else { return Vec::new() };
    let mut lines: Vec<_> =
        lost.peers.iter().map(|(peer, count)| Line::raw(format!(" {count:>8}  {peer}"))).collect();
    if lost.peers_other > 0 {
        lines.push(Line::raw(format!(" {:>8}  others", lost.peers_other)));
    }
    lines
}

/// Without what a terminal would obey: commands and upstreams are named by others.
fn harmless(text: &str) -> String {
    text.replace(char::is_control, "?")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ratatui::{Terminal, backend::TestBackend, buffer::Buffer};

    use super::{super::state::Key, *};
    use crate::{export::fixture, kernel::QueueDepth};

    fn state(command: &str) -> State {
        let mut snapshot = fixture::snapshot();
        let mut lost = fixture::listener(8000, command);
        lost.listener.queue = QueueDepth { len: 64, limit: 128 };
        lost.listener.drops = 18;
        lost.peers = vec![([10, 0, 0, 7].into(), 12)];
        let quiet = fixture::listener(9000, "quiet").listener;
        snapshot.view = fixture::view(&[lost.listener.clone(), quiet]);
        snapshot.report.listeners = vec![lost];
        let mut state = State::default();
        state.heard(Arc::new(snapshot));
        state
    }

    fn drawn(state: &mut State, width: u16, height: u16) -> (String, Buffer) {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, state, Palette::new(false))).unwrap();
        let buffer = terminal.backend().buffer().clone();
        (terminal.backend().to_string(), buffer)
    }

    #[test]
    fn what_matters_is_on_eighty_columns() {
        let mut state = state("tornado");
        let (text, buffer) = drawn(&mut state, 80, 24);
        for word in [
            "listeners 2, in trouble 1",
            "markings 7",
            "10.0.0.2:8000",
            "[#####.....]",
            "64/128",
            "tornado",
            "handshakes dropped",
            "sent again",
            "nothing so far",
            "q quit",
            "Enter detail",
        ] {
            assert!(text.contains(word), "{word:?} is not in\n{text}");
        }
        let is_plain = |cell: &ratatui::buffer::Cell| cell.fg == Color::Reset;
        assert!(buffer.content().iter().all(is_plain), "there is colour without being asked for");
    }

    #[test]
    fn the_detail_of_a_listener_has_its_peers() {
        let mut state = state("tornado");
        state.pressed(Key::Open);
        let (text, _) = drawn(&mut state, 80, 24);
        for word in ["in app1", "process 42", "10.0.0.7", "lost: "] {
            assert!(text.contains(word), "{word:?} is not in\n{text}");
        }
        assert!(!text.contains("quiet"), "{text}");
        state.pressed(Key::Back);
        assert!(drawn(&mut state, 80, 24).0.contains("quiet"));
    }

    #[test]
    fn no_name_moves_the_cursor() {
        let mut state = state("\x1b[2Jevil\r\n");
        state.pressed(Key::Open);
        let (open, _) = drawn(&mut state, 140, 40);
        state.pressed(Key::Back);
        let (text, buffer) = drawn(&mut state, 140, 40);
        assert!(text.contains("?[2Jevil") && open.contains("?[2Jevil"), "{text}");
        let has_control = |cell: &ratatui::buffer::Cell| cell.symbol().contains(char::is_control);
        assert!(!buffer.content().iter().any(has_control));
    }

    #[test]
    fn however_small_the_terminal_it_is_drawn() {
        let mut state = state("tornado");
        for (width, height) in [(1, 1), (10, 3), (20, 8), (300, 100)] {
            drawn(&mut state, width, height);
        }
        drawn(&mut State::default(), 80, 24);
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
