//! The listing as a table for people.

use std::{
    fmt::Write,
    io::{IsTerminal, stdout},
};

use comfy_table::{
    CellAlignment, ColumnConstraint, ContentArrangement, Row, Table, Width, presets::NOTHING,
};

use crate::{
    inventory::{
        DesertedPath, Destination, LimitedBy, Listener, Namespace, Owner, Runtime, Trouble,
        UnixListener, View,
    },
    printable::printable,
};

/// Rows a terminal shows where it does not say how many.
const HEIGHT: usize = 24;
/// Listeners that get a line of advice.
const ADVISED: usize = 5;
/// Shares of TIME_WAIT buckets or ports in use that are worth a line.
const WORTH_SAYING: f64 = 0.75;

const COLUMNS: [&str; 9] =
    ["", "listener", "netns", "queue", "high", "syn", "backlog", "drops", "owner"];
const NUMBERS: [usize; 5] = [3, 4, 5, 6, 7];

/// Rows of the terminal.
pub(super) fn height() -> usize {
    terminal_size::terminal_size().map_or(HEIGHT, |(_, height)| usize::from(height.0))
}

/// The listing, with at most so many `rows`.
pub(super) fn tell(view: &View, rows: usize) -> String {
    let mut told = String::new();
    let lines = view.listeners.iter().map(cells).chain(view.unix_listeners.iter().map(unix_cells));
    let lines: Vec<[String; 9]> = lines.collect();
    if !lines.is_empty() {
        let _ = writeln!(told, "{}", table(&lines[..lines.len().min(rows)]));
    }
    if lines.len() > rows {
        let _ = writeln!(told, "… and {} more", lines.len() - rows);
    }
    let _ = writeln!(told, "{}", summary(view));
    if !view.left_out.is_nothing() {
        let _ = writeln!(told, "{}", view.left_out);
    }
    let advice = view.listeners.iter().filter_map(what_to_raise).take(ADVISED);
    let deserted = view.deserted.iter().map(deserted).take(ADVISED);
    let rest = namespaces_in_trouble(view).chain(ports_running_out(view)).chain(deserted);
    for line in advice.chain(rest) {
        let _ = writeln!(told, "{}", printable(&line));
    }
    told
}

/// Columns without content are left out.
fn table(lines: &[[String; 9]]) -> Table {
    let shown: Vec<usize> =
        (0..COLUMNS.len()).filter(|i| lines.iter().any(|line| !line[*i].is_empty())).collect();
    let mut table = Table::new();
    table.load_preset(NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(shown.iter().map(|i| COLUMNS[*i].to_uppercase()));
    let width = width();
    for line in lines {
        let mut row =
            Row::from(shown.iter().map(|i| shortened(&printable(&line[*i]), most(*i, width))));
        row.max_height(1);
        table.add_row(row);
    }
    for (place, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 1));
        if NUMBERS.contains(&shown[place]) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        // Only the owner gives way where the terminal is narrow.
        column.set_constraint(match COLUMNS[shown[place]] {
            "owner" => ColumnConstraint::LowerBoundary(Width::Fixed(8)),
            _ => ColumnConstraint::ContentWidth,
        });
    }
    table
}

/// Columns of the terminal; elsewhere than on one there is no width to take a part of.
fn width() -> Option<usize> {
    let size = terminal_size::terminal_size().filter(|_| stdout().is_terminal());
    size.map(|(width, _)| usize::from(width.0))
}

/// How long the names in a column may be where the terminal is so wide.
fn most(column: usize, width: Option<usize>) -> usize {
    match (COLUMNS[column], width) {
        ("listener", Some(width)) => width / 4,
        ("netns", Some(width)) => width / 5,
        _ => usize::MAX,
    }
}

/// Both ends of a text that is too long. What tells a path, an address or a namespace from others
/// is most often at its end.
fn shortened(text: &str, most: usize) -> String {
    let length = text.chars().count();
    if length <= most {
        return text.to_owned();
    }
    let head = most.saturating_sub(1) / 3;
    let tail = most.saturating_sub(1) - head;
    let (first, last) = (text.chars().take(head), text.chars().skip(length - tail));
    first.chain(['…']).chain(last).collect()
}

fn cells(listener: &Listener) -> [String; 9] {
    [
        listener.trouble().name().to_owned(),
        address(listener),
        listener.netns_name.clone(),
        format!("{}/{}", listener.queue.len, listener.queue.limit),
        listener.depth.map(|depth| depth.high.to_string()).unwrap_or_default(),
        listener.syn_queue.filter(|len| *len > 0).map(|len| len.to_string()).unwrap_or_default(),
        backlog(listener),
        positive(listener.drops),
        owners(&listener.owners),
    ]
}

fn unix_cells(unix: &UnixListener) -> [String; 9] {
    [
        unix.trouble().name().to_owned(),
        unix.path.clone(),
        unix.netns_name.clone(),
        format!("{}/{}", unix.queue.len, unix.queue.limit),
        String::new(),
        String::new(),
        String::new(),
        positive(unix.refused.unwrap_or(0)),
        owners(&unix.owners),
    ]
}

fn positive(number: impl Into<u64>) -> String {
    let number = number.into();
    if number > 0 { number.to_string() } else { String::new() }
}

/// A dual-stack wildcard as `ss` writes it.
pub fn address(listener: &Listener) -> String {
    let addr = listener.id.addr;
    if listener.is_dual_stack() { format!("*:{}", addr.port()) } else { addr.to_string() }
}

/// What was asked for, `~` where that is inferred, `+` where somaxconn cut it.
fn backlog(listener: &Listener) -> String {
    let backlog = &listener.backlog;
    let Some(asked) = backlog.asked else { return String::new() };
    let inferred = if backlog.inferred { "~" } else { "" };
    let cut = if listener.limited_by() == Some(LimitedBy::Somaxconn) { "+" } else { "" };
    match asked.cast_signed() {
        negative @ ..0 => format!("{negative}{cut}"),
        asked => format!("{inferred}{asked}{cut}"),
    }
}

/// Commands with the number of their processes, and where the first of them runs.
pub fn owners(owners: &[Owner]) -> String {
    let mut commands: Vec<(&str, usize)> = Vec::new();
    for owner in owners {
        match commands.iter_mut().find(|(command, _)| *command == owner.command) {
            Some((_, times)) => *times += 1,
            None => commands.push((&owner.command, 1)),
        }
    }
    let commands: Vec<String> = commands
        .into_iter()
        .map(|(command, times)| match times {
            1 => command.to_owned(),
            _ => format!("{command}({times})"),
        })
        .collect();
    let place = owners.iter().map(place).find(|place| !place.is_empty()).unwrap_or_default();
    format!("{} {place}", commands.join(",")).trim_end().to_owned()
}

fn place(owner: &Owner) -> String {
    let workload = &owner.workload;
    let container = workload.container.as_ref();
    if let Some(pod) = &workload.pod {
        let name = pod.name.as_deref().unwrap_or(&pod.uid);
        let namespace = pod.namespace.as_ref().map(|space| format!("{space}/"));
        let container = container.map(|container| {
            format!("/{}", container.name.as_deref().unwrap_or(container.short_id()))
        });
        return format!("{}{name}{}", namespace.unwrap_or_default(), container.unwrap_or_default());
    }
    match container {
        Some(container) => {
            let runtime = container.runtime.map_or("container", Runtime::name);
            format!("{runtime}:{}", container.short_id())
        }
        None => workload.unit.clone().unwrap_or_default(),
    }
}

fn summary(view: &View) -> String {
    let all = view.listeners.len() + view.unix_listeners.len();
    let tcp = view.listeners.iter().map(Listener::trouble);
    let troubles = tcp.chain(view.unix_listeners.iter().map(UnixListener::trouble));
    let in_trouble = troubles.filter(|trouble| *trouble > Trouble::None).count();
    let legend = view.listeners.iter().any(|listener| listener.backlog.asked.is_some());
    let legend =
        if legend { "; backlog: ~ derived from the limit, + limited by somaxconn" } else { "" };
    let listeners = if all == 1 { "listener" } else { "listeners" };
    format!("{all} {listeners}, {in_trouble} in trouble{legend}")
}

/// Which of the two bounds makes the queue of a listener in trouble so short.
fn what_to_raise(listener: &Listener) -> Option<String> {
    if listener.trouble() == Trouble::None {
        return None;
    }
    let somaxconn = listener.somaxconn.map(|number| number.to_string()).unwrap_or_default();
    let (netns, limit) = (&listener.netns_name, listener.queue.limit);
    let remedy = match listener.limited_by()? {
        LimitedBy::Backlog => {
            format!("limited by its process's backlog; somaxconn allows {somaxconn}")
        }
        LimitedBy::Somaxconn => {
            format!("raise net.core.somaxconn in {netns} ({somaxconn}) and restart the process")
        }
        LimitedBy::Both => {
            format!("raise both its backlog and net.core.somaxconn in {netns} ({somaxconn})")
        }
    };
    Some(format!("{} has the limit {limit}: {remedy}", address(listener)))
}

fn namespaces_in_trouble(view: &View) -> impl Iterator<Item = String> {
    view.namespaces.values().filter_map(|Namespace { name, settings, time_wait, .. }| {
        let (tw, most) = ((*time_wait)?, settings.max_tw_buckets?);
        (f64::from(tw) >= WORTH_SAYING * f64::from(most))
            .then(|| format!("{name}: {tw} in TIME_WAIT of {most} (tcp_max_tw_buckets)"))
    })
}

fn ports_running_out(view: &View) -> impl Iterator<Item = String> {
    view.destinations.iter().filter_map(|destination| {
        let Destination { netns, from, to, ports_in_use, ports } = destination;
        let ports = (*ports)?;
        let name = view.namespaces.get(netns).map_or("", |netns| &netns.name);
        (f64::from(*ports_in_use) >= WORTH_SAYING * f64::from(ports))
            .then(|| format!("{name}: {ports_in_use} of {ports} ports in use from {from} to {to}"))
    })
}

fn deserted(path: &DesertedPath) -> String {
    let DesertedPath { netns_name, path, refused, .. } = path;
    format!("{netns_name}: no process listens at {path}; {refused} connects were refused")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        inventory::Backlog,
        kernel::{ListenerId, NetnsId, QueueDepth},
    };

    fn listener(port: u16, len: u32, limit: u32) -> Listener {
        let id = ListenerId { netns: NetnsId(7), addr: ([0; 8], port).into(), inode: 1 };
        let mut listener = Listener::unknown(id, QueueDepth { len, limit }, Some("app".to_owned()));
        listener.owners = vec![
            Owner::new(1, "nginx", Some("/system.slice/nginx.service".to_owned())),
            Owner::new(2, "nginx", None),
            Owner::new(3, "evil\x1b[2J", None),
        ]
        .into();
        listener
    }

    #[test]
    fn a_row_says_what_is_wrong_and_whose_it_is() {
        let mut full = listener(80, 129, 128);
        full.backlog = Backlog { asked: Some(511), inferred: false, somaxconn: Some(128) };
        let told = tell(&View { listeners: vec![full], ..View::default() }, 10);
        for word in ["FULL", "*:80", "app", "129/128", "511+", "nginx(2)", "nginx.service"] {
            assert!(told.contains(word), "{word} in {told}");
        }
        assert!(!told.contains('\x1b') && !told.contains("DROPS"), "{told}");
        assert!(told.contains("1 listener, 1 in trouble"));
        assert!(told.contains("*:80 has the limit 128: raise net.core.somaxconn in app"), "{told}");
    }

    #[test]
    fn a_name_of_any_characters_takes_one_row() {
        let path = "@\x1b]0;x\x07\n\u{9b}31m\u{202e}exe.\u{2028}dw";
        let hostile = |name: &str| UnixListener {
            netns: NetnsId(7),
            netns_name: name.to_owned(),
            path: name.to_owned(),
            inode: 1,
            queue: QueueDepth { len: 2, limit: 1 },
            refused: None,
            owners: vec![Owner::new(1, name, None)].into(),
        };
        let deserted = DesertedPath {
            netns: NetnsId(7),
            netns_name: path.to_owned(),
            path: path.to_owned(),
            refused: 1,
        };
        let view = View {
            unix_listeners: vec![hostile(path)],
            deserted: vec![deserted],
            ..View::default()
        };
        let told = tell(&view, 10);
        assert!(told.contains("@?]0;x???31m?exe.?dw"), "{told}");
        assert_eq!(crate::printable::printable_lines(&told), told);
        // Its head, the socket, the sum and the path.
        assert_eq!(told.lines().count(), 4, "{told}");
    }

    #[test]
    fn of_a_long_name_both_ends_are_shown() {
        let path = "/tmp/exec/containerd/metrics.sock";
        assert_eq!(shortened(path, 20), "/tmp/e…/metrics.sock");
        assert_eq!(shortened(path, path.len()), path);
        assert_eq!(shortened("äöüß", 3), "…üß");
        assert_eq!(most(1, Some(80)), 20);
        assert_eq!((most(1, None), most(8, Some(80))), (usize::MAX, usize::MAX));
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let listeners = (1..=5).map(|port| listener(port, 0, 128)).collect();
        let told = tell(&View { listeners, ..View::default() }, 2);
        assert!(told.contains("… and 3 more") && told.contains("5 listeners, 0 in trouble"));
    }

    #[test]
    fn a_path_at_which_nobody_listens_is_named() {
        let path = DesertedPath {
            netns: NetnsId(7),
            netns_name: "proxy".to_owned(),
            path: "/run/php/fpm.sock".to_owned(),
            refused: 12,
        };
        let told = tell(&View { deserted: vec![path], ..View::default() }, 10);
        let line = "proxy: no process listens at /run/php/fpm.sock; 12 connects were refused";
        assert!(told.contains(line), "{told}");
    }

    #[test]
    fn ports_and_time_wait_are_worth_a_line_when_they_run_out() {
        let mut view = View::default();
        let netns = NetnsId(7);
        let mut namespace = Namespace { name: "proxy".to_owned(), ..Namespace::default() };
        namespace.settings.max_tw_buckets = Some(1000);
        namespace.time_wait = Some(900);
        view.namespaces.insert(netns, namespace);
        let destination = |ports_in_use| Destination {
            netns,
            from: [10, 0, 0, 1].into(),
            to: ([10, 0, 0, 2], 8000).into(),
            ports_in_use,
            ports: Some(28232),
        };
        view.destinations = vec![destination(28000), destination(100)];
        let told = tell(&view, 10);
        assert!(told.contains("proxy: 900 in TIME_WAIT of 1000 (tcp_max_tw_buckets)"), "{told}");
        let line = "proxy: 28000 of 28232 ports in use from 10.0.0.1 to 10.0.0.2:8000";
        assert!(told.contains(line) && told.lines().count() == 3, "{told}");
    }
}
