//! A directory that is somebody's root: this host's, a container's, a package's.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use nix::{
    fcntl::{OFlag, ResolveFlag, open},
    sys::stat::Mode,
};

use super::{read_all, reopen, resolve};

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
    pub fn new(directory: &Path) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Self { directory: open(directory, flags, Mode::empty())? })
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    ///
    /// As for [`open`](super::open), and where the kernel has no openat2(2) (`Unsupported`).
    pub fn open(&self, path: &Path) -> io::Result<File> {
        reopen(&self.find(path)?)
    }

    /// Reads a whole file of at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// As for [`Root::open`], and when it is larger (`FileTooLarge`).
    pub fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        read_all(self.open(path)?, limit)
    }

    /// Opens a directory, to list what is in it.
    ///
    /// # Errors
    ///
    /// When there is none, or it may not be read.
    pub fn open_directory(&self, path: &Path) -> io::Result<File> {
        self.resolve(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
    }

    /// Whether there is anything by this name.
    pub fn has(&self, path: &Path) -> bool {
        self.find(path).is_ok()
    }

    /// Whether this is a directory.
    pub fn is_directory(&self, path: &Path) -> bool {
        self.resolve(path, OFlag::O_PATH | OFlag::O_DIRECTORY).is_ok()
    }

    pub(super) fn find(&self, path: &Path) -> io::Result<File> {
        self.resolve(path, OFlag::O_PATH)
    }

    fn resolve(&self, path: &Path, flags: OFlag) -> io::Result<File> {
        // A relative path begins at the root as well, and never leaves it.
        let relative: PathBuf = path.components().filter(|c| *c != Component::RootDir).collect();
        let relative = if relative.as_os_str().is_empty() { ".".into() } else { relative };
        let in_root = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        resolve(self.directory.as_fd(), &relative, flags, in_root)
    }
}
