//! Kernels unpacked below `target/vm/kernels`, one directory per release.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::{packages, series::Series, version};
use crate::{apt::Archive, place, step};

/// A kernel ready to boot.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// What `uname -r` says.
    pub release: String,
    /// The compressed image.
    pub image: PathBuf,
    /// The directory with `modules.dep`, which its paths start from.
    pub modules: PathBuf,
}

impl Kernel {
    /// Debian has put the image into `/boot`, and since 6.19 beside the modules; those into `/lib`,
    /// later `/usr/lib`.
    fn in_directory(dir: &Path, release: &str) -> Result<Self> {
        let existing = |candidates: [PathBuf; 2], what: &str| {
            let found = candidates.into_iter().find(|path| path.exists());
            found.with_context(|| format!("no {what} in {}; remove it", dir.display()))
        };
        let below = ["lib", "usr/lib"].map(|lib| dir.join(lib).join("modules").join(release));
        let modules = existing(below, "modules")?;
        let images = [dir.join("boot").join(format!("vmlinuz-{release}")), modules.join("vmlinuz")];
        let image = existing(images, "kernel image")?;
        Ok(Self { release: release.to_owned(), image, modules })
    }
}

/// The newest kernel of `series` that was fetched already.
///
/// # Errors
///
/// When the directory of kernels is unreadable or one in it is broken.
pub fn cached(series: &Series) -> Result<Option<Kernel>> {
    let kernels = kernels();
    if !kernels.exists() {
        return Ok(None);
    }
    let entries = fs::read_dir(&kernels).with_context(|| format!("read {}", kernels.display()))?;
    let newest = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|release| packages::is_of(release, series.name))
        .filter(|release| release.ends_with(packages::FLAVOUR))
        .max_by(|a, b| version::compare(a, b));
    newest.map(|release| Kernel::in_directory(&kernels.join(&release), &release)).transpose()
}

/// The kernel of `series`: the one fetched already, unless `refresh` asks for the newest.
///
/// # Errors
///
/// When the archive does not offer one or the machine cannot unpack it.
pub fn of_series(series: &'static Series, refresh: bool) -> Result<Kernel> {
    if let Some(kernel) = cached(series)?.filter(|_| !refresh) {
        return Ok(kernel);
    }
    let lock = lock(series)?;
    // Another process may have fetched it while this one waited.
    let kernel = match cached(series)? {
        Some(kernel) if !refresh => Ok(kernel),
        _ => fetch(series).with_context(|| format!("fetch a kernel {}", series.name)),
    };
    drop(lock);
    kernel
}

/// Keeps other processes from fetching the same series until the file returned is closed.
fn lock(series: &Series) -> Result<File> {
    let path = place::target("vm").join(format!("{}.lock", series.name));
    fs::create_dir_all(place::target("vm")).context("create target/vm")?;
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    file.lock().with_context(|| format!("lock {}", path.display()))?;
    Ok(file)
}

fn fetch(series: &'static Series) -> Result<Kernel> {
    let archive = Archive::open(&format!("kernel {}", series.name), series.suites)?;
    let offer = packages::newest(&archive.available()?, series.name).with_context(|| {
        format!("no cloud kernel {} in {}", series.name, series.suites.join(", "))
    })?;
    let dir = kernels().join(&offer.release);
    if !dir.exists() {
        // Under another name until it is whole, so that an interruption leaves no half kernel.
        let unfinished = kernels().join(format!("{}.unfinished", offer.release));
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?;
        }
        archive.unpack(
            &format!("kernel {}", offer.release),
            &offer.named_with_version(),
            &unfinished,
        )?;
        index_modules(&unfinished, &offer.release)?;
        fs::rename(&unfinished, &dir).with_context(|| format!("create {}", dir.display()))?;
    }
    Kernel::in_directory(&dir, &offer.release)
}

/// Debian's packages leave `modules.dep` to be made at installation.
fn index_modules(dir: &Path, release: &str) -> Result<()> {
    // depmod looks below /lib alone.
    if !dir.join("lib").exists() {
        std::os::unix::fs::symlink("usr/lib", dir.join("lib"))?;
    }
    let depmod = place::program("depmod").context("install Debian's kmod")?;
    step::must(
        &format!("index modules of {release}"),
        "the kernel's packages may have changed their layout",
        Command::new(depmod).arg("-b").arg(dir).arg(release),
    )?;
    Ok(())
}

fn kernels() -> PathBuf {
    place::target("vm/kernels")
}
