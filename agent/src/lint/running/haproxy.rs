//! Running HAProxys.

use std::path::{Path, PathBuf};

use super::Process;
use crate::lint::root::Root;

/// Whether the process is one.
pub fn is_it(process: &Process) -> bool {
    process.runs("haproxy")
}

/// What its command line has it read: each `-f`, and whatever comes after `--` (`init`, src/haproxy.c).
/// `-C` needs no look: it is the working directory since.
pub fn configurations(words: &[String]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut words = words.iter().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "-f" => found.extend(words.next().map(PathBuf::from)),
            "--" => found.extend(words.by_ref().map(PathBuf::from)),
            _ => {}
        }
    }
    found
}

/// The files of what may be a directory: those in it whose names end in `.cfg`, in their order
/// (`cfgfiles_expand_directories`).
pub fn files(root: &Root, path: &Path) -> Vec<PathBuf> {
    if root.is_directory(path) {
        root.glob(&format!("{}/*.cfg", path.display()))
    } else {
        vec![path.to_owned()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Vec<String> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        configurations(&words).iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn what_it_reads_is_found_as_haproxy_finds_it() {
        let debian =
            "/usr/sbin/haproxy -Ws -f /etc/haproxy/haproxy.cfg -p /run/haproxy.pid -S /run/m.sock";
        assert_eq!(read(debian), ["/etc/haproxy/haproxy.cfg"]);
        let reloaded = "haproxy -sf 12 13 -x /run/x.sock -W -f a.cfg -f conf.d -- b.cfg c.cfg";
        assert_eq!(read(reloaded), ["a.cfg", "conf.d", "b.cfg", "c.cfg"]);
        assert_eq!(read("haproxy -v -f"), [""; 0]);
    }

    #[test]
    fn a_directory_is_its_files_in_order() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["20-b.cfg", "10-a.cfg", "notes.txt", ".hidden.cfg"] {
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        let root = Root::new(directory.path()).unwrap();
        let found = files(&root, Path::new("/"));
        assert_eq!(found, [Path::new("/10-a.cfg"), Path::new("/20-b.cfg")]);
        assert_eq!(files(&root, Path::new("/10-a.cfg")), [Path::new("/10-a.cfg")]);
    }
}
