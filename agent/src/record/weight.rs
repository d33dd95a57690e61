//! How much memory an entry may take once it is decoded, told from its bytes (MessagePack) before it is.

use rmp::Marker;

/// The longest text, in bytes: a line of a proxy's log, of which each byte that is not UTF-8 takes three.
const LONGEST_TEXT: u64 = (3 * 64) << 10;
/// The most memory that an entry may take, in bytes.
const HEAVIEST: u64 = 512 << 20;
/// What a structure, a list or a map takes on average, beside what is in it.
const CONTAINER: u64 = 256;
/// What a text takes, beside its bytes.
const TEXT: u64 = 48;
/// What a number takes.
const NUMBER: u64 = 16;

/// The length in bytes of the first value in `bytes`, with all that is in it. `None` where it is cut
/// off or takes more memory, by estimate, than what the agent writes.
pub(super) fn length(bytes: &[u8]) -> Option<usize> {
    let (mut at, mut weight) = (0_usize, 0_u64);
    // Values that are still to come.
    let mut open = 1_u64;
    while open > 0 {
        open -= 1;
        let marker = Marker::from_u8(*bytes.get(at)?);
        at += 1;
        let width = width_of_length(marker);
        let said = bytes.get(at..at + width)?.iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
        at += width;
        let (values, content, cost) = match marker {
            Marker::FixArray(n) => (u64::from(n), 0, CONTAINER),
            Marker::FixMap(n) => (2 * u64::from(n), 0, CONTAINER),
            Marker::Array16 | Marker::Array32 => (said, 0, CONTAINER),
            Marker::Map16 | Marker::Map32 => (2 * said, 0, CONTAINER),
            Marker::FixStr(n) => (0, u64::from(n), TEXT),
            Marker::Str8 | Marker::Str16 | Marker::Str32 => (0, said, TEXT),
            Marker::Bin8 | Marker::Bin16 | Marker::Bin32 => (0, said, TEXT),
            marker => (0, width_of_number(marker)?, NUMBER),
        };
        open += values;
        weight += cost + content;
        at += usize::try_from(content).ok()?;
        if content > LONGEST_TEXT || weight > HEAVIEST || at > bytes.len() {
            return None;
        }
    }
    Some(at)
}

/// Bytes in which a value says how long it is.
fn width_of_length(marker: Marker) -> usize {
    match marker {
        Marker::Str8 | Marker::Bin8 => 1,
        Marker::Str16 | Marker::Bin16 | Marker::Array16 | Marker::Map16 => 2,
        Marker::Str32 | Marker::Bin32 | Marker::Array32 | Marker::Map32 => 4,
        _ => 0,
    }
}

/// Bytes of a number; `None` for what the agent does not write.
fn width_of_number(marker: Marker) -> Option<u64> {
    Some(match marker {
        Marker::FixPos(_) | Marker::FixNeg(_) => 0,
        Marker::Null | Marker::True | Marker::False => 0,
        Marker::U8 | Marker::I8 => 1,
        Marker::U16 | Marker::I16 => 2,
        Marker::U32 | Marker::I32 | Marker::F32 => 4,
        Marker::U64 | Marker::I64 | Marker::F64 => 8,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;

    #[derive(Serialize)]
    struct Sample {
        texts: Vec<String>,
        numbers: (u8, i64, f64, Option<u16>, bool),
        bytes: std::collections::BTreeMap<u32, Vec<u64>>,
    }

    #[test]
    fn a_value_ends_where_the_next_begins() {
        let sample = Sample {
            texts: [3, 40, 300, 196_608].map(|length| "x".repeat(length)).into(),
            numbers: (200, -70_000, 0.5, None, true),
            bytes: [(7, (0..70_000).collect()), (1 << 20, vec![u64::MAX])].into(),
        };
        for bytes in
            [rmp_serde::to_vec_named(&sample).unwrap(), rmp_serde::to_vec(&sample).unwrap()]
        {
            assert_eq!(length(&bytes), Some(bytes.len()));
            assert_eq!(length(&[&bytes[..], &bytes[..]].concat()), Some(bytes.len()));
            for cut in [0, 1, bytes.len() / 2, bytes.len() - 1] {
                assert_eq!(length(&bytes[..cut]), None, "{cut}");
            }
        }
    }

    #[test]
    fn what_claims_or_takes_too_much_is_refused() {
        assert_eq!(length(b"\xdd\xff\xff\xff\xff\xc0"), None, "4 Gi elements, and one there");
        assert_eq!(length(&vec![0x90; 4 << 20]), Some(1), "only the first counts");
        let lists = [b"\xdd\x00\x40\x00\x00".to_vec(), vec![0x90; 4 << 20]].concat();
        assert_eq!(length(&lists), None, "4 Mi empty structures");
        let text = [b"\xdb\x00\x03\x00\x01".to_vec(), vec![b'x'; 196_609]].concat();
        assert_eq!(length(&text), None, "a text longer than a line");
        let deep = [vec![0x91; 2_000_000], vec![0xc0]].concat();
        assert_eq!(length(&deep), Some(deep.len()).filter(|_| 2_000_000 * CONTAINER < HEAVIEST));
        assert_eq!(length(b"\xc1"), None, "a marker that means nothing");
    }
}
