//! The picture: words and ASCII say everything, colour only repeats it.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Modifier, Style},
    symbols::bar::Set,
    text::Line,
    widgets::{Paragraph, Sparkline, Wrap},
};

use super::{
    super::listeners::{address, owners},
    rows::{self, Palette, depth, gauge, high},
    state::{Growth, State},
};
use crate::{
    inventory::{Listener, Trouble},
    kernel::ListenerId,
    printable::printable,
    proxy::{EventKind, ProxyEvent},
    verdict::in_words,
};

const KEYS: &str = " q quit   up/down select   Enter detail   Esc back   p pause";

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
    let Some(snapshot) = &state.snapshot else {
        return " floodmark: waiting for the first sample ...".to_owned();
    };
    let proxy = &snapshot.report.proxy;
    let listeners = state.listeners();
    let troubled = listeners.iter().filter(|l| l.trouble() > Trouble::None).count();
    let dropped: u64 = snapshot.report.listeners.iter().map(|lost| lost.tally.drops()).sum();
    let paused = if state.is_paused { " PAUSED " } else { "" };
    format!(
        "{paused} listeners {}, in trouble {troubled}  dropped {dropped}  markings {}  no live \
         peers {}",
        listeners.len() + snapshot.view.listeners_left_out,
        proxy.markings,
        proxy.no_live_peers,
    )
}

fn overview(frame: &mut Frame<'_>, area: Rect, state: &State, palette: Palette) {
    // With its head; the verdicts need room as well.
    let rows = (state.listeners().len() as u16).saturating_add(1).min(area.height / 2);
    let [table, _, drops, repeated, verdicts] = Layout::vertical([
        Constraint::Length(rows),
        Constraint::Length(1),
        Constraint::Length(2),
        Constraint::Length(2),
        Constraint::Fill(1),
    ])
    .areas(area);
    rows::draw(frame, table, state, palette);
    sparkline(frame, drops, "handshakes dropped", &state.drops);
    sparkline(frame, repeated, "retransmitted SYNs and SYN/ACKs", &state.retransmits);
    below(frame, verdicts, "proxy events and causes: the newest of each kind", told(state, None));
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
    let nothing = if lines.is_empty() { vec![Line::raw(" none so far")] } else { lines };
    frame.render_widget(Paragraph::new(nothing).wrap(Wrap { trim: false }), rest);
}

/// `12:03:04Z  357 x nginx marked 10.0.0.2:8000 as down: cause (high)`, and under it the reason.
fn told<'a>(state: &State, of: Option<ListenerId>) -> Vec<Line<'a>> {
    let verdicts = state.verdicts(of).into_iter();
    let lines = verdicts.flat_map(|(verdict, times)| {
        let event = &verdict.event;
        let seconds = i64::try_from(event.at.0 / 1000).unwrap_or(0);
        let clock = jiff::Timestamp::from_second(seconds).unwrap_or_default();
        let clock = clock.to_zoned(jiff::tz::TimeZone::UTC).strftime("%H:%M:%SZ").to_string();
        let (proxy, what) = (event.proxy.name(), said(event));
        let (cause, confidence) = (verdict.cause.name(), verdict.confidence.name());
        [
            format!(" {clock} {times:>5} x {proxy} {what}: {cause}, {confidence} confidence"),
            format!("   {}", verdict.because),
        ]
    });
    lines.map(|line| Line::raw(printable(&line).into_owned())).collect()
}

fn said(event: &ProxyEvent) -> String {
    let upstream = &event.upstream;
    match event.kind {
        EventKind::AttemptFailed { .. } => format!("failed at {upstream}"),
        EventKind::PeerMarked { .. } => format!("marked {upstream} as down"),
        EventKind::PeerBack => format!("took {upstream} back"),
        EventKind::NoLivePeers => format!("had no live peer in {upstream}"),
    }
}

fn detail(frame: &mut Frame<'_>, area: Rect, state: &State, listener: &Listener) {
    let (facts_lines, peers_lines) = (about(state, listener), of_peers(state, listener));
    let [facts, drops, peers, verdicts] = Layout::vertical([
        Constraint::Length(7),
        Constraint::Length(2),
        Constraint::Length(
            (peers_lines.len().max(1) as u16).saturating_add(1).min(area.height / 3),
        ),
        Constraint::Fill(1),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(facts_lines).wrap(Wrap { trim: false }), facts);
    let none = Growth::default();
    let growth = state.by_listener.get(&listener.id).unwrap_or(&none);
    sparkline(frame, drops, "handshakes dropped here", growth);
    below(frame, peers, "clients with dropped segments", peers_lines);
    let lines = told(state, Some(listener.id));
    below(frame, verdicts, "what proxies said of it, and why: the newest of each kind", lines);
}

fn about<'a>(state: &State, listener: &Listener) -> Vec<Line<'a>> {
    let pids: Vec<String> =
        listener.owners.iter().take(8).map(|owner| owner.pid.to_string()).collect();
    let asked = listener.backlog.asked.map_or("unknown".to_owned(), |asked| asked.to_string());
    let somaxconn = listener.somaxconn.map_or("unknown".to_owned(), |limit| limit.to_string());
    let mut lines = vec![
        format!(" {} in {}  {}", address(listener), listener.netns_name, listener.trouble().name()),
        format!(" owner {}  process {}", owners(&listener.owners), pids.join(", ")),
        format!(" queue {} {}, highest {}", gauge(listener), depth(listener), high(listener)),
        format!(" backlog asked for {asked}, somaxconn {somaxconn}"),
    ];
    if let Some(lost) = state.lost(listener.id) {
        lines.push(format!(" {}", in_words(&lost.tally)));
    }
    lines.into_iter().map(|line| Line::raw(printable(&line).into_owned())).collect()
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ratatui::{Terminal, backend::TestBackend, buffer::Buffer};

    use super::{super::state::Key, *};
    use crate::{export::fixture, kernel::QueueDepth, printable::is_printable};

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
            "app1",
            "[#####.....]",
            "64/128",
            "tornado",
            "handshakes dropped",
            "retransmitted",
            "none so far",
            "q quit",
            "Enter detail",
        ] {
            assert!(text.contains(word), "{word:?} is not in\n{text}");
        }
        let is_plain = |cell: &ratatui::buffer::Cell| cell.fg == ratatui::style::Color::Reset;
        assert!(buffer.content().iter().all(is_plain), "there is colour without being asked for");
    }

    #[test]
    fn the_detail_of_a_listener_has_its_peers() {
        let mut state = state("tornado");
        state.pressed(Key::Open);
        let (text, _) = drawn(&mut state, 80, 24);
        for word in ["in app1", "process 42", "10.0.0.7", "the listener dropped 10 SYNs"] {
            assert!(text.contains(word), "{word:?} is not in\n{text}");
        }
        assert!(!text.contains("quiet"), "{text}");
        state.pressed(Key::Back);
        assert!(drawn(&mut state, 80, 24).0.contains("quiet"));
    }

    #[test]
    fn no_name_moves_the_cursor() {
        let mut state = state("\x1b[2Jevil\u{9b}\u{202e}\r\n");
        state.pressed(Key::Open);
        let (open, _) = drawn(&mut state, 140, 40);
        state.pressed(Key::Back);
        let (text, buffer) = drawn(&mut state, 140, 40);
        assert!(text.contains("?[2Jevil") && open.contains("?[2Jevil"), "{text}");
        let is_safe = |cell: &ratatui::buffer::Cell| cell.symbol().chars().all(is_printable);
        assert!(buffer.content().iter().all(is_safe));
    }

    #[test]
    fn however_small_the_terminal_it_is_drawn() {
        let mut state = state("tornado");
        for (width, height) in [(1, 1), (10, 3), (20, 8), (300, 100)] {
            drawn(&mut state, width, height);
        }
        drawn(&mut State::default(), 80, 24);
    }
}
