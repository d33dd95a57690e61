//! How far each followed file has been read, kept across restarts.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use log::warn;
use serde::{Deserialize, Serialize};

use crate::{new_file, untrusted_file};

/// Name of the file in the state directory.
const FILE: &str = "positions.json";
/// More than it takes for a thousand logs.
const LARGEST: u64 = 16 << 20;
/// Written at most this often; what was read since is read again after a crash.
const PAUSE: Duration = Duration::from_secs(1);

/// A place in a file, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Device the file is on.
    pub device: u64,
    pub inode: u64,
    /// Bytes of it that were read.
    pub offset: u64,
}

/// The places in all files followed.
#[derive(Debug)]
pub struct Positions {
    file: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    places: BTreeMap<PathBuf, Place>,
    saved: Instant,
    is_dirty: bool,
    has_complained: bool,
}

impl Positions {
    /// Reads what an earlier run has left in `directory`, which is made where it is missing.
    ///
    /// # Errors
    ///
    /// When the directory cannot be made, or what is in it cannot be read.
    pub fn open(directory: &Path) -> Result<Self> {
        let file = directory.join(FILE);
        let shown = file.display();
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot create --state-dir {}", directory.display()))?;
        let places = match untrusted_file::read(&file, LARGEST) {
            Ok(text) => serde_json::from_slice(&text)
                .with_context(|| format!("{shown} is damaged; delete it to start again"))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error).with_context(|| format!("reading {shown}")),
        };
        let state = State { places, saved: Instant::now(), is_dirty: false, has_complained: false };
        Ok(Self { file, state: Mutex::new(state) })
    }

    /// The place in the file that had the name `path`.
    pub(super) fn get(&self, path: &Path) -> Option<Place> {
        self.lock().places.get(path).copied()
    }

    /// Keeps a place, on disk within a second of the last.
    pub(super) fn keep(&self, path: &Path, place: Place) {
        let mut state = self.lock();
        if state.places.get(path) != Some(&place) {
            state.places.insert(path.to_owned(), place);
            state.is_dirty = true;
        }
        if state.is_dirty && state.saved.elapsed() >= PAUSE {
            self.save(&mut state);
        }
    }

    /// Writes what has changed.
    pub fn flush(&self) {
        let mut state = self.lock();
        if state.is_dirty {
            self.save(&mut state);
        }
    }

    fn save(&self, state: &mut State) {
        state.saved = Instant::now();
        match self.write(&state.places) {
            Ok(()) => {
                state.is_dirty = false;
                state.has_complained = false;
            }
            Err(error) => {
                if !std::mem::replace(&mut state.has_complained, true) {
                    warn!(
                        "cannot store read positions, so lines may be read twice after a \
                           restart: {error:#}"
                    );
                }
            }
        }
    }

    /// In one step: a crash leaves the old file or the new one.
    fn write(&self, places: &BTreeMap<PathBuf, Place>) -> Result<()> {
        new_file::replace(&self.file, &serde_json::to_vec(places)?, new_file::PRIVATE)
            .with_context(|| format!("writing {}", self.file.display()))
    }

    /// A panic elsewhere leaves places that are right.
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
