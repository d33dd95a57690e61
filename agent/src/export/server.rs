//! The HTTP server: how connections are taken, held within bounds and ended.

use std::{
    future::{Ready, ready},
    io,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use anyhow::{Context, Result};
use axum::Router;
use axum_server::{Handle, Server, accept::Accept, tls_rustls::RustlsAcceptor};
use hyper_util::rt::TokioTimer;
use socket2::SockRef;
use tokio::sync::watch;

use super::web::Web;

/// How long a request may go on after the agent was told to stop.
const GRACE: Duration = Duration::from_millis(500);
/// Connections at once; more are closed as they come.
pub(super) const MOST_CONNECTIONS: usize = 128;
/// How long a connection may take to send a request's head, or be idle: longer than is usual between
/// two scrapes.
const HEAD: Duration = Duration::from_secs(120);
/// How long a client may leave what was sent to it unacknowledged or unread (tcp(7)).
const UNREAD: Duration = Duration::from_secs(30);

/// Takes the address.
///
/// # Errors
///
/// When it is taken already or not to be had, with what to do about it.
pub async fn bind(addr: SocketAddr) -> Result<TcpListener> {
    let remedy = "choose another address with --listen";
    let listener = tokio::net::TcpListener::bind(addr)
        .await
        .and_then(tokio::net::TcpListener::into_std)
        .with_context(|| format!("cannot listen on {addr}; {remedy}"))?;
    // Connections inherit it.
    SockRef::from(&listener).set_tcp_user_timeout(Some(UNREAD)).context("setting a timeout")?;
    Ok(listener)
}

/// Serves `pages` until `stop` turns true, then lets running requests end, though not for long: a
/// client that never ends its request must not keep the agent from stopping.
///
/// # Errors
///
/// When the socket fails.
pub(super) async fn serve(
    listener: TcpListener,
    pages: Router,
    web: Web,
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    let handle = Handle::new();
    let stopping = handle.clone();
    tokio::spawn(async move {
        // The sender gone is a stop as well.
        let _ = stop.wait_for(|stop| *stop).await;
        stopping.graceful_shutdown(Some(GRACE));
    });
    let door = Door(handle.clone());
    let server = axum_server::from_tcp(listener).context("watching the socket")?;
    let pages = pages.into_make_service();
    let served = match web.tls {
        Some(tls) => {
            let acceptor = RustlsAcceptor::new(tls).acceptor(door);
            tended(server.acceptor(acceptor), handle).serve(pages).await
        }
        None => tended(server.acceptor(door), handle).serve(pages).await,
    };
    served.context("serving HTTP")
}

fn tended<A>(
    mut server: Server<SocketAddr, A>,
    handle: Handle<SocketAddr>,
) -> Server<SocketAddr, A> {
    server.http_builder().http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
    server.http1_only().handle(handle)
}

/// Lets connections in while there are not too many.
#[derive(Clone)]
struct Door(Handle<SocketAddr>);

impl<I, S> Accept<I, S> for Door {
    type Stream = I;
    type Service = S;
    type Future = Ready<io::Result<(I, S)>>;

    fn accept(&self, stream: I, service: S) -> Self::Future {
        // The new one is among those counted.
        ready(match self.0.connection_count() <= MOST_CONNECTIONS {
            true => Ok((stream, service)),
            false => Err(io::ErrorKind::ConnectionRefused.into()),
        })
    }
}
