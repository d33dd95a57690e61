//! Programs that listen on a host's port for a container and connect onward: Docker's userland
//! proxy, and what rootless container engines have in its place.

use std::net::{IpAddr, SocketAddr};

/// Docker's, which says on its command line where it leads.
const DOCKER_PROXY: &str = "docker-proxy";

/// Where a process forwards what it accepts, if it is a forwarder, by its command line.
pub(super) fn onward(command: &str, arguments: &[&str]) -> Option<SocketAddr> {
    (command == DOCKER_PROXY).then(|| docker_proxy(arguments))?
}

/// `docker-proxy -proto tcp -host-ip 0.0.0.0 -host-port 8080 -container-ip 172.17.0.2
/// -container-port 80` (moby: cmd/docker-proxy).
fn docker_proxy(words: &[&str]) -> Option<SocketAddr> {
    let after = |name: &str| {
        let at = words.iter().position(|word| *word.trim_start_matches('-') == *name)?;
        words.get(at + 1)
    };
    if after("proto").is_some_and(|protocol| *protocol != "tcp") {
        return None;
    }
    let ip: IpAddr = after("container-ip")?.parse().ok()?;
    Some(SocketAddr::new(ip, after("container-port")?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_docker_proxy_says_where_it_leads() {
        let line = "/usr/bin/docker-proxy -proto tcp -host-ip 0.0.0.0 -host-port 8080 \
                    -container-ip 172.17.0.2 -container-port 80 -use-listen-fd";
        let leads = |line: &str| onward("docker-proxy", &line.split(' ').collect::<Vec<_>>());
        assert_eq!(leads(line), Some("172.17.0.2:80".parse().unwrap()));
        assert_eq!(leads(&line.replace("tcp", "udp")), None);
        assert_eq!(leads("docker-proxy -container-ip x -container-port 80"), None);
        assert_eq!(leads("docker-proxy -container-ip 172.17.0.2"), None);
        assert_eq!(onward("nginx", &line.split(' ').collect::<Vec<_>>()), None);
    }
}
