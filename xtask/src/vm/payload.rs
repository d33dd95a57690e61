//! What goes into the initramfs: programs of this machine with the libraries they load, and what
//! nginx expects to find.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::BufWriter,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{cpio::Archive, kernels::Kernel, modules};

/// Programs of Debian that the lab uses.
const PROGRAMS: &[(&str, &str)] = &[
    ("bin/sh", "/bin/dash"),
    ("bin/ip", "/bin/ip"),
    ("bin/ss", "/bin/ss"),
    ("sbin/tc", "/sbin/tc"),
    ("usr/sbin/nginx", "/usr/sbin/nginx"),
];
const FOLDERS: &[&str] = &[
    "dev", "etc", "etc/nginx", "lib64", "mods", "proc", "root", "run", "sys", "tests", "tmp", "var",
    "var/lib", "var/lib/nginx", "var/log", "var/log/nginx",
];

/// Files for a guest, by their path in it.
pub struct Payload {
    files: BTreeMap<String, PathBuf>,
}

impl Payload {
    /// The agent, the lab (which is also the guest's init) and Debian's programs.
    pub fn standard(agent: &Path, lab: &Path) -> Result<Self> {
        let mut payload = Self { files: BTreeMap::new() };
        payload.program("init", lab)?;
        payload.program("bin/floodmark", agent)?;
        payload.program("bin/floodmark-lab", lab)?;
        for (name, path) in PROGRAMS {
            payload.program(name, Path::new(path))?;
        }
        Ok(payload)
    }

    /// Adds a program with the shared libraries it is linked to.
    pub fn program(&mut self, name: &str, path: &Path) -> Result<()> {
        self.files.insert(name.to_owned(), path.to_owned());
        let output = Command::new("ldd").arg(path).output().context("running ldd")?;
        if !path.exists() {
            bail!("{} is missing", path.display());
        }
        for library in libraries(&String::from_utf8_lossy(&output.stdout)) {
            self.files.insert(library.trim_start_matches('/').to_owned(), library.into());
        }
        Ok(())
    }

    /// Writes the initramfs for `kernel` that runs `command`, into `directory`.
    pub fn initramfs(
        &self,
        kernel: &Kernel,
        command: &[String],
        directory: &Path,
    ) -> Result<PathBuf> {
        fs::create_dir_all(directory).context("creating a folder for the run")?;
        let path = directory.join("initramfs.cpio");
        let file = File::create(&path).context("creating the initramfs")?;
        let mut archive = Archive::new(BufWriter::new(file));
        let mut folders: BTreeSet<String> = FOLDERS.iter().map(|name| (*name).to_owned()).collect();
        for name in self.files.keys() {
            folders.extend(parents(name));
        }
        for folder in folders {
            archive.folder(&folder)?;
        }
        for (name, from) in &self.files {
            archive.copy(name, from).with_context(|| format!("packing {}", from.display()))?;
        }
        let mut order = String::new();
        for (name, content) in modules::resolve(kernel)? {
            archive.file(&format!("mods/{name}"), &content, 0o644)?;
            order.push_str(&format!("{name}\n"));
        }
        archive.file("mods/order", order.as_bytes(), 0o644)?;
        archive.file("command", command.join("\n").as_bytes(), 0o644)?;
        archive.file("etc/passwd", b"root:x:0:0::/root:/bin/sh\n", 0o644)?;
        archive.file("etc/group", b"root:x:0:\nnogroup:x:65534:\n", 0o644)?;
        archive.finish()?;
        Ok(path)
    }
}

/// The absolute paths in what `ldd` prints.
fn libraries(text: &str) -> Vec<String> {
    let words = text.split_whitespace();
    words.filter(|word| word.starts_with('/')).map(str::to_owned).collect()
}

/// "a/b/c" lies in "a" and "a/b".
fn parents(name: &str) -> Vec<String> {
    name.match_indices('/').map(|(at, _)| name[..at].to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_libraries_and_the_loader() {
        let text = "\tlinux-vdso.so.1 (0x7)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x7)\n\t/lib64/ld.so (0x7)";
        assert_eq!(libraries(text), ["/lib/x/libc.so.6", "/lib64/ld.so"]);
    }

    #[test]
    fn names_every_folder_on_the_way() {
        assert_eq!(parents("usr/lib/x.so"), ["usr", "usr/lib"]);
        assert!(parents("init").is_empty());
    }
}
