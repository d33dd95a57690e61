//! Running nginx programs, and what is known of them before anything is attached.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use memchr::memmem;
use object::{Object, ObjectSymbol};

use crate::proxy::{ProxyKind, process};

/// A file, whatever its name: containers of one image share it.
pub type Identity = (u64, u64);

/// The stream module, where it is a file of its own.
const STREAM_MODULE: &str = "ngx_stream_module.so";
/// nginx is 1 to 10 MiB.
const LARGEST: u64 = 64 << 20;

/// An nginx program, or a module of it.
pub struct Binary {
    /// Which file.
    pub identity: Identity,
    /// A path by which it can be reached from here, into containers too.
    pub path: PathBuf,
    /// Its path as its own processes see it.
    pub shown: String,
    /// As it says itself, `nginx/1.22.1`.
    pub version: String,
    /// The functions and data that it defines for others.
    exported: BTreeSet<String>,
}

/// The nginx programs that run, and their stream modules.
pub fn running() -> Vec<Binary> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut known = BTreeSet::new();
    let mut binaries = Vec::new();
    for (pid, path) in pids.flat_map(|pid| files_of(pid).into_iter().map(move |path| (pid, path))) {
        let Some(identity) = identity(&path) else { continue };
        if known.insert(identity)
            && let Some(binary) = Binary::read(pid, &path, identity)
        {
            binaries.push(binary);
        }
    }
    binaries
}

/// The files of one nginx process.
pub fn of_process(pid: u32) -> Vec<Identity> {
    files_of(pid).iter().filter_map(|path| identity(path)).collect()
}

/// `/proc/PID/exe` leads to the program whatever namespace it lives in; a module is reached through
/// the process's root.
fn files_of(pid: u32) -> Vec<PathBuf> {
    if !process::is(ProxyKind::Nginx, pid) {
        return Vec::new();
    }
    let process = PathBuf::from(format!("/proc/{pid}"));
    let maps = fs::read_to_string(process.join("maps")).unwrap_or_default();
    let module = maps.lines().find_map(|line| {
        let path = line.split_ascii_whitespace().nth(5)?;
        path.ends_with(STREAM_MODULE)
            .then(|| process.join("root").join(path.trim_start_matches('/')))
    });
    std::iter::once(process.join("exe")).chain(module).collect()
}

fn identity(path: &Path) -> Option<Identity> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

impl Binary {
    fn read(pid: u32, path: &Path, identity: Identity) -> Option<Self> {
        if fs::metadata(path).ok()?.len() > LARGEST {
            return None;
        }
        let contents = fs::read(path).ok()?;
        let shown = fs::read_link(path).unwrap_or_else(|_| path.to_owned()).display().to_string();
        // A module is built for one version of nginx, whose program says which.
        let version =
            version(&contents).or_else(|| version(&fs::read(format!("/proc/{pid}/exe")).ok()?));
        let version = version.unwrap_or_else(|| "unknown".to_owned());
        let exported = exported(&contents);
        Some(Self { identity, path: path.to_owned(), shown, version, exported })
    }

    /// Whether it defines this symbol: a module names what it takes from its program as well. aya
    /// looks the function itself up; this only tells which of several names to ask for.
    pub fn exports(&self, name: &str) -> bool {
        self.exported.contains(name)
    }

    /// Offset of the bit field that begins with `single` in `ngx_http_upstream_rr_peers_t`, and its
    /// twin. `shpool` and what follows it came in 1.9, `tries` in 1.20, the zone's `config` in 1.27.
    ///
    /// # Errors
    ///
    /// For a version that nobody has looked at.
    pub fn offset_of_single(&self) -> Result<u64> {
        let number = self.version.strip_prefix("nginx/").context(
            "it says of itself that it is no nginx, and offsets are known for nginx only",
        )?;
        let mut parts = number.split('.').map(|part| part.parse::<u32>().ok());
        let (Some(Some(major)), Some(Some(minor))) = (parts.next(), parts.next()) else {
            bail!("its version {number} is no number");
        };
        Ok(match (major, minor) {
            (1, 12..=18) => 40,
            (1, 20..=26) => 48,
            (1, 28..=31) => 64,
            _ => bail!("offsets are not known for version {number}"),
        })
    }
}

/// What `.dynsym` and `.symtab` define of nginx's own; nothing where the file is no ELF file.
fn exported(contents: &[u8]) -> BTreeSet<String> {
    let Ok(file) = object::File::parse(contents) else { return BTreeSet::new() };
    let symbols = file.dynamic_symbols().chain(file.symbols());
    let defined = symbols.filter(|symbol| symbol.is_definition());
    let names = defined.filter_map(|symbol| symbol.name().ok());
    names.filter(|name| name.starts_with("ngx_")).map(str::to_owned).collect()
}

/// `nginx/1.22.1`, from the text for `-v`: "nginx version: nginx/1.22.1".
pub fn version(contents: &[u8]) -> Option<String> {
    const BEFORE: &[u8] = b"nginx version: ";
    let at = memmem::find(contents, BEFORE)? + BEFORE.len();
    let end = contents[at..].iter().take(64).position(|byte| matches!(byte, b'\n' | 0 | b' '))?;
    Some(String::from_utf8_lossy(&contents[at..at + end]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary(version: &str) -> Binary {
        Binary {
            identity: (0, 0),
            path: PathBuf::new(),
            shown: String::new(),
            version: version.to_owned(),
            exported: BTreeSet::from(["ngx_event_connect_peer".to_owned()]),
        }
    }

    #[test]
    fn only_versions_that_were_looked_at_are_understood() {
        for (version, offset) in [
            ("nginx/1.12.2", Some(40)),
            ("nginx/1.18.0", Some(40)),
            ("nginx/1.22.1", Some(48)),
            ("nginx/1.30.4", Some(64)),
            ("nginx/1.32.0", None),
            ("nginx/2.22.0", None),
            ("openresty/1.21.4", None),
            ("Tengine/3.0", None),
            ("unknown", None),
        ] {
            assert_eq!(binary(version).offset_of_single().ok(), offset, "{version}");
        }
    }

    #[test]
    fn a_symbol_is_a_whole_name() {
        assert!(binary("").exports("ngx_event_connect_peer"));
        assert!(!binary("").exports("ngx_event_connect"));
        assert!(exported(b"no ELF file").is_empty());
    }

    #[test]
    fn a_version_is_what_the_program_says_of_itself() {
        assert_eq!(version(b"..nginx version: nginx/1.22.1\n").as_deref(), Some("nginx/1.22.1"));
        assert_eq!(version(b"nginx version: nginx/1.30.4 (x)").as_deref(), Some("nginx/1.30.4"));
        assert_eq!(version(b"no such thing"), None);
    }
}
