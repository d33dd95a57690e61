//! A private view of one Debian suite: nothing of the machine's own apt is touched, and no root is
//! needed. The mirror is the one the machine uses itself.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A suite whose package lists have been fetched.
#[derive(Clone)]
pub struct Suite {
    config: PathBuf,
}

/// A Debian package version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(String);

impl Version {
    /// By dpkg's own rules.
    pub fn newer_than(&self, other: &Self) -> bool {
        let compare = Command::new("dpkg")
            .args(["--compare-versions", self.0.as_str(), "gt", other.0.as_str()])
            .status();
        compare.is_ok_and(|status| status.success())
    }
}

impl Suite {
    /// Fetches the lists of a suite, once per build folder.
    pub fn open(name: &str) -> Result<Self> {
        let root = std::path::absolute(Path::new("target/vm/apt").join(name))
            .context("resolving the apt folder")?;
        for folder in ["lists/partial", "cache/archives/partial", "sourceparts"] {
            fs::create_dir_all(root.join(folder)).context("creating an apt folder")?;
        }
        let mirror = mirror(name.ends_with("-security"))?;
        let source = format!("deb [signed-by={KEYRING}] {mirror} {name} main\n");
        fs::write(root.join("sources.list"), source).context("writing sources.list")?;
        fs::write(root.join("status"), "").context("writing an empty dpkg status")?;
        let config = root.join("apt.conf");
        fs::write(&config, settings(&root)).context("writing apt.conf")?;
        let suite = Self { config };
        let fetched = root.join("fetched");
        if !fetched.exists() {
            suite.run("apt-get", &["update", "-qq"], &root)?;
            fs::write(fetched, "").context("noting that the lists are here")?;
        }
        Ok(suite)
    }

    /// Every package of the suite with its version.
    pub fn packages(&self) -> Result<Vec<(String, Version)>> {
        let all = self.run("apt-cache", &["dumpavail"], Path::new("."))?;
        let mut package = "";
        let mut found = Vec::new();
        for line in all.lines() {
            if let Some(name) = line.strip_prefix("Package: ") {
                package = name;
            } else if let Some(version) = line.strip_prefix("Version: ") {
                found.push((package.to_owned(), Version(version.to_owned())));
            }
        }
        Ok(found)
    }

    /// Downloads packages in one version and unpacks them into `directory`.
    pub fn download(&self, names: &[String], version: &Version, directory: &Path) -> Result<()> {
        let wanted: Vec<String> =
            names.iter().map(|name| format!("{name}={}", version.0)).collect();
        let mut args = vec!["download", "-qq"];
        args.extend(wanted.iter().map(String::as_str));
        self.run("apt-get", &args, directory)?;
        for entry in fs::read_dir(directory).context("listing the downloads")?.flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                let unpack = Command::new("dpkg").arg("-x").arg(&path).arg(directory).status();
                if !unpack.context("running dpkg")?.success() {
                    bail!("{} cannot be unpacked", path.display());
                }
                fs::remove_file(&path).context("removing an unpacked package")?;
            }
        }
        Ok(())
    }

    fn run(&self, program: &str, args: &[&str], directory: &Path) -> Result<String> {
        let output = Command::new(program)
            .args(args)
            .env("APT_CONFIG", &self.config)
            .current_dir(directory)
            .output()
            .with_context(|| format!("running {program}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("{program} {}: {}", args.join(" "), said.lines().next().unwrap_or_default());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn settings(root: &Path) -> String {
    let root = root.display();
    format!(
        "Dir::Etc::sourcelist \"{root}/sources.list\";\n\
         Dir::Etc::sourceparts \"{root}/sourceparts\";\n\
         Dir::State::lists \"{root}/lists\";\n\
         Dir::State::status \"{root}/status\";\n\
         Dir::Cache \"{root}/cache\";\n\
         APT::Architecture \"amd64\";\n\
         APT::Architectures {{ \"amd64\"; }};\n\
         APT::Sandbox::User \"root\";\n\
         Acquire::Languages \"none\";\n"
    )
}

/// The machine's own mirror, of the archive or of the security archive.
fn mirror(security: bool) -> Result<String> {
    let mut uris = Vec::new();
    for file in ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"] {
        uris.extend(uris_in(&fs::read_to_string(file).unwrap_or_default()));
    }
    let is_security = |uri: &&String| uri.contains("security");
    let found = match security {
        true => uris.iter().find(is_security).or(uris.last()),
        false => uris.iter().find(|uri| !is_security(uri)),
    };
    found.cloned().context("no Debian mirror in /etc/apt: virtual machines need Debian's kernels")
}

/// Mirrors named in either format of apt's sources.
fn uris_in(text: &str) -> Vec<String> {
    let deb822 = text.lines().filter_map(|line| line.strip_prefix("URIs:"));
    let one_line = text.lines().filter(|line| line.starts_with("deb "));
    let words = deb822.chain(one_line).flat_map(str::split_whitespace);
    words.filter(|word| word.contains("://")).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_formats_of_sources() {
        assert_eq!(uris_in("Types: deb\nURIs: http://a/debian\n# http://c\n"), ["http://a/debian"]);
        assert_eq!(uris_in("deb [signed-by=/k] http://b/debian sid main\n"), ["http://b/debian"]);
    }
}
