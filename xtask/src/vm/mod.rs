//! Virtual machines: real Debian kernels under QEMU's software emulation, booted from an initramfs
//! that holds the programs under test and nothing else.

mod apt;
mod cpio;
mod kernels;
mod modules;
mod payload;
mod qemu;

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::{Result, bail};
use clap::Args;
pub use kernels::DEFAULT;
pub use payload::Payload;
pub use qemu::Outcome;

use crate::{build, setup};

/// Arguments of `cargo xtask vm`.
#[derive(Args)]
pub struct VmArgs {
    /// Kernel series, separated by commas, or `all`
    #[arg(long, value_delimiter = ',', default_values = kernels::DEFAULT)]
    kernel: Vec<String>,
    /// List the kernels there are
    #[arg(long)]
    list: bool,
    /// Command to run in each; `floodmark doctor` where none is given
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Boots each kernel asked for and runs the command in it; fails where one of them fails.
pub fn vm(args: &VmArgs) -> Result<ExitCode> {
    if args.list {
        kernels::TABLE.iter().for_each(|kernel| println!("{}", kernel.series));
        return Ok(ExitCode::SUCCESS);
    }
    prepare()?;
    let payload = Payload::standard(&build::agent(true)?, &build::lab(true)?)?;
    let default = ["floodmark", "doctor"].map(str::to_owned);
    let command = if args.command.is_empty() { &default[..] } else { &args.command };
    let mut failed = Vec::new();
    for series in kernels::select(&args.kernel)? {
        let outcome = boot(series, &payload, command, Duration::from_secs(900))?;
        println!("== {} ==\n{}", outcome.release, outcome.stdout);
        if !outcome.passed {
            eprintln!("{series}: {}", outcome.explain());
            failed.push(series);
        }
    }
    if !failed.is_empty() {
        bail!("failed on {}", failed.join(", "));
    }
    Ok(ExitCode::SUCCESS)
}

/// Installs what virtual machines need.
pub fn prepare() -> Result<()> {
    setup::build_tools()?;
    setup::virtual_machines()
}

/// Boots one kernel with `payload`, runs `command` in it, and waits for its end.
pub fn boot(
    series: &str,
    payload: &Payload,
    command: &[String],
    timeout: Duration,
) -> Result<Outcome> {
    let kernel = kernels::fetch(series)?;
    let directory = Path::new("target/vm/run").join(format!("{series}-{}", std::process::id()));
    let initramfs = payload.initramfs(&kernel, command, &directory)?;
    qemu::run(&kernel, &initramfs, &directory, timeout)
}
