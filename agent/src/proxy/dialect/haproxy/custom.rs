//! Traffic logs in an operator's own `log-format`.
//!
//! A line may fit its format in several ways, if a client wrote text of its own into it. It gives an event
//! only if all ways say the same, and an event that a client could have written is marked as doubtful.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
    sync::LazyLock,
};

use super::{
    log_format::{Item, LogFormat, Value},
    traffic::{Ends, Session, address},
};
use crate::proxy::{
    bytes::find,
    event::{Carrier, ProxyEvent, Trust},
    timestamp,
};

/// What `option httplog clf` and `option tcplog clf` stand for (src/log.c `clf_http_log_format`,
/// `clf_tcp_log_format`).
static COMMON: LazyLock<Vec<LogFormat>> = LazyLock::new(|| {
    const FORMATS: [&str; 2] = [
        r#"%{+Q}o %{-Q}ci - - [%trg] %r %ST %B "" "" %cp %ms %ft %b %s %TR %Tw %Tc %Tr %Ta %tsc %ac %fc %bc %sc %rc %sq %bq %CC %CS %hrl %hsl"#,
        r#"%{+Q}o %{-Q}ci - - [%T] "TCP " 000 %B "" "" %cp %ms %ft %b %s %Th %Tw %Tc %Tt %U %ts-- %ac %fc %bc %sc %rc %sq %bq "" "" "" ""#,
    ];
    FORMATS.iter().filter_map(|text| text.parse().ok()).collect()
});

/// Steps taken through a line; with more, it fits in too many ways.
const MOST_STEPS: u32 = 10_000;

/// What a line says, in one of the ways in which it fits.
type Values<'a> = BTreeMap<Value, Cow<'a, str>>;

/// Reads a line in one of the formats that are known.
pub(super) fn event_of(line: &[u8], carrier: &Carrier<'_>) -> Option<ProxyEvent> {
    carrier.log_formats.iter().chain(&*COMMON).find_map(|format| event_in(format, line, carrier))
}

fn event_in(format: &LogFormat, line: &[u8], carrier: &Carrier<'_>) -> Option<ProxyEvent> {
    let values = if format.is_json { of_json(line, format)? } else { only_fit(line, format)? };
    let event = event(&values, carrier)?;
    let trust = if format.can_be_forged() { Trust::Doubtful } else { event.trust };
    Some(ProxyEvent { trust, ..event })
}

/// The keys are the items' own names.
fn of_json<'a>(line: &[u8], format: &LogFormat) -> Option<Values<'a>> {
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(line).ok()?;
    let values = format.items.iter().filter_map(|item| {
        let Item::Value { value, name, .. } = item else { return None };
        let text = match object.get(name).filter(|_| value.is_wanted())? {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Number(number) => number.to_string(),
            _ => return None,
        };
        Some((*value, Cow::Owned(text)))
    });
    Some(values.collect())
}

fn event(values: &Values<'_>, carrier: &Carrier<'_>) -> Option<ProxyEvent> {
    let text = |value| values.get(&value).map(AsRef::as_ref).filter(|text| *text != "-");
    let number =
        |value| text(value).and_then(|text| text.trim_start_matches('+').parse::<i64>().ok());
    let term = text(Value::TerminationState)?;
    // What the timers would say, where the format has none.
    let step = term.as_bytes().get(1)?;
    let connect = if b"CQ".contains(step) { -1 } else { 0 };
    let response = if *step == b'H' { -1 } else { 0 };
    let end = |ip, port| address(&format!("{}:{}", text(ip)?, text(port)?));
    let ends = Ends {
        local: end(Value::SourceAddress, Value::SourcePort),
        peer: end(Value::ServerAddress, Value::ServerPort),
    };
    let name = |value| text(value).unwrap_or_default().to_owned();
    let session = Session {
        frontend: name(Value::Frontend).trim_end_matches('~').to_owned(),
        group: name(Value::Backend),
        server: name(Value::Server),
        term: term.as_bytes(),
        connect: number(Value::Connect).unwrap_or(connect),
        response: Some(number(Value::Response).unwrap_or(response)),
        total: number(Value::Total).and_then(|total| u64::try_from(total).ok()),
        ends,
    };
    let start = text(Value::Start).or_else(|| text(Value::StartSeconds));
    let start = start.and_then(|start| timestamp::whole(start, carrier.read_at));
    let pid = number(Value::Pid).and_then(|pid| u32::try_from(pid).ok());
    session.event(start, &Carrier { pid: pid.or(carrier.pid), ..*carrier })
}

/// What a line says if it fits, and says the same in whatever way it fits.
fn only_fit<'a>(line: &'a [u8], format: &LogFormat) -> Option<Values<'a>> {
    let mut search = Search {
        line,
        items: &format.items,
        last_wanted: format.last_wanted(),
        taken: Vec::new(),
        found: None,
        misfits: HashSet::new(),
        steps: 0,
    };
    search.fits(0, 0).ok()?;
    search.found
}

struct Search<'a, 'f> {
    line: &'a [u8],
    items: &'f [Item],
    last_wanted: usize,
    /// What the wanted items before the present one took.
    taken: Vec<(Value, &'a str)>,
    found: Option<Values<'a>>,
    /// Items that do not fit from a place on.
    misfits: HashSet<(usize, usize)>,
    steps: u32,
}

/// A line that fits in several ways, or in too many to look at.
struct Ambiguous;

impl<'a> Search<'a, '_> {
    /// Whether the items from `index` on fit what begins at `at`. What follows the last wanted item is not
    /// looked at further than to the next one: a long line is cut.
    fn fits(&mut self, index: usize, at: usize) -> Result<bool, Ambiguous> {
        self.steps += 1;
        if self.steps > MOST_STEPS {
            return Err(Ambiguous);
        }
        let Some(item) = self.items.get(index).filter(|_| index <= self.last_wanted + 1) else {
            return if index < self.items.len() || at == self.line.len() {
                self.found_one().map(|()| true)
            } else {
                Ok(false)
            };
        };
        if self.misfits.contains(&(index, at)) {
            return Ok(false);
        }
        let rest = &self.line[at..];
        let mut does_fit = false;
        match item {
            Item::Text(text) => {
                if rest.starts_with(text) {
                    does_fit = self.fits(index + 1, at + text.len())?;
                }
            }
            Item::Blank => {
                if at == 0 || self.line[at - 1] == b' ' {
                    does_fit = self.fits(index + 1, at)?;
                }
                if rest.first() == Some(&b' ') {
                    does_fit |= self.fits(index + 1, at + 1)?;
                }
            }
            Item::Value { value, is_quoted, .. } => {
                let quote = usize::from(*is_quoted && rest.first() == Some(&b'"'));
                for length in self.lengths(index, &rest[quote..], *value, quote == 1) {
                    let end = quote + length;
                    let Ok(text) = std::str::from_utf8(&rest[quote..end]) else { continue };
                    let before = self.taken.len();
                    if value.is_wanted() {
                        self.taken.push((*value, text));
                    }
                    does_fit |= self.fits(index + 1, at + end + quote)?;
                    self.taken.truncate(before);
                }
            }
        }
        if !does_fit {
            self.misfits.insert((index, at));
        }
        Ok(does_fit)
    }

    /// How many bytes the value at `index` may take of `rest`: as many as it can, or up to where the next
    /// item may begin.
    fn lengths(&self, index: usize, rest: &[u8], value: Value, is_quoted: bool) -> Vec<usize> {
        let longest = value.longest(rest);
        let least = usize::from(!value.may_be_empty());
        let next: Option<&[u8]> = match self.items.get(index + 1) {
            _ if is_quoted => Some(b"\""),
            Some(Item::Text(text)) => Some(text),
            Some(Item::Blank) => Some(b" "),
            _ => None,
        };
        let mut lengths = Vec::new();
        if let Some(next) = next {
            let mut from = 0;
            while let Some(found) = find(&rest[from..], next).map(|found| from + found) {
                if found > longest || lengths.len() as u32 > MOST_STEPS {
                    break;
                }
                lengths.push(found);
                from = found + 1;
            }
        }
        // After an empty value the blank is left out.
        let may_end = !is_quoted && (next != Some(b" ") || longest == rest.len());
        lengths.extend(may_end.then_some(longest));
        let is_empty_before_blank = value.may_be_empty() && next == Some(b" ");
        lengths.extend(is_empty_before_blank.then_some(0));
        let is_possible = |length: &usize| match value {
            Value::TerminationState => [2, 4].contains(length),
            _ => *length >= least,
        };
        lengths.retain(is_possible);
        lengths.sort_unstable();
        lengths.dedup();
        lengths
    }

    fn found_one(&mut self) -> Result<(), Ambiguous> {
        let values: Values<'a> =
            self.taken.iter().map(|(value, text)| (*value, Cow::Borrowed(*text))).collect();
        match &self.found {
            Some(other) if *other != values => Err(Ambiguous),
            Some(_) => Ok(()),
            None => {
                self.found = Some(values);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        proxy::event::{EventKind, Failure, Phase},
        time::UnixMs,
    };

    /// 2026-11-20T20:05:36Z
    const NEAR: UnixMs = UnixMs(1_795_205_136_000);

    fn event(format: &str, line: &str) -> Option<ProxyEvent> {
        event_in(&format.parse().unwrap(), line.as_bytes(), &Carrier::plain("test", NEAR))
    }

    const HTTPS: &str = "%ci:%cp [%tr] %ft %b/%s %TR/%Tw/%Tc/%Tr/%Ta %ST %B %CC %CS %tsc %ac/%fc/%bc/%sc/%rc %sq/%bq %hr %hs %{+Q}r %[fc_err]/%[ssl_fc_err,hex]";

    #[test]
    fn formats_that_operators_use_are_read() {
        let refused = (Phase::Connect, Failure::REFUSED);
        let timeout = (Phase::Connect, Failure::TIMEOUT);
        let cases: &[(&str, &str, (Phase, Failure), &str)] = &[
            // The first items of the operator's own, in any order.
            (
                "%H %{+Q}r %Tc %ts backend=%b server=%s",
                r#"lb1 "GET /a b HTTP/1.1" -1 sC backend=app server=s1"#,
                timeout,
                "app/s1",
            ),
            // Without timers and names.
            (
                "%[capture.req.hdr(0)] <%tsc> %si:%sp from %bi:%bp",
                "Mozilla (x; y) <SC--> 10.0.0.7:8080 from 10.0.0.1:40000",
                refused,
                "10.0.0.7:8080",
            ),
            // JSON by hand, with keys of one's own.
            (
                r#"{"when":"%t","zustand":"%ts","ziel":"%b/%s","warten":%Tc,"anfrage":"%HU"}"#,
                r#"{"when":"20/Nov/2026:20:05:35.308","zustand":"sC","ziel":"app/s1","warten":-1,"anfrage":"/x"}"#,
                timeout,
                "app/s1",
            ),
            // JSON by HAProxy.
            (
                "%{+json}o %(when)t %(state:str)ts %(group)b %(name)s %(wait)Tc %(ua)[req.hdr(user-agent)]",
                r#"{"when": "20/Nov/2026:20:05:35.308", "state": "sC", "group": "app", "name": "s1", "wait": -1, "ua": "x\"sC"}"#,
                timeout,
                "app/s1",
            ),
            // A cut line, and empty captures with their blanks left out.
            (
                HTTPS,
                r#"192.0.2.1:5 [20/Nov/2026:20:05:35.308] fe~ app/s1 0/0/-1/-1/3 503 217 - - SC-- 1/1/0/0/3 0/0 "GET /xx"#,
                refused,
                "app/s1",
            ),
            ("%hr %hs %b/%s %ts", "app/s1 SC", refused, "app/s1"),
            ("%hr %hs %b/%s %ts", "{a|b} app/s1 SC", refused, "app/s1"),
        ];
        for (format, line, (phase, failure), upstream) in cases {
            let event = event(format, line).unwrap_or_else(|| panic!("{format}: {line}"));
            let kind = EventKind::AttemptFailed { phase: *phase, failure: *failure };
            assert_eq!((event.kind, event.upstream.to_string()), (kind, (*upstream).to_owned()));
        }
    }

    #[test]
    fn both_common_formats_are_read() {
        assert_eq!(COMMON.len(), 2);
        for line in [
            r#"127.0.0.1 - - [20/Nov/2026:20:05:35 +0000] "GET /x HTTP/1.1" 503 217 "" "" 48014 489 "clf" "app" "s1" 0 0 -1 -1 301 SC-- 1 1 0 0 1 0 0 "" "" "#,
            r#"127.0.0.1 - - [20/Nov/2026:20:05:35 +0000] "TCP " 000 0 "" "" 48014 489 "clf" "app" "s1" 0 0 -1 301 0 SC-- 1 1 0 0 1 0 0 "" "" "" """#,
        ] {
            let event = event_of(line.as_bytes(), &Carrier::plain("test", NEAR)).unwrap();
            let (phase, failure) = (Phase::Connect, Failure::REFUSED);
            assert_eq!(event.kind, EventKind::AttemptFailed { phase, failure });
            assert_eq!(event.upstream.to_string(), "app/s1");
        }
    }

    #[test]
    fn times_ends_and_the_process_are_read() {
        let format = "%pid %t %Tt %b/%s %si:%sp %bi:%bp %ts";
        let line = "927 20/Nov/2026:20:05:35.308 602 app/s1 fd00::1:9001 127.0.0.1:57306 sC";
        let event = event(format, line).unwrap();
        assert_eq!((event.at, event.took_ms), (UnixMs(1_795_205_135_910), Some(602)));
        assert_eq!(event.addr(), Some("[fd00::1]:9001".parse().unwrap()));
        assert_eq!(event.local_addr, Some("127.0.0.1:57306".parse().unwrap()));
        assert_eq!((event.pid, event.trust), (Some(927), Trust::Verified));
    }

    #[test]
    fn a_success_is_no_event_and_another_line_does_not_fit() {
        assert_eq!(event("%b/%s %Tc %ts", "app/s1 1 --"), None);
        assert_eq!(event("%b/%s %Tc %ts", "something else altogether"), None);
        assert_eq!(event("%b/%s %Tc %ts", "app/s1 -1 SC and more"), None);
    }

    #[test]
    fn what_a_client_plants_makes_no_other_event() {
        let format = "%[req.hdr(user-agent)] %b/%s %Tc %ts";
        assert_eq!(event(format, "curl app/s1 1 --"), None);
        // Its own words, then HAProxy's.
        assert_eq!(event(format, "x app/s9 -1 SC app/s1 1 --"), None);
        let event = event(format, "curl app/s1 -1 SC").unwrap();
        assert_eq!(event.trust, Trust::Doubtful);
        // HAProxy writes the quotes of a request as #22.
        let quoted = super::tests::event(r#"%{+Q}r %b/%s %ts"#, r#""GET /#22 b/s SC" app/s1 SC"#);
        assert_eq!(quoted.unwrap().trust, Trust::Verified);
    }

    #[test]
    fn a_line_that_fits_in_very_many_ways_costs_little() {
        let format = "%[a] %[b] %[c] %[d] %[e] %b/%s %ts";
        let line = "x ".repeat(30_000);
        assert_eq!(event(format, &line), None);
    }

    #[test]
    fn a_format_that_tells_no_failure_is_refused() {
        for (format, expected) in [
            ("%b/%s", "neither %ts nor %tsc"),
            ("%ts", "which server"),
            ("%ts %b/%s %nope", "%nope is no item"),
            ("%ts %b/%s %[src", "has no ]"),
            ("%{+cbor}o %ts %b/%s", "CBOR"),
        ] {
            let error = format.parse::<LogFormat>().unwrap_err();
            assert!(error.contains(expected), "{format}: {error}");
        }
    }
}
