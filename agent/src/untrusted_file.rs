//! Opens files that other users control: logs, proxies' configurations and programs, recordings.
//!
//! Whoever controls a path can put a FIFO, a device, a link to procfs or an endless file there, also
//! between two system calls. A file is therefore found first with `O_PATH`, which neither blocks nor
//! touches a device, then checked by its descriptor, and only then opened for reading, by way of that
//! descriptor. What is read has a limit.
//!
//! A file on a hung network or FUSE mount blocks the calling thread in the kernel, whatever the flags:
//! the agent's tick must not call this module.

mod root;

use std::{
    fs::{File, Metadata, OpenOptions},
    io::{self, ErrorKind, Read},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::fs::{FileTypeExt, OpenOptionsExt},
    },
    path::{Component, Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat, openat2},
    sys::{stat::Mode, statfs::fstatfs},
};

pub use root::Root;

/// File systems whose files are no data at rest (include/uapi/linux/magic.h). Their contents change
/// while they are read, are longer than `st_size` says, or reading them has effects.
const PSEUDO: [(u32, &str); 22] = [
    (0x9fa0, "procfs"),
    (0x6265_6572, "sysfs"),
    (0x0027_e0eb, "cgroup"),
    (0x6367_7270, "cgroup2"),
    (0x6462_6720, "debugfs"),
    (0x7472_6163, "tracefs"),
    (0x7363_6673, "securityfs"),
    (0xf97c_ff8c, "selinuxfs"),
    (0x4341_5d53, "smackfs"),
    (0x5a3c_69f0, "apparmorfs"),
    (0xcafe_4a11, "bpf"),
    (0x6265_6570, "configfs"),
    (0x6165_676c, "pstore"),
    (0xde5e_81e4, "efivarfs"),
    (0x4249_4e4d, "binfmt_misc"),
    (0x0765_5821, "resctrl"),
    (0x6573_5543, "fusectl"),
    (0x6759_6969, "rpc_pipefs"),
    (0x1980_0202, "mqueue"),
    (0xabba_1974, "xenfs"),
    (0x1cd1, "devpts"),
    (0x6e73_6673, "nsfs"),
];

/// Opens a regular file for reading. Below `/proc/PID/root`, links stay below that root.
///
/// # Errors
///
/// When there is no such file, it may not be read, it is no regular file (`InvalidInput`) or it lies on
/// a pseudo file system (`InvalidInput`).
pub fn open(path: &Path) -> io::Result<File> {
    reopen(&find(path)?)
}

/// Opens what a link of procfs leads to, such as `/proc/PID/exe`: the file itself, whatever has its name
/// now and in whichever mount namespace that is.
///
/// # Errors
///
/// As for [`open`].
pub fn open_magic_link(link: &Path) -> io::Result<File> {
    reopen(&resolve(AT_FDCWD, link, OFlag::O_PATH, ResolveFlag::empty())?)
}

/// Looks at a file without opening it, also at one that [`open`] refuses.
///
/// # Errors
///
/// When there is no such file or it may not be looked for.
pub fn metadata(path: &Path) -> io::Result<Metadata> {
    find(path)?.metadata()
}

/// Reads a whole file of at most `limit` bytes.
///
/// # Errors
///
/// As for [`open`], and when it is larger (`FileTooLarge`).
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    read_all(open(path)?, limit)
}

/// Reads a whole file of at most `limit` bytes that holds text.
///
/// # Errors
///
/// As for [`read`], and when it is not UTF-8 (`InvalidData`).
pub fn read_to_string(path: &Path, limit: u64) -> io::Result<String> {
    let text = String::from_utf8(read(path, limit)?);
    text.map_err(|_| io::Error::new(ErrorKind::InvalidData, "is not UTF-8"))
}

/// Reads an input to its end, which is at most `limit` bytes away.
///
/// # Errors
///
/// When it cannot be read or is longer (`FileTooLarge`).
pub fn read_all(input: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let said = format!("is larger than {}", shown(limit));
        return Err(io::Error::new(ErrorKind::FileTooLarge, said));
    }
    Ok(bytes)
}

/// Reads no more than `limit` bytes of what the kernel says of another process, such as
/// `/proc/PID/maps`. How long that is, and how long it takes, is up to the process.
///
/// # Errors
///
/// When it cannot be read: the process has ended, or may not be looked at.
pub fn read_procfs(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Finds a file by a path that the operator gave. Only such a path itself may name a descriptor or
/// another process's root; a link that somebody put there must not.
fn find(path: &Path) -> io::Result<File> {
    if let Some((root, rest)) = in_process_root(path) {
        return Root::new(&root)?.find(&rest);
    }
    let names_magic_link = path.starts_with("/proc") || path.starts_with("/dev");
    let resolve_flags =
        if names_magic_link { ResolveFlag::empty() } else { ResolveFlag::RESOLVE_NO_MAGICLINKS };
    resolve(AT_FDCWD, path, OFlag::O_PATH, resolve_flags)
}

/// Splits `/proc/PID/root/REST`.
fn in_process_root(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let mut components = path.strip_prefix("/proc").ok()?.components();
    let process = components.next().filter(|it| matches!(it, Component::Normal(_)))?;
    components.next().filter(|it| it.as_os_str() == "root")?;
    let rest = components.as_path();
    let root = Path::new("/proc").join(process).join("root");
    (!rest.as_os_str().is_empty()).then(|| (root, rest.to_owned()))
}

/// openat2(2). Before Linux 5.6, and where a seccomp profile does not know it, openat(2) has to do
/// where nothing depends on the path's links.
fn resolve(
    directory: BorrowedFd<'_>,
    path: &Path,
    flags: OFlag,
    resolve: ResolveFlag,
) -> io::Result<File> {
    let flags = flags | OFlag::O_CLOEXEC;
    let how = OpenHow::new().flags(flags).resolve(resolve);
    let in_root = resolve.contains(ResolveFlag::RESOLVE_IN_ROOT);
    match openat2(directory, path, how) {
        Ok(file) => Ok(file.into()),
        Err(Errno::ENOSYS) if in_root => Err(io::Error::new(
            ErrorKind::Unsupported,
            "openat2 is not available; it takes Linux 5.6 and a seccomp profile that allows it",
        )),
        Err(Errno::ENOSYS) => Ok(openat(directory, path, flags, Mode::empty())?.into()),
        Err(Errno::ELOOP) => {
            Err(invalid("leads through too many links, or through one of procfs".to_owned()))
        }
        Err(error) => Err(error.into()),
    }
}

/// Opens for reading what was found, if it is a regular file on a real file system.
fn reopen(found: &File) -> io::Result<File> {
    let kind = found.metadata()?.file_type();
    if !kind.is_file() {
        let what = match kind {
            it if it.is_dir() => "a directory",
            it if it.is_fifo() => "a FIFO",
            it if it.is_socket() => "a socket",
            _ => "a device",
        };
        return Err(invalid(format!("is {what}, not a regular file")));
    }
    // The magic number has 32 bits; how wide its type is differs between C libraries.
    let magic = fstatfs(found.as_fd())?.filesystem_type().0 as u32;
    if let Some((_, name)) = PSEUDO.iter().find(|(pseudo, _)| *pseudo == magic) {
        return Err(invalid(format!("is on {name}, not on a file system that stores data")));
    }
    // Not to wait where somebody holds a lease on it (fcntl(2), F_SETLEASE).
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let link = format!("/proc/self/fd/{}", found.as_raw_fd());
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits()).open(link);
    opened.map_err(|error| match error.kind() {
        ErrorKind::WouldBlock => {
            io::Error::new(ErrorKind::WouldBlock, "another process holds a lease on it; try again")
        }
        _ => error,
    })
}

fn invalid(said: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, said)
}

/// A limit as it is said to people.
fn shown(bytes: u64) -> String {
    match bytes {
        bytes if bytes >= 1 << 20 && bytes % (1 << 20) == 0 => format!("{} MiB", bytes >> 20),
        bytes if bytes >= 1 << 10 && bytes % (1 << 10) == 0 => format!("{} KiB", bytes >> 10),
        bytes => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests;
