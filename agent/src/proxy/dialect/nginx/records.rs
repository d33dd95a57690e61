//! Tells nginx's own records from lines that a client made.
//!
//! nginx writes each record by one `write(2)` of at most `NGX_MAX_ERROR_STR` bytes ([`LENGTHS`]), which
//! always ends in a line feed (`ngx_log_error_core`). It escapes nothing: in `open() "PATH" failed` the
//! decoded path stands
//! as it is, so `%0a` begins a line whose words are the client's. Its process number, its quotes, even
//! the end of the first record and the beginning of a third can be of the client's making. Four rules
//! find such lines; each needs only what stands within one record's length:
//!
//! 1. A record whose end has not come goes on: all lines up to its end belong to it.
//! 2. nginx appends the request to each record as the client sent it. A line that a request holds,
//!    percent-decoded, behind a line feed, is that request's. nginx drops characters from a path (`//`,
//!    `/./`, `/../`) and never adds or moves any, so the request need only hold the line's characters in
//!    their order.
//! 3. Where the request is missing, the record was cut: it is exactly that long, and another begins
//!    behind it. Lines between a beginning and such an end may belong to one record.
//! 4. Some text is the client's and in no request line: a user name in Basic authentication, names and
//!    values of headers over HTTP/2. What nginx appends to it is known: lines between such text and
//!    such an end may belong to it. After text of the application's (FastCGI's standard error, Lua, njs,
//!    mail) a line counts, and is [`Trust::Doubtful`].
//!
//! Silence ends a record as well, for a record is written at once: see [`Records::settle`]. So a client
//! can hide others' lines for one record's length at most, and only for those that stand next to its
//! own.
//!
//! A record that holds no foreign text, or none so far, is known by its beginning ([`Head`]). A line that
//! follows only such records is taken at once; others wait until a record's length follows.

mod decode;
mod head;

use std::collections::VecDeque;

use crate::proxy::event::{ProxyEvent, Trust};
use decode::{holds, is_encoded};
use head::Head;

/// Lengths of a record that was cut, with its line feed: nginx's, and that of OpenResty, which patches
/// it (ingress-nginx, APISIX and Kong are built on that).
pub(super) const LENGTHS: [u64; 2] = [2048, 4096];
/// The longest record.
const RECORD: u64 = LENGTHS[1];

/// Follows the lines of one stream of nginx's error log.
#[derive(Debug, Default)]
pub struct Records {
    /// Where the next line begins.
    at: Place,
    /// Beginnings of records that hold foreign text and may not have ended.
    heads: VecDeque<(Place, Head)>,
    /// The record whose end is still to come, if any.
    unfinished: Option<Place>,
    /// Lines in which a request holds an encoded line feed, by their ends.
    requests: VecDeque<(Place, Vec<u8>)>,
    held: VecDeque<Held>,
    /// Beginnings of records that, if they were cut, ended with the last line.
    cut: Vec<Place>,
}

/// What became of events.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// Those that are nginx's own.
    pub own: Vec<ProxyEvent>,
    /// Lines that looked like an event and are somebody else's, or may be.
    pub foreign: u64,
}

/// An event whose line may yet turn out to be a client's.
#[derive(Debug)]
struct Held {
    begin: Place,
    line: Vec<u8>,
    event: ProxyEvent,
}

/// A place in the log, in bytes as nginx wrote them: at least and at most, for a carrier that holds text
/// (Docker, journald) puts three bytes for one that is no UTF-8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    least: u64,
    most: u64,
}

impl Place {
    fn after(self, line: &[u8], length: u64) -> Self {
        let replaced = memchr::memmem::find_iter(line, "\u{fffd}").count() as u64;
        Self { least: self.least + length - 2 * replaced, most: self.most + length }
    }

    /// Whether one record may reach from `begin` to here.
    fn is_in_reach_of(self, begin: Self) -> bool {
        self.least - begin.least <= RECORD
    }

    /// Whether a record that begins at `begin` and was cut may end here.
    fn ends_cut(self, begin: Self) -> bool {
        let (least, most) = (self.least - begin.least, self.most - begin.most);
        LENGTHS.iter().any(|length| (least..=most).contains(length))
    }
}

impl Records {
    /// Takes in a line without its ending, which was `length` bytes long with it, and the event that it
    /// holds if it is nginx's.
    pub fn read(&mut self, line: &[u8], length: usize, event: Option<ProxyEvent>) -> Judged {
        let begin = self.at;
        let end = begin.after(line, length as u64);
        self.at = end;
        let mut judged = Judged::default();
        let head = head::of(line, event.is_some());
        let cut = std::mem::take(&mut self.cut);
        if head != Head::None {
            judged.foreign += self.dismiss_cut(&cut);
        }
        self.forget(end);
        let has_encoded = is_encoded(line);
        if let Some(event) = event {
            match self.judge(line, event) {
                Some(event) => self.held.push_back(Held { begin, line: line.to_vec(), event }),
                None => judged.foreign += 1,
            }
        }
        judged.foreign += self.dismiss(line, has_encoded, end);
        self.follow(line, begin, head, has_encoded);
        if has_encoded {
            self.requests.push_back((end, line.to_vec()));
        }
        let begins = self.heads.iter().map(|(at, _)| *at);
        self.cut = begins.filter(|at| end.ends_cut(*at)).collect();
        self.release(&mut judged);
        judged
    }

    /// Keeps in mind what the line begins, or ends. Beginnings inside an unfinished record count too:
    /// it may have ended unnoticed.
    fn follow(&mut self, line: &[u8], begin: Place, head: Head, has_encoded: bool) {
        self.unfinished = self.unfinished.filter(|_| !head::is_finished(line));
        let head = match head {
            // nginx's own words may still be followed by a path, in the last fields.
            Head::Own if !has_encoded => return,
            Head::Own => Head::Path,
            Head::None => return,
            head => head,
        };
        self.heads.push_back((begin, head));
        if !head::is_finished(line) {
            self.unfinished = Some(begin);
        }
    }

    /// Takes in that nothing has followed for a while: what was written last has come to its end.
    pub fn settle(&mut self) -> Judged {
        let cut = std::mem::take(&mut self.cut);
        let foreign = self.dismiss_cut(&cut);
        self.heads.clear();
        self.requests.clear();
        self.unfinished = None;
        Judged { own: self.held.drain(..).map(|held| held.event).collect(), foreign }
    }

    /// The event, unless what came before its line says that it is no record's beginning.
    fn judge(&self, line: &[u8], event: ProxyEvent) -> Option<ProxyEvent> {
        if self.unfinished.is_some() || line.len() as u64 >= RECORD {
            return None;
        }
        // As far as the client's address: the record that the line stands in may go on behind it.
        let message = head::message_end(line);
        let before = self.requests.iter().map(|(_, request)| &**request);
        if before.chain([line]).any(|request| holds(request, &line[..message])) {
            return None;
        }
        let is_doubtful = self.heads.iter().any(|(_, head)| *head == Head::Application);
        let trust = if is_doubtful { Trust::Doubtful } else { event.trust };
        Some(ProxyEvent { trust, ..event })
    }

    /// Dismisses held events that the line, which ends at `end`, shows to be somebody else's; says how
    /// many.
    fn dismiss(&mut self, line: &[u8], has_encoded: bool, end: Place) -> u64 {
        let before = self.held.len();
        let clients = self.heads.iter().filter(|(_, head)| *head == Head::Client);
        let clients: Vec<Place> = if head::ends_clients_text(line) {
            clients.map(|(at, _)| *at).collect()
        } else {
            Vec::new()
        };
        self.held.retain_mut(|held| {
            let is_before = |head: &&Place| head.most < held.begin.most;
            let nearest = clients.iter().rfind(is_before).map(|head| end.least - head.least);
            if nearest.is_some() {
                held.event.trust = Trust::Doubtful;
            }
            let is_clients = nearest.is_some_and(|distance| distance <= LENGTHS[0]);
            let is_requests = has_encoded && holds(line, &held.line);
            !(is_clients || is_requests)
        });
        (before - self.held.len()) as u64
    }

    /// Dismisses held events that stand in a record which was cut at the last line's end.
    fn dismiss_cut(&mut self, cut: &[Place]) -> u64 {
        let before = self.held.len();
        self.held.retain(|held| cut.iter().all(|head| head.most >= held.begin.most));
        (before - self.held.len()) as u64
    }

    /// Forgets what cannot be of the same record as a line that ends at `end`.
    fn forget(&mut self, end: Place) {
        while self.heads.front().is_some_and(|(begin, _)| !end.is_in_reach_of(*begin)) {
            self.heads.pop_front();
        }
        while self.requests.front().is_some_and(|(at, _)| !end.is_in_reach_of(*at)) {
            self.requests.pop_front();
        }
        self.unfinished = self.unfinished.filter(|begin| end.is_in_reach_of(*begin));
    }

    /// Hands over the events before which no record begins that may still go on.
    fn release(&mut self, judged: &mut Judged) {
        let first = self.heads.front().map(|(begin, _)| begin.most);
        while let Some(held) = self.held.front() {
            if first.is_some_and(|first| first < held.begin.most) {
                break;
            }
            judged.own.extend(self.held.pop_front().map(|held| held.event));
        }
    }
}

#[cfg(test)]
mod tests;
