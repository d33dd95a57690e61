//! A real NATS server with JetStream, that lets in only who has a certificate and a secret, and that
//! can be killed and comes back with what it had.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use floodmark::across::BusConfig;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// Debian's.
pub const NATS_SERVER: &str = "/usr/sbin/nats-server";
/// How long a program may take to listen.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whom a server lets in, and what those show.
pub struct Door {
    /// The part of the server's configuration.
    pub rules: String,
    /// What a client's file of credentials holds.
    pub secret: String,
}

impl Default for Door {
    fn default() -> Self {
        let rules = r#"authorization { users: [ { user: agent, password: "to the lab" } ] }"#;
        Self { rules: rules.to_owned(), secret: "agent:to the lab\n".to_owned() }
    }
}

/// The server.
pub struct Bus {
    /// Where it listens.
    pub addr: SocketAddr,
    directory: PathBuf,
    server: Option<Child>,
}

impl Bus {
    /// One that keeps its streams and certificates in `directory`; not started yet.
    pub fn new(directory: &Path, door: &Door) -> Result<Self> {
        let bus = Self { addr: free_port()?, directory: directory.join("nats"), server: None };
        fs::create_dir_all(&bus.directory).context("making a folder for NATS")?;
        bus.make_certificates()?;
        fs::write(bus.file("secret"), &door.secret)?;
        let [authority, certificate, key, streams] =
            ["ca.pem", "server.pem", "server.key", "streams"].map(|name| bus.file(name));
        let configuration = format!(
            "listen: \"{}\"
jetstream {{ store_dir: {streams:?} }}
tls {{ ca_file: {authority:?}, cert_file: {certificate:?}, key_file: {key:?}, verify: true }}
{}
",
            bus.addr, door.rules
        );
        fs::write(bus.file("nats.conf"), configuration)?;
        Ok(bus)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// An authority, and what it signs for the server and a client.
    fn make_certificates(&self) -> Result<()> {
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
        fs::write(self.file("ca.pem"), authority.pem())?;
        for name in ["server", "client"] {
            let key = KeyPair::generate()?;
            let names = CertificateParams::new(vec![self.addr.ip().to_string()])?;
            let certificate = names.signed_by(&key, &authority)?;
            fs::write(self.file(&format!("{name}.pem")), certificate.pem())?;
            fs::write(self.file(&format!("{name}.key")), key.serialize_pem())?;
        }
        Ok(())
    }

    /// How to get in.
    pub fn access(&self) -> BusConfig {
        BusConfig {
            servers: format!("tls://{}", self.addr),
            credentials: Some(self.file("secret")),
            authorities: Some(self.file("ca.pem")),
            certificate: Some((self.file("client.pem"), self.file("client.key"))),
        }
    }

    /// The same as a program's options.
    pub fn options(&self) -> Vec<String> {
        let shown = |name: &str| self.file(name).display().to_string();
        let mut options = vec!["--nats".to_owned(), format!("tls://{}", self.addr)];
        for (option, file) in [
            ("--nats-credentials", "secret"),
            ("--nats-ca", "ca.pem"),
            ("--nats-certificate", "client.pem"),
            ("--nats-key", "client.key"),
        ] {
            options.extend([option.to_owned(), shown(file)]);
        }
        options
    }

    /// Starts it and waits until it listens.
    pub fn start(&mut self) -> Result<()> {
        let server = Command::new(NATS_SERVER)
            .arg("--config")
            .arg(self.file("nats.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(self.file("nats.log"))?)
            .spawn()
            .context("starting nats-server (package nats-server)")?;
        self.server = Some(server);
        let listening = listens(self.addr);
        listening.with_context(|| fs::read_to_string(self.file("nats.log")).unwrap_or_default())
    }

    /// Kills it as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut server) = self.server.take() {
            server.kill().context("killing nats-server")?;
            server.wait()?;
        }
        Ok(())
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// A port that nobody has.
pub fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0").context("finding a port")?.local_addr()?)
}

/// Waits until somebody listens.
pub fn listens(addr: SocketAddr) -> Result<()> {
    let begun = Instant::now();
    while TcpStream::connect(addr).is_err() {
        if begun.elapsed() > PATIENCE {
            bail!("nobody listens at {addr}");
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
