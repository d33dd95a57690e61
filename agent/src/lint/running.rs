//! The configurations that running proxies read, in containers too. Each proxy's file here says how
//! one is told by its process, and what its command line makes of its configuration's place.

mod envoy;
mod haproxy;
mod nginx;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};

use super::{
    finding::{Format, Version},
    root::Root,
};
use crate::{
    proxy::{ProxyKind, process::is as is_proxy},
    untrusted_file,
};

/// Bytes read of a command line.
const LONGEST_LINE: u64 = 128 << 10;

/// A running proxy.
#[derive(Debug)]
pub struct Running {
    /// Whose configuration it reads.
    pub format: Format,
    /// Its process: a master, not its workers.
    pub pid: u32,
    /// `/proc/PID/root`.
    pub root: PathBuf,
    /// Whether that is this process's root, too.
    pub is_here: bool,
    /// What it was told to read, below that root and in this order; HAProxy's may be directories.
    pub configurations: Vec<PathBuf>,
    /// As its program message, where a rule asks for it.
    pub version: Option<Version>,
}

impl Running {
    /// What it reads, with where that stands.
    ///
    /// # Errors
    ///
    /// When its command line names nothing to read, or this cannot be read.
    pub fn parts(&self, root: &Root) -> Result<Vec<(PathBuf, Vec<u8>)>> {
        ensure!(
            !self.configurations.is_empty(),
            "its command line names no file; `floodmark lint FILE` reads one"
        );
        let files = self.configurations.iter().flat_map(|path| match self.format {
            Format::Haproxy => haproxy::files(root, path),
            Format::Nginx | Format::Envoy => vec![path.clone()],
        });
        files.map(|path| root.read(&path).map(|bytes| (path, bytes))).collect()
    }
}

/// All running proxies, of those that share root and configuration the first.
pub fn proxies() -> Vec<Running> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let processes: BTreeMap<u32, Process> =
        pids.filter_map(|pid| Some((pid, Process::of(pid)?))).collect();
    let mut known = BTreeSet::new();
    let found = processes.values().filter_map(|process| {
        // A worker was started by its master, of which it has the command line.
        let parent = processes.get(&process.parent);
        running(process, parent).filter(|_| parent.is_none_or(|it| it.program != process.program))
    });
    found.filter(|it| known.insert((files_of(&it.root), it.configurations.clone()))).collect()
}

fn running(process: &Process, parent: Option<&Process>) -> Option<Running> {
    let nginx = nginx::configuration(process);
    let is_nginx = || is_proxy(ProxyKind::Nginx, process.pid);
    let (format, mut configurations) = if let Some(found) = nginx.filter(|_| is_nginx()) {
        (Format::Nginx, vec![found])
    } else if haproxy::is_it(process) {
        (Format::Haproxy, haproxy::configurations(&process.words))
    } else if envoy::is_it(process) {
        (Format::Envoy, envoy::configuration(&process.words).into_iter().collect())
    } else {
        return None;
    };
    for path in &mut configurations {
        *path = process.working.join(&*path);
    }
    let has_them = |root: &Path| {
        let root = Root::new(root).ok();
        root.is_some_and(|root| configurations.iter().all(|path| root.has(path)))
    };
    let own = process.directory.join("root");
    // HAProxy reads its configuration first and changes its root then.
    let before = parent.map(|parent| parent.directory.join("root"));
    let before =
        before.filter(|root| format == Format::Haproxy && !has_them(&own) && has_them(root));
    let root = before.unwrap_or(own);
    let is_here = files_of(&root) == files_of(Path::new("/proc/self/root"));
    let version = nginx::version(process).filter(|_| format == Format::Nginx);
    Some(Running { format, pid: process.pid, root, is_here, configurations, version })
}

/// Which files are seen by a process with this `/proc/PID/root`: its mount namespace, and its root in it.
fn files_of(root: &Path) -> Option<(PathBuf, PathBuf)> {
    fs::read_link(root.with_file_name("ns").join("mnt")).ok().zip(fs::read_link(root).ok())
}

/// A process, as procfs tells of it.
struct Process {
    pid: u32,
    parent: u32,
    /// `/proc/PID`.
    directory: PathBuf,
    /// Its program's name, without its directory.
    program: String,
    /// Its command line.
    words: Vec<String>,
    /// Its working directory.
    working: PathBuf,
}

impl Process {
    /// Nothing where it is gone, is the kernel's own, or may not be looked at. One that is just being
    /// executed has no command line yet (kernel: fs/proc/base.c `get_mm_cmdline`) and says nothing either.
    fn of(pid: u32) -> Option<Self> {
        let directory = PathBuf::from(format!("/proc/{pid}"));
        let line = untrusted_file::read_procfs(&directory.join("cmdline"), LONGEST_LINE).ok()?;
        if line.is_empty() {
            return None;
        }
        let line = String::from_utf8_lossy(&line);
        let words = line.trim_end_matches('\0').split('\0').map(str::to_owned).collect();
        let program = fs::read_link(directory.join("exe")).ok()?;
        let program = program.file_name()?.to_string_lossy().into_owned();
        let status = fs::read_to_string(directory.join("stat")).ok()?;
        let parent = parent_in(&status)?;
        let working = fs::read_link(directory.join("cwd")).unwrap_or_else(|_| "/".into());
        Some(Self { pid, parent, directory, program, words, working })
    }

    /// Whether it runs a program of this name, which may have been replaced on disk since.
    fn runs(&self, name: &str) -> bool {
        self.program.strip_suffix(" (deleted)").unwrap_or(&self.program) == name
    }
}

/// The parent's process, of proc_pid_stat(5): the second field after the name in parentheses.
fn parent_in(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The value of the first option that has one of these names: in the next word, or after `=`.
fn option<'a>(words: &'a [String], names: &[&str]) -> Option<&'a str> {
    words.iter().enumerate().find_map(|(at, word)| {
        let (name, value) = word.split_once('=').map_or((&**word, None), |(n, v)| (n, Some(v)));
        let next = || words.get(at + 1).map(String::as_str);
        names.contains(&name).then(|| value.or_else(next)).flatten()
    })
}
