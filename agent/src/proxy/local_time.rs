//! Time stamps in a proxy's local time, which name no zone.

use jiff::{civil::DateTime, tz::TimeZone};

use crate::time::UnixMs;

const QUARTER_MS: i64 = 15 * 60 * 1000;

/// The instant that a local time without a zone stands for, in a line written about `written`. The
/// zone is taken to be the whole number of quarter hours by which the two differ, so `written` must
/// be right to seven minutes.
pub(super) fn instant(local: DateTime, written: UnixMs) -> Option<UnixMs> {
    let as_utc = local.to_zoned(TimeZone::UTC).ok()?.timestamp().as_millisecond();
    let off = as_utc - i64::try_from(written.0).ok()?;
    let zone = (off + QUARTER_MS / 2).div_euclid(QUARTER_MS) * QUARTER_MS;
    u64::try_from(as_utc - zone).ok().map(UnixMs)
}

/// A decimal number of exactly `digits`, and what follows it.
pub(super) fn digits<const N: usize>(bytes: &[u8]) -> Option<(i16, &[u8])> {
    let (number, rest) = bytes.split_at_checked(N)?;
    let value = number.iter().try_fold(0_i16, |value, byte| {
        byte.is_ascii_digit().then(|| value * 10 + i16::from(byte - b'0'))
    })?;
    Some((value, rest))
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    #[test]
    fn any_zone_is_seen_by_its_distance() {
        // 2026-11-20T19:47:55Z
        let written = UnixMs(1_795_204_075_000);
        for (day, hour, minute, second, ago_ms) in [
            (20, 19, 47, 51, 4000),
            (20, 11, 47, 51, 4000),
            (21, 1, 32, 51, 4000),
            (20, 19, 47, 56, -1000),
        ] {
            let local = date(2026, 11, day).at(hour, minute, second, 0);
            let at = instant(local, written).unwrap();
            assert_eq!(written.0 as i64 - at.0 as i64, ago_ms, "{local}");
        }
    }

    #[test]
    fn a_number_has_all_its_digits() {
        assert_eq!(digits::<4>(b"2026/11"), Some((2026, b"/11".as_slice())));
        assert_eq!(digits::<2>(b"1x"), None);
        assert_eq!(digits::<2>(b"1"), None);
    }
}
