//! Reading and finding a proxy's configuration files below the root that they were written for.

use std::{
    fs::{self, File},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use glob::{MatchOptions, Pattern};

use crate::untrusted_file;

/// More than any configuration is long, or what `nginx -T` prints of it.
pub const LARGEST: u64 = 16 << 20;

/// As nginx's glob(3): `*` takes no slash, and no leading dot.
const GLOB: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

/// A directory that is the root of the configuration that is read.
pub struct Root(untrusted_file::Root);

impl Root {
    /// Takes a directory as root.
    ///
    /// # Errors
    ///
    /// When there is no such directory, or no permission to look into it.
    pub fn new(directory: &Path) -> Result<Self> {
        let root = untrusted_file::Root::new(directory);
        Ok(Self(root.with_context(|| directory.display().to_string())?))
    }

    /// Whether there is anything by this name.
    pub fn has(&self, path: &Path) -> bool {
        self.0.has(path)
    }

    /// Whether this is a directory.
    pub fn is_directory(&self, path: &Path) -> bool {
        self.0.is_directory(path)
    }

    /// Opens a file.
    ///
    /// # Errors
    ///
    /// When there is none or it may not be read, or it is no regular file.
    pub fn open(&self, path: &Path) -> Result<File> {
        self.0.open(path).with_context(|| path.display().to_string())
    }

    /// What a file holds.
    ///
    /// # Errors
    ///
    /// When it cannot be read, is no regular file or is larger than 16 MiB.
    pub fn read(&self, path: &Path) -> Result<Vec<u8>> {
        self.0.read(path, LARGEST).with_context(|| path.display().to_string())
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
        let Ok(directory) = self.0.open_directory(base) else { return Vec::new() };
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
