use std::fs;

use super::*;

/// `htpasswd -nbBC 4 prometheus secret`
const HASH: &str = "$2b$04$9NL/Wgdoqr6cffMtJFJjzOXjrs5z1tkm7gGZBMdkmqUbAsurJ6eLO";

struct Directory(tempfile::TempDir);

impl Directory {
    fn new() -> Self {
        let directory = Self(tempfile::tempdir().unwrap());
        for name in ["a", "b"] {
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            directory.write(&format!("{name}.crt"), &made.cert.pem());
            directory.write(&format!("{name}.key"), &made.signing_key.serialize_pem());
        }
        directory
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).unwrap();
    }

    fn read(&self, text: &str) -> Result<WebConfig> {
        self.write("web.yml", text);
        WebConfig::read(&self.0.path().join("web.yml"))
    }

    fn refusal(&self, text: &str) -> String {
        let said = format!("{:#}", self.read(text).unwrap_err());
        said.replace(&format!("{}/", self.0.path().display()), "")
    }
}

#[test]
fn reads_what_exporters_read() {
    let directory = Directory::new();
    assert!(!directory.read("").unwrap().is_tls());
    let text = format!(
        "tls_server_config:\n  cert_file: a.crt\n  key_file: a.key\n  min_version: TLS13\n\
         http_server_config:\n  http2: true\nbasic_auth_users:\n  prometheus: {HASH}\n"
    );
    let config = directory.read(&text).unwrap();
    assert!(config.is_tls());
    assert_eq!(config.users["prometheus"], HASH);
    let mutual = "tls_server_config:\n  cert_file: a.crt\n  key_file: a.key\n  \
                  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: b.crt\n";
    assert!(directory.read(mutual).unwrap().is_tls());
}

#[test]
fn says_in_one_line_what_is_wrong() {
    let directory = Directory::new();
    let tls = |rest: &str| directory.refusal(&format!("tls_server_config:\n{rest}"));
    let cases = [
        (directory.refusal("tls_config: {}\n"), "web.yml:1: unknown field `tls_config`"),
        (directory.refusal("\nbasic_auth_users:\n  - a\n"), "web.yml:3: "),
        (
            directory.refusal("basic_auth_users:\n  me: secret\n"),
            "the password of me is no bcrypt hash",
        ),
        (tls("  cert_file: a.crt\n"), "missing field `key_file`"),
        (tls("  cert_file: a.crt\n  key_file: b.key\n"), "key_file does not match cert_file"),
        (tls("  cert_file: no.crt\n  key_file: a.key\n"), "cert_file no.crt: "),
        (tls("  cert_file: a.key\n  key_file: a.key\n"), "cert_file a.key contains no certificate"),
        (tls("  cert_file: a.crt\n  key_file: a.key\n  min_version: TLS10\n"), "TLS10"),
        (
            tls("  cert_file: a.crt\n  key_file: a.key\n  min_version: TLS13\n  max_version: \
                 TLS12\n"),
            "min_version is above max_version",
        ),
        (
            tls("  cert_file: a.crt\n  key_file: a.key\n  client_auth_type: \
                 RequireAndVerifyClientCert\n"),
            "client_ca_file is missing",
        ),
    ];
    for (said, expected) in cases {
        assert!(said.contains(expected) && !said.contains('\n'), "{expected}: {said}");
    }
}

#[test]
fn a_reload_neither_begins_nor_ends_tls() {
    let directory = Directory::new();
    let of =
        |name: &str| format!("tls_server_config: {{cert_file: {name}.crt, key_file: {name}.key}}");
    let web = Web::new(directory.read(&of("a")).unwrap(), Vec::new());
    let before = web.tls.as_ref().unwrap().get();
    web.change(directory.read(&of("b")).unwrap()).unwrap();
    assert!(!Arc::ptr_eq(&before, &web.tls.as_ref().unwrap().get()), "another certificate");
    assert!(web.change(WebConfig::default()).unwrap_err().to_string().contains("takes a restart"));
}
