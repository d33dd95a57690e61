//! Basic authentication (RFC 7617) against bcrypt hashes.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use ring::digest::{SHA256, digest};
use tokio::sync::Semaphore;

/// What is compared with where there is no such user, so that the answer takes as long. It is the
/// hash of nothing that anybody was told.
const NOBODY: &str = "$2b$10$TvGqNu/GPQErTaKMFJ5fe.nBXnwWSJVL/vySZzSHKWpst6.SgEnz2";
/// Passwords found right that are remembered, since a comparison takes a twentieth of a second.
const REMEMBERED: usize = 16;
/// Longer ones are refused: bcrypt looks at 72 bytes.
const LONGEST_CREDENTIALS: usize = 1024;

/// Users with their passwords' hashes.
#[derive(Debug)]
pub(in crate::export) struct Users {
    known: Mutex<Known>,
    /// One comparison at a time, so that whoever guesses passwords keeps one processor at work at most.
    turn: Semaphore,
}

#[derive(Debug, Default)]
struct Known {
    hashes: BTreeMap<String, String>,
    /// Digests of credentials that were right, newest last.
    right: VecDeque<Vec<u8>>,
}

impl Users {
    pub(super) fn new(hashes: BTreeMap<String, String>) -> Self {
        let known = Mutex::new(Known { hashes, right: VecDeque::new() });
        Self { known, turn: Semaphore::new(1) }
    }

    pub(super) fn change(&self, hashes: BTreeMap<String, String>) {
        *self.lock() = Known { hashes, right: VecDeque::new() };
    }

    /// Whether the request may be answered: where no users are named anybody's may.
    async fn admit(&self, headers: &HeaderMap) -> bool {
        if self.lock().hashes.is_empty() {
            return true;
        }
        let Some((user, password)) = credentials(headers) else { return false };
        let hash = self.lock().hashes.get(&user).cloned();
        let fingerprint = fingerprint(&user, &password, hash.as_deref());
        if self.lock().right.contains(&fingerprint) {
            return true;
        }
        let Ok(_turn) = self.turn.acquire().await else { return false };
        let is_user = hash.is_some();
        let hash = hash.unwrap_or_else(|| NOBODY.to_owned());
        let compare = move || bcrypt::verify(password, &hash).unwrap_or(false);
        let is_right = is_user & tokio::task::spawn_blocking(compare).await.unwrap_or(false);
        if is_right {
            let mut known = self.lock();
            known.right.push_back(fingerprint);
            if known.right.len() > REMEMBERED {
                known.right.pop_front();
            }
        }
        is_right
    }

    /// What is changed under the lock is changed in one step, so a panic leaves it right.
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets a request pass whose sender is known.
pub(in crate::export) async fn authorised(
    State(users): State<Arc<Users>>,
    request: Request,
    next: Next,
) -> Response {
    if users.admit(request.headers()).await {
        return next.run(request).await;
    }
    let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"floodmark\", charset=\"UTF-8\"")];
    (StatusCode::UNAUTHORIZED, challenge, "who are you?\n").into_response()
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
