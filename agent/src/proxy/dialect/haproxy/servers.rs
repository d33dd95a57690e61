//! Addresses of HAProxy's servers, by name: the answer to `show servers state` on its command socket
//! (management guide, 9.3), or a file that holds one (`server-state-file`).

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::SocketAddr,
    os::unix::{fs::FileTypeExt, net::UnixStream},
    path::Path,
    time::Duration,
};

use crate::untrusted_file;

/// An answer is read no further.
const LONGEST_ANSWER: u64 = 8 << 20;
const PATIENCE: Duration = Duration::from_secs(2);

/// The address of each server, by backend and name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Servers(BTreeMap<(String, String), SocketAddr>);

impl Servers {
    /// Asks the command socket at `path`, or reads the file there.
    ///
    /// # Errors
    ///
    /// When there is neither, or HAProxy does not answer.
    pub fn ask(path: &Path) -> io::Result<Self> {
        let is_socket = untrusted_file::metadata(path)?.file_type().is_socket();
        let mut answer = Vec::new();
        if is_socket {
            let mut socket = UnixStream::connect(path)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.set_write_timeout(Some(PATIENCE))?;
            socket.write_all(b"show servers state\n")?;
            socket.take(LONGEST_ANSWER).read_to_end(&mut answer)?;
        } else {
            answer = untrusted_file::read(path, LONGEST_ANSWER)?;
        }
        Ok(Self::read(&String::from_utf8_lossy(&answer)))
    }

    /// Reads format 1, the only one there is since 1.6: one server a line, `be_name` its second
    /// field, `srv_name` its fourth, `srv_addr` its fifth, `srv_port` its nineteenth.
    fn read(answer: &str) -> Self {
        let server = |line: &str| {
            let fields: Vec<&str> = line.split(' ').collect();
            let addr = fields.get(4)?.parse().ok()?;
            let port = fields.get(18)?.parse().ok()?;
            let name = (fields[1].to_owned(), fields[3].to_owned());
            Some((name, SocketAddr::new(addr, port)))
        };
        Self(answer.lines().filter(|line| !line.starts_with('#')).filter_map(server).collect())
    }

    /// The address of a server.
    pub fn get(&self, group: &str, name: &str) -> Option<SocketAddr> {
        self.0.get(&(group.to_owned(), name.to_owned())).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by Debian's HAProxy 2.6.
    const STATE: &str = include_str!("../../../../../tests/corpora/haproxy/debian-2.6.state");

    #[test]
    fn a_real_answer_gives_every_server() {
        let servers = Servers::read(STATE);
        assert_eq!(servers.get("overflow", "s2"), Some("127.0.0.2:9001".parse().unwrap()));
        assert_eq!(servers.get("obsov", "s1"), Some("127.0.0.1:9031".parse().unwrap()));
        assert_eq!(servers.get("overflow", "s3"), None);
        assert_eq!(servers.0.len(), STATE.lines().filter(|line| line.contains(" s")).count() - 1);
    }

    #[test]
    fn a_file_with_anything_else_gives_none() {
        for text in ["", "1\n", "a b c d e f\n", "3 be 1 s 127.0.0.1"] {
            assert_eq!(Servers::read(text), Servers::default(), "{text}");
        }
    }
}
