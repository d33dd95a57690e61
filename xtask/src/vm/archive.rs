//! Writing an initramfs: a cpio archive of the "newc" format, which the kernel reads.
//!
//! The format is the kernel's Documentation/driver-api/early-userspace/buffer-format.rst: a header
//! of eight-digit hexadecimal fields, the name, the content, each padded to four bytes.

use std::{
    collections::BTreeSet,
    io::{Result, Write},
};

const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const LINK: u32 = 0o120_000;

/// An archive under way. Everything in it belongs to root.
pub struct Writer<W> {
    out: W,
    entries: u32,
    directories: BTreeSet<String>,
}

impl<W: Write> Writer<W> {
    /// Starts an archive.
    pub fn new(out: W) -> Self {
        Self { out, entries: 0, directories: BTreeSet::new() }
    }

    /// Adds a directory and those above it. `path` is absolute, as in all methods.
    pub fn directory(&mut self, path: &str) -> Result<()> {
        let path = path.trim_matches('/');
        for end in path.match_indices('/').map(|(at, _)| at).chain([path.len()]) {
            let path = &path[..end];
            if !path.is_empty() && self.directories.insert(path.to_owned()) {
                self.entry(path, DIRECTORY | 0o755, &[])?;
            }
        }
        Ok(())
    }

    /// Adds a file, and the directories above it.
    pub fn file(&mut self, path: &str, executable: bool, content: &[u8]) -> Result<()> {
        self.parents(path)?;
        let permissions = if executable { 0o755 } else { 0o644 };
        self.entry(path.trim_start_matches('/'), REGULAR | permissions, content)
    }

    /// Adds a symbolic link, and the directories above it.
    pub fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.parents(path)?;
        self.entry(path.trim_start_matches('/'), LINK | 0o777, target.as_bytes())
    }

    /// Ends the archive.
    pub fn finish(mut self) -> Result<W> {
        self.entries = 0;
        self.entry("TRAILER!!!", 0, &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn parents(&mut self, path: &str) -> Result<()> {
        match path.rsplit_once('/') {
            Some((parents, _)) => self.directory(parents),
            None => Ok(()),
        }
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        let inode = self.entries;
        self.entries += 1;
        let links = if mode & DIRECTORY == 0 { 1 } else { 2 };
        let too_long = |_| std::io::Error::other(format!("{name}: too long for the archive"));
        let size = u32::try_from(content.len()).map_err(too_long)?;
        let name_size = u32::try_from(name.len() + 1).map_err(too_long)?;
        // Inode, mode, uid, gid, links, mtime, size, device, device of a device file, name's size,
        // checksum.
        let fields = [inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0];
        self.out.write_all(b"070701")?;
        for field in fields {
            write!(self.out, "{field:08X}")?;
        }
        self.out.write_all(name.as_bytes())?;
        self.out.write_all(b"\0")?;
        self.pad(6 + fields.len() * 8 + name.len() + 1)?;
        self.out.write_all(content)?;
        self.pad(content.len())
    }

    fn pad(&mut self, written: usize) -> Result<()> {
        self.out.write_all(&[0; 3][..written.next_multiple_of(4) - written])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Byte for byte what GNU cpio 2.13 wrote for the same files, dated to the epoch, with `-o -H newc
    /// --reproducible -R 0:0`, but for its padding of the whole to 512 bytes.
    #[test]
    fn writes_what_cpio_writes() {
        let mut archive = Writer::new(Vec::new());
        archive.file("/a/f", true, b"hello").unwrap();
        archive.link("/a/l", "f").unwrap();
        let written = String::from_utf8(archive.finish().unwrap()).unwrap();
        assert_eq!(written, GOLDEN);
    }

    #[test]
    fn names_a_directory_once() {
        let mut archive = Writer::new(Vec::new());
        archive.directory("/usr/bin").unwrap();
        archive.file("/usr/bin/x", true, b"").unwrap();
        archive.directory("/usr").unwrap();
        let written = String::from_utf8(archive.finish().unwrap()).unwrap();
        assert_eq!(written.matches("070701").count(), 4);
    }

    const GOLDEN: &str = "\
        07070100000000000041ED0000000000000000000000020000000000000000000000000000000000000000000000000000000200000000\
        a\0\
        07070100000001000081ED0000000000000000000000010000000000000005000000000000000000000000000000000000000400000000\
        a/f\0\0\0hello\0\0\0\
        070701000000020000A1FF0000000000000000000000010000000000000001000000000000000000000000000000000000000400000000\
        a/l\0\0\0f\0\0\0\
        07070100000000000000000000000000000000000000010000000000000000000000000000000000000000000000000000000B00000000\
        TRAILER!!!\0\0\0\0";
}
