//! How servers are told how many workers to run.

use super::{holders::Holders, peer::look_at};
use crate::inventory::Server;

/// Sets the number of workers.
pub(super) fn workers(server: Option<Server>, count: usize) -> Vec<String> {
    let line = match server {
        Some(Server::Gunicorn | Server::Uvicorn | Server::Hypercorn) => {
            format!("--workers {count}  # on its command line")
        }
        Some(Server::Tornado) => {
            format!("tornado.process.fork_processes({count})  # after bind_sockets")
        }
        Some(Server::Waitress) => format!("serve(app, threads={count})"),
        Some(Server::Uwsgi) => format!("processes = {count}  # uwsgi.ini"),
        Some(Server::Puma) => format!("workers {count}  # config/puma.rb"),
        Some(Server::Unicorn) => format!("worker_processes {count}  # unicorn.rb"),
        Some(Server::PhpFpm) => format!("pm.max_children = {count}  # of the pool"),
        Some(Server::Apache) => format!("MaxRequestWorkers {count}"),
        Some(Server::Nginx) => "worker_processes auto;  # nginx.conf, at the top".to_owned(),
        Some(Server::Tomcat) => format!("<Connector maxThreads=\"{count}\" … />  # server.xml"),
        Some(Server::Jetty) => format!("jetty.threadPool.maxThreads={count}"),
        Some(Server::Node) => format!("# cluster.fork() {count} times, or as many instances"),
        _ => format!("# {count} workers, threads or instances, by whatever it calls them"),
    };
    vec![line]
}

/// Has more than one thread accept, and shows what the present one does.
pub(super) fn spread(holders: &Holders<'_>) -> Vec<String> {
    let first = holders.first();
    let count = holders.workers.len().max(1) * 2;
    let profile = first.map(|owner| format!("perf top -p {}  # the hot path", owner.pid));
    let look = look_at(holders).into_iter().filter(|line| line.starts_with("py-spy"));
    let more = workers(first.and_then(|owner| owner.server), count);
    let reuse = "# each with a socket of its own (SO_REUSEPORT), if there are idle processors";
    more.into_iter().chain([reuse.to_owned()]).chain(look).chain(profile).collect()
}
