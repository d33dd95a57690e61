use std::{
    fs::{self, File},
    io::Write,
};

use nix::{sys::stat::Mode, unistd::mkfifo};

use super::*;
use crate::proxy::{Dialect, source::LONGEST_LINE};

const NOW: UnixMs = UnixMs(1_795_204_075_000);

fn line(port: u16) -> String {
    format!(
        "2026/11/20 19:47:51 [error] 1#1: *1 connect() failed (111: Connection refused) while \
         connecting to upstream, client: 10.9.9.9, server: , request: \"GET / HTTP/1.1\", \
         upstream: \"http://10.0.0.1:{port}/\"\n"
    )
}

struct Log {
    directory: tempfile::TempDir,
    path: PathBuf,
}

impl Log {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("error.log");
        Self { directory, path }
    }

    fn append(&self, text: &str) {
        let mut file = File::options().create(true).append(true).open(&self.path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn rotate(&self) {
        fs::rename(&self.path, self.rotated()).unwrap();
    }

    fn rotated(&self) -> PathBuf {
        self.directory.path().join("error.log.1")
    }

    /// What a worker does that has not reopened its log.
    fn append_to_rotated(&self, text: &str) {
        let mut file = File::options().append(true).open(self.rotated()).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }
}

fn follower(log: &Log) -> Follower {
    follower_with(log, None)
}

fn follower_with(log: &Log, positions: Option<Arc<Positions>>) -> Follower {
    Follower::new(&log.path, Interpreter::new(Dialect::Nginx, "test".to_owned()), positions)
}

/// The upstreams' ports of all there is to read at `now`.
fn ports_at(follower: &mut Follower, now: UnixMs) -> Vec<u16> {
    let mut events = follower.poll(now);
    while follower.more {
        events.extend(follower.poll(now));
    }
    let port = |event: &ProxyEvent| match event.upstream {
        crate::proxy::Upstream::Inet(addr) => addr.port(),
        _ => 0,
    };
    events.iter().map(port).collect()
}

fn ports(follower: &mut Follower) -> Vec<u16> {
    ports_at(follower, NOW)
}

fn rotations(follower: &Follower) -> u64 {
    follower.stats().rotations.load(Ordering::Relaxed)
}

#[test]
fn reads_what_is_written_after_it_was_opened() {
    let log = Log::new();
    log.append(&line(1));
    let mut follower = follower(&log);
    assert!(ports(&mut follower).is_empty());
    log.append(&line(2));
    log.append(&line(3));
    assert_eq!(ports(&mut follower), [2, 3]);
    assert!(ports(&mut follower).is_empty());
}

#[test]
fn waits_for_the_end_of_a_line() {
    let log = Log::new();
    log.append("");
    let mut follower = follower(&log);
    let (start, end) = (&line(5)[..40], &line(5)[40..]);
    log.append(start);
    assert!(ports(&mut follower).is_empty());
    log.append(end);
    assert_eq!(ports(&mut follower), [5]);
}

#[test]
fn reads_the_old_file_to_its_end_when_it_is_renamed() {
    let log = Log::new();
    log.append("");
    let mut follower = follower(&log);
    log.append(&line(1));
    log.rotate();
    assert_eq!(ports(&mut follower), [1]);
    log.append_to_rotated(&line(2));
    log.append(&line(3));
    assert_eq!(ports(&mut follower), [2, 3]);
    assert_eq!(rotations(&follower), 1);
}

#[test]
fn reads_the_old_file_on_until_its_writer_has_had_time_to_reopen() {
    let log = Log::new();
    log.append("");
    let mut follower = follower(&log);
    log.rotate();
    log.append("");
    assert!(ports(&mut follower).is_empty());
    log.append_to_rotated(&line(4));
    log.append(&line(5));
    assert_eq!(ports(&mut follower), [4, 5]);
    log.append_to_rotated(&line(6));
    let afterwards = NOW.later(LINGER);
    assert_eq!(ports_at(&mut follower, afterwards), [6]);
    assert!(follower.renamed.is_none());
    assert_eq!(rotations(&follower), 1);
}

#[test]
fn starts_over_when_the_file_is_cut_short() {
    let log = Log::new();
    log.append("");
    let mut follower = follower(&log);
    log.append(&line(1));
    log.append(&line(2));
    assert_eq!(ports(&mut follower), [1, 2]);
    File::create(&log.path).unwrap();
    log.append(&line(3));
    assert_eq!(ports(&mut follower), [3]);
    assert_eq!(rotations(&follower), 1);
}

#[test]
fn a_file_that_appears_later_is_read_from_its_start() {
    let log = Log::new();
    let mut follower = follower(&log);
    assert!(ports(&mut follower).is_empty());
    log.append(&line(7));
    assert_eq!(ports(&mut follower), [7]);
}

#[test]
fn an_endless_line_takes_no_more_memory_and_is_counted() {
    let log = Log::new();
    log.append("");
    let mut follower = follower(&log);
    for _ in 0..5 {
        log.append(&"x".repeat(LONGEST_LINE));
        assert!(ports(&mut follower).is_empty());
        assert!(follower.open.as_ref().unwrap().held() <= LONGEST_LINE);
    }
    log.append("the end\n");
    log.append(&line(8));
    assert_eq!(ports(&mut follower), [8]);
    assert_eq!(follower.stats().lines_too_long.load(Ordering::Relaxed), 1);
}

#[test]
fn a_long_file_is_read_in_parts_and_before_its_successor() {
    let log = Log::new();
    log.append("");
    let mut follower = follower(&log);
    let lines: Vec<String> = (1..=20_000).map(line).collect();
    log.append(&lines.concat());
    log.rotate();
    log.append(&line(60_000));
    let first = follower.poll(NOW).len();
    assert!(first < lines.len() && follower.more, "{first}");
    assert!(follower.stats().lag_bytes.load(Ordering::Relaxed) > 0);
    let rest = ports(&mut follower);
    assert_eq!(first + rest.len(), lines.len() + 1);
    assert!(rest.is_sorted());
    assert_eq!(follower.stats().lag_bytes.load(Ordering::Relaxed), 0);
}

#[test]
fn a_half_written_line_does_not_outlive_its_file() {
    let log = Log::new();
    log.append("");
    let mut follower = follower(&log);
    log.append(&line(1)[..40]);
    assert!(ports(&mut follower).is_empty());
    File::create(&log.path).unwrap();
    // Shorter than what was read, as it is when looked at in time.
    log.append("x\n");
    assert!(ports(&mut follower).is_empty());
    log.append(&line(2));
    assert_eq!(ports(&mut follower), [2]);
}

#[test]
fn counts_lines_and_those_nginx_has_cut() {
    let log = Log::new();
    log.append("");
    let mut follower = follower(&log);
    log.append(&line(1).replace('\n', "\r\n"));
    log.append(&format!("{}\n", "x".repeat(2047)));
    assert_eq!(ports(&mut follower), [1]);
    let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let stats = follower.stats();
    let SourceStats { lines, events, lines_cut, errors, .. } = &*stats;
    assert_eq!((read(lines), read(events), read(lines_cut), read(errors)), (2, 1, 1, 0));
}

#[test]
fn what_is_no_file_is_refused_and_not_waited_for() {
    let log = Log::new();
    mkfifo(&log.path, Mode::S_IRWXU).unwrap();
    let mut follower = follower(&log);
    assert!(ports(&mut follower).is_empty());
    assert_eq!(follower.stats().errors.load(Ordering::Relaxed), 2);
    assert!(follower.complained);
    fs::remove_file(&log.path).unwrap();
    assert!(ports(&mut follower).is_empty());
    log.append(&line(9));
    assert_eq!(ports(&mut follower), [9]);
    assert!(!follower.complained);
}

#[test]
fn a_log_that_has_its_name_again_is_read_on() {
    let log = Log::new();
    log.append("");
    let mut follower = follower(&log);
    log.append(&line(1));
    assert_eq!(ports(&mut follower), [1]);
    log.rotate();
    mkfifo(&log.path, Mode::S_IRWXU).unwrap();
    assert!(ports(&mut follower).is_empty());
    fs::rename(log.rotated(), &log.path).unwrap();
    log.append(&line(2));
    assert_eq!(ports(&mut follower), [2]);
}

#[test]
fn a_sparse_file_gives_only_its_end() {
    let log = Log::new();
    let mut follower = follower(&log);
    File::create(&log.path).unwrap().set_len(1 << 40).unwrap();
    log.append(&format!("\n{}", line(3)));
    assert_eq!(ports(&mut follower), [3]);
    let skipped = follower.stats().skipped_bytes.load(Ordering::Relaxed);
    assert!(skipped > (1 << 40) - (128 << 20), "{skipped}");
}

/// A follower that goes on where one before it has left off.
fn restarted(log: &Log) -> (Follower, Arc<Positions>) {
    let positions = Arc::new(Positions::open(&log.directory.path().join("state")).unwrap());
    (follower_with(log, Some(Arc::clone(&positions))), positions)
}

#[test]
fn a_restart_goes_on_where_the_last_run_ended() {
    let log = Log::new();
    log.append("");
    let (mut first, positions) = restarted(&log);
    log.append(&line(1));
    log.append("2026/11/20 19:47:51 [err");
    assert_eq!(ports(&mut first), [1]);
    first.keep_place();
    positions.flush();
    log.append(&line(0)["2026/11/20 19:47:51 [err".len()..]);
    log.append(&line(2));
    // The line that was half read is read whole.
    assert_eq!(ports(&mut restarted(&log).0), [0, 2]);
}

#[test]
fn a_file_renamed_between_two_runs_is_read_to_its_end() {
    let log = Log::new();
    log.append(&line(1));
    let (mut first, positions) = restarted(&log);
    assert!(ports(&mut first).is_empty());
    first.keep_place();
    positions.flush();
    log.append(&line(2));
    log.rotate();
    log.append(&line(3));
    assert_eq!(ports(&mut restarted(&log).0), [2, 3]);
}

#[test]
fn a_file_cut_short_between_two_runs_is_read_from_its_start() {
    let log = Log::new();
    log.append(&line(1));
    log.append(&line(2));
    let (mut first, positions) = restarted(&log);
    ports(&mut first);
    first.keep_place();
    positions.flush();
    fs::write(&log.path, line(3)).unwrap();
    assert_eq!(ports(&mut restarted(&log).0), [3]);
}
