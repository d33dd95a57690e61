//! The kernels: one line each.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, anyhow, bail};

use super::apt::{Suite, Version};
use crate::step;

/// A kernel series, and the Debian suites its newest packages are in.
pub struct Series {
    /// "6.12"
    pub series: &'static str,
    suites: &'static [&'static str],
}

/// Every kernel that is tested on. Add one by adding a line.
pub const TABLE: &[Series] = &[
    Series { series: "5.10", suites: &["bullseye-security"] },
    Series { series: "6.1", suites: &["bookworm", "bookworm-security"] },
    Series { series: "6.12", suites: &["trixie", "trixie-security"] },
    Series { series: "6.18", suites: &["trixie-backports"] },
    Series { series: "7.2", suites: &["trixie-backports"] },
    Series { series: "7.3", suites: &["experimental"] },
];

/// The kernels used where none is named.
pub const DEFAULT: [&str; 2] = ["6.1", "6.12"];

/// A kernel unpacked on this machine.
pub struct Kernel {
    /// "6.12.117+deb13-cloud-amd64"
    pub release: String,
    /// The bootable image.
    pub image: PathBuf,
    /// The folder with `modules.dep`.
    pub modules: PathBuf,
}

/// The series named, all of them for `all`.
pub fn select(names: &[String]) -> Result<Vec<&'static str>> {
    if names.iter().any(|name| name == "all") {
        return Ok(TABLE.iter().map(|kernel| kernel.series).collect());
    }
    let find = |name: &String| {
        let known = TABLE.iter().map(|kernel| kernel.series).find(|series| series == name);
        known.ok_or_else(|| anyhow!("no kernel {name} in the table; see cargo xtask vm --list"))
    };
    names.iter().map(find).collect()
}

/// Downloads and unpacks the newest kernel of a series, once.
pub fn fetch(series: &str) -> Result<Kernel> {
    let directory = Path::new("target/vm/kernels").join(series);
    if !directory.join("complete").exists() {
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).context("creating a folder for the kernel")?;
        let spinner = step::start(&format!("fetching kernel {series}"));
        let unpacked = unpack(series, &directory);
        spinner.finish_and_clear();
        unpacked.with_context(|| format!("fetching kernel {series}"))?;
        fs::write(directory.join("complete"), "").context("noting that it is complete")?;
    }
    locate(&directory)
}

fn unpack(series: &str, directory: &Path) -> Result<()> {
    let row = TABLE.iter().find(|row| row.series == series).context("no such kernel")?;
    let mut best: Option<(Suite, String, Version)> = None;
    for name in row.suites {
        let suite = Suite::open(name)?;
        for (package, version) in suite.packages()? {
            let newer = || best.as_ref().is_none_or(|(_, _, best)| version.newer_than(best));
            if is_cloud_image(&package, series) && newer() {
                best = Some((suite.clone(), package, version));
            }
        }
    }
    let (suite, image, version) =
        best.ok_or_else(|| anyhow!("no cloud kernel {series} in {}", row.suites.join(", ")))?;
    let release = image.trim_start_matches("linux-image-").to_owned();
    let split = format!("linux-binary-{release}");
    // From 6.19 on linux-image is an empty package that depends on its parts.
    let parts = if suite.packages()?.iter().any(|(package, _)| *package == split) {
        vec![split, format!("linux-modules-{release}"), format!("linux-base-{release}")]
    } else {
        vec![image]
    };
    suite.download(&parts, &version, directory)?;
    let lib = directory.join("lib");
    if !lib.exists() {
        std::os::unix::fs::symlink("usr/lib", &lib).context("linking lib to usr/lib")?;
    }
    let depmod = Command::new("depmod").arg("-b").arg(directory).arg(&release).output();
    depmod.context("running depmod (package kmod)")?;
    Ok(())
}

/// `linux-image-6.12.117+deb13-cloud-amd64`: of the series, for the cloud, and not the
/// metapackage `linux-image-6.12-cloud-amd64`, nor one with debug symbols or unsigned.
fn is_cloud_image(package: &str, series: &str) -> bool {
    let Some(rest) = package.strip_prefix("linux-image-").and_then(|rest| rest.strip_prefix(series))
    else {
        return false;
    };
    rest.starts_with(['.', '-', '+']) && rest.ends_with("-cloud-amd64") && rest != "-cloud-amd64"
}

fn locate(directory: &Path) -> Result<Kernel> {
    let image = find(directory, "vmlinuz").context("no kernel image in the packages")?;
    let dep = find(directory, "modules.dep").context("no modules.dep: is kmod installed?")?;
    let modules = dep.parent().context("modules.dep without a folder")?.to_owned();
    let release = modules.file_name().and_then(|name| name.to_str());
    let Some(release) = release else { bail!("{} has no name", modules.display()) };
    Ok(Kernel { release: release.to_owned(), image, modules: modules.clone() })
}

/// The first file below `directory` whose name begins with `name`.
fn find(directory: &Path, name: &str) -> Option<PathBuf> {
    let mut folders = vec![directory.to_owned()];
    while let Some(folder) = folders.pop() {
        let mut entries: Vec<PathBuf> =
            fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).collect();
        entries.sort();
        for path in entries {
            if path.is_symlink() {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().and_then(|n| n.to_str()).is_some_and(|n| {
                n == name || n.strip_prefix(name).is_some_and(|rest| rest.starts_with('-'))
            }) {
                return Some(path);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_a_cloud_image_from_its_relatives() {
        for (package, series, is) in [
            ("linux-image-6.12.117+deb13-cloud-amd64", "6.12", true),
            ("linux-image-6.1.0-56-cloud-amd64", "6.1", true),
            ("linux-image-7.3-rc7-cloud-amd64", "7.3", true),
            ("linux-image-6.12.117+deb13-cloud-amd64", "6.1", false),
            ("linux-image-6.1-cloud-amd64", "6.1", false),
            ("linux-image-6.1.0-56-cloud-amd64-dbg", "6.1", false),
            ("linux-image-6.1.0-56-amd64", "6.1", false),
        ] {
            assert_eq!(is_cloud_image(package, series), is, "{package}");
        }
    }

    #[test]
    fn selects_by_name() {
        assert_eq!(select(&["6.1".to_owned()]).unwrap(), ["6.1"]);
        assert_eq!(select(&["all".to_owned()]).unwrap().len(), TABLE.len());
        assert!(select(&["2.6".to_owned()]).is_err());
    }
}
