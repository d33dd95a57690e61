//! Whose configuration a file is, and what it is if it is nobody's, so that the error can say so.

use std::path::Path;

use anyhow::{Result, bail};
use memchr::memmem;

use super::{finding::Format, haproxy};

/// Bytes that are looked at.
const HEAD: usize = 64 << 10;

/// Whose configuration this is, by its name and by what it begins with.
///
/// # Errors
///
/// When it is something that no rule can be applied to: with what it looks like.
pub fn guess(path: &Path, bytes: &[u8]) -> Result<Format> {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(HEAD)]);
    let text = text.trim_start_matches('\u{feff}');
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let first = first_word(text);
    let looks_like =
        |what: &str| format!("looks like {what}; --format takes it for something else");
    if let Some(what) = foreign(path, text, &first) {
        bail!(looks_like(what));
    }
    Ok(match extension.as_str() {
        "yaml" | "yml" | "json" => Format::Envoy,
        _ if haproxy::begins(&first) => Format::Haproxy,
        _ if first.ends_with(':') || first.starts_with("---") || first.starts_with(['{', '[']) => {
            Format::Envoy
        }
        "cfg" => Format::Haproxy,
        _ => Format::Nginx,
    })
}

/// The first word that is no comment; `nginx -T` prints words of its own in front.
fn first_word(text: &str) -> String {
    let is_said =
        |line: &&str| !line.is_empty() && !line.starts_with('#') && !line.starts_with("nginx: ");
    let first = text.lines().map(str::trim).find(is_said);
    first.and_then(|line| line.split_whitespace().next()).unwrap_or_default().to_owned()
}

/// A file that is no proxy's configuration, by marks that none of them has.
fn foreign(path: &Path, text: &str, first: &str) -> Option<&'static str> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let has_line = |start: &str| text.lines().any(|line| line.trim_start().starts_with(start));
    if text.contains('\0') {
        Some("a binary file")
    } else if text.starts_with("#!") {
        Some("a script")
    } else if first.starts_with("<?xml")
        || first.eq_ignore_ascii_case("<!doctype")
        || first == "<html>"
    {
        Some("XML or HTML")
    } else if name.starts_with("dockerfile") || (first == "FROM" && has_line("RUN ")) {
        Some("a Dockerfile")
    } else if name == "caddyfile" || has_line("reverse_proxy ") {
        Some("a Caddyfile")
    } else if ["<VirtualHost", "<IfModule", "<Proxy", "ProxyPass ", "LoadModule "]
        .iter()
        .any(|mark| has_line(mark))
    {
        Some("Apache's configuration")
    } else if first.starts_with('[') && first.ends_with(']') && !first.contains([',', '{', '"']) {
        Some("an INI or TOML file, as of systemd or Traefik")
    } else {
        None
    }
}

/// The template language a text is written in, as the end of an error. Proxies read none of them.
pub fn template(text: &str) -> Option<&'static str> {
    let has = |mark: &str| memmem::find(text.as_bytes(), mark.as_bytes()).is_some();
    let starts = |mark: &str| text.lines().any(|line| line.trim_start().starts_with(mark));
    let go =
        ["{{ .", "{{.", "{{- ", "{{ $", "{{$", "{{ range ", "{{ if ", "{{ end ", "{{ template "];
    if starts("{%") || has("{%-") || (has("{% ") && has(" %}")) {
        Some("it looks like a Jinja2 template: render it first")
    } else if has("}}") && go.iter().any(|mark| has(mark)) {
        Some("it looks like a Go template, as of Helm or consul-template: render it first")
    } else if starts("<%") || (has("<%=") && has("%>")) {
        Some("it looks like an ERB or EPP template: render it first")
    } else if has("{{ ") && has(" }}") {
        Some("it looks like a Jinja2 or Mustache template: render it first")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_guessed_by_name_and_first_word() {
        for (path, text, format) in [
            ("nginx.conf", "# x\nuser www;", Format::Nginx),
            ("site", "upstream a {", Format::Nginx),
            ("stdin", "nginx: the configuration\n# configuration file /a:\n", Format::Nginx),
            ("haproxy.cfg", "\n global\n  daemon", Format::Haproxy),
            ("lb.conf", "resolvers dns\n", Format::Haproxy),
            ("lb.conf", "userlist admins\n", Format::Haproxy),
            ("lb.conf", ".if defined(X)\nglobal\n.endif\n", Format::Haproxy),
            ("edge.yaml", "", Format::Envoy),
            ("stdin", "static_resources:\n", Format::Envoy),
            ("stdin", "{\"a\": 1}", Format::Envoy),
        ] {
            assert_eq!(guess(Path::new(path), text.as_bytes()).unwrap(), format, "{path}: {text}");
        }
    }

    #[test]
    fn another_kind_of_file_is_refused_by_its_name() {
        for (path, text, word) in [
            ("a.conf", "<VirtualHost *:80>\nProxyPass / http://a/\n</VirtualHost>", "Apache"),
            ("Caddyfile", "example.com {\n reverse_proxy a:80\n}", "Caddyfile"),
            ("Dockerfile", "FROM nginx", "Dockerfile"),
            ("start.sh", "#!/bin/sh\nnginx", "script"),
            ("x.service", "[Unit]\nDescription=x", "INI"),
        ] {
            let error = guess(Path::new(path), text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn templates_are_recognised_and_configurations_are_not_taken_for_one() {
        for (text, word) in [
            ("upstream a {\n{% for s in servers %}\n server {{ s }};\n{% endfor %}\n}", "Jinja2"),
            ("upstream a { server {{ host }}:80; }", "Jinja2"),
            ("upstream a {\n{{- range .Servers }}\n server {{ .Addr }};\n{{- end }}\n}", "Go"),
            ("upstream a {\n<% @servers.each do |s| %>\n server <%= s %>;\n<% end %>\n}", "ERB"),
        ] {
            assert!(template(text).is_some_and(|kind| kind.contains(word)), "{text}");
        }
        for text in [
            "log_format j '{\"a\":{\"b\":\"$status\"}}';",
            "location ~ ^/[0-9]{2}{3}$ { }",
            "log-format \"%{+Q}o %ci\"",
        ] {
            assert_eq!(template(text), None, "{text}");
        }
    }
}
