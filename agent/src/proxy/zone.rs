//! Time zones: those that processes write local time in, and those that there are at all.

use std::{path::Path, sync::LazyLock};

use jiff::tz::TimeZone;

use crate::untrusted_file;

/// A zone's file is far smaller.
const LARGEST: u64 = 256 << 10;
/// Where names of zones lead to.
const ZONEINFO: &str = "usr/share/zoneinfo";

/// The zone of a process by its `TZ` and its `/etc/localtime`, as tzset(3) finds it.
pub(super) fn of_process(pid: u32) -> Option<TimeZone> {
    let directory = Path::new("/proc").join(pid.to_string());
    let environment = untrusted_file::read_procfs(&directory.join("environ"), LARGEST).ok()?;
    let mut variables = environment.split(|byte| *byte == 0);
    let tz = variables.find_map(|variable| variable.strip_prefix(b"TZ="));
    let tz = tz.and_then(|value| std::str::from_utf8(value).ok());
    Some(of_root(&directory.join("root"), tz))
}

pub(super) fn of_host() -> &'static TimeZone {
    static HOST: LazyLock<TimeZone> =
        LazyLock::new(|| of_root(Path::new("/"), std::env::var("TZ").ok().as_deref()));
    &HOST
}

/// UTC where there is no such zone, as in C libraries.
fn of_root(root: &Path, tz: Option<&str>) -> TimeZone {
    let file = |path: &Path| {
        let data = untrusted_file::read(path, LARGEST).ok()?;
        TimeZone::tzif("local", &data).ok()
    };
    let zone = match tz.map(|tz| tz.strip_prefix(':').unwrap_or(tz)) {
        None => file(&root.join("etc/localtime")),
        Some("") => None,
        Some(path) if path.starts_with('/') => file(&root.join(&path[1..])),
        Some(name) if name.split('/').any(|part| part == "..") => None,
        Some(name) => file(&root.join(ZONEINFO).join(name))
            .or_else(|| file(&Path::new("/").join(ZONEINFO).join(name)))
            .or_else(|| TimeZone::posix(name).ok()),
    };
    zone.unwrap_or(TimeZone::UTC)
}

/// Minutes from UTC of zones with no whole hours; those run from -12 to +14.
const ODD: [i64; 13] = [-570, -210, -150, 210, 270, 330, 345, 390, 525, 570, 630, 765, 825];
const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;

/// The distance from UTC, of those that zones have, that lies closest to `distance_ms`, in
/// milliseconds. None where nobody's clock can be so far away.
pub(super) fn nearest(distance_ms: i64) -> Option<i64> {
    let hour = (distance_ms + HOUR_MS / 2).div_euclid(HOUR_MS);
    let odd = ODD.iter().map(|minutes| minutes * MINUTE_MS);
    let hours = (-12..=14).contains(&hour).then_some(hour * HOUR_MS);
    odd.chain(hours).min_by_key(|zone| (zone - distance_ms).abs())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_distances_that_zones_have_are_zones() {
        for (minutes, zone) in [
            (0, 0),
            (-3, 0),
            (20, 0),
            (-480, -480),
            (345, 345),
            (331, 330),
            (840, 840),
            (-720, -720),
        ] {
            assert_eq!(nearest(minutes * MINUTE_MS), Some(zone * MINUTE_MS), "{minutes}");
        }
        for days in [-6 * 365, -3, -1, 1, 3] {
            let far = nearest(days * 24 * HOUR_MS).unwrap() - days * 24 * HOUR_MS;
            assert!(far.abs() > 9 * HOUR_MS, "{days}");
        }
    }

    #[test]
    fn a_zone_is_found_as_a_c_library_finds_it() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(of_root(root.path(), None), TimeZone::UTC);
        assert_eq!(of_root(root.path(), Some("")), TimeZone::UTC);
        let posix = of_root(root.path(), Some("XYZ-5:45"));
        assert_eq!(posix.to_offset(jiff::Timestamp::UNIX_EPOCH).seconds(), 20_700);
        assert_eq!(of_root(root.path(), Some("../../etc/x")), TimeZone::UTC);
        fs::create_dir_all(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/localtime"), "no zone").unwrap();
        assert_eq!(of_root(root.path(), None), TimeZone::UTC);
    }
}
