//! Whether an executable was built by Go, read from its ELF section table within fixed bounds.
//!
//! Any user can run a file whose header claims millions of sections or gigabytes of names. What a
//! header claims is therefore compared with a limit before anything is allocated or read.

use std::io::{Read, Seek};

use object::{
    Endianness, ReadCache, ReadRef,
    elf::{FileHeader32, FileHeader64},
    read::elf::{FileHeader, SectionHeader},
};

/// Sections that are looked at. Go's linker writes about 30, GNU ld a few dozen.
const MOST_SECTIONS: u16 = 512;
/// Bytes of section names that are read.
const MOST_NAMES: u64 = 64 << 10;
/// Go's linker leaves a section of its own (cmd/link, debug/buildinfo), NUL included.
const BUILD_INFO: &[u8] = b".go.buildinfo\0";

/// Whether the file has Go's build information. Reads at most 100 KiB, whatever the file claims; a
/// file that exceeds the limits or is not ELF was not built by Go.
pub fn is_go(file: impl Read + Seek) -> bool {
    let data = &ReadCache::new(file);
    has_build_info::<FileHeader64<Endianness>, _>(data)
        .or_else(|| has_build_info::<FileHeader32<Endianness>, _>(data))
        .unwrap_or(false)
}

/// `None` if the file is not ELF of this class, or is damaged.
fn has_build_info<'a, E, R>(data: R) -> Option<bool>
where
    E: FileHeader<Endian = Endianness>,
    R: ReadRef<'a>,
{
    let header = E::parse(data).ok()?;
    let endian = header.endian().ok()?;
    // 0 stands for a number kept in the first section header, for files with 65280 sections or more.
    if !(1..=MOST_SECTIONS).contains(&header.e_shnum(endian)) {
        return Some(false);
    }
    let sections = header.section_headers(endian, data).ok()?;
    let names = sections.get(usize::from(header.e_shstrndx(endian)))?;
    let (start, length) = names.file_range(endian).filter(|(_, length)| *length <= MOST_NAMES)?;
    let names = data.read_bytes_at(start, length).ok()?;
    let is_it = |section: &E::SectionHeader| {
        let name = names.get(section.sh_name(endian) as usize..);
        name.is_some_and(|name| name.starts_with(BUILD_INFO))
    };
    Some(sections.iter().any(is_it))
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{self, Cursor, SeekFrom},
    };

    use super::*;

    /// An ELF64 file with a null section, the names and one more section of the given name.
    fn elf(name: &str) -> Vec<u8> {
        let names = format!("\0{name}\0");
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(64, 0);
        file[0x28..0x30].copy_from_slice(&128_u64.to_le_bytes());
        file[0x34..0x36].copy_from_slice(&64_u16.to_le_bytes());
        file[0x3a..0x3c].copy_from_slice(&64_u16.to_le_bytes());
        set_count(&mut file, 3);
        file[0x3e..0x40].copy_from_slice(&1_u16.to_le_bytes());
        file.extend(names.as_bytes());
        file.resize(128 + 3 * 64, 0);
        let (offset, size) = (64_u64.to_le_bytes(), (names.len() as u64).to_le_bytes());
        file[128 + 64 + 4] = 3;
        file[128 + 64 + 0x18..][..8].copy_from_slice(&offset);
        file[128 + 64 + 0x20..][..8].copy_from_slice(&size);
        file[128 + 128] = 1;
        file
    }

    fn set_count(file: &mut [u8], sections: u16) {
        file[0x3c..0x3e].copy_from_slice(&sections.to_le_bytes());
    }

    /// Counts what is read of a file with any number of zeros behind its contents.
    struct Sparse {
        file: Cursor<Vec<u8>>,
        length: u64,
        read: u64,
    }

    impl Read for &mut Sparse {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let read = self.file.read(buffer)?;
            let zeros = if read == 0 { buffer.len() } else { 0 };
            buffer[..zeros].fill(0);
            self.file.set_position(self.file.position() + zeros as u64);
            self.read += (read + zeros) as u64;
            Ok(read + zeros)
        }
    }

    impl Seek for &mut Sparse {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            match to {
                SeekFrom::End(0) => Ok(self.length),
                to => self.file.seek(to),
            }
        }
    }

    fn read_of(file: Vec<u8>) -> (bool, u64) {
        let mut sparse = Sparse { file: Cursor::new(file), length: 1 << 62, read: 0 };
        let found = is_go(&mut sparse);
        (found, sparse.read)
    }

    #[test]
    fn a_go_program_is_known_by_its_section() {
        assert!(is_go(Cursor::new(elf(".go.buildinfo"))));
        assert!(!is_go(Cursor::new(elf(".go.buildinfo2"))));
        assert!(!is_go(Cursor::new(elf(".text"))));
        assert!(!is_go(Cursor::new(b"#!/bin/sh\n".to_vec())));
        assert!(!is_go(File::open("/proc/self/exe").unwrap()));
    }

    #[test]
    fn a_file_that_claims_too_much_is_not_read() {
        let mut many = elf(".go.buildinfo");
        set_count(&mut many, 0);
        many[128 + 0x20..][..8].copy_from_slice(&40_000_000_u64.to_le_bytes());
        let mut all = elf(".go.buildinfo");
        set_count(&mut all, u16::MAX);
        let mut long = elf(".go.buildinfo");
        long[128 + 64 + 0x20..][..8].copy_from_slice(&(1_u64 << 40).to_le_bytes());
        for file in [many, all, long] {
            let (found, read) = read_of(file);
            assert!(!found && read <= 100 << 10, "{read} bytes read");
        }
    }

    #[test]
    fn damage_anywhere_is_survived() {
        let whole = elf(".go.buildinfo");
        for place in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut file = whole.clone();
                file[place] = value;
                assert!(read_of(file).1 <= 100 << 10, "{value} at {place}");
            }
            is_go(Cursor::new(whole[..place].to_vec()));
        }
    }
}
