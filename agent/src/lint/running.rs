//! The configurations that running nginx masters read, in containers too.

use std::{
    collections::BTreeSet,
    fmt::Display,
    fs,
    path::{Path, PathBuf},
};

use memchr::memmem;

use super::finding::Version;
use crate::proxy::uprobe::binary;

/// What nginx calls a master process (ngx_master_process_cycle), in front of its command line.
const TITLE: &str = "nginx: master process ";
/// Where nginx lives if it was not built otherwise (auto/options).
const PREFIX: &str = "/usr/local/nginx/";
const CONFIGURATION: &str = "conf/nginx.conf";

/// A running nginx.
#[derive(Debug)]
pub struct Master {
    /// Its process.
    pub pid: u32,
    /// `/proc/PID/root`.
    pub root: PathBuf,
    /// Whether that is this process's root, too.
    pub is_here: bool,
    /// Its configuration file, below that root.
    pub configuration: PathBuf,
    /// As its program says.
    pub version: Option<Version>,
}

/// All running nginx masters, of those that share root and configuration the first.
pub fn masters() -> Vec<Master> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> =
        processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    let mut known = BTreeSet::new();
    let masters = pids.into_iter().filter_map(master);
    masters
        .filter(|master| known.insert((files_of(master.pid), master.configuration.clone())))
        .collect()
}

/// Which files a process sees: its mount namespace, and its root in it.
fn files_of(process: impl Display) -> Option<(PathBuf, PathBuf)> {
    let link = |name| fs::read_link(format!("/proc/{process}/{name}")).ok();
    link("ns/mnt").zip(link("root"))
}

fn master(pid: u32) -> Option<Master> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let line = fs::read(process.join("cmdline")).ok()?;
    let line = String::from_utf8_lossy(&line).replace('\0', " ");
    let arguments = line.strip_prefix(TITLE)?;
    let program = fs::read(process.join("exe")).unwrap_or_default();
    let working = fs::read_link(process.join("cwd")).unwrap_or_else(|_| "/".into());
    let configuration = configuration(arguments, &Built::of(&program), &working);
    let root = process.join("root");
    let is_here = files_of(pid) == files_of("self");
    let version = binary::version(&program).and_then(|version| version.parse().ok());
    Some(Master { pid, root, is_here, configuration, version })
}

/// Where nginx was told to live when it was built, from the text for `-V`.
struct Built {
    prefix: PathBuf,
    configuration: PathBuf,
}

impl Built {
    fn of(program: &[u8]) -> Self {
        let option = |name: &[u8]| {
            let at = memmem::find(program, name)? + name.len();
            let end =
                program[at..].iter().take(4096).position(|b| matches!(b, b' ' | 0 | b'\n'))?;
            Some(PathBuf::from(String::from_utf8_lossy(&program[at..at + end]).into_owned()))
        };
        Self {
            prefix: option(b"--prefix=").unwrap_or_else(|| PREFIX.into()),
            configuration: option(b"--conf-path=").unwrap_or_else(|| CONFIGURATION.into()),
        }
    }
}

/// Its configuration file: `-c`, relative to `-p`, relative to where it was started.
fn configuration(arguments: &str, built: &Built, working: &Path) -> PathBuf {
    let words: Vec<&str> = arguments.split_ascii_whitespace().collect();
    // `-c FILE` and `-cFILE`, as ngx_get_options takes them.
    let option = |name: &str| {
        let at = words.iter().position(|word| word.starts_with(name))?;
        let value = &words[at][name.len()..];
        if value.is_empty() { words.get(at + 1).copied() } else { Some(value) }
    };
    let prefix = option("-p").map_or_else(|| built.prefix.clone(), PathBuf::from);
    let file = option("-c").map_or_else(|| built.configuration.clone(), PathBuf::from);
    working.join(prefix).join(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_found_as_nginx_finds_it() {
        let debian =
            Built::of(b"x --prefix=/usr/share/nginx --conf-path=/etc/nginx/nginx.conf y\0");
        let plain = Built::of(b"");
        let found = |arguments, built| {
            configuration(arguments, built, Path::new("/srv")).display().to_string()
        };
        assert_eq!(found("/usr/sbin/nginx -g daemon off;", &debian), "/etc/nginx/nginx.conf");
        assert_eq!(found("nginx", &plain), "/usr/local/nginx/conf/nginx.conf");
        assert_eq!(found("nginx -c /tmp/n.conf", &debian), "/tmp/n.conf");
        assert_eq!(found("nginx -p/opt/n -c n.conf", &debian), "/opt/n/n.conf");
        assert_eq!(found("nginx -p here -c n.conf", &debian), "/srv/here/n.conf");
    }
}
