//! What a user of a NATS server is known by, as a file holds it.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use async_nats::ConnectOptions;

use crate::untrusted_file;

/// More than any credentials are long.
const LARGEST: u64 = 64 << 10;

/// What a file may hold.
#[derive(Debug, PartialEq, Eq)]
enum Secret<'a> {
    /// A JWT and the seed that goes with it, as `nsc` writes them.
    Credentials(&'a str),
    /// The seed of a user's key.
    Seed(&'a str),
    Password(&'a str, &'a str),
    Token(&'a str),
}

/// Has a connection show what `file` holds.
///
/// # Errors
///
/// When it cannot be read or holds nothing of the kind.
pub(super) fn give(options: ConnectOptions, file: &Path) -> Result<ConnectOptions> {
    let text = untrusted_file::read_to_string(file, LARGEST)?;
    Ok(match Secret::of(&text)? {
        // async-nats does not see a block whose last line does not end.
        Secret::Credentials(text) => options
            .credentials(&format!("{text}\n"))
            .context("not a credentials file with a JWT and a seed")?,
        Secret::Seed(seed) => options.nkey(seed.to_owned()),
        Secret::Password(user, password) => {
            options.user_and_password(user.to_owned(), password.to_owned())
        }
        Secret::Token(token) => options.token(token.to_owned()),
    })
}

impl<'a> Secret<'a> {
    fn of(text: &'a str) -> Result<Self> {
        let text = text.trim();
        if text.contains("-----BEGIN ") {
            return Ok(Self::Credentials(text));
        }
        ensure!(
            !text.is_empty() && !text.contains('\n'),
            "contains neither a JWT and its seed nor one line with a seed, USER:PASSWORD or a \
             token"
        );
        Ok(match text.split_once(':') {
            Some((user, password)) => Self::Password(user, password),
            None if is_seed(text) => Self::Seed(text),
            None => Self::Token(text),
        })
    }
}

/// Whether it has the shape of a user's seed: 36 bytes in base 32, of which the first say what it is
/// (nats-io/nkeys: `EncodeSeed`).
fn is_seed(text: &str) -> bool {
    let is_base_32 = |c: u8| c.is_ascii_uppercase() || (b'2'..=b'7').contains(&c);
    text.len() == 58 && text.starts_with("SU") && text.bytes().all(is_base_32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_known_by_its_shape() {
        const SEED: &str = "SUANQDPB2RUOE4ETUA26CNX7FUKE5ZZKFCQIIW63OX225F2CO7UEXTM7ZY";
        let creds = format!("-----BEGIN NATS USER JWT-----\ne30.e30.x\n{SEED}\n");
        assert_eq!(Secret::of(&creds).unwrap(), Secret::Credentials(creds.trim()));
        assert_eq!(Secret::of(&format!("{SEED}\n")).unwrap(), Secret::Seed(SEED));
        assert_eq!(Secret::of("agent:a:b\n").unwrap(), Secret::Password("agent", "a:b"));
        assert_eq!(Secret::of("s3cret").unwrap(), Secret::Token("s3cret"));
        for nothing in ["", "\n", "a\nb"] {
            assert!(Secret::of(nothing).is_err(), "{nothing:?}");
        }
    }
}
