use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};

use super::{
    super::fixture::{snapshot, standing},
    *,
};
use crate::kernel::Signal;

struct Server {
    addr: SocketAddr,
    latest: watch::Sender<Option<Arc<Snapshot>>>,
    stop: watch::Sender<bool>,
    serving: JoinHandle<Result<()>>,
}

impl Server {
    async fn start(snapshot: Option<Snapshot>) -> Self {
        let listener = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (latest, received) = watch::channel(snapshot.map(Arc::new));
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn(serve(listener, received, stopped));
        Self { addr, latest, stop, serving }
    }

    /// Status, head and body of the answer.
    async fn get(&self, path: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_lowercase(), body.to_owned())
    }
}

#[tokio::test]
async fn is_alive_before_it_is_ready() {
    let server = Server::start(None).await;
    assert_eq!(server.get("/healthz").await.0, 200);
    for path in ["/readyz", "/metrics", "/api/v1/report"] {
        assert_eq!(server.get(path).await.0, 503, "{path}");
    }
    assert_eq!(server.get("/").await.0, 200);
    server.latest.send_replace(Some(Arc::new(snapshot())));
    let (status, _, body) = server.get("/readyz").await;
    assert_eq!((status, body.as_str()), (200, "ready\nsyn_drops netlink\n"));
    assert_eq!(server.get("/nowhere").await.0, 404);
}

#[tokio::test]
async fn serves_metrics_and_report() {
    let server = Server::start(Some(snapshot())).await;
    let (status, head, body) = server.get("/metrics").await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(body.contains("\nfloodmark_build_info{"), "{body}");
    let (status, head, body) = server.get("/api/v1/report").await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: application/json"), "{head}");
    let report: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(report["listeners"][0]["tally"]["syn/accept_queue_full"], 10);
}

#[tokio::test]
async fn the_landing_page_names_the_listener_and_escapes_its_owner() {
    let server = Server::start(Some(snapshot())).await;
    let (_, head, body) = server.get("/").await;
    assert!(head.contains("content-type: text/html"), "{head}");
    assert!(body.contains("<td>10.0.0.2:8000<td>app1<td>tor&quot;nado &lt;&amp;"), "{body}");
    assert!(body.contains("<td>129 / 128<td>18"), "{body}");
    assert!(body.contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn is_not_ready_when_blind_or_stuck() {
    let mut snapshot = snapshot();
    let now = snapshot.report.window.to;
    assert_eq!(readiness(&snapshot, now).0, StatusCode::OK);
    let (status, text) = readiness(&snapshot, now.later(STALE * 2));
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(text.contains("30 s ago"), "{text}");
    snapshot.standings = vec![standing(Signal::SynDrops, Rung::None)];
    assert_eq!(readiness(&snapshot, now).0, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_port_in_use_is_named_with_the_remedy() {
    let server = Server::start(None).await;
    let error = format!("{:#}", bind(server.addr).await.unwrap_err());
    assert!(error.contains(&server.addr.to_string()), "{error}");
    assert!(error.contains("--listen") && error.contains("in use"), "{error}");
}

#[tokio::test]
async fn a_client_that_never_ends_its_request_does_not_keep_it_from_stopping() {
    let server = Server::start(Some(snapshot())).await;
    let mut stuck = TcpStream::connect(server.addr).await.unwrap();
    stuck.write_all(b"GET / HTTP/1.1\r\nhost").await.unwrap();
    // Connections are taken in order: once this one is answered, the server waits for the other.
    assert_eq!(server.get("/healthz").await.0, 200);
    server.stop.send_replace(true);
    let hang = Duration::from_secs(60);
    tokio::time::timeout(hang, server.serving).await.expect("it hangs").unwrap().unwrap();
    assert!(TcpStream::connect(server.addr).await.is_err());
}
