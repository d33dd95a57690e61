//! What a source's lines may be: whose, and in syslog, called what.

use std::sync::Arc;

use super::envelope::Tag;
use crate::proxy::dialect::{Dialect, haproxy::LogFormat};

/// A tag of nginx's is no longer (`ngx_syslog_parse_args`).
const LONGEST_NGINX_TAG: usize = 32;

/// The format of a source's lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Format {
    /// None where each line's own looks decide.
    pub dialect: Option<Dialect>,
    /// The name by which the proxy calls itself in syslog, where it is none of its usual ones.
    pub tag: Option<String>,
    /// Formats of HAProxy's traffic logs besides its own.
    pub log_formats: Arc<[LogFormat]>,
}

impl From<Dialect> for Format {
    fn from(dialect: Dialect) -> Self {
        Some(dialect).into()
    }
}

impl From<Option<Dialect>> for Format {
    fn from(dialect: Option<Dialect>) -> Self {
        Self { dialect, ..Self::default() }
    }
}

impl std::str::FromStr for Format {
    type Err = String;

    /// Reads `DIALECT` or `DIALECT:TAG`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (dialect, tag) = match text.split_once(':') {
            Some((_, "")) => return Err("the tag is missing".to_owned()),
            Some((dialect, tag)) => (dialect, Some(tag.to_owned())),
            None => (text, None),
        };
        Ok(Self { dialect: Some(dialect.parse()?), tag, ..Self::default() })
    }
}

impl Format {
    /// Those that a line may be written in.
    pub(super) fn dialects(&self) -> impl Iterator<Item = Dialect> {
        let only = self.dialect;
        Dialect::ALL.into_iter().filter(move |dialect| only.is_none_or(|only| only == *dialect))
    }

    /// Whether a line may be written in that one.
    pub(super) fn may_be(&self, dialect: Dialect) -> bool {
        self.dialect.is_none_or(|only| only == dialect)
    }

    /// Whether a line in `dialect` may come from the program that syslog names. sshd, for one, writes
    /// words of whoever knocks.
    pub(super) fn fits(&self, dialect: Dialect, tag: &Tag) -> bool {
        if let Some(own) = &self.tag {
            return *own == tag.name;
        }
        let names: &[&str] = match dialect {
            Dialect::Nginx => &[
                "nginx",
                "openresty",
                "tengine",
                "angie",
                "apisix",
                "kong",
                "ingress-nginx-controller",
            ],
            Dialect::Haproxy => &["haproxy", "haproxy-ingress"],
            Dialect::Envoy => &["envoy", "istio-proxy"],
            Dialect::Caddy => &["caddy"],
            Dialect::Apache => &["apache2", "httpd", "apache"],
            Dialect::Traefik => &["traefik"],
        };
        names.contains(&tag.name.as_str()) || (dialect == Dialect::Nginx && is_nginx_tag(tag))
    }
}

/// Whether it looks like one that `error_log syslog:…,tag=NAME` sets: nginx takes letters, digits and
/// underscores, and puts no process's number behind it (`ngx_syslog_add_header`). Programs that call
/// syslog(3) mostly do.
fn is_nginx_tag(tag: &Tag) -> bool {
    const OTHERS: &[&str] = &["kernel", "sudo", "su", "systemd", "login", "cron", "CRON"];
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !tag.has_pid
        && tag.name.len() <= LONGEST_NGINX_TAG
        && tag.name.bytes().all(is_word)
        && !OTHERS.contains(&tag.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(name: &str, has_pid: bool) -> Tag {
        Tag { name: name.to_owned(), has_pid }
    }

    #[test]
    fn a_program_fits_its_own_format() {
        let any = Format::default();
        for (dialect, name, has_pid) in [
            (Dialect::Haproxy, "haproxy", true),
            (Dialect::Nginx, "nginx", true),
            (Dialect::Nginx, "nginx", false),
            (Dialect::Nginx, "edge1", false),
            (Dialect::Nginx, "ingress-nginx-controller", true),
            (Dialect::Caddy, "caddy", true),
        ] {
            assert!(any.fits(dialect, &tag(name, has_pid)), "{name}");
        }
        for (dialect, name, has_pid) in [
            (Dialect::Haproxy, "sshd", true),
            (Dialect::Haproxy, "edge1", false),
            (Dialect::Haproxy, "haproxyd", true),
            (Dialect::Nginx, "sshd", true),
            (Dialect::Nginx, "haproxy", true),
            (Dialect::Nginx, "php-fpm", false),
            (Dialect::Nginx, "sudo", false),
            (Dialect::Envoy, "sshd", true),
        ] {
            assert!(!any.fits(dialect, &tag(name, has_pid)), "{name}");
        }
    }

    #[test]
    fn a_format_may_name_the_tag() {
        let format: Format = "haproxy:lb1".parse().unwrap();
        assert!(format.fits(Dialect::Haproxy, &tag("lb1", true)));
        assert!(!format.fits(Dialect::Haproxy, &tag("haproxy", true)));
        assert_eq!("nginx".parse::<Format>().unwrap(), Dialect::Nginx.into());
        for wrong in ["", "iis", "nginx:", ":x"] {
            assert!(wrong.parse::<Format>().is_err(), "{wrong}");
        }
    }
}
