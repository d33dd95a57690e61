//! Time stamps in the forms that proxies and the carriers of their lines write.

use jiff::{
    Timestamp,
    civil::{Date, DateTime, Time},
    tz::{Offset, TimeZone},
};

use super::bytes::number;
use crate::time::UnixMs;

/// What a time stamp says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct When {
    /// The instant; of a local time, the instant at which UTC's clocks show it.
    pub at: UnixMs,
    /// Whether it is local time whose zone the stamp does not name.
    pub is_local: bool,
    /// Resolution of the stamp in milliseconds: 1 or 1000.
    pub precision_ms: u32,
}

impl When {
    /// An instant known to the millisecond.
    pub(super) fn exact(at: UnixMs) -> Self {
        Self { at, is_local: false, precision_ms: 1 }
    }
}

const MONTHS: [&[u8]; 12] = [
    b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec",
];
const WEEKDAYS: [&[u8]; 7] = [b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat", b"Sun"];

/// The stamp that `bytes` begin with, and what follows it. `near` settles the year where the stamp has
/// none.
pub fn leading(bytes: &[u8], near: UnixMs) -> Option<(When, &[u8])> {
    match bytes.first()? {
        b'0'..=b'9' if bytes.get(2) == Some(&b'/') => common_log(bytes),
        b'0'..=b'9' if bytes.get(10) == Some(&b'.') => seconds(bytes),
        b'0'..=b'9' => year_first(bytes),
        b'A'..=b'Z' => match bytes.split_at_checked(4)? {
            ([day @ .., b' '], rest) if WEEKDAYS.contains(&day) => {
                weekday_first(rest).or_else(|| month_first(rest, near))
            }
            _ => month_first(bytes, near),
        },
        _ => None,
    }
}

/// A whole text that is a stamp, or a number of seconds, milliseconds, microseconds or nanoseconds
/// since the epoch.
pub fn whole(text: &str, near: UnixMs) -> Option<When> {
    if text.bytes().all(|byte| byte.is_ascii_digit() || b".eE+".contains(&byte)) {
        return of_number(text.parse().ok()?);
    }
    let (when, rest) = leading(text.as_bytes(), near)?;
    rest.is_empty().then_some(when)
}

/// A time since the epoch in the unit that puts it between 2001 and 2286.
pub fn of_number(number: f64) -> Option<When> {
    const LEAST_SECONDS: f64 = 1e9;
    let unit = [1.0, 1e3, 1e6, 1e9]
        .into_iter()
        .find(|unit| (LEAST_SECONDS..LEAST_SECONDS * 10.0).contains(&(number / unit)))?;
    let precision_ms = if unit == 1.0 && number.fract() == 0.0 { 1000 } else { 1 };
    let at = UnixMs((number / unit * 1000.0).round() as u64);
    Some(When { at, is_local: false, precision_ms })
}

/// `2026-11-20T20:05:33.333220Z`, with a blank for the T, with slashes, with `+0000`, ` UTC` or no zone.
fn year_first(bytes: &[u8]) -> Option<(When, &[u8])> {
    let (year, rest) = digits::<4>(bytes)?;
    let separator: &[u8] = if rest.first() == Some(&b'/') { b"/" } else { b"-" };
    let (month, rest) = digits::<2>(rest.strip_prefix(separator)?)?;
    let (day, rest) = digits::<2>(rest.strip_prefix(separator)?)?;
    let [b'T' | b't' | b' ', rest @ ..] = rest else { return None };
    let (clock, rest) = Clock::read(rest)?;
    clock.on((year, month, day), rest)
}

/// `Nov 20 20:05:33.123456`, and `Nov 20 20:05:33.123456 2026`, as Apache has it.
fn month_first(bytes: &[u8], near: UnixMs) -> Option<(When, &[u8])> {
    let (month, rest) = month(bytes)?;
    let rest = rest.strip_prefix(b" ")?;
    let (day, rest) = match rest.strip_prefix(b" ") {
        Some(rest) => digits::<1>(rest)?,
        None => digits::<2>(rest)?,
    };
    let (clock, rest) = Clock::read(rest.strip_prefix(b" ")?)?;
    let year = rest.strip_prefix(b" ").and_then(digits::<4>);
    if let Some((year, rest)) = year.filter(|(_, rest)| !rest.starts_with(b"-")) {
        return clock.on((year, month, day), rest);
    }
    // The year in which the day lies closest, most of it in the past.
    let now = civil(near)?;
    let years = [now.year() - 1, now.year(), now.year() + 1];
    let distance = |(when, _): &(When, &[u8])| {
        let ahead = when.at.0 as i64 - near.0 as i64;
        if ahead > 2 * DAY_MS { i64::MAX } else { ahead.abs() }
    };
    years.into_iter().filter_map(|year| clock.on((year, month, day), rest)).min_by_key(distance)
}

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// `2026-11-20 20:05:33 CET` behind a weekday (`journalctl -o short-full`).
fn weekday_first(bytes: &[u8]) -> Option<(When, &[u8])> {
    let (when, rest) = year_first(bytes)?;
    let zone = rest.strip_prefix(b" ").filter(|_| when.is_local);
    let name = zone.map_or(0, |rest| rest.iter().take_while(|b| b.is_ascii_uppercase()).count());
    Some((when, if name >= 3 { &rest[1 + name..] } else { rest }))
}

/// `20/Nov/2026:20:05:35.308`, with ` +0000` or without.
fn common_log(bytes: &[u8]) -> Option<(When, &[u8])> {
    let (day, rest) = digits::<2>(bytes)?;
    let (month, rest) = month(rest.strip_prefix(b"/")?)?;
    let (year, rest) = digits::<4>(rest.strip_prefix(b"/")?)?;
    let (clock, rest) = Clock::read(rest.strip_prefix(b":")?)?;
    clock.on((year, month, day), rest)
}

/// `1795205133.333220` (`journalctl -o short-unix`).
fn seconds(bytes: &[u8]) -> Option<(When, &[u8])> {
    let end = bytes.iter().position(|byte| !byte.is_ascii_digit() && *byte != b'.');
    let (text, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
    Some((of_number(std::str::from_utf8(text).ok()?.parse().ok()?)?, rest))
}

/// A time of day.
#[derive(Clone, Copy)]
struct Clock {
    time: Time,
    precision_ms: u32,
}

impl Clock {
    /// Reads `20:05:33`, with a fraction behind a point or a comma or without.
    fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (hour, rest) = digits::<2>(bytes)?;
        let (minute, rest) = digits::<2>(rest.strip_prefix(b":")?)?;
        let (second, rest) = digits::<2>(rest.strip_prefix(b":")?)?;
        let (nanoseconds, rest) = fraction(rest).unwrap_or((0, rest));
        let precision_ms = if rest.len() + 8 < bytes.len() { 1 } else { 1000 };
        // A leap second is the end of the one before it.
        let second = small(second)?.min(59);
        let time = Time::new(small(hour)?, small(minute)?, second, nanoseconds).ok()?;
        Some((Self { time, precision_ms }, rest))
    }

    /// That time of a day, in the zone that `rest` begins with.
    fn on(self, (year, month, day): (i16, i16, i16), rest: &[u8]) -> Option<(When, &[u8])> {
        let day = Date::new(year, small(month)?, small(day)?).ok()?;
        let (zone, rest) = zone(rest).map_or((None, rest), |(zone, rest)| (Some(zone), rest));
        let moment = day.to_datetime(self.time);
        let at = unix(moment, zone.unwrap_or(Offset::UTC))?;
        Some((When { at, is_local: zone.is_none(), precision_ms: self.precision_ms }, rest))
    }
}

fn fraction(bytes: &[u8]) -> Option<(i32, &[u8])> {
    let [b'.' | b',', rest @ ..] = bytes else { return None };
    let length = rest.iter().take(9).take_while(|byte| byte.is_ascii_digit()).count();
    let scale = 10_i32.pow(9 - u32::try_from(length).ok()?);
    let (value, _) = number(&rest[..length])?;
    Some((i32::try_from(value).ok()? * scale, &rest[length..]))
}

/// `Z`, ` UTC`, `+01:00`, `+0100` or ` +0100`.
fn zone(bytes: &[u8]) -> Option<(Offset, &[u8])> {
    if let [b'Z' | b'z', rest @ ..] = bytes {
        return Some((Offset::UTC, rest));
    }
    let text = bytes.strip_prefix(b" ").unwrap_or(bytes);
    if let Some(rest) = text.strip_prefix(b"UTC") {
        return Some((Offset::UTC, rest));
    }
    let (sign, rest) = match text {
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return None,
    };
    let (hours, rest) = digits::<2>(rest)?;
    let (minutes, rest) = digits::<2>(rest.strip_prefix(b":").unwrap_or(rest))?;
    let seconds = sign * (i32::from(hours) * 60 + i32::from(minutes)) * 60;
    Some((Offset::from_seconds(seconds).ok()?, rest))
}

fn month(bytes: &[u8]) -> Option<(i16, &[u8])> {
    let (name, rest) = bytes.split_at_checked(3)?;
    let index = MONTHS.iter().position(|month| *month == name)?;
    Some((i16::try_from(index + 1).ok()?, rest))
}

/// A decimal number of exactly `N` digits, and what follows it.
fn digits<const N: usize>(bytes: &[u8]) -> Option<(i16, &[u8])> {
    let (number, rest) = bytes.split_at_checked(N)?;
    let value = number.iter().try_fold(0_i16, |value, byte| {
        byte.is_ascii_digit().then(|| value * 10 + i16::from(byte - b'0'))
    })?;
    Some((value, rest))
}

fn small(number: i16) -> Option<i8> {
    i8::try_from(number).ok()
}

fn unix(moment: DateTime, zone: Offset) -> Option<UnixMs> {
    let at = zone.to_timestamp(moment).ok()?.as_millisecond();
    u64::try_from(at).ok().map(UnixMs)
}

/// What UTC's clocks show.
fn civil(at: UnixMs) -> Option<DateTime> {
    let at = Timestamp::from_millisecond(i64::try_from(at.0).ok()?).ok()?;
    Some(at.to_zoned(TimeZone::UTC).datetime())
}

/// The instant at which the clocks of `zone` show what UTC's show at `as_utc`; of two, the later one
/// that does not lie behind `not_after`.
pub fn in_zone(as_utc: UnixMs, zone: &TimeZone, not_after: UnixMs) -> Option<UnixMs> {
    let ambiguous = zone.to_ambiguous_zoned(civil(as_utc)?);
    let of = |zoned: Result<jiff::Zoned, jiff::Error>| {
        u64::try_from(zoned.ok()?.timestamp().as_millisecond()).ok().map(UnixMs)
    };
    let (earlier, later) = (of(ambiguous.clone().earlier()), of(ambiguous.later()));
    later.filter(|at| *at <= not_after).or(earlier)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-20T20:05:36Z
    const NEAR: UnixMs = UnixMs(1_795_205_136_000);

    #[test]
    fn every_form_gives_the_same_instant() {
        for (text, milliseconds, is_local) in [
            ("2026-11-20T20:05:35.308Z", 308, false),
            ("2026-11-20T20:05:35.308123456Z", 308, false),
            ("2026-11-20T21:05:35.308+01:00", 308, false),
            ("2026-11-20T20:05:35+0000", 0, false),
            ("2026-11-20 20:05:35,308", 308, true),
            ("2026-11-20 20:05:35.308 UTC", 308, false),
            ("2026/11/20 20:05:35", 0, true),
            ("Nov 20 20:05:35.308", 308, true),
            ("Fri 2026-11-20 20:05:35 CET", 0, true),
            ("Fri Nov 20 20:05:35.308123 2026", 308, true),
            ("Fri Nov 20 20:05:35 2026", 0, true),
            ("20/Nov/2026:20:05:35.308", 308, true),
            ("20/Nov/2026:20:05:35 +0000", 0, false),
            ("1795205135.308", 308, false),
        ] {
            let (when, rest) = leading(text.as_bytes(), NEAR).unwrap_or_else(|| panic!("{text}"));
            let precision_ms = if milliseconds == 0 { 1000 } else { 1 };
            let at = UnixMs(1_795_205_135_000 + milliseconds);
            assert_eq!((when, rest), (When { at, is_local, precision_ms }, &b""[..]), "{text}");
        }
    }

    #[test]
    fn a_day_without_a_year_is_near() {
        let new_year = UnixMs(1_798_761_600_000);
        let (when, _) = leading(b"Dec 31 23:59:59 h", new_year).unwrap();
        assert_eq!(when.at, UnixMs(new_year.0 - 1000));
        let (when, _) = leading(b"Jan  1 00:00:01 h", UnixMs(new_year.0 - 3000)).unwrap();
        assert_eq!(when.at, UnixMs(new_year.0 + 1000));
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in ["", "2026/13/40 20:05:35", "Nov 20", "2026-11-20", "99:99:99", "Nov 20 2026"] {
            assert_eq!(leading(text.as_bytes(), NEAR), None, "{text}");
        }
        assert_eq!(whole("1795205135308", NEAR).unwrap().at, UnixMs(1_795_205_135_308));
        assert_eq!(whole("1795205135308000", NEAR).unwrap().at, UnixMs(1_795_205_135_308));
        assert_eq!(whole("12", NEAR), None);
        assert_eq!(whole("2026-11-20T20:05:35Z x", NEAR), None);
    }
}
