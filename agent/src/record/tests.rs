//! A synthetic incident, recorded by the recorder and gone through in every state a file can be in.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use anyhow::Result;

use super::{block::Kind, *};
use crate::{
    clock::{ClockStep, ClockSteps},
    inventory::{Inventory, InventoryChanges, Listener, Namespace, Owner, peers::PeerReport},
    kernel::{
        Attribution, Class, Counter, KernelEvent, KernelSample, ListenerDelta, ListenerId,
        MibCounts, NetnsId, QueueDepth, Rung, ServiceCount, Signal, Standing, Tally, flow::Slot,
    },
    proxy::{Carrier, EventKind, Failure, Phase, ProxyEvent, ProxyKind, Upstream},
    stall::{Activity, Evidence, ProcessEvidence, StallSample, Target, ThreadEvidence, Wait},
    time::{UnixMs, Window},
    verdict::{Cause, Heard, Inputs, Judge, Report, Totals, Verdict},
};

const NETNS: NetnsId = NetnsId(4_026_532_001);
const BEGIN: u64 = 1_795_204_000_000;
/// Whose traces must not be in a redacted recording.
const CLIENT: &str = "203.0.113.77";
const URI: &str = "/private/inbox?token=s3cr3t";
const TICKS: u64 = 200;
const SET_BY_MS: i64 = -300_000;

fn listener(len: u32) -> Listener {
    let id = ListenerId { netns: NETNS, addr: "10.9.8.7:8000".parse().unwrap(), inode: 77 };
    let owners =
        vec![Owner::new(42, "tornado", Some("/system.slice/app.service".to_owned()))].into();
    let queue = QueueDepth { len, limit: 128 };
    Listener { owners, somaxconn: Some(4096), ..Listener::unknown(id, queue, Some("app".into())) }
}

/// The inventory as of second `second`, when the queue is `len` deep.
fn inventory(len: u32) -> Inventory {
    let mut changes = InventoryChanges::default();
    let listener = listener(len);
    changes.listeners.set.insert(listener.id, listener);
    let namespace = Namespace { name: "app".to_owned(), ..Namespace::default() };
    changes.namespaces.set.insert(NETNS, namespace);
    changes.addresses.set.insert(NETNS, BTreeSet::from(["10.9.8.7".parse().unwrap()]));
    let mut inventory = Inventory::default();
    inventory.apply(changes);
    inventory
}

fn standings() -> Vec<Standing> {
    let of = |signal| Standing {
        signal,
        rung: Rung::Fentry,
        blind_spot: "nothing".to_owned(),
        refused: Vec::new(),
    };
    vec![of(Signal::SynDrops), of(Signal::AckDrops)]
}

/// Whether the queue overflows in this second.
fn overflows(second: u64) -> bool {
    (30..90).contains(&(second % 120))
}

fn sample(second: u64) -> KernelSample {
    let delta = ListenerDelta {
        listener: listener(0).id,
        tally: Tally::of(&[(Class::SynAcceptQueueFull, 7)]),
        attribution: Attribution::Exact,
        queue: Some(QueueDepth { len: 129, limit: 128 }),
    };
    let to = UnixMs(BEGIN + 1000 * second);
    KernelSample {
        window: Window { from: UnixMs(to.0 - 1000), to },
        listeners: overflows(second).then_some(delta).into_iter().collect(),
        events_lost: 0,
    }
}

fn client(second: u64) -> std::net::SocketAddr {
    format!("{CLIENT}:{}", 40_000 + second).parse().unwrap()
}

fn events(second: u64) -> Vec<KernelEvent> {
    let event = KernelEvent {
        at: UnixMs(BEGIN + 1000 * second - 500),
        listener: listener(0).id,
        peer: client(second),
        class: Class::SynAcceptQueueFull,
        queue: Some(QueueDepth { len: 129, limit: 128 }),
    };
    if overflows(second) { vec![event; 7] } else { Vec::new() }
}

fn heard(second: u64, at: u64, kind: EventKind) -> Heard {
    let upstream = Upstream::Inet("10.9.8.7:8000".parse().unwrap());
    let carrier = Carrier::plain("/var/log/nginx/error.log", UnixMs(at));
    let event = ProxyEvent::new(ProxyKind::Nginx, &carrier, (UnixMs(at), 1000), kind, upstream);
    let event = ProxyEvent {
        connection: Some(second),
        group: Some("app".to_owned()),
        // Only some proxies tell their own end.
        local_addr: second.is_multiple_of(2).then(|| client(second)),
        ..event
    };
    let line = Some(format!("upstream timed out, client: {CLIENT}, request: \"GET {URI}\""));
    Heard { event, netns: Some(NETNS), at: UnixMs(at), line }
}

fn totals(second: u64) -> Totals {
    let lost = 7 * (0..=second).filter(|second| overflows(*second)).count() as u64;
    let mut counts = MibCounts::default();
    counts[Counter::ListenOverflows] = lost;
    counts[Counter::ListenDrops] = lost;
    counts[Counter::TimeWait] = second;
    let time_wait = [("time_wait".to_owned(), second)].into();
    let service = ServiceCount { netns: NETNS, port: 8000, is_local: true, counts: time_wait };
    let mut moved = MibCounts::default();
    moved[Counter::TimeWait] = second;
    Totals {
        kernel: [(NETNS, ("app".to_owned(), counts))].into(),
        services: vec![service],
        services_moved: [(NETNS, moved)].into(),
        no_port: Vec::new(),
    }
}

/// In the middle of the incident the wall clock is set back.
fn set_back(second: u64) -> ClockSteps {
    let within = Window { from: UnixMs(BEGIN + 49_000), to: UnixMs(BEGIN + 50_000) };
    let latest = (second >= 50).then_some(ClockStep { within, by_ms: SET_BY_MS });
    ClockSteps {
        shift_ms: latest.map_or(0, |step| step.by_ms),
        count: latest.iter().count() as u64,
        latest: latest.into_iter().collect(),
    }
}

fn peers() -> Vec<PeerReport> {
    vec![PeerReport {
        netns: NETNS,
        port: 8000,
        is_local: true,
        peer: CLIENT.to_owned(),
        counts: Default::default(),
        opened_per_second: 12.5,
        median_lifetime: None,
        closed_here_share: None,
    }]
}

/// What came to the listener in a second: told slot by slot, so that what-if can be replayed.
/// What the only holder of the listener does while it overflows.
fn stalls(second: u64) -> Vec<StallSample> {
    let mut thread = ThreadEvidence { tid: 42, ..ThreadEvidence::default() };
    let target = Target::Remote("10.0.0.7:5432".parse().unwrap());
    thread.saw(Activity::Waiting(Wait { call: "recvfrom".to_owned(), target }), 16);
    let process = ProcessEvidence { pid: 42, threads: vec![thread], ..ProcessEvidence::default() };
    let evidence = Evidence { looks: 16, processes: vec![process], cgroups: Vec::new() };
    let is_pressed = overflows(second);
    let sample =
        StallSample { listener: listener(0).id, is_pressed, group: 1, idle_members: 0, evidence };
    is_pressed.then_some(sample).into_iter().collect()
}

fn arrivals(second: u64) -> Vec<(ListenerId, Vec<Slot>)> {
    let lost = sample(second).listeners.into_iter().map(|delta| delta.listener);
    let at = UnixMs(BEGIN + 1000 * second - 500);
    lost.map(|id| (id, vec![Slot { at, enqueued: 129, depth: 129 }])).collect()
}

/// Plays the incident to the agent's own judge and to `recorder`; tells what the judge reports.
fn play(recorder: Recorder, ticks: std::ops::Range<u64>) -> Result<Report> {
    play_by(recorder, ticks, |_| ClockSteps::default())
}

/// The same with a wall clock that is set.
fn play_by(
    mut recorder: Recorder,
    ticks: std::ops::Range<u64>,
    clock: impl Fn(u64) -> ClockSteps,
) -> Result<Report> {
    let mut judge = Judge::new(UnixMs(BEGIN - 1000));
    let (standings, mut before) = (standings(), inventory(0));
    let mut report = None;
    for second in ticks.clone() {
        let now = UnixMs(BEGIN + 1000 * second);
        let timed_out =
            EventKind::AttemptFailed { phase: Phase::Connect, failure: Failure::TIMEOUT };
        let marked = EventKind::PeerMarked { phase: Phase::Connect, failure: None };
        let is_told = overflows(second) && second.is_multiple_of(3);
        if is_told {
            let heard = heard(second, now.0 - 300, timed_out);
            judge.hear(&heard, &before);
            recorder.hear(&heard);
        }
        let told = [heard(second, now.0, marked), heard(second, now.0, EventKind::NoLivePeers)];
        let inventory = inventory(if overflows(second) { 129 } else { second as u32 % 5 });
        let totals = totals(second);
        let inputs = Inputs {
            now,
            sample: &sample(second),
            events: &events(second),
            heard: if is_told { &told } else { &[] },
            hears_proxies: true,
            forgets: second.is_multiple_of(60),
            is_last: second + 1 == ticks.end,
            standings: &standings,
            totals: &totals,
            arrivals: &arrivals(second),
            links: &[],
            stalls: &stalls(second),
            clock: &clock(second),
        };
        let outcome = judge.tick(&inputs, &inventory);
        recorder.tick(Moment {
            inputs: &inputs,
            inventory: &inventory,
            peers: peers(),
            troubles: Default::default(),
            verdicts: &outcome.verdicts,
        })?;
        before = inventory;
        report = Some(judge.report(now, &standings, &totals, &before));
    }
    Ok(report.unwrap())
}

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<Block>>>);

impl Sink for Memory {
    fn take(&mut self, block: Block) -> Result<()> {
        self.0.lock().unwrap().push(block);
        Ok(())
    }
}

fn header() -> Header {
    Header {
        program: "0.1.0".to_owned(),
        kernel: "6.12.0".to_owned(),
        watching_since: UnixMs(BEGIN - 1000),
        is_redacted: false,
    }
}

/// The incident's blocks, and what was reported live.
fn recorded(redactor: Option<Redactor>) -> (Vec<Block>, Report) {
    let memory = Memory::default();
    let recorder = Recorder::new(Box::new(memory.clone()), redactor);
    let report = play(recorder, 0..TICKS).unwrap();
    (std::mem::take(&mut memory.0.lock().unwrap()), report)
}

fn file(blocks: &[Block]) -> Vec<u8> {
    let mut bytes = header().to_bytes();
    blocks.iter().for_each(|block| bytes.extend(&block.bytes));
    bytes
}

fn go_through(bytes: &[u8]) -> Result<Replay> {
    replay(Reader::open(bytes)?, |_, _| {})
}

fn json(report: &Report) -> serde_json::Value {
    serde_json::to_value(report).unwrap()
}

#[test]
fn a_replay_comes_to_the_same_verdicts_and_the_same_report() {
    let (blocks, live) = recorded(None);
    let replayed = go_through(&file(&blocks)).unwrap();
    assert_eq!(replayed.comparison.differing + replayed.comparison.before, 0);
    assert_eq!(replayed.comparison.same, live.proxy.verdicts.len() as u64);
    assert_eq!(json(&replayed.report), json(&live));
    assert_eq!(replayed.report.proxy.causes[Cause::AcceptQueueOverflow.name()], 37);
    assert_eq!(replayed.damage, Damage { has_end: true, ..Damage::default() });
}

/// The comparison would notice: with other evidence the verdicts are others.
#[test]
fn a_replay_on_other_evidence_differs() {
    let (blocks, _) = recorded(None);
    let bytes = file(&blocks);
    let mut reader = Reader::open(&*bytes).unwrap();
    let mut entries = Vec::new();
    while let Some(block) = reader.next_block().unwrap() {
        for mut entry in block.entries {
            if let Entry::Tick(tick) = &mut entry {
                tick.sample.listeners.clear();
                tick.events = EventColumns::default();
            }
            rmp_serde::encode::write_named(&mut entries, &entry).unwrap();
        }
    }
    let times = (UnixMs(BEGIN), UnixMs(BEGIN));
    let replayed =
        go_through(&file(&[Block::pack(Kind::Start, times, &entries).unwrap()])).unwrap();
    assert!(replayed.comparison.differing > 100, "{}", replayed.comparison.differing);
    assert_eq!(replayed.comparison.differences.len(), 20);
}

/// Times in a recording are by the agent's clock; times that people see are by the wall clock.
#[test]
fn a_step_of_the_wall_clock_is_recorded() {
    let plain = recorded(None).1;
    let memory = Memory::default();
    let live = play_by(Recorder::new(Box::new(memory.clone()), None), 0..TICKS, set_back).unwrap();
    let blocks = memory.0.lock().unwrap().clone();
    let whole = go_through(&file(&blocks)).unwrap();
    let second = (1..blocks.len()).rfind(|place| blocks[*place].is_start).unwrap();
    let late = go_through(&file(&blocks[second..])).unwrap();
    for replayed in [&whole, &late] {
        assert!(replayed.comparison.is_same(), "{:?}", replayed.comparison);
        assert_eq!(replayed.clock, set_back(TICKS));
        assert_eq!(replayed.report.clock_steps, live.clock_steps);
        assert_eq!(replayed.report.window.to, plain.window.to.shifted(SET_BY_MS));
        assert_eq!(replayed.header.watching_since, header().watching_since.shifted(SET_BY_MS));
    }
    let unnoted = |report: &Report| -> Vec<Verdict> {
        let verdicts = report.proxy.verdicts.iter().map(|verdict| Verdict::clone(verdict));
        let unnoted = |mut verdict: Verdict| {
            verdict.health.clock_set_ms = 0;
            verdict
        };
        verdicts.map(unnoted).collect()
    };
    let of_plain = unnoted(&plain.shifted(SET_BY_MS));
    assert_eq!(unnoted(&live), of_plain, "no verdict depends on the wall clock");
    assert_eq!(unnoted(&whole.report), of_plain);
    let noted = |verdict: &&Arc<Verdict>| verdict.health.clock_set_ms == 300_000;
    assert!(live.proxy.verdicts.iter().any(|verdict| noted(&verdict)));
}

#[test]
fn a_file_cut_between_blocks_is_read_to_its_end() {
    let (blocks, _) = recorded(None);
    for kept in 1..blocks.len() {
        let replayed = go_through(&file(&blocks[..kept])).unwrap();
        assert_eq!(replayed.report.window.to, blocks[kept - 1].last);
        assert_eq!(replayed.damage, Damage::default(), "no gap, no end");
        assert!(replayed.comparison.is_same());
    }
}

#[test]
fn a_file_cut_inside_a_block_is_read_to_the_last_whole_one() {
    let (blocks, _) = recorded(None);
    for kept in [1, 2, blocks.len() / 2, blocks.len() - 1] {
        for part in [1, 39, 40, blocks[kept].bytes.len() - 1] {
            let mut bytes = file(&blocks[..kept]);
            bytes.extend(&blocks[kept].bytes[..part]);
            let replayed = go_through(&bytes).unwrap();
            assert_eq!(replayed.report.window.to, blocks[kept - 1].last);
            let cut = Damage { cut_bytes: part as u64, ..Damage::default() };
            assert_eq!(replayed.damage, cut);
        }
    }
}

#[test]
fn after_a_damaged_block_reading_goes_on_at_the_next_start() {
    let (blocks, _) = recorded(None);
    let starts: Vec<usize> = (0..blocks.len()).filter(|place| blocks[*place].is_start).collect();
    assert!(starts.len() >= 3, "{starts:?}");
    for place in [1, 2, starts[1] - 1] {
        for byte in [0, 8, 20, 45] {
            let mut damaged = blocks.clone();
            let mut bytes = damaged[place].bytes.to_vec();
            bytes[byte] ^= 0x40;
            damaged[place].bytes = bytes.into();
            let replayed = go_through(&file(&damaged)).unwrap();
            let gap = Window { from: blocks[place - 1].last, to: blocks[starts[1]].first };
            assert_eq!(replayed.damage.gaps, [gap], "block {place}, byte {byte}");
            assert!(replayed.damage.has_end && replayed.damage.cut_bytes == 0);
            assert_eq!(replayed.report.window.to, UnixMs(BEGIN + 1000 * (TICKS - 1)));
        }
    }
}

#[test]
fn a_recording_that_begins_late_reports_the_growth_since() {
    let (blocks, _) = recorded(None);
    let second = (1..blocks.len()).find(|place| blocks[*place].is_start).unwrap();
    let late = &blocks[second..];
    let replayed = go_through(&file(late)).unwrap();
    assert!(replayed.begins_late && replayed.comparison.is_same());
    assert!(replayed.comparison.before > 0, "some rest on what was before");
    let from = (late[0].first.0 - BEGIN) / 1000;
    let lost = 7 * (from..TICKS).filter(|second| overflows(*second)).count() as u64;
    let netns = &replayed.report.namespaces[0];
    assert_eq!(netns.kernel[Counter::ListenDrops], lost);
    assert!(netns.unattributed.is_empty(), "{:?}", netns.unattributed);
}

/// Everything in a recording, unpacked.
fn unpacked(bytes: &[u8]) -> Vec<u8> {
    let mut reader = Reader::open(bytes).unwrap();
    let mut all = Vec::new();
    while let Some(block) = reader.next_block().unwrap() {
        for entry in block.entries {
            rmp_serde::encode::write_named(&mut all, &entry).unwrap();
        }
    }
    all
}

#[test]
fn nothing_of_clients_or_requests_is_left_in_a_redacted_recording() {
    let octets = [203, 0, 113, 77];
    // MessagePack has its own way to write a byte above 127.
    let packed = rmp_serde::to_vec(&CLIENT.parse::<std::net::Ipv4Addr>().unwrap()).unwrap();
    let traces: [&[u8]; 6] =
        [CLIENT.as_bytes(), &octets, &packed[1..], URI.as_bytes(), b"s3cr3t", b"GET "];
    let found = |bytes: &[u8]| traces.map(|trace| memchr::memmem::find(bytes, trace).is_some());
    let (plain, live) = recorded(None);
    let plain = unpacked(&file(&plain));
    assert_eq!(found(&plain), [true; 6], "the test can see them");
    let (redacted, _) = recorded(Some(Redactor::default()));
    let bytes = file(&redacted);
    assert_eq!(found(&unpacked(&bytes)), [false; 6]);
    // The story is the same, with another name for the client.
    let replayed = go_through(&bytes).unwrap();
    assert!(replayed.comparison.is_same());
    assert_eq!(replayed.report.proxy.causes, live.proxy.causes);
    let exact = |report: &Report| report.proxy.verdicts.iter().filter(|v| v.is_exact).count();
    assert!(exact(&live) > 0);
    assert_eq!(exact(&replayed.report), exact(&live), "connections are still joined");
    let (name, lost) = replayed.report.listeners[0].peers[0];
    assert_eq!(lost, live.listeners[0].peers[0].1);
    assert!(name.to_string().starts_with("240."), "{name}");
}

#[test]
fn a_copy_redacted_afterwards_is_like_one_redacted_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let (plain, _) = recorded(None);
    let copy = directory.path().join("copy.fmr");
    let bytes = file(&plain);
    let mut reader = Reader::open(&*bytes).unwrap();
    let damage = transcribe(&mut reader, &copy, Some(Redactor::default())).unwrap();
    assert!(damage.is_whole() && damage.has_end);
    let copied = std::fs::read(&copy).unwrap();
    assert!(Reader::open(&*copied).unwrap().header().is_redacted);
    assert_eq!(unpacked(&copied), unpacked(&file(&recorded(Some(Redactor::default())).0)));
}

#[test]
fn a_file_keeps_to_its_greatest_size_and_can_be_read_at_any_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("incident.fmr");
    let sink = FileSink::create(&path, &header(), Some(20_000)).unwrap();
    play(Recorder::new(Box::new(sink), None), 0..800).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert!(bytes.len() < 25_000, "{}", bytes.len());
    let replayed = go_through(&bytes).unwrap();
    assert!(replayed.begins_late && replayed.comparison.is_same());
    assert_eq!(replayed.damage, Damage { has_end: true, ..Damage::default() });
    assert_eq!(replayed.report.window.to, UnixMs(BEGIN + 799_000));
    let again = FileSink::create(&path, &header(), None).err().unwrap();
    let again = format!("{again:#}");
    assert!(again.contains("exists already"), "{again}");
}

#[test]
fn what_is_no_recording_is_refused() {
    let (blocks, _) = recorded(None);
    let mut newer = file(&blocks);
    newer[8] = 2;
    let error = |bytes: &[u8]| go_through(bytes).unwrap_err().to_string();
    assert!(error(&newer).contains("format 2"));
    for bytes in
        [b"".as_slice(), b"FLOODMRK", b"#!/bin/sh\nexit 0\n and more", &header().to_bytes()]
    {
        assert!(error(bytes).contains("recording"), "{bytes:?}");
    }
}

/// What it claims is held against what the agent writes before any memory is taken for it.
#[test]
fn a_block_that_claims_too_much_is_left_out() {
    let (blocks, _) = recorded(None);
    let whole = go_through(&file(&blocks)).unwrap().report.window;
    let times = (blocks[0].first, blocks[0].last);
    let Some(Entry::Tick(tick)) =
        Reader::open(&*file(&blocks)).unwrap().next_block().unwrap().unwrap().entries.nth(1)
    else {
        panic!("a tick comes after the state");
    };
    let small = rmp_serde::to_vec_named(&Entry::Tick(Box::default())).unwrap();
    let mut wide = Entry::Tick(tick);
    if let Entry::Tick(tick) = &mut wide {
        tick.events.elapsed_ms = vec![1; 40_000_000];
    }
    for (what, entries) in [
        ("a ratio beyond any packing", vec![0; 8 << 20]),
        ("too many entries", small.repeat(1001)),
        ("a structure too heavy", rmp_serde::to_vec_named(&wide).unwrap()),
        ("elements that are not there", b"\x81\xa5Whole\xdd\xff\xff\xff\xff".to_vec()),
        ("no end of depth", [vec![0x91; 100_000], vec![0xc0]].concat()),
    ] {
        let bomb = Block::pack(Kind::Ticks, times, &entries).unwrap();
        let mut with_bomb = blocks.clone();
        with_bomb.insert(1, bomb);
        let replayed = go_through(&file(&with_bomb)).unwrap();
        assert_eq!(replayed.damage.gaps.len(), 1, "{what}");
        assert_eq!(replayed.report.window, whole, "{what}: it goes on at the next start");
    }
}

/// A recording of format 1 as the first version wrote it: every later 1.x must read it.
#[test]
fn the_first_versions_recording_is_still_read() {
    let bytes = include_bytes!("../../../tests/corpora/recording/v1.fmr");
    let replayed = go_through(bytes).unwrap();
    assert_eq!(replayed.damage, Damage { has_end: true, ..Damage::default() });
    assert_eq!(replayed.report.proxy.causes[Cause::AcceptQueueOverflow.name()], 37);
    assert_eq!(replayed.report.listeners[0].tally.drops(), 7 * 110);
    assert_eq!(replayed.report.listeners[0].listener.owners[0].command, "tornado");
    assert_eq!((replayed.comparison.same, replayed.comparison.differing), (3 * 37, 0));
}

/// Whatever byte is another: no panic, no endless reading, and what is told comes from whole blocks.
#[test]
fn flipped_bytes_are_survived() {
    let whole = include_bytes!("../../../tests/corpora/recording/v1.fmr");
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut chance = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below as u64) as usize
    };
    for _ in 0..40 {
        let mut bytes = whole.to_vec();
        for _ in 0..=chance(3) {
            let place = chance(bytes.len());
            bytes[place] ^= 1 << chance(8);
        }
        let Ok(mut reader) = Reader::open(&*bytes) else { continue };
        let mut ticks = 0;
        while let Some(block) = reader.next_block().unwrap() {
            ticks += block.entries.len();
        }
        assert!(ticks <= 204, "no more than was written: {ticks}");
        assert!(ticks < 204 || reader.damage().is_whole());
    }
}

/// Writes that recording. Only for a new major version.
#[test]
#[ignore = "it would be another recording"]
fn write_the_first_versions_recording() {
    let (blocks, _) = recorded(None);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/corpora/recording/v1.fmr");
    std::fs::write(path, file(&blocks)).unwrap();
}
