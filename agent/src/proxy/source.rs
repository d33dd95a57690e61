//! Where proxies' lines are read from: files, syslog, standard input; and what they are wrapped in.

mod dating;
mod envelope;
mod file;
mod following;
mod format;
mod framing;
mod interpreter;
mod pace;
mod positions;
mod standard_input;
mod stats;
mod syslog;
mod udp_drops;
mod writers;

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::{Context, Result, bail};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{LogFormat, event::ProxyEvent};

pub use dating::OLDEST;
pub use file::Follower;
pub use following::{Following, Opening};
pub use format::Format;
pub use framing::Frames;
pub use interpreter::Interpreter;
pub use positions::Positions;
pub use stats::SourceStats;
use writers::Scope;

/// A line longer than this is given up; also what is held of one whose end has not come.
pub const LONGEST_LINE: usize = 64 * 1024;

/// A source as the user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file, followed through rotation.
    File(Format, PathBuf),
    /// Standard input, to its end.
    StandardInput(Format),
    /// Datagrams, one message each.
    SyslogUdp(Format, SocketAddr),
    /// Connections, messages framed as RFC 6587 has it.
    SyslogTcp(Format, SocketAddr),
    /// Datagrams to a Unix socket.
    SyslogUnix(Format, PathBuf),
}

impl Source {
    /// Reads `DIALECT=PATH` or `DIALECT:TAG=PATH`; the path `-` is standard input.
    ///
    /// # Errors
    ///
    /// When it is none of these.
    pub fn of_log(text: &str) -> Result<Self> {
        let (format, path) = text.split_once('=').context("write it as DIALECT=PATH")?;
        let format = format.parse().map_err(anyhow::Error::msg)?;
        Ok(match path {
            "" => bail!("the path is missing"),
            "-" => Self::StandardInput(format),
            path => Self::File(format, path.into()),
        })
    }

    /// Reads `udp://ADDR:PORT`, `tcp://ADDR:PORT` or `unix:///PATH`; before it, `DIALECT=` or
    /// `DIALECT:TAG=`.
    ///
    /// # Errors
    ///
    /// When it is none of these.
    pub fn of_syslog(text: &str) -> Result<Self> {
        const FORMS: &str = "write it as udp://ADDR:PORT, tcp://ADDR:PORT or unix:///PATH, with \
                             put DIALECT= in front to accept only one format";
        let (scheme, rest) = text.split_once("://").context(FORMS)?;
        let (format, scheme) = match scheme.split_once('=') {
            Some((format, scheme)) => (format.parse().map_err(anyhow::Error::msg)?, scheme),
            None => (Format::default(), scheme),
        };
        let addr = || rest.parse().with_context(|| format!("{rest} is not ADDR:PORT"));
        Ok(match scheme {
            "udp" => Self::SyslogUdp(format, addr()?),
            "tcp" => Self::SyslogTcp(format, addr()?),
            "unix" if rest.starts_with('/') => Self::SyslogUnix(format, rest.into()),
            _ => bail!(FORMS),
        })
    }

    /// Has it read HAProxy's traffic logs in these formats as well.
    pub fn with_log_formats(mut self, log_formats: &Arc<[LogFormat]>) -> Self {
        let (Self::File(format, _)
        | Self::StandardInput(format)
        | Self::SyslogUdp(format, _)
        | Self::SyslogTcp(format, _)
        | Self::SyslogUnix(format, _)) = &mut self;
        format.log_formats = Arc::clone(log_formats);
        self
    }

    /// Its name in metrics and events.
    pub fn name(&self) -> String {
        match self {
            Self::File(_, path) => path.display().to_string(),
            Self::StandardInput(_) => "stdin".to_owned(),
            Self::SyslogUdp(_, addr) => format!("syslog udp {addr}"),
            Self::SyslogTcp(_, addr) => format!("syslog tcp {addr}"),
            Self::SyslogUnix(_, path) => format!("syslog unix {}", path.display()),
        }
    }

    /// Whose lines it may bring.
    fn scope(&self) -> Scope {
        match self {
            Self::File(_, path) => Scope::of_file(path),
            Self::StandardInput(_) => Scope::Input,
            Self::SyslogUnix(..) => Scope::Host,
            Self::SyslogUdp(_, addr) | Self::SyslogTcp(_, addr) if addr.ip().is_loopback() => {
                Scope::Host
            }
            Self::SyslogUdp(..) | Self::SyslogTcp(..) => Scope::Unknown,
        }
    }

    /// Starts reading, until `stop` is cancelled or nobody listens any more. Whoever reads waits while
    /// `events` is full: lines then wait in the file, the pipe or the connection; datagrams wait in
    /// the socket's buffer, and what the kernel drops of them is counted.
    ///
    /// Syslog is read by tasks of the Tokio runtime that this is called in.
    ///
    /// # Errors
    ///
    /// When a socket cannot be bound or a thread not started. A file that is not there, or may not be
    /// read, is waited for.
    pub fn start(
        &self,
        events: mpsc::Sender<ProxyEvent>,
        stop: CancellationToken,
        positions: Option<Arc<Positions>>,
        opening: Opening,
    ) -> Result<Arc<SourceStats>> {
        let reader = |format: &Format| {
            Interpreter::new(format.clone(), self.name()).written_by(self.scope())
        };
        match self {
            Self::File(format, path) => {
                let reader = reader(format);
                let stats = Arc::clone(reader.stats());
                Follower::spawn(path.clone(), reader, positions, opening, events, stop)?;
                Ok(stats)
            }
            Self::StandardInput(format) => standard_input::start(reader(format), events, stop),
            Self::SyslogUdp(format, addr) => syslog::udp(*addr, reader(format), events, stop),
            Self::SyslogTcp(format, addr) => syslog::tcp(*addr, reader(format), events, stop),
            Self::SyslogUnix(format, path) => syslog::unix(path, reader(format), events, stop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::dialect::Dialect;

    #[test]
    fn a_log_has_a_dialect_and_a_path() {
        let file = Source::of_log("haproxy=/var/log/haproxy.log").unwrap();
        assert_eq!(file, Source::File(Dialect::Haproxy.into(), "/var/log/haproxy.log".into()));
        assert_eq!(
            Source::of_log("nginx=-").unwrap(),
            Source::StandardInput(Dialect::Nginx.into())
        );
        for wrong in ["", "nginx", "nginx=", "iis=/x"] {
            assert!(Source::of_log(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn syslog_has_a_transport_and_an_address() {
        let udp = Source::of_syslog("udp://127.0.0.1:5140").unwrap();
        assert_eq!(udp, Source::SyslogUdp(Format::default(), "127.0.0.1:5140".parse().unwrap()));
        let unix = Source::of_syslog("unix:///run/x.sock").unwrap();
        assert_eq!(unix, Source::SyslogUnix(Format::default(), "/run/x.sock".into()));
        let bound = Source::of_syslog("haproxy:lb1=tcp://[::1]:514").unwrap();
        let format = Format { tag: Some("lb1".to_owned()), ..Dialect::Haproxy.into() };
        assert_eq!(bound, Source::SyslogTcp(format, "[::1]:514".parse().unwrap()));
        for wrong in [
            "",
            "iis=udp://127.0.0.1:514",
            "=udp://127.0.0.1:514",
            "127.0.0.1:514",
            "udp://localhost",
            "unix://relative",
            "http://1.1.1.1:1",
        ] {
            assert!(Source::of_syslog(wrong).is_err(), "{wrong}");
        }
    }
}
