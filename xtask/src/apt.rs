//! Private views of Debian's archive: other suites than this machine's own, without touching this
//! machine's package state and without root.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{place, step};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// An apt that sees only certain suites, and no package as installed.
pub struct Archive {
    dir: PathBuf,
}

impl Archive {
    /// Sets the view `name` of `suites` up and fetches its index.
    ///
    /// # Errors
    ///
    /// When this machine's own mirror is unknown or does not answer.
    pub fn open(name: &str, suites: &[&str]) -> Result<Self> {
        let archive = Self { dir: place::target("apt").join(name) };
        archive.configure(suites)?;
        step::must(
            &format!("read Debian's index for {name}"),
            &format!("the Debian mirror of this machine must carry {}", suites.join(", ")),
            archive.apt("apt-get").args(["update", "-q"]),
        )?;
        Ok(archive)
    }

    /// What the suites offer, as `apt-cache dumpavail` prints it.
    ///
    /// # Errors
    ///
    /// When apt cannot be started.
    pub fn available(&self) -> Result<String> {
        let output = self.apt("apt-cache").arg("dumpavail").output().context("start apt-cache")?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Fetches `packages` (`name` or `name=version`) and unpacks them below `to`.
    ///
    /// # Errors
    ///
    /// When the mirror fails.
    pub fn unpack(&self, title: &str, packages: &[String], to: &Path) -> Result<()> {
        let mut download = self.apt("apt-get");
        download.args(["download", "-q"]).args(packages);
        self.fetch_and_unpack(title, &mut download, to, to)
    }

    /// As [`unpack`](Self::unpack), with everything the packages depend on, the C library included.
    ///
    /// # Errors
    ///
    /// When the mirror fails.
    pub fn unpack_whole(&self, title: &str, packages: &[&str], to: &Path) -> Result<()> {
        let mut download = self.apt("apt-get");
        download.args(["install", "-q", "-y", "--download-only", "--no-install-recommends"]);
        download.args(packages);
        self.fetch_and_unpack(title, &mut download, &self.dir.join("cache/archives"), to)
    }

    /// Runs `download`, which leaves packages in `from`, and unpacks those.
    fn fetch_and_unpack(
        &self,
        title: &str,
        download: &mut Command,
        from: &Path,
        to: &Path,
    ) -> Result<()> {
        fs::create_dir_all(to).with_context(|| format!("create {}", to.display()))?;
        step::must(
            &format!("fetch {title}"),
            "try again: the mirror may have moved on to a newer version",
            download.current_dir(to),
        )?;
        step::must(
            &format!("unpack {title}"),
            "is the disk full?",
            Command::new("sh")
                .args([
                    "-ec",
                    "for deb in *.deb; do dpkg-deb -x \"$deb\" \"$1\"; rm \"$deb\"; done",
                ])
                .arg("sh")
                .arg(to)
                .current_dir(from),
        )?;
        Ok(())
    }

    fn apt(&self, program: &str) -> Command {
        let mut apt = Command::new(program);
        apt.env("APT_CONFIG", self.dir.join("apt.conf")).env("LC_ALL", "C");
        apt
    }

    fn configure(&self, suites: &[&str]) -> Result<()> {
        let mirrors = Mirrors::of_this_machine()?;
        let sources: String = suites
            .iter()
            .map(|suite| format!("deb [signed-by={KEYRING}] {} {suite} main\n", mirrors.of(suite)))
            .collect();
        for below in ["lists/partial", "cache/archives/partial", "parts"] {
            let dir = self.dir.join(below);
            fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        }
        let dir = self.dir.display();
        let settings = format!(
            "Dir::Etc::sourcelist \"{dir}/sources.list\";\n\
             Dir::Etc::sourceparts \"{dir}/parts\";\n\
             Dir::State::lists \"{dir}/lists\";\n\
             Dir::State::status \"{dir}/status\";\n\
             Dir::Cache \"{dir}/cache\";\n\
             APT::Architecture \"amd64\";\n\
             APT::Architectures {{ \"amd64\"; }};\n\
             APT::Sandbox::User \"root\";\n\
             Acquire::Languages \"none\";\n\
             Debug::NoLocking \"true\";\n"
        );
        for (name, content) in
            [("sources.list", &*sources), ("status", ""), ("apt.conf", &*settings)]
        {
            let file = self.dir.join(name);
            fs::write(&file, content).with_context(|| format!("write {}", file.display()))?;
        }
        Ok(())
    }
}

/// Where this machine gets Debian from.
#[derive(Debug, PartialEq, Eq)]
struct Mirrors {
    main: String,
    security: String,
}

impl Mirrors {
    fn of_this_machine() -> Result<Self> {
        let uris = Command::new("apt-get")
            .args(["indextargets", "--format", "$(REPO_URI)"])
            .output()
            .context("virtual machines take their kernels from Debian's archive, by apt-get")?;
        let uris = String::from_utf8_lossy(&uris.stdout);
        match Self::among(&uris) {
            Some(mirrors) => Ok(mirrors),
            None => bail!("this machine's apt sources name no Debian mirror"),
        }
    }

    /// A mirror's address ends with the archive's name.
    fn among(uris: &str) -> Option<Self> {
        let ending = |name: &str| {
            let mut uris = uris.lines().map(|uri| uri.trim_end_matches('/'));
            uris.find(|uri| uri.ends_with(name)).map(str::to_owned)
        };
        let main = ending("/debian")?;
        let security = ending("/debian-security").unwrap_or_else(|| format!("{main}-security"));
        Some(Self { main, security })
    }

    fn of(&self, suite: &str) -> &str {
        if suite.ends_with("-security") { &self.security } else { &self.main }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_both_archives_among_others() {
        let uris = "http://other.example/apt/\nhttp://mirror.example/debian-security/\n\
                    http://mirror.example/debian/\nhttp://mirror.example/debian/\n";
        let mirrors = Mirrors::among(uris).unwrap();
        assert_eq!(mirrors.of("trixie"), "http://mirror.example/debian");
        assert_eq!(mirrors.of("trixie-security"), "http://mirror.example/debian-security");
        assert_eq!(Mirrors::among("http://other.example/apt/"), None);
    }
}
