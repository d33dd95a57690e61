//! An image with nothing but a static busybox in it, made here and fetched from nowhere.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// What it is called.
pub const NAME: &str = "docker.io/floodmark/busybox:latest";

/// The image as `docker save` would write it, and room for whoever runs it.
pub struct Image {
    directory: TempDir,
}

impl Image {
    /// Makes it. `None`, with the reason printed, where `engine` or a static busybox is not here.
    pub fn make(engine: &str) -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        if !std::env::split_paths(&path).any(|directory| directory.join(engine).exists()) {
            println!("skipped: {engine} is not here");
            return None;
        }
        let busybox = Path::new("/bin/busybox");
        if !busybox.exists() {
            println!("skipped: /bin/busybox (package busybox-static) is not here");
            return None;
        }
        // A short path, since sockets lie below it.
        let directory = tempfile::Builder::new().prefix("fm").tempdir_in("/tmp").unwrap();
        let image = Self { directory };
        let bin = image.at("layer/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::copy(busybox, bin.join("busybox")).unwrap();
        for name in ["httpd", "sleep"] {
            std::os::unix::fs::symlink("busybox", bin.join(name)).unwrap();
        }
        image.tar("layer", "layer.tar", &["."]);
        let sum = Command::new("sha256sum").arg(image.at("layer.tar")).output().unwrap();
        let sum = String::from_utf8(sum.stdout).unwrap();
        let configuration = serde_json::json!({
            "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" },
            "os": "linux",
            // What a pod's own, pausing container runs.
            "config": {"Cmd": ["/bin/sleep", "600"]},
            "rootfs": {
                "type": "layers",
                "diff_ids": [format!("sha256:{}", sum.split(' ').next().unwrap())],
            },
        });
        let manifest = serde_json::json!([
            {"Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"]}
        ]);
        fs::write(image.at("config.json"), configuration.to_string()).unwrap();
        fs::write(image.at("manifest.json"), manifest.to_string()).unwrap();
        image.tar(".", "image.tar", &["manifest.json", "config.json", "layer.tar"]);
        Some(image)
    }

    fn tar(&self, below: &str, archive: &str, what: &[&str]) {
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(self.at(below)).arg("-cf").arg(self.at(archive)).args(what);
        assert!(tar.status().unwrap().success());
    }

    pub fn archive(&self) -> PathBuf {
        self.at("image.tar")
    }

    /// A path in a directory that goes with the value.
    pub fn at(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }
}
