//! Where proxies' lines are read from: files, syslog, standard input; and what they are wrapped in.

mod carrier;
mod file;
mod following;
mod framing;
mod interpreter;
mod positions;
mod standard_input;
mod stats;
mod syslog;
mod udp_drops;

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::{Context, Result, bail};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{dialect::Dialect, event::ProxyEvent};

pub use carrier::Unwrapper;
pub use file::Follower;
pub use following::Following;
pub use framing::Frames;
pub use interpreter::Interpreter;
pub use positions::Positions;
pub use stats::SourceStats;

/// A line longer than this is given up; also what is held of one whose end has not come.
pub const LONGEST_LINE: usize = 64 * 1024;

/// A source as the user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file, followed through rotation.
    File(Dialect, PathBuf),
    /// Standard input, to its end.
    StandardInput(Dialect),
    /// Datagrams, one message each.
    SyslogUdp(SocketAddr),
    /// Connections, messages framed as RFC 6587 has it.
    SyslogTcp(SocketAddr),
    /// Datagrams to a Unix socket.
    SyslogUnix(PathBuf),
}

impl Source {
    /// Reads `DIALECT=PATH`, and `DIALECT=-` for standard input.
    ///
    /// # Errors
    ///
    /// When it is none of these.
    pub fn of_log(text: &str) -> Result<Self> {
        let (dialect, path) = text.split_once('=').context("write it as DIALECT=PATH")?;
        let dialect = dialect.parse().map_err(anyhow::Error::msg)?;
        Ok(match path {
            "" => bail!("the path is missing"),
            "-" => Self::StandardInput(dialect),
            path => Self::File(dialect, path.into()),
        })
    }

    /// Reads `udp://ADDR:PORT`, `tcp://ADDR:PORT` or `unix:///PATH`.
    ///
    /// # Errors
    ///
    /// When it is none of these.
    pub fn of_syslog(text: &str) -> Result<Self> {
        const FORMS: &str = "write it as udp://ADDR:PORT, tcp://ADDR:PORT or unix:///PATH";
        let (scheme, rest) = text.split_once("://").context(FORMS)?;
        let addr = || rest.parse().with_context(|| format!("{rest} is no ADDR:PORT"));
        Ok(match scheme {
            "udp" => Self::SyslogUdp(addr()?),
            "tcp" => Self::SyslogTcp(addr()?),
            "unix" if rest.starts_with('/') => Self::SyslogUnix(rest.into()),
            _ => bail!(FORMS),
        })
    }

    /// Its name in metrics and events.
    pub fn name(&self) -> String {
        match self {
            Self::File(_, path) => path.display().to_string(),
            Self::StandardInput(_) => "stdin".to_owned(),
            Self::SyslogUdp(addr) => format!("syslog udp {addr}"),
            Self::SyslogTcp(addr) => format!("syslog tcp {addr}"),
            Self::SyslogUnix(path) => format!("syslog unix {}", path.display()),
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
    ) -> Result<Arc<SourceStats>> {
        let reader = |dialect| Interpreter::new(dialect, self.name());
        match self {
            Self::File(dialect, path) => {
                let follower = Follower::new(path, reader(Some(*dialect)), positions);
                let stats = follower.stats();
                follower.spawn(events, stop)?;
                Ok(stats)
            }
            Self::StandardInput(dialect) => {
                standard_input::start(reader(Some(*dialect)), events, stop)
            }
            Self::SyslogUdp(addr) => syslog::udp(*addr, reader(None), events, stop),
            Self::SyslogTcp(addr) => syslog::tcp(*addr, reader(None), events, stop),
            Self::SyslogUnix(path) => syslog::unix(path, reader(None), events, stop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_has_a_dialect_and_a_path() {
        let file = Source::of_log("haproxy=/var/log/haproxy.log").unwrap();
        assert_eq!(file, Source::File(Dialect::Haproxy, "/var/log/haproxy.log".into()));
        assert_eq!(Source::of_log("nginx=-").unwrap(), Source::StandardInput(Dialect::Nginx));
        for wrong in ["", "nginx", "nginx=", "apache=/x"] {
            assert!(Source::of_log(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn syslog_has_a_transport_and_an_address() {
        let udp = Source::of_syslog("udp://127.0.0.1:5140").unwrap();
        assert_eq!(udp, Source::SyslogUdp("127.0.0.1:5140".parse().unwrap()));
        let unix = Source::of_syslog("unix:///run/x.sock").unwrap();
        assert_eq!(unix, Source::SyslogUnix("/run/x.sock".into()));
        for wrong in ["", "127.0.0.1:514", "udp://localhost", "unix://relative", "http://1.1.1.1:1"]
        {
            assert!(Source::of_syslog(wrong).is_err(), "{wrong}");
        }
    }
}
