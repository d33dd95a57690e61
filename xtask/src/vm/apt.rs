//! A private view of Debian's archive for one kernel series: other suites than this machine's own,
//! without touching this machine's package state and without root.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{
    packages::{self, Offer},
    series::Series,
};
use crate::{place, step};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// An apt that sees only the suites of one series.
pub struct Archive {
    series: &'static Series,
    dir: PathBuf,
}

impl Archive {
    /// Sets the view up and fetches its index.
    ///
    /// # Errors
    ///
    /// When this machine's own mirror is unknown or does not answer.
    pub fn open(series: &'static Series) -> Result<Self> {
        let dir = place::target("vm/apt").join(series.name);
        let archive = Self { series, dir };
        archive.configure()?;
        step::must(
            &format!("look for kernels {}", series.name),
            "the Debian mirror of this machine's own apt sources must carry the series' suites",
            archive.apt("apt-get").args(["update", "-q"]),
        )?;
        Ok(archive)
    }

    /// The newest kernel of the series.
    ///
    /// # Errors
    ///
    /// When the suites carry none.
    pub fn newest(&self) -> Result<Offer> {
        let available = self.apt("apt-cache").arg("dumpavail").output()?;
        packages::newest(&String::from_utf8_lossy(&available.stdout), self.series.name)
            .with_context(|| {
                let suites = self.series.suites.join(", ");
                format!("no cloud kernel {} in {suites}", self.series.name)
            })
    }

    /// Fetches the kernel's packages into `to` and unpacks them there.
    ///
    /// # Errors
    ///
    /// When the mirror fails.
    pub fn unpack(&self, offer: &Offer, to: &Path) -> Result<()> {
        let wanted = offer.packages.iter().map(|name| format!("{name}={}", offer.version));
        step::must(
            &format!("fetch kernel {}", offer.release),
            "try again with --refresh: the mirror may have moved on to a newer one",
            self.apt("apt-get").args(["download", "-q"]).args(wanted).current_dir(to),
        )?;
        step::must(
            &format!("unpack kernel {}", offer.release),
            "is the disk full?",
            Command::new("sh")
                .args(["-ec", "for deb in *.deb; do dpkg-deb -x $deb .; rm $deb; done"])
                .current_dir(to),
        )?;
        Ok(())
    }

    fn apt(&self, program: &str) -> Command {
        let mut apt = Command::new(program);
        apt.env("APT_CONFIG", self.dir.join("apt.conf")).env("LC_ALL", "C");
        apt
    }

    fn configure(&self) -> Result<()> {
        let mirrors = Mirrors::of_this_machine()?;
        let sources: String = self
            .series
            .suites
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
             Acquire::Languages \"none\";\n"
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
