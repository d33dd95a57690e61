//! The container image: the program and nothing else, as an OCI archive, made without a container engine.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};

use super::{Source, must};
use crate::place;

/// umoci lays a root file system down in an image. Every date in it is the commit's; nothing in it
/// names a user: who may do what is the manifest's to say.
const STEPS: &str = r#"
when=$(date --utc --date="@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)
image=layout:$VERSION
history="--history.created=$when --history.author=floodmark"
umoci init --layout layout
umoci new --image "$image"
umoci unpack --rootless --image "$image" bundle
install -D --mode=0755 "$PROGRAM" bundle/rootfs/usr/bin/floodmark
mkdir -p bundle/rootfs/etc/floodmark bundle/rootfs/run/floodmark bundle/rootfs/var/lib/floodmark
find bundle/rootfs -exec touch --no-dereference --date="$when" {} +
umoci repack --image "$image" $history --history.created_by='static program' bundle
umoci config --image "$image" $history --history.created_by='configuration' \
    --created="$when" --architecture=amd64 --os=linux \
    --config.entrypoint=/usr/bin/floodmark --config.cmd=run \
    --config.label=org.opencontainers.image.title=floodmark \
    --config.label=org.opencontainers.image.version="$VERSION" \
    --config.label=org.opencontainers.image.licenses='MIT OR Apache-2.0'
umoci gc --layout layout
tar --create --file="$ARCHIVE" --sort=name --mtime="$when" --owner=0 --group=0 --numeric-owner \
    --directory=layout .
"#;

/// Writes the image into `out`.
///
/// # Errors
///
/// When umoci or tar fails.
pub fn write(program: &Path, source: &Source, out: &Path) -> Result<()> {
    let work = place::target("dist/image");
    if work.exists() {
        fs::remove_dir_all(&work).with_context(|| format!("remove {}", work.display()))?;
    }
    fs::create_dir_all(&work).with_context(|| format!("create {}", work.display()))?;
    let version = env!("CARGO_PKG_VERSION");
    let mut steps = Command::new("sh");
    steps
        .args(["-euc", STEPS])
        .current_dir(&work)
        .env("SOURCE_DATE_EPOCH", &source.epoch)
        .env("PROGRAM", program)
        .env("VERSION", version)
        .env("ARCHIVE", out.join(format!("floodmark-{version}-amd64.oci.tar")));
    must("dist: container image", &mut steps)
}
