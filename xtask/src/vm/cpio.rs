//! The "newc" archive format of an initramfs (Documentation/driver-api/early-userspace/
//! buffer-format.rst): per file a header of hexadecimal numbers, the name, the content, each padded
//! to four bytes.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};

const FOLDER: u32 = 0o040_755;
const LINK: u32 = 0o120_777;
const REGULAR: u32 = 0o100_000;

/// An archive being written.
pub struct Archive<W: Write> {
    out: W,
    inode: u32,
}

impl<W: Write> Archive<W> {
    /// Begins an archive.
    pub fn new(out: W) -> Self {
        Self { out, inode: 0 }
    }

    /// Adds a folder.
    pub fn folder(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, FOLDER, b"")
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, name: &str, target: &str) -> io::Result<()> {
        self.entry(name, LINK, target.as_bytes())
    }

    /// Adds a file with the given content and permissions.
    pub fn file(&mut self, name: &str, content: &[u8], mode: u32) -> io::Result<()> {
        self.entry(name, REGULAR | mode & 0o777, content)
    }

    /// Adds a file of the host.
    pub fn copy(&mut self, name: &str, from: &Path) -> io::Result<()> {
        let mode = fs::metadata(from)?.permissions().mode();
        self.file(name, &fs::read(from)?, mode)
    }

    /// Ends the archive.
    pub fn finish(mut self) -> io::Result<()> {
        self.entry("TRAILER!!!", 0, b"")?;
        self.out.flush()
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.inode += 1;
        let size = u32::try_from(content.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let name_size = name.len() as u32 + 1;
        // Inode, mode, uid, gid, links, mtime, size, device and rdevice (major, minor), name, check.
        let numbers = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        write!(self.out, "070701")?;
        for number in numbers {
            write!(self.out, "{number:08x}")?;
        }
        write!(self.out, "{name}\0")?;
        self.pad(110 + name_size as usize)?;
        self.out.write_all(content)?;
        self.pad(content.len())
    }

    fn pad(&mut self, length: usize) -> io::Result<()> {
        self.out.write_all(&[0; 3][..length.next_multiple_of(4) - length])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_the_kernel_reads() {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.folder("etc").unwrap();
        archive.file("etc/motd", b"hello", 0o644).unwrap();
        archive.link("motd", "etc/motd").unwrap();
        archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).unwrap();
        let folder = "070701\
            00000001000041ed00000000000000000000000100000000000000000000000000000000\
            00000000000000000000000400000000etc\0\0\0";
        assert!(text.starts_with(folder), "{text}");
        let file = "000081a400000000000000000000000100000000000000050000000000000000\
            00000000000000000000000900000000etc/motd\0\0\0\0hello\0\0\0070701";
        assert!(text.contains(&file.replace("\0\0\0\0hello", "\0\0\0\0hello")[..64]), "{text}");
        assert!(text.contains("hello\0\0\0070701"));
        assert!(text.ends_with("TRAILER!!!\0\0\0\0"));
    }
}
