//! Recordings that are small and claim to hold very much.

use std::{fs, net::SocketAddr, path::Path};

use anyhow::{Context, Result};
use floodmark::record::{Entry, Header, Reader};

use super::{Case, Check, Target, command::Ended};

pub(super) const CASES: &[Case] = &[Case {
    name: "recording-bombs",
    attack: "recordings of some kilobytes claim gigabytes, or lists of listeners without end",
    run: bombs,
}];

/// Memory that `replay` and `report` may take, in MiB, whatever they are given.
const MEMORY: f64 = 768.0;
/// Seconds that it may take.
const TIME: f64 = 60.0;
/// The kinds of blocks, as in their heads.
const TICKS: u8 = 0;
const START: u8 = 1;

fn bombs(target: &Target) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    for (name, make) in BOMBS {
        let path = target.directory().join(name).display().to_string();
        fs::write(&path, make()?)?;
        let size = fs::metadata(&path)?.len();
        for command in ["replay", "report"] {
            let ended = Ended::of(&target.agent, &[command, &path], "/dev/null")?;
            let is_bounded = ended.peak_mib <= MEMORY && ended.seconds <= TIME;
            let holds = is_bounded && (ended.status == 2) == (ended.lines > 0) && ended.status >= 0;
            let said = ended.to_string().replace(&path, name);
            checks.push(Check::that(format!("{command} {name} ({size} bytes)"), holds, said));
        }
        fs::remove_file(&path)?;
    }
    Ok(checks)
}

/// What makes the bytes of a recording.
type Make = fn() -> Result<Vec<u8>>;

const BOMBS: &[(&str, Make)] = &[
    ("zeros", || recording(&[(START, vec![0; 500 << 20])])),
    ("long-array", || {
        recording(&[(
            START,
            [b"\x81\xa5Whole".to_vec(), b"\xdd\xff\xff\xff\xff".repeat(1000)].concat(),
        )])
    }),
    ("deep", || recording(&[(START, [vec![0x91; 2_000_000], vec![0xc0]].concat())])),
    ("repeated-480M", || recording(&[(START, repeated(480 << 20)?)])),
    ("repeated-60M", || recording(&[(START, repeated(60 << 20)?)])),
    ("many-blocks", || {
        let block = repeated(1)?;
        recording(&vec![(START, block); 2000])
    }),
    ("verdicts", || {
        let (whole, tick) = first_entries()?;
        let Entry::Tick(mut tick) = tick else { unreachable!("the first entry after the state") };
        let verdict = some_verdict()?;
        tick.verdicts = vec![verdict; 60_000];
        recording(&[(START, packed(&[whole, Entry::Tick(tick)])?)])
    }),
    ("columns", || {
        let (whole, tick) = first_entries()?;
        let Entry::Tick(mut tick) = tick else { unreachable!("the first entry after the state") };
        tick.events.elapsed_ms = vec![1; 30_000_000];
        recording(&[(START, packed(&[whole, Entry::Tick(tick)])?)])
    }),
    ("noisy-columns", || {
        let (whole, tick) = first_entries()?;
        let Entry::Tick(mut tick) = tick else { unreachable!("the first entry after the state") };
        // Numbers of one byte each that zstd cannot make shorter: as much as a block may hold.
        let mut random = 0x9e37_79b9_u32;
        tick.events.elapsed_ms = std::iter::repeat_with(|| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            i64::from(random >> 25)
        })
        .take(30_000_000)
        .collect();
        recording(&[(START, packed(&[whole, Entry::Tick(tick)])?)])
    }),
    ("noisy-verdicts", || {
        let (whole, tick) = first_entries()?;
        let Entry::Tick(mut tick) = tick else { unreachable!("the first entry after the state") };
        let verdict = some_verdict()?;
        let mut verdicts = vec![verdict; 40_000];
        for (number, verdict) in (0_u64..).zip(&mut verdicts) {
            verdict.because = format!("{:x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        }
        tick.verdicts = verdicts;
        recording(&[(START, packed(&[whole, Entry::Tick(tick)])?)])
    }),
    ("ever-more-listeners", ever_more_listeners),
];

/// Blocks that each add 20,000 listeners.
fn ever_more_listeners() -> Result<Vec<u8>> {
    let (whole, tick) = first_entries()?;
    let Entry::Tick(first) = &tick else { unreachable!("the first entry after the state") };
    let listeners = &first.changes.inventory.listeners.set;
    let listener = listeners.values().next().context("no listener")?.clone();
    let mut blocks = vec![(START, packed(&[whole.clone(), tick.clone()])?)];
    for block in 0..15_u32 {
        let Entry::Tick(mut tick) = tick.clone() else { unreachable!("a tick") };
        for number in block * 20_000..(block + 1) * 20_000 {
            let mut listener = listener.clone();
            listener.id.inode = number;
            listener.id.addr = SocketAddr::from((number.to_be_bytes(), 80));
            tick.changes.inventory.listeners.set.insert(listener.id, listener);
        }
        blocks.push((TICKS, packed(&[Entry::Tick(tick)])?));
    }
    recording(&blocks)
}

fn example() -> Result<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpora/recording/v1.fmr");
    fs::read(&path).with_context(|| path.display().to_string())
}

/// The whole state and the first tick of a real recording.
fn first_entries() -> Result<(Entry, Entry)> {
    let bytes = example()?;
    let block = Reader::open(&*bytes)?.next_block()?.context("it has no block")?;
    let mut entries = block.entries;
    Ok((entries.next().context("no state")?, entries.next().context("no tick")?))
}

fn some_verdict() -> Result<floodmark::verdict::Verdict> {
    let bytes = example()?;
    let mut reader = Reader::open(&*bytes)?;
    while let Some(block) = reader.next_block()? {
        for entry in block.entries {
            if let Entry::Tick(tick) = entry
                && let Some(verdict) = tick.verdicts.into_iter().next()
            {
                return Ok(verdict);
            }
        }
    }
    anyhow::bail!("no verdict in it")
}

/// The first two entries, again and again, until they have this length.
fn repeated(length: usize) -> Result<Vec<u8>> {
    let (whole, tick) = first_entries()?;
    let once = packed(&[whole, tick])?;
    Ok(once.repeat(length.div_ceil(once.len())))
}

fn packed(entries: &[Entry]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for entry in entries {
        rmp_serde::encode::write_named(&mut bytes, entry)?;
    }
    Ok(bytes)
}

/// A recording of these blocks, as `docs/recording.md` describes it.
fn recording(blocks: &[(u8, Vec<u8>)]) -> Result<Vec<u8>> {
    let mut bytes = Header::default().to_bytes();
    for (kind, entries) in blocks {
        let body = zstd::bulk::compress(entries, 3)?;
        let mut head = b"FMBK".to_vec();
        head.extend([*kind, 0, 0, 0]);
        head.extend((body.len() as u32).to_le_bytes());
        head.extend((entries.len() as u32).to_le_bytes());
        head.extend([0; 16]);
        head.extend(crc32fast::hash(&body).to_le_bytes());
        head.extend(crc32fast::hash(&head).to_le_bytes());
        bytes.extend(head);
        bytes.extend(body);
    }
    Ok(bytes)
}
