//! The signature of SHA256SUMS, by OpenSSH: whoever installs on Linux has `ssh-keygen` already, and a key
//! of OpenSSH may live in an agent or on a hardware token.

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use super::SUMS;

/// Whom `allowed_signers` names (ssh-keygen(1)).
const SIGNER: &str = "releases@floodmark";
/// What a signature is for; one for another purpose does not verify.
const NAMESPACE: &str = "file";
/// Beside the sums, as `ssh-keygen -Y sign` names it.
const SIGNATURE: &str = "SHA256SUMS.sig";
/// Beside the sums: who may sign, for `ssh-keygen -Y verify`.
const SIGNERS: &str = "allowed_signers";

/// Signs the sums in `directory` with the private key, or the public key of one that an agent holds.
/// Beside the signature, writes whose it is, and verifies it.
///
/// # Errors
///
/// When ssh-keygen fails, or the key's public half is not beside it.
pub fn sign(directory: &Path, key: &Path) -> Result<()> {
    let _ = fs::remove_file(directory.join(SIGNATURE));
    keygen(
        Command::new("ssh-keygen")
            .args(["-Y", "sign", "-n", NAMESPACE, "-f"])
            .arg(key)
            .arg(directory.join(SUMS)),
    )?;
    let public = match key.extension() {
        Some(extension) if extension == "pub" => key.to_owned(),
        _ => format!("{}.pub", key.display()).into(),
    };
    let text = fs::read_to_string(&public).with_context(|| format!("read {}", public.display()))?;
    let line = format!("{SIGNER} namespaces=\"{NAMESPACE}\" {}\n", text.trim());
    fs::write(directory.join(SIGNERS), line).context("write the signers")?;
    verify(directory)
}

/// Verifies the sums' signature in `directory`, as docs/install.md says.
///
/// # Errors
///
/// When it is not that of a signer there.
pub fn verify(directory: &Path) -> Result<()> {
    let sums = File::open(directory.join(SUMS)).context("open the sums")?;
    let mut verify = Command::new("ssh-keygen");
    verify
        .args(["-Y", "verify", "-n", NAMESPACE, "-I", SIGNER, "-f", SIGNERS, "-s", SIGNATURE])
        .current_dir(directory)
        .stdin(sums);
    keygen(&mut verify)
}

/// Signs a copy of the sums in `directory` with a key made for the purpose, and has a changed byte and
/// another's key found.
///
/// # Errors
///
/// When that goes otherwise than it should.
pub fn check(directory: &Path) -> Result<()> {
    let work = tempfile::tempdir().context("make a directory")?;
    let sums = fs::read(directory.join(SUMS)).context("read the sums")?;
    let (own, other) = (work.path().join("own"), work.path().join("other"));
    for key in [&own, &other] {
        let mut generate = Command::new("ssh-keygen");
        generate.args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"]).arg(key);
        keygen(&mut generate)?;
    }
    let at = work.path().join("signed");
    fs::create_dir(&at)?;
    fs::write(at.join(SUMS), &sums)?;
    sign(&at, &own)?;
    let mut changed = sums.clone();
    *changed.first_mut().context("there are no sums")? ^= 1;
    fs::write(at.join(SUMS), changed)?;
    ensure!(verify(&at).is_err(), "a changed byte of {SUMS} was not found");
    fs::write(at.join(SUMS), &sums)?;
    let signers = fs::read(at.join(SIGNERS))?;
    sign(&at, &other)?;
    fs::write(at.join(SIGNERS), signers)?;
    ensure!(verify(&at).is_err(), "another's signature of {SUMS} was taken");
    println!("signed {SUMS} with a test key: verified; a changed byte and another's key are found");
    Ok(())
}

fn keygen(command: &mut Command) -> Result<()> {
    if command.get_current_dir().is_none() {
        command.stdin(Stdio::null());
    }
    let output = command.output().context("start ssh-keygen, of Debian's openssh-client")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ssh-keygen: {}", said.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_verified_and_a_forged_one_found() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(SUMS), "0000  floodmark\n").unwrap();
        check(directory.path()).unwrap();
    }
}
