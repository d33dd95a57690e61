//! Reading files below a directory that is somebody's root: this host's, a container's, a package's.

use std::{
    fs::{self, File},
    io::Read,
    os::fd::{AsRawFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use glob::{MatchOptions, Pattern};
use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2},
    sys::stat::Mode,
};

/// More than any configuration is long.
const LARGEST: u64 = 16 << 20;

/// As nginx's glob(3): `*` takes no slash, and no leading dot.
const GLOB: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

/// A directory that is the root of whatever is read. Symbolic links that begin with a slash begin
/// there as well, as they do for a process that lives in it.
pub struct Root {
    directory: OwnedFd,
}

impl Root {
    /// Takes a directory as root.
    ///
    /// # Errors
    ///
    /// When there is no such directory, or no permission to look into it.
    pub fn new(directory: &Path) -> Result<Self> {
        let directory = open(directory, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty())
            .with_context(|| format!("{}", directory.display()))?;
        Ok(Self { directory })
    }

    fn open(&self, path: &Path, flags: OFlag) -> Result<File> {
        // A relative path begins at the root as well, and never leaves it.
        let relative: PathBuf = path.components().filter(|c| *c != Component::RootDir).collect();
        let relative = if relative.as_os_str().is_empty() { ".".into() } else { relative };
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        Ok(File::from(openat2(&self.directory, &relative, how)?))
    }

    /// Whether there is anything by this name.
    pub fn has(&self, path: &Path) -> bool {
        self.open(path, OFlag::O_PATH).is_ok()
    }

    /// Whether this is a directory.
    pub fn is_directory(&self, path: &Path) -> bool {
        self.open(path, OFlag::O_PATH | OFlag::O_DIRECTORY).is_ok()
    }

    /// What a file holds.
    ///
    /// # Errors
    ///
    /// When it cannot be read, is no regular file or is larger than 16 MiB.
    pub fn read(&self, path: &Path) -> Result<Vec<u8>> {
        let read = || {
            // A FIFO must not keep us waiting.
            let mut file = self.open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK)?;
            ensure!(file.metadata()?.is_file(), "is not a regular file");
            let mut bytes = Vec::new();
            Read::by_ref(&mut file).take(LARGEST + 1).read_to_end(&mut bytes)?;
            ensure!(bytes.len() as u64 <= LARGEST, "is larger than 16 MiB");
            Ok(bytes)
        };
        read().with_context(|| format!("{}", path.display()))
    }

    /// The files whose absolute path matches, in the order in which nginx reads them.
    pub fn glob(&self, pattern: &str) -> Vec<PathBuf> {
        let mut found = vec![PathBuf::from("/")];
        for part in pattern.split('/').filter(|part| !part.is_empty()) {
            found = found.iter().flat_map(|base| self.children(base, part)).collect();
        }
        found.sort();
        found
    }

    fn children(&self, base: &Path, part: &str) -> Vec<PathBuf> {
        if !is_pattern(part) {
            let path = base.join(part);
            return if self.has(&path) { vec![path] } else { Vec::new() };
        }
        let Ok(pattern) = Pattern::new(part) else { return Vec::new() };
        let Ok(directory) = self.open(base, OFlag::O_RDONLY | OFlag::O_DIRECTORY) else {
            return Vec::new();
        };
        let entries = fs::read_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()));
        let names = entries.into_iter().flatten().flatten().map(|entry| entry.file_name());
        names
            .filter(|name| pattern.matches_with(&name.to_string_lossy(), GLOB))
            .map(|name| base.join(name))
            .collect()
    }
}

/// Whether glob(3) takes it for more than a name.
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// Whether a whole path matches a pattern, as [`Root::glob`] would find it.
pub fn matches(pattern: &str, path: &str) -> bool {
    Pattern::new(pattern).is_ok_and(|pattern| pattern.matches_with(path, GLOB))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_and_patterns_stay_below_the_root() {
        let directory = tempfile::tempdir().unwrap();
        let etc = directory.path().join("etc/nginx/sites-enabled");
        fs::create_dir_all(&etc).unwrap();
        fs::create_dir_all(directory.path().join("etc/nginx/sites-available")).unwrap();
        fs::write(directory.path().join("etc/nginx/sites-available/b"), "b").unwrap();
        fs::write(etc.join("a"), "a").unwrap();
        fs::write(etc.join(".hidden"), "h").unwrap();
        symlink("/etc/nginx/sites-available/b", etc.join("b")).unwrap();
        symlink("../../../../../../../etc/passwd", etc.join("out")).unwrap();

        let root = Root::new(directory.path()).unwrap();
        let found = root.glob("/etc/nginx/sites-*/*");
        let names: Vec<_> = found.iter().map(|path| path.display().to_string()).collect();
        assert_eq!(
            names,
            [
                "/etc/nginx/sites-available/b",
                "/etc/nginx/sites-enabled/a",
                "/etc/nginx/sites-enabled/b",
                "/etc/nginx/sites-enabled/out",
            ]
        );
        assert_eq!(root.read(Path::new("/etc/nginx/sites-enabled/b")).unwrap(), b"b");
        let outside = root.read(Path::new("/etc/nginx/sites-enabled/out"));
        assert!(outside.is_err(), "the host's /etc/passwd was read");
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let root = Root::new(Path::new("/")).unwrap();
        assert!(root.read(Path::new("/dev/zero")).is_err());
        assert!(root.read(Path::new("/no/such/file")).is_err());
    }
}
