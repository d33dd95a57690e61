//! The subjects of messages. The last token is the name of a host, or what a verdict is about, in an
//! encoding under which no two names share a token: NATS permissions on a subject then bind a user to
//! one name.

use anyhow::{Result, ensure};

use super::message::VERSION;

/// The longest name of a host, in bytes (RFC 1035, section 2.3.4).
const MAX_HOST_NAME: usize = 253;
/// A token of a verdict's subject is cut off here: it serves to filter, and names need not be short.
const MAX_TOKEN: usize = 256;

/// Checks the name of a host.
///
/// # Errors
///
/// When it is empty, too long or holds another character than letters, digits, `-`, `_` and `.`.
pub fn check_host_name(name: &str) -> Result<()> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    ensure!(
        (1..=MAX_HOST_NAME).contains(&name.len()) && name.chars().all(is_plain),
        "{name:?} is not a valid host name: use 1 to {MAX_HOST_NAME} letters, digits, '-', '_' \
         and '.'"
    );
    Ok(())
}

/// Where a host publishes.
pub(super) fn of_host(name: &str) -> String {
    format!("{}{}", prefix("host"), token(name))
}

/// Where a verdict on `upstream` is published.
pub(super) fn of_verdict(upstream: &str) -> String {
    let mut token = token(upstream);
    token.truncate(MAX_TOKEN);
    // A subject must not have an empty token.
    let token = if token.is_empty() { "_" } else { &token };
    format!("{}{token}", prefix("verdict"))
}

/// All subjects of a kind.
pub(super) fn all(kind: &str) -> String {
    format!("{}>", prefix(kind))
}

/// The inbox of `name`: one of its own, so that no other user needs to be able to read it.
pub(super) fn inbox(name: &str) -> String {
    format!("_INBOX.{}", token(name))
}

/// The host that a subject names.
pub(super) fn host_of(subject: &str) -> Option<String> {
    let token = subject.strip_prefix(&prefix("host"))?;
    let name = decoded(token)?;
    // Of several ways to write a name, one counts.
    (check_host_name(&name).is_ok() && self::token(&name) == token).then_some(name)
}

fn prefix(kind: &str) -> String {
    format!("floodmark.v{VERSION}.{kind}.")
}

/// One token: letters, digits, `-` and `_` stand for themselves, every other byte is `%` and two
/// hexadecimal digits.
fn token(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'-' | b'_' => char::from(byte).to_string(),
        byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

fn decoded(token: &str) -> Option<String> {
    let mut parts = token.split('%');
    let mut name = parts.next()?.to_owned();
    for part in parts {
        let (code, rest) = part.split_at_checked(2)?;
        name.push(char::from(u8::from_str_radix(code, 16).ok()?));
        name.push_str(rest);
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_has_one_token_for_whatever_it_is_about() {
        assert_eq!(of_host("web-1.example"), "floodmark.v1.host.web-1%2Eexample");
        assert_eq!(of_verdict("[fd00::1]:80"), "floodmark.v1.verdict.%5Bfd00%3A%3A1%5D%3A80");
        assert_eq!(of_verdict("a b>*.\n"), "floodmark.v1.verdict.a%20b%3E%2A%2E%0A");
        assert_eq!(of_verdict(""), "floodmark.v1.verdict._");
        assert!(of_verdict(&"x".repeat(100_000)).len() < 300);
        assert_eq!(all("host"), "floodmark.v1.host.>");
    }

    #[test]
    fn a_subject_names_one_host() {
        for name in ["web1", "web-1.example", "a_b", "a.b", &"x".repeat(MAX_HOST_NAME)] {
            assert_eq!(host_of(&of_host(name)).as_deref(), Some(name));
        }
        for subject in [
            "floodmark.v1.host.",
            "floodmark.v1.host.a.b",
            "floodmark.v1.host.a%2eb",
            "floodmark.v1.host.%61",
            "floodmark.v1.host.a%0Ab",
            "floodmark.v1.host.a%",
            "floodmark.v1.host.a%2",
            "floodmark.v1.host.a%+1",
            "floodmark.v1.host.a%€",
            "floodmark.v1.host.\u{fffd}",
            "floodmark.v1.verdict.a",
            "floodmark.v2.host.a",
            "host",
            &of_host(&"x".repeat(MAX_HOST_NAME + 1)),
        ] {
            assert_eq!(host_of(subject), None, "{subject}");
        }
    }

    #[test]
    fn names_of_hosts_are_plain() {
        for name in ["", "a b", "a>b", "a*", "a\n", "a\u{202e}b", "ä", &"x".repeat(254)] {
            assert!(check_host_name(name).is_err(), "{name:?}");
        }
    }
}
