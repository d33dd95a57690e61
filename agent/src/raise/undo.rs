//! What was raised and what it was before, in a file, so that it can be restored. A socket is known by
//! its cookie: one that a process opened since is none of this command's business, and is left alone.

use std::{
    fs::{self, DirBuilder, File},
    io::ErrorKind,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{Change, Plan};
use crate::{
    inventory::Listener,
    kernel::netns::{Netns, cookie_here, visit},
    new_file, untrusted_file,
};

/// The file's name in its directory.
const FILE: &str = "raised.json";
/// Bytes of it that are read: some ten thousand sockets.
const LARGEST: u64 = 1 << 20;
/// How long to wait for other runs.
const PATIENCE: Duration = Duration::from_secs(10);

/// A network namespace, told apart from a later one with its inode number where the kernel has
/// cookies for them (Linux 5.14).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    inode: u32,
    cookie: Option<u64>,
}

impl Place {
    /// That of a namespace.
    ///
    /// # Errors
    ///
    /// When it cannot be entered.
    pub fn of(netns: &Netns) -> Result<Self> {
        let cookie = visit(std::slice::from_ref(netns), |_| cookie_here())?.pop();
        let cookie = cookie.with_context(|| format!("cannot enter {}", netns.name))?;
        Ok(Self { inode: netns.id.inode(), cookie })
    }
}

/// Everything that is raised.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Raised {
    listeners: Vec<RaisedListener>,
    somaxconn: Vec<RaisedSomaxconn>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RaisedListener {
    place: Place,
    addr: SocketAddr,
    sockets: Vec<RaisedSocket>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RaisedSocket {
    cookie: u64,
    from: u32,
    to: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RaisedSomaxconn {
    place: Place,
    from: u32,
    to: u32,
}

impl Raised {
    /// Adds what a plan raises. What was raised before keeps what it was at first.
    pub fn add(&mut self, place: Place, plan: &Plan) {
        let known = self.take(place, plan.addr).map(|known| known.sockets).unwrap_or_default();
        let sockets = plan.sockets.iter().filter_map(|socket| {
            let Change { from, to } = socket.limit;
            let same = |known: &&RaisedSocket| known.cookie == socket.cookie && known.to == from;
            let first = known.iter().find(same).map_or(from, |known| known.from);
            (first != to).then_some(RaisedSocket { cookie: socket.cookie, from: first, to })
        });
        let sockets = sockets.collect();
        self.listeners.push(RaisedListener { place, addr: plan.addr, sockets });
        if let Some(Change { from, to }) = plan.somaxconn {
            let known = self.somaxconn.iter().position(|known| known.place == place);
            let known = known.map(|at| self.somaxconn.swap_remove(at));
            let first = known.filter(|known| known.to == from).map_or(from, |known| known.from);
            self.somaxconn.push(RaisedSomaxconn { place, from: first, to });
        }
    }

    /// To restore what the sockets of `group` were. A socket that is new, or that was listened on
    /// again since, stays as it is. `somaxconn` is restored with the last listener of its namespace.
    ///
    /// # Errors
    ///
    /// When `group` is empty.
    pub fn undo(&self, place: Place, group: &[&Listener]) -> Result<Plan> {
        let addr = group.first().map(|listener| listener.id.addr);
        let at = |known: &&RaisedListener| known.place == place && Some(known.addr) == addr;
        let sockets = self.listeners.iter().find(at).map(|known| &known.sockets[..]);
        let raised =
            |listener: &Listener| sockets?.iter().find(|socket| socket.cookie == listener.cookie);
        let mut plan = Plan::of(group, |listener| {
            let limit = listener.queue.limit;
            raised(listener).filter(|socket| socket.to == limit).map_or(limit, |socket| socket.from)
        })?;
        if sockets.is_none() {
            plan.notes.push("nothing has been raised there since the host started".to_owned());
            return Ok(plan);
        }
        let new = group.iter().filter(|listener| raised(listener).is_none()).count();
        let changed = group.len() - new - plan.changes().count();
        plan.notes = notes_on_sockets(&plan, new, changed);
        let now = group.first().and_then(|listener| listener.somaxconn);
        self.undo_somaxconn(place, now, &mut plan);
        Ok(plan)
    }

    fn undo_somaxconn(&self, place: Place, now: Option<u32>, plan: &mut Plan) {
        let known = self.somaxconn.iter().find(|known| known.place == place);
        let Some((known, now)) = known.zip(now) else { return };
        let others = self.listeners.iter().filter(|known| known.place == place).count() > 1;
        if now == known.to && !others {
            plan.somaxconn = Some(Change { from: now, to: known.from });
            return;
        }
        let why = if others {
            "other listeners there are still raised"
        } else {
            "it has been changed since"
        };
        let was = known.from;
        plan.notes.push(format!("net.core.somaxconn stays {now} instead of {was}: {why}"));
    }

    /// Forgets a listener, and with the last of its namespace what `somaxconn` was.
    pub fn forget(&mut self, place: Place, addr: SocketAddr) {
        self.take(place, addr);
        if self.listeners.iter().all(|known| known.place != place) {
            self.somaxconn.retain(|known| known.place != place);
        }
    }

    fn take(&mut self, place: Place, addr: SocketAddr) -> Option<RaisedListener> {
        let at = |known: &RaisedListener| known.place == place && known.addr == addr;
        let at = self.listeners.iter().position(at)?;
        Some(self.listeners.remove(at))
    }
}

/// What else there is to say of a plan that restores: so many sockets are new, so many were listened on
/// again.
fn notes_on_sockets(plan: &Plan, new: usize, changed: usize) -> Vec<String> {
    let all = plan.sockets.len();
    let mut notes = Vec::new();
    if new > 0 {
        notes.push(format!(
            "{new} of {all} sockets there are new: the process restarted and set their limits \
             itself"
        ));
    }
    if changed > 0 {
        notes.push(format!(
            "for {changed} of {all} sockets there, the application has called listen(2) again"
        ));
    }
    let overfull = plan.changes().filter(|socket| socket.waiting > socket.limit.to);
    notes.extend(overfull.map(|socket| {
        format!(
            "{} connections wait on socket {}, more than {}: they stay in the queue, but new ones \
             are dropped until enough have been accepted",
            socket.waiting, socket.inode, socket.limit.to
        )
    }));
    notes
}

/// The file, locked against other runs of this command.
#[derive(Debug)]
pub struct Memory {
    path: PathBuf,
    _lock: File,
}

impl Memory {
    /// Opens the file in `directory`, which is made if it is not there, and waits for other runs.
    ///
    /// # Errors
    ///
    /// When the directory cannot be made or locked.
    pub fn open(directory: &Path) -> Result<Self> {
        let what = || format!("writing the data for --undo to {}", directory.display());
        let made = DirBuilder::new().recursive(true).mode(0o755).create(directory);
        let lock = made.and_then(|()| File::open(directory)).with_context(what)?;
        let begun = Instant::now();
        while lock.try_lock().is_err() {
            // Any process that can read the directory can lock it, without end.
            ensure!(
                begun.elapsed() < PATIENCE,
                "{} is locked: is another `floodmark raise` running?",
                directory.display()
            );
            thread::sleep(Duration::from_millis(50));
        }
        Ok(Self { path: directory.join(FILE), _lock: lock })
    }

    /// What is in it; nothing where there is none.
    ///
    /// # Errors
    ///
    /// When it cannot be read or was not written by this command.
    pub fn read(&self) -> Result<Raised> {
        let what = || format!("reading {}: move it away to continue", self.path.display());
        match untrusted_file::read(&self.path, LARGEST) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(what),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Raised::default()),
            Err(error) => Err(error).with_context(what),
        }
    }

    /// Puts `raised` in its place; a file with nothing in it is removed.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn write(&self, raised: &Raised) -> Result<()> {
        let what = || {
            format!(
                "writing the data for --undo to {}: set another directory with --state-dir",
                self.path.display()
            )
        };
        if *raised == Raised::default() {
            return match fs::remove_file(&self.path) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error).with_context(what),
                _ => Ok(()),
            };
        }
        let bytes = serde_json::to_vec(raised)?;
        new_file::replace(&self.path, &bytes, new_file::PRIVATE).with_context(what)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::{super::tests::listener, *};

    const HERE: Place = Place { inode: 1, cookie: Some(1) };

    fn raise(raised: &mut Raised, group: &[Listener], backlog: u32) {
        let group: Vec<&Listener> = group.iter().collect();
        raised.add(HERE, &Plan::raise(&group, backlog).unwrap());
    }

    fn undo(raised: &Raised, group: &[Listener]) -> Plan {
        raised.undo(HERE, &group.iter().collect::<Vec<_>>()).unwrap()
    }

    fn limits(plan: &Plan) -> Vec<(u32, u32)> {
        plan.sockets.iter().map(|socket| (socket.limit.from, socket.limit.to)).collect()
    }

    #[test]
    fn what_was_raised_twice_goes_back_to_what_it_was_at_first() {
        let mut raised = Raised::default();
        raise(&mut raised, &[listener(1, 5, 128), listener(2, 9, 128)], 1024);
        raise(&mut raised, &[listener(1, 1024, 1024), listener(2, 1024, 1024)], 4096);
        let plan = undo(&raised, &[listener(1, 4096, 4096), listener(2, 4096, 4096)]);
        assert_eq!(limits(&plan), [(4096, 5), (4096, 9)]);
        assert_eq!(plan.somaxconn, Some(Change { from: 4096, to: 128 }));
        assert!(plan.notes.is_empty(), "{:?}", plan.notes);
    }

    #[test]
    fn a_worker_that_joined_a_raised_group_is_raised_and_undone_with_it() {
        let mut raised = Raised::default();
        raise(&mut raised, &[listener(1, 5, 4096)], 1024);
        raise(&mut raised, &[listener(1, 1024, 4096), listener(2, 5, 4096)], 1024);
        let plan = undo(&raised, &[listener(1, 1024, 4096), listener(2, 1024, 4096)]);
        assert_eq!(limits(&plan), [(1024, 5), (1024, 5)]);
    }

    /// The new process may well have the raised limit by its own configuration.
    #[test]
    fn a_restarted_or_reloaded_process_keeps_its_own_choice() {
        let mut raised = Raised::default();
        raise(&mut raised, &[listener(1, 5, 4096), listener(2, 5, 4096)], 1024);
        let plan = undo(&raised, &[listener(3, 1024, 4096), listener(2, 511, 4096)]);
        assert!(plan.is_empty(), "{plan:?}");
        let [restarted, reloaded] = &plan.notes[..] else { panic!("{:?}", plan.notes) };
        assert!(restarted.starts_with("1 of 2 sockets there are new"), "{restarted}");
        assert!(reloaded.starts_with("for 1 of 2 sockets there, the application"), "{reloaded}");
    }

    #[test]
    fn nothing_is_undone_elsewhere() {
        let mut raised = Raised::default();
        raise(&mut raised, &[listener(1, 5, 4096)], 1024);
        let now = listener(1, 1024, 4096);
        let other = Place { inode: 1, cookie: Some(2) };
        let was_not_raised = |plan: &Plan| {
            plan.is_empty()
                && plan.notes == ["nothing has been raised there since the host started"]
        };
        assert!(was_not_raised(&raised.undo(other, &[&now]).unwrap()));
        let mut elsewhere = now.clone();
        elsewhere.id.addr = "0.0.0.0:81".parse().unwrap();
        assert!(was_not_raised(&undo(&raised, &[elsewhere])));
        raised.forget(HERE, now.id.addr);
        assert!(was_not_raised(&undo(&raised, &[now])));
        assert_eq!(raised, Raised::default());
    }

    #[test]
    fn somaxconn_goes_back_with_the_last_listener_unless_it_was_set_anew() {
        let mut raised = Raised::default();
        raise(&mut raised, &[listener(1, 5, 128)], 1024);
        let at_81 = |limit, somaxconn| {
            let mut other = listener(2, limit, somaxconn);
            other.id.addr = "0.0.0.0:81".parse().unwrap();
            other
        };
        raise(&mut raised, &[at_81(5, 1024)], 512);
        let first = undo(&raised, &[listener(1, 1024, 1024)]);
        assert_eq!(first.somaxconn, None);
        assert!(
            first.notes[0].contains("other listeners there are still raised"),
            "{:?}",
            first.notes
        );
        raised.forget(HERE, first.addr);
        let last = undo(&raised, &[at_81(512, 1024)]);
        assert_eq!(last.somaxconn, Some(Change { from: 1024, to: 128 }));
        let anew = undo(&raised, &[at_81(512, 2048)]);
        assert_eq!(anew.somaxconn, None);
        assert!(anew.notes[0].contains("it has been changed since"), "{:?}", anew.notes);
    }

    #[test]
    fn a_queue_that_holds_more_than_it_is_to_take_is_told() {
        let mut raised = Raised::default();
        raise(&mut raised, &[listener(1, 2, 4096)], 1024);
        let plan = undo(&raised, &[listener(1, 1024, 4096)]);
        assert!(plan.notes[0].starts_with("3 connections wait on socket 1, more than 2"));
    }

    #[test]
    fn the_file_is_private_and_leads_nowhere_else() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("run");
        let memory = Memory::open(&below).unwrap();
        assert_eq!(memory.read().unwrap(), Raised::default());
        let mut raised = Raised::default();
        raise(&mut raised, &[listener(1, 5, 128)], 1024);
        symlink(directory.path().join("elsewhere"), below.join(FILE)).unwrap();
        memory.write(&raised).unwrap();
        assert_eq!(memory.read().unwrap(), raised);
        let mode = fs::symlink_metadata(below.join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert!(!directory.path().join("elsewhere").exists());
        memory.write(&Raised::default()).unwrap();
        assert!(!below.join(FILE).exists());
        fs::write(below.join(FILE), "{").unwrap();
        let error = format!("{:#}", memory.read().unwrap_err());
        assert!(error.contains("move it away to continue"), "{error}");
    }
}
