//! What goes into a guest beside the kernel: programs of this host with the libraries they need.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::BufWriter,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::{archive::Writer, modules::Module};
use crate::{build, place};

/// Programs that every guest has, from this host.
const PROGRAMS: [&str; 19] = [
    "ip", "ss", "tc", "sysctl", "nsenter", "nginx", "cat", "chmod", "date", "env", "grep", "kill",
    "ls", "mkdir", "mount", "rm", "sleep", "true", "uname",
];
/// Programs of more bytes than this go without debug information.
const LARGE: u64 = 16 << 20;
/// What nginx and its unprivileged workers expect to find.
const FILES: [&str; 3] = ["/etc/passwd", "/etc/group", "/etc/nginx/mime.types"];
const DIRECTORIES: [&str; 14] = [
    "/dev",
    "/etc/nginx/conf.d",
    "/etc/nginx/modules-enabled",
    "/etc/nginx/sites-enabled",
    "/proc",
    "/root",
    "/run",
    "/sys",
    "/tmp",
    "/usr/lib64",
    "/usr/sbin",
    "/var/lib/nginx",
    "/var/log/nginx",
    "/var/tmp",
];
/// The merged layout, so that a library is found by whichever path a program names it.
const LINKS: [(&str, &str); 6] = [
    ("/bin", "usr/bin"),
    ("/lib", "usr/lib"),
    ("/lib64", "usr/lib64"),
    ("/sbin", "usr/sbin"),
    ("/usr/bin/sh", "dash"),
    ("/var/run", "/run"),
];

/// The files of a guest, by the path they will have there.
#[derive(Clone, Debug, Default)]
pub struct Payload {
    files: BTreeMap<String, PathBuf>,
    /// Kernel modules beside those that every guest has.
    pub modules: Vec<&'static str>,
}

impl Payload {
    /// The init process, a shell, and the programs that tests call.
    ///
    /// # Errors
    ///
    /// When the init process cannot be built or a program is not installed.
    pub fn base() -> Result<Self> {
        let mut payload = Self::default();
        payload.program(&build::tested("guest-init")?, "/init")?;
        for name in PROGRAMS.into_iter().chain(["dash"]) {
            let program = place::program(name)
                .with_context(|| format!("{name} is not installed; guests need it"))?;
            payload.program(&program, &format!("/usr/bin/{name}"))?;
        }
        payload.add("/usr/sbin/nginx", &place::program("nginx").unwrap_or_default());
        for file in FILES {
            payload.add(file, Path::new(file));
        }
        Ok(payload)
    }

    /// Adds a program as `at`, with every shared library it needs.
    ///
    /// # Errors
    ///
    /// When a library is missing.
    pub fn program(&mut self, program: &Path, at: &str) -> Result<()> {
        let is_large = fs::metadata(program).is_ok_and(|metadata| metadata.len() > LARGE);
        if is_large {
            self.add(at, &stripped(program)?);
        } else {
            self.add(at, program);
        }
        // Fails for a program that is linked statically, which needs nothing.
        let ldd = Command::new("ldd").arg(program).output().context("start ldd")?;
        let listing = String::from_utf8_lossy(&ldd.stdout);
        for library in libraries(&listing).with_context(|| program.display().to_string())? {
            self.add(library, Path::new(library));
        }
        Ok(())
    }

    /// Adds a file as `at`.
    pub fn add(&mut self, at: &str, from: &Path) {
        self.files.insert(merged(at), from.to_path_buf());
    }

    /// Writes the initramfs: these files, the modules, and the command that init is to run.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or the archive not be written.
    pub fn write(&self, to: &Path, modules: &[Module], command: &[&str]) -> Result<()> {
        let out = File::create(to).with_context(|| format!("create {}", to.display()))?;
        let mut archive = Writer::new(BufWriter::new(out));
        for directory in DIRECTORIES {
            archive.directory(directory)?;
        }
        for (path, target) in LINKS {
            archive.link(path, target)?;
        }
        for (at, from) in &self.files {
            let content = fs::read(from).with_context(|| format!("read {}", from.display()))?;
            archive.file(at, true, &content)?;
        }
        // In the order in which init is to load them.
        for (number, (name, content)) in modules.iter().enumerate() {
            archive.file(&format!("/modules/{number:02}-{name}"), false, content)?;
        }
        archive.file("/command", false, command.join("\0").as_bytes())?;
        archive.finish()?;
        Ok(())
    }
}

/// A copy of a program without its debug information, of which tests have a hundred megabytes each:
/// more than a guest's root has room for.
fn stripped(program: &Path) -> Result<PathBuf> {
    let directory = place::target("vm/stripped");
    fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    let name = program.file_name().with_context(|| program.display().to_string())?;
    // By way of another name: another run may be at it.
    let fresh = tempfile::NamedTempFile::new_in(&directory)?.into_temp_path();
    let status = Command::new("strip")
        .args(["--strip-debug", "-o"])
        .args([fresh.as_os_str(), program.as_os_str()])
        .status()
        .context("start strip (package binutils)")?;
    anyhow::ensure!(status.success(), "strip {}: {status}", program.display());
    let copy = directory.join(name);
    fresh.persist(&copy).with_context(|| copy.display().to_string())?;
    Ok(copy)
}

/// A path in the merged layout: what is below `/lib` is below `/usr/lib`.
fn merged(path: &str) -> String {
    let below = |dir: &str| path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'));
    if ["/bin", "/sbin", "/lib", "/lib64"].into_iter().any(below) {
        format!("/usr{path}")
    } else {
        path.to_owned()
    }
}

/// The libraries' paths in what ldd(1) prints.
fn libraries(listing: &str) -> Result<Vec<&str>> {
    let mut libraries = Vec::new();
    for line in listing.lines() {
        if let Some((name, _)) = line.split_once("=> not found") {
            anyhow::bail!("needs the library {}, which is not installed", name.trim());
        }
        let words = line.split_whitespace();
        libraries.extend(words.filter(|word| word.starts_with('/') && !word.ends_with(':')));
    }
    Ok(libraries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_libraries_and_the_loader_but_not_what_the_kernel_maps() {
        let listing = "\tlinux-vdso.so.1 (0x00007ffd)\n\
            \tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f3e)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f3f)\n";
        assert_eq!(
            libraries(listing).unwrap(),
            ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"]
        );
    }

    #[test]
    fn names_a_library_that_is_not_installed() {
        let error = libraries("\tlibfoo.so.2 => not found\n").unwrap_err();
        assert_eq!(error.to_string(), "needs the library libfoo.so.2, which is not installed");
    }

    #[test]
    fn one_layout_for_every_path_of_a_library() {
        assert_eq!(merged("/lib/x/libc.so.6"), "/usr/lib/x/libc.so.6");
        assert_eq!(merged("/lib64/ld.so"), "/usr/lib64/ld.so");
        assert_eq!(merged("/library/x"), "/library/x");
        assert_eq!(merged("/usr/lib/x"), "/usr/lib/x");
    }
}
