//! Creates the files that the agent and its commands write. A path may lie in a directory where others
//! can write: a file is created exclusively and never through a link that is there already.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Mode of a file that tells who talks with whom: for its owner alone.
pub const PRIVATE: u32 = 0o600;
/// Mode of a file that anybody may read.
pub const PUBLIC: u32 = 0o644;

/// Creates a file for its owner alone, to be written and read.
///
/// # Errors
///
/// When there is something by this name, also a link that leads nowhere, or it cannot be created.
pub fn create(path: &Path) -> io::Result<File> {
    create_with(path, PRIVATE).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => {
            io::Error::new(error.kind(), "exists already; remove it or choose another name")
        }
        _ => error,
    })
}

/// Puts a file with these contents at `path`, in one step: a crash leaves the old file or the new one.
/// What is at `path` is replaced, and a link is not followed.
///
/// # Errors
///
/// When it cannot be written.
pub fn replace(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let part = part_of(path);
    let mut file = create_anew(&part, mode)?;
    file.write_all(contents)?;
    fs::rename(part, path)
}

/// Creates `path` with `.part` at its end, in place of one that was left behind by a crash.
///
/// # Errors
///
/// When it cannot be created.
pub fn create_part(path: &Path) -> io::Result<(File, PathBuf)> {
    let part = part_of(path);
    Ok((create_anew(&part, PRIVATE)?, part))
}

fn part_of(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".part");
    name.into()
}

fn create_anew(path: &Path, mode: u32) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => create_with(path, mode),
    }
}

/// O_CREAT with O_EXCL, which does not follow a link (open(2)).
fn create_with(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(path)
}

/// A file that is removed again unless it is finished.
#[derive(Debug)]
pub struct Unfinished {
    path: PathBuf,
    file: File,
    is_finished: bool,
}

impl Unfinished {
    /// Creates a file for its owner alone.
    ///
    /// # Errors
    ///
    /// As for [`create`].
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: create(path)?, is_finished: false })
    }

    /// Writes what is to be in it.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn finish(mut self, contents: &[u8]) -> io::Result<()> {
        self.file.write_all(contents)?;
        self.is_finished = true;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.is_finished {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_new_file_is_its_owners_and_takes_nothing_elses_place() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        create(&at("new")).unwrap();
        assert_eq!(mode(&at("new")), 0o600);
        symlink(at("elsewhere"), at("link")).unwrap();
        for taken in ["new", "link"] {
            let error = create(&at(taken)).unwrap_err().to_string();
            assert_eq!(error, "exists already; remove it or choose another name");
        }
        assert!(!at("elsewhere").exists(), "created through a link");
    }

    #[test]
    fn a_replaced_link_leaves_alone_what_it_leads_to() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("target"), "precious").unwrap();
        for link in ["state", "state.part"] {
            symlink(at("target"), at(link)).unwrap();
        }
        for contents in ["one", "two"] {
            replace(&at("state"), contents.as_bytes(), PRIVATE).unwrap();
            assert_eq!(fs::read_to_string(at("state")).unwrap(), contents);
            assert_eq!(mode(&at("state")), 0o600);
        }
        assert_eq!(fs::read_to_string(at("target")).unwrap(), "precious");
        assert!(!at("state.part").exists());
    }

    #[test]
    fn what_is_not_finished_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("page");
        drop(Unfinished::create(&path).unwrap());
        assert!(!path.exists());
        Unfinished::create(&path).unwrap().finish(b"page").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"page");
    }
}
