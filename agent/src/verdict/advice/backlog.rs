//! How each server program and framework is told its backlog.

use crate::inventory::Server;

/// Where a backlog is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// What people call it.
    pub name: &'static str,
    /// The line that sets it.
    pub line: String,
    /// What it is unless set.
    pub default: &'static str,
}

/// The setting of `server` for a listener on `port` that is to have `backlog`; none for what takes
/// somaxconn as it is.
pub(super) fn setting(server: Option<Server>, port: u16, backlog: u32) -> Option<Setting> {
    let n = backlog;
    let (name, line, default) = match server? {
        Server::Tornado => ("Tornado", format!("server.listen({port}, backlog={n})"), "128"),
        Server::Gunicorn => ("Gunicorn", format!("gunicorn --backlog {n} …"), "2048"),
        Server::Uvicorn => ("Uvicorn", format!("uvicorn --backlog {n} …"), "2048"),
        Server::Hypercorn => ("Hypercorn", format!("hypercorn --backlog {n} …"), "100"),
        Server::Aiohttp => ("aiohttp", format!("web.run_app(app, backlog={n})"), "128"),
        Server::Waitress => ("Waitress", format!("waitress-serve --backlog={n} …"), "1024"),
        Server::Python => (
            "Python",
            format!(
                "sock.listen({n})  # socketserver: request_queue_size = {n}; asyncio: create_server(…, backlog={n})"
            ),
            "5 in socketserver, 100 in asyncio",
        ),
        Server::Uwsgi => {
            ("uWSGI", format!("listen = {n}  # refuses to start above somaxconn"), "100")
        }
        Server::Node => {
            ("Node.js", format!("server.listen({{ port: {port}, backlog: {n} }})"), "511")
        }
        Server::Tomcat => (
            "Tomcat",
            format!(
                "<Connector port=\"{port}\" acceptCount=\"{n}\" …/>  # Spring Boot: server.tomcat.accept-count={n}"
            ),
            "100",
        ),
        Server::Jetty => ("Jetty", format!("jetty.http.acceptQueueSize={n}"), "50"),
        Server::Java => (
            "Java",
            format!(
                "new ServerSocket({port}, {n})  # Netty: ChannelOption.SO_BACKLOG; Spring Boot: server.tomcat.accept-count"
            ),
            "50",
        ),
        Server::Dotnet => {
            ("Kestrel", format!("builder.WebHost.UseSockets(o => o.Backlog = {n})"), "512")
        }
        Server::Puma => ("Puma", format!("bind 'tcp://0.0.0.0:{port}?backlog={n}'"), "1024"),
        Server::Unicorn => ("Unicorn", format!("listen {port}, backlog: {n}"), "1024"),
        Server::PhpFpm => ("PHP-FPM", format!("listen.backlog = {n}"), "511"),
        Server::Nginx => ("nginx", format!("listen {port} backlog={n};"), "511"),
        Server::Haproxy => (
            "HAProxy",
            format!("backlog {n}  # in the frontend or defaults"),
            "the frontend's maxconn",
        ),
        Server::Envoy => {
            ("Envoy", format!("tcp_backlog_size: {n}  # in the listener"), "somaxconn")
        }
        Server::Apache => ("Apache", format!("ListenBacklog {n}"), "511"),
        Server::Lighttpd => ("lighttpd", format!("server.listen-backlog = {n}"), "1024"),
        Server::Redis => ("Redis", format!("tcp-backlog {n}"), "511"),
        Server::Postgres => (
            "PostgreSQL",
            format!(
                "max_connections = {}  # its backlog is twice that; each costs memory, a pooler less",
                n.div_ceil(2)
            ),
            "twice max_connections",
        ),
        Server::Mysql => ("MySQL", format!("back_log = {n}"), "by max_connections"),
        Server::Memcached => ("memcached", format!("memcached --listen-backlog={n} …"), "1024"),
        Server::Systemd => {
            ("systemd", format!("Backlog={n}  # in [Socket] of the socket unit"), "somaxconn")
        }
        // net.Listen takes /proc/sys/net/core/somaxconn as it finds it.
        Server::Go => return None,
    };
    Some(Setting { name, line, default })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_carries_the_backlog() {
        for server in [
            Server::Tornado,
            Server::Gunicorn,
            Server::Uvicorn,
            Server::Hypercorn,
            Server::Aiohttp,
            Server::Waitress,
            Server::Python,
            Server::Uwsgi,
            Server::Node,
            Server::Tomcat,
            Server::Jetty,
            Server::Java,
            Server::Dotnet,
            Server::Puma,
            Server::Unicorn,
            Server::PhpFpm,
            Server::Nginx,
            Server::Haproxy,
            Server::Envoy,
            Server::Apache,
            Server::Lighttpd,
            Server::Redis,
            Server::Mysql,
            Server::Memcached,
            Server::Systemd,
        ] {
            let setting = setting(Some(server), 8000, 640).unwrap();
            assert!(setting.line.contains("640"), "{server:?}: {}", setting.line);
        }
        assert!(setting(Some(Server::Postgres), 5432, 641).unwrap().line.contains("= 321 "));
        assert_eq!(setting(Some(Server::Go), 80, 640), None);
        assert_eq!(setting(None, 80, 640), None);
    }
}
