//! Where things lie in the repository and below `target/`.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The repository's root.
pub fn workspace() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// A path below the repository's `target/`: tools, logs and kernels stay there whatever
/// `CARGO_TARGET_DIR` says, because the agent's build script looks for its linker there.
pub fn target(below: &str) -> PathBuf {
    workspace().join("target").join(below)
}

/// Programs that `cargo xtask setup` put below `target/`.
pub fn tools() -> PathBuf {
    target("tools/bin")
}

/// Finds `program` on the PATH or where Debian keeps administrators' programs, which are not on
/// every user's PATH.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into(), tools()])
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// The PATH for programs that need the project's own tools, too.
pub fn path_with_tools() -> anyhow::Result<std::ffi::OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain([tools(), "/usr/sbin".into()]);
    Ok(env::join_paths(dirs)?)
}
