//! Running nginx programs, and what is known of them before anything is attached.
//!
//! Any process may call itself nginx and have any file mapped. A program is therefore opened as it is
//! mapped, not by its path, and read by the rules of [`untrusted_file`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use memchr::memmem;
use object::{
    FileKind,
    elf::{PT_LOAD, SHN_UNDEF, SHT_DYNSYM, SHT_SYMTAB},
    endian::Endianness,
    read::elf::{FileHeader, ProgramHeader, SectionHeader, Sym},
};

use crate::{
    kernel::netns::pids,
    proxy::{ProxyKind, process},
    untrusted_file,
};

/// A file, whatever its name: containers of one image share it.
pub type Identity = (u64, u64);

/// The stream module, where it is a file of its own.
const STREAM_MODULE: &str = "ngx_stream_module.so";
/// nginx is 1 to 10 MiB.
const LARGEST: u64 = 64 << 20;
/// Bytes read of a process's list of mappings; nginx with its modules takes some ten thousand.
const LONGEST_MAPS: u64 = 1 << 20;
/// New programs read in one sweep; the others wait for the next.
const MOST_AT_ONCE: usize = 4;

/// An nginx program, or a module of it.
pub struct Binary {
    /// Which file.
    pub identity: Identity,
    /// Its path as its own processes see it.
    pub shown: String,
    /// As it says itself, `nginx/1.22.1`.
    pub version: String,
    /// Where in the file the functions begin that were asked for.
    offsets: BTreeMap<&'static str, u64>,
    file: File,
}

/// The nginx programs that run, and their stream modules.
#[derive(Default)]
pub struct Running {
    /// Those that were not known.
    pub new: Vec<Binary>,
    /// All of them.
    pub present: BTreeSet<Identity>,
}

/// Finds the nginx programs that run; of those that are not `known`, where the functions `wanted` are.
pub fn running(wanted: &[&'static str], known: impl Fn(Identity) -> bool) -> Running {
    let mut running = Running::default();
    let mut read = 0;
    for (pid, mapped) in pids().flat_map(|pid| files_of(pid).into_iter().map(move |it| (pid, it))) {
        let is_new = !known(mapped.identity) && !running.present.contains(&mapped.identity);
        if is_new && read == MOST_AT_ONCE {
            continue;
        }
        running.present.insert(mapped.identity);
        if is_new {
            read += 1;
            running.new.extend(Binary::read(pid, mapped, wanted));
        }
    }
    running
}

/// The files of one nginx process.
pub fn of_process(pid: u32) -> Vec<Identity> {
    files_of(pid).iter().map(|mapped| mapped.identity).collect()
}

/// A file that a process runs or has mapped.
struct Mapped {
    file: File,
    identity: Identity,
    link: PathBuf,
}

impl Mapped {
    /// By a link of procfs, which leads to the file itself.
    fn open(link: PathBuf) -> Option<Self> {
        Self::of(untrusted_file::open_magic_link(&link).ok()?, link)
    }

    fn of(file: File, link: PathBuf) -> Option<Self> {
        let metadata = file.metadata().ok()?;
        let identity = (metadata.dev(), metadata.ino());
        (metadata.len() <= LARGEST).then_some(Self { file, identity, link })
    }
}

/// `/proc/PID/exe` leads to the program, and `/proc/PID/map_files` to the module that is mapped, whatever
/// namespace it lives in and whatever has its name by now.
fn files_of(pid: u32) -> Vec<Mapped> {
    if !process::is(ProxyKind::Nginx, pid) {
        return Vec::new();
    }
    let process = PathBuf::from(format!("/proc/{pid}"));
    let maps = untrusted_file::read_procfs(&process.join("maps"), LONGEST_MAPS).unwrap_or_default();
    let module = Module::of(&String::from_utf8_lossy(&maps)).and_then(|it| it.open(&process));
    Mapped::open(process.join("exe")).into_iter().chain(module).collect()
}

/// The stream module as a process has it mapped.
#[derive(Debug, PartialEq, Eq)]
struct Module {
    range: (u64, u64),
    inode: u64,
    path: String,
}

impl Module {
    /// Among the mappings in `/proc/PID/maps`.
    fn of(maps: &str) -> Option<Self> {
        maps.lines().filter(|line| line.ends_with(STREAM_MODULE)).find_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let (start, end) = fields.next()?.split_once('-')?;
            let hex = |text| u64::from_str_radix(text, 16).ok();
            let inode = fields.nth(3)?.parse().ok()?;
            Some(Self { range: (hex(start)?, hex(end)?), inode, path: fields.next()?.to_owned() })
        })
    }

    /// Opens the file that is mapped. Without CAP_SYS_ADMIN, which its link takes (kernel:
    /// fs/proc/base.c `proc_map_files_get_link`), by its path, if the file there is still the same.
    fn open(&self, process: &Path) -> Option<Mapped> {
        // Without leading zeros, which `maps` has (`proc_map_files_readdir`).
        let (start, end) = self.range;
        let mapped = Mapped::open(process.join(format!("map_files/{start:x}-{end:x}")));
        mapped.or_else(|| {
            let path = process.join("root").join(self.path.trim_start_matches('/'));
            let file = untrusted_file::open(&path).ok()?;
            Mapped::of(file, path).filter(|mapped| mapped.identity.1 == self.inode)
        })
    }
}

impl Binary {
    fn read(pid: u32, mapped: Mapped, wanted: &[&'static str]) -> Option<Self> {
        let Mapped { file, identity, link } = mapped;
        let contents = untrusted_file::read_all(&file, LARGEST).ok()?;
        let shown = fs::read_link(&link).unwrap_or(link).display().to_string();
        // A module is built for one version of nginx, whose program says which.
        let version = version(&contents).or_else(|| version(&program_of_process(pid)?));
        let version = version.unwrap_or_else(|| "unknown".to_owned());
        let offsets = offsets(&contents, wanted).unwrap_or_default();
        Some(Self { identity, shown, version, offsets, file })
    }

    /// Where a function begins in the file, if it defines this one: a module names what it takes from
    /// its program as well.
    pub fn offset_of(&self, name: &str) -> Option<u64> {
        self.offsets.get(name).copied()
    }

    /// A path that leads to this very file as long as this value lives.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }

    /// Offset of the bit field that begins with `single` in `ngx_http_upstream_rr_peers_t`, and its
    /// twin. `shpool` and what follows it came in 1.9, `tries` in 1.20, the zone's `config` in 1.27.
    ///
    /// # Errors
    ///
    /// For a version that nobody has looked at.
    pub fn offset_of_single(&self) -> Result<u64> {
        let number = self
            .version
            .strip_prefix("nginx/")
            .context("its version string is not nginx's; offsets are known for nginx only")?;
        let mut parts = number.split('.').map(|part| part.parse::<u32>().ok());
        let (Some(Some(major)), Some(Some(minor))) = (parts.next(), parts.next()) else {
            bail!("its version {number} is not a number");
        };
        Ok(match (major, minor) {
            (1, 12..=18) => 40,
            (1, 20..=26) => 48,
            (1, 28..=31) => 64,
            _ => bail!("no offsets are known for version {number}"),
        })
    }
}

/// Where in an ELF file the functions begin that it defines; `None` for what is no such file.
pub fn offsets(contents: &[u8], wanted: &[&'static str]) -> Option<BTreeMap<&'static str, u64>> {
    match FileKind::parse(contents).ok()? {
        FileKind::Elf32 => offsets_in::<object::elf::FileHeader32<Endianness>>(contents, wanted),
        FileKind::Elf64 => offsets_in::<object::elf::FileHeader64<Endianness>>(contents, wanted),
        _ => None,
    }
}

/// A symbol's name is only compared with those that are wanted: symbols that share one endless name
/// would otherwise take quadratic time to read.
fn offsets_in<Header: FileHeader<Endian = Endianness>>(
    contents: &[u8],
    wanted: &[&'static str],
) -> Option<BTreeMap<&'static str, u64>> {
    let header = Header::parse(contents).ok()?;
    let endian = header.endian().ok()?;
    let segments = header.program_headers(endian, contents).ok()?;
    let sections = header.sections(endian, contents).ok()?;
    let mut found = BTreeMap::new();
    for kind in [SHT_DYNSYM, SHT_SYMTAB] {
        let Ok(table) = sections.symbols(endian, contents, kind) else { continue };
        let Ok(strings) = sections.section(table.string_section()) else { continue };
        let Ok(names) = strings.data(endian, contents) else { continue };
        for symbol in table.iter().filter(|symbol| symbol.st_shndx(endian) != SHN_UNDEF) {
            let name = names.get(symbol.st_name(endian) as usize..).unwrap_or_default();
            let is_it = |wanted: &&&str| {
                name.strip_prefix(wanted.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
            };
            let Some(wanted) = wanted.iter().find(is_it) else { continue };
            let address: u64 = symbol.st_value(endian).into();
            let place = segments.iter().find_map(|segment| {
                let start: u64 = segment.p_vaddr(endian).into();
                let length: u64 = segment.p_filesz(endian).into();
                let within = address.checked_sub(start).filter(|within| *within < length)?;
                let offset: u64 = segment.p_offset(endian).into();
                (segment.p_type(endian) == PT_LOAD).then(|| offset.checked_add(within)).flatten()
            });
            if let Some(place) = place {
                found.insert(*wanted, place);
            }
        }
    }
    Some(found)
}

/// The program of a process, if it is no larger than any nginx.
pub fn program_of_process(pid: u32) -> Option<Vec<u8>> {
    let file = untrusted_file::open_magic_link(&PathBuf::from(format!("/proc/{pid}/exe"))).ok()?;
    untrusted_file::read_all(file, LARGEST).ok()
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
    use object::{Object, ObjectSection, ObjectSymbol};

    use super::*;

    fn binary(version: &str) -> Binary {
        Binary {
            identity: (0, 0),
            shown: String::new(),
            version: version.to_owned(),
            offsets: BTreeMap::new(),
            file: File::open("/dev/null").unwrap(),
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
    fn a_function_is_found_by_its_whole_name() {
        let contents = fs::read("/proc/self/exe").unwrap();
        let found = offsets(&contents, &["main", "mai", "no_such_function"]).unwrap();
        let file = object::File::parse(&*contents).unwrap();
        let main = file.symbols().find(|symbol| symbol.name() == Ok("main")).unwrap();
        let section = file.section_by_index(main.section_index().unwrap()).unwrap();
        let offset = main.address() - section.address() + section.file_range().unwrap().0;
        assert_eq!(found, BTreeMap::from([("main", offset)]));
        assert_eq!(offsets(b"no ELF file", &["main"]), None);
    }

    #[test]
    fn a_module_is_opened_as_it_is_mapped() {
        let maps = "55e0-55e1 r-xp 00000000 08:01 12 /usr/sbin/nginx\n\
                    00400000-7f0000001000 r--p 00000000 08:01 77 /usr/lib/ngx_stream_module.so\n";
        let module = Module::of(maps).unwrap();
        let path = "/usr/lib/ngx_stream_module.so".to_owned();
        let range = (0x40_0000, 0x7f00_0000_1000);
        assert_eq!(module, Module { range, inode: 77, path });
        assert_eq!(Module::of("55e0-55e1 r-xp 0 08:01 12 /usr/sbin/nginx\n"), None);
        assert!(module.open(Path::new("/proc/self")).is_none(), "nothing is mapped there");
    }

    #[test]
    fn a_version_is_what_the_program_says_of_itself() {
        assert_eq!(version(b"..nginx version: nginx/1.22.1\n").as_deref(), Some("nginx/1.22.1"));
        assert_eq!(version(b"nginx version: nginx/1.30.4 (x)").as_deref(), Some("nginx/1.30.4"));
        assert_eq!(version(b"no such thing"), None);
    }
}
