//! Basic authentication (RFC 7617) against bcrypt hashes.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    extract::{Extension, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use ring::digest::{SHA256, digest};
use tokio::{sync::Semaphore, task::spawn_blocking};

use super::super::server::Source;

/// What is compared with where there is no such user, so that the answer takes as long. It is the
/// hash of nothing that anybody was told.
const NOBODY: &str = "$2b$10$TvGqNu/GPQErTaKMFJ5fe.nBXnwWSJVL/vySZzSHKWpst6.SgEnz2";
/// Passwords found right that are remembered, since a comparison takes a twentieth of a second.
const REMEMBERED: usize = 16;
/// Requests whose password waits to be compared, of all sources and of one: an unknown client must not
/// keep a known one waiting for long.
const MOST_WAITING: usize = 8;
const MOST_WAITING_OF_SOURCE: usize = 2;
/// Longer ones are refused: bcrypt looks at 72 bytes.
const LONGEST_CREDENTIALS: usize = 1024;

/// Users with their passwords' hashes.
#[derive(Debug)]
pub(in crate::export) struct Users {
    known: Mutex<Known>,
    /// One comparison at a time, so that whoever guesses passwords keeps one processor at work at most.
    turn: Arc<Semaphore>,
    /// The sources of the requests that wait for their turn or its outcome.
    waiting: Mutex<Vec<Source>>,
}

#[derive(Debug, Default)]
struct Known {
    hashes: BTreeMap<String, String>,
    /// Digests of credentials that were right, newest last.
    right: VecDeque<Vec<u8>>,
}

/// What a request's credentials come to.
#[derive(Debug, PartialEq, Eq)]
enum Admission {
    Admitted,
    Refused,
    /// Too many wait already.
    Busy,
}

impl Users {
    pub(super) fn new(hashes: BTreeMap<String, String>) -> Self {
        let known = Mutex::new(Known { hashes, right: VecDeque::new() });
        Self { known, turn: Arc::new(Semaphore::new(1)), waiting: Mutex::default() }
    }

    pub(super) fn change(&self, hashes: BTreeMap<String, String>) {
        *self.lock() = Known { hashes, right: VecDeque::new() };
    }

    /// Whether the request may be answered: where no users are named anybody's may.
    async fn admit(&self, source: Source, headers: &HeaderMap) -> Admission {
        if self.lock().hashes.is_empty() {
            return Admission::Admitted;
        }
        let Some((user, password)) = credentials(headers) else { return Admission::Refused };
        let hash = self.lock().hashes.get(&user).cloned();
        let fingerprint = fingerprint(&user, &password, hash.as_deref());
        if self.lock().right.contains(&fingerprint) {
            return Admission::Admitted;
        }
        let Some(_waiting) = Waiting::of(&self.waiting, source) else { return Admission::Busy };
        let is_user = hash.is_some();
        let is_right = self.compare(password, hash.unwrap_or_else(|| NOBODY.to_owned())).await;
        if !(is_user & is_right) {
            return Admission::Refused;
        }
        let mut known = self.lock();
        known.right.push_back(fingerprint);
        if known.right.len() > REMEMBERED {
            known.right.pop_front();
        }
        Admission::Admitted
    }

    /// Compares in a thread of its own, which keeps the turn until it is done: a client that hangs up
    /// meanwhile ends the request, but not the comparison.
    async fn compare(&self, password: String, hash: String) -> bool {
        // Never closed.
        let Ok(turn) = Arc::clone(&self.turn).acquire_owned().await else { return false };
        let comparison = spawn_blocking(move || {
            let is_right = bcrypt::verify(password, &hash).unwrap_or(false);
            drop(turn);
            is_right
        });
        comparison.await.unwrap_or(false)
    }

    /// What is changed under the lock is changed in one step, so a panic leaves it right.
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among the requests that wait, given up when dropped.
struct Waiting<'a> {
    all: &'a Mutex<Vec<Source>>,
    source: Source,
}

impl<'a> Waiting<'a> {
    fn of(all: &'a Mutex<Vec<Source>>, source: Source) -> Option<Self> {
        let mut waiting = all.lock().unwrap_or_else(PoisonError::into_inner);
        let of_source = waiting.iter().filter(|other| **other == source).count();
        if waiting.len() >= MOST_WAITING || of_source >= MOST_WAITING_OF_SOURCE {
            return None;
        }
        waiting.push(source);
        Some(Self { all, source })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = waiting.iter().position(|source| *source == self.source) {
            waiting.swap_remove(place);
        }
    }
}

/// Lets a request pass whose sender is known.
pub(in crate::export) async fn authorised(
    State(users): State<Arc<Users>>,
    Extension(source): Extension<Source>,
    request: Request,
    next: Next,
) -> Response {
    match users.admit(source, request.headers()).await {
        Admission::Admitted => next.run(request).await,
        Admission::Refused => {
            let challenge = "Basic realm=\"floodmark\", charset=\"UTF-8\"";
            let challenge = [(header::WWW_AUTHENTICATE, challenge)];
            (StatusCode::UNAUTHORIZED, challenge, "authentication required\n").into_response()
        }
        Admission::Busy => {
            let text = "too many password checks are pending, try again\n";
            let retry = [(header::RETRY_AFTER, "1")];
            (StatusCode::SERVICE_UNAVAILABLE, retry, text).into_response()
        }
    }
}

fn credentials(headers: &HeaderMap) -> Option<(String, String)> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = text.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") || encoded.len() > LONGEST_CREDENTIALS {
        return None;
    }
    let decoded = BASE64_STANDARD.decode(encoded.trim()).ok()?;
    let (user, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

/// Tells credentials apart without keeping them. No user's name holds a colon.
fn fingerprint(user: &str, password: &str, hash: Option<&str>) -> Vec<u8> {
    let text = format!("{user}:{}:{password}", hash.unwrap_or_default());
    digest(&SHA256, text.as_bytes()).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn guess(password: &str) -> HeaderMap {
        let encoded = BASE64_STANDARD.encode(format!("prometheus:{password}"));
        let value = format!("Basic {encoded}").parse().unwrap();
        HeaderMap::from_iter([(header::AUTHORIZATION, value)])
    }

    fn source(last: u8) -> Source {
        SocketAddr::from(([10, 0, 0, last], 1)).into()
    }

    fn users() -> Users {
        let hash = bcrypt::hash("secret", 4).unwrap();
        Users::new([("prometheus".to_owned(), hash)].into())
    }

    #[tokio::test]
    async fn whoever_hangs_up_leaves_the_turn_to_the_comparison() {
        let users = users();
        let turn = Arc::clone(&users.turn).acquire_owned().await.unwrap();
        let wrong = guess("wrong");
        let mut asking = Box::pin(users.admit(source(1), &wrong));
        assert!(futures_util::poll!(&mut asking).is_pending());
        drop(turn);
        // It has the turn now, and a thread.
        assert!(futures_util::poll!(&mut asking).is_pending());
        assert_eq!(users.turn.available_permits(), 0);
        drop(asking);
        assert!(users.waiting.lock().unwrap().is_empty());
        // Comes back when the comparison is done, whoever waited for it.
        drop(users.turn.acquire().await.unwrap());
    }

    #[tokio::test]
    async fn of_one_source_few_wait_and_those_remembered_need_not() {
        let users = users();
        let right = guess("secret");
        assert_eq!(users.admit(source(1), &right).await, Admission::Admitted);
        let turn = users.turn.acquire().await.unwrap();
        let wrong: Vec<HeaderMap> = (0..9).map(|n| guess(&n.to_string())).collect();
        let mut asking = Vec::new();
        for (number, guess) in wrong.iter().enumerate().take(MOST_WAITING) {
            let source = source((number / MOST_WAITING_OF_SOURCE) as u8);
            let mut one = Box::pin(users.admit(source, guess));
            assert!(futures_util::poll!(&mut one).is_pending());
            asking.push(one);
        }
        assert_eq!(users.admit(source(0), &wrong[8]).await, Admission::Busy, "its share is used");
        assert_eq!(users.admit(source(99), &wrong[8]).await, Admission::Busy, "all wait already");
        assert_eq!(users.admit(source(0), &right).await, Admission::Admitted);
        asking.pop();
        let mut room = Box::pin(users.admit(source(99), &wrong[8]));
        assert!(futures_util::poll!(&mut room).is_pending());
        // The turn goes to those who asked before, whom nobody polls here.
        drop((turn, asking));
        assert_eq!(room.await, Admission::Refused);
    }
}
