//! Against a stand-in for a Collector: the real protocol and its generated types, but no Collector.

use std::{collections::BTreeMap, net::SocketAddr, sync::Mutex, sync::atomic::Ordering};

use opentelemetry_proto::tonic::{
    collector::logs::v1::{
        ExportLogsPartialSuccess, ExportLogsServiceResponse,
        logs_service_server::{LogsService, LogsServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle, time::timeout};
use tonic::{Request, Response, transport::Server};

use super::*;
use crate::{
    kernel::{Attribution, Class, ListenerDelta, ListenerId, NetnsId, QueueDepth, Tally},
    proxy::{EventKind, Failure, Phase, ProxyEvent, ProxyKind, Upstream},
    time::{UnixMs, Window},
};

/// A stand-in: takes what comes, and answers once as it is told to.
struct StandIn {
    taken: mpsc::UnboundedSender<ExportLogsServiceRequest>,
    answer: Mutex<Option<Result<ExportLogsServiceResponse, Status>>>,
}

#[tonic::async_trait]
impl LogsService for StandIn {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let answer = self.answer.lock().unwrap().take();
        let answer = answer.unwrap_or_else(|| Ok(ExportLogsServiceResponse::default()))?;
        let _ = self.taken.send(request.into_inner());
        Ok(Response::new(answer))
    }
}

type Taken = mpsc::UnboundedReceiver<ExportLogsServiceRequest>;

async fn stand_in(
    addr: Option<SocketAddr>,
    answer: Option<Result<ExportLogsServiceResponse, Status>>,
) -> (SocketAddr, Taken, JoinHandle<()>) {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = TcpListener::bind(addr.unwrap_or(any)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (sender, taken) = mpsc::unbounded_channel();
    let service = StandIn { taken: sender, answer: Mutex::new(answer) };
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let server = Server::builder().add_service(LogsServiceServer::new(service));
    let serving = tokio::spawn(async move { server.serve_with_incoming(incoming).await.unwrap() });
    (addr, taken, serving)
}

fn marking() -> LogRecord {
    let event = ProxyEvent {
        at: UnixMs(1_700_000_000_000),
        precision_ms: 1000,
        proxy: ProxyKind::Nginx,
        source: "error.log".to_owned(),
        pid: Some(7),
        connection: None,
        kind: EventKind::PeerMarked { phase: Phase::Connect, failure: Some(Failure::TIMEOUT) },
        upstream: Upstream::Inet("10.0.0.1:8000".parse().unwrap()),
        group: Some("app".to_owned()),
        peer_addr: None,
        leads_to: Vec::new(),
        path: None,
        local_addr: Some("10.0.0.9:40000".parse().unwrap()),
        took_ms: None,
        trust: crate::proxy::Trust::Verified,
        line: None,
        undated: None,
    };
    of_event(&event, UnixMs(1_700_000_001_000))
}

fn put(outbox: &Records, record: LogRecord) {
    let size = record.encoded_len();
    outbox.put(record, size);
}

fn values(attributes: &[KeyValue]) -> BTreeMap<&str, String> {
    let shown = |value: &KeyValue| match value.value.as_ref().and_then(|it| it.value.clone()) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    attributes.iter().map(|attribute| (attribute.key.as_str(), shown(attribute))).collect()
}

async fn next(taken: &mut Taken) -> ExportLogsServiceRequest {
    timeout(Duration::from_secs(60), taken.recv()).await.expect("a request").unwrap()
}

#[tokio::test]
async fn records_bear_the_names_of_the_conventions() {
    let (addr, mut taken, _serving) = stand_in(None, None).await;
    let outbox = Arc::new(Records::new(1 << 20));
    put(&outbox, marking());
    let delta = ListenerDelta {
        listener: ListenerId {
            netns: NetnsId(5),
            addr: "10.0.0.1:8000".parse().unwrap(),
            inode: 1,
        },
        tally: Tally::of(&[(Class::SynAcceptQueueFull, 3)]),
        attribution: Attribution::Exact,
        queue: Some(QueueDepth { len: 129, limit: 128 }),
    };
    let window = Window { from: UnixMs(0), to: UnixMs(1000) };
    put(&outbox, of_losses(&delta, window, None));
    let channel = channel(&format!("http://{addr}")).unwrap();
    let exporting = tokio::spawn(export_logs(channel, Arc::clone(&outbox), "web-1".to_owned()));
    let request = next(&mut taken).await;
    exporting.abort();
    let [resource] = request.resource_logs.as_slice() else { panic!("{request:?}") };
    let about = values(&resource.resource.as_ref().unwrap().attributes);
    assert_eq!(
        (about["service.name"].as_str(), about["host.name"].as_str()),
        ("floodmark", "web-1")
    );
    let [marking, losses] = resource.scope_logs[0].log_records.as_slice() else {
        panic!("{request:?}");
    };
    assert_eq!(marking.event_name, "floodmark.proxy.peer_marked");
    assert_eq!(marking.severity_text, "WARN");
    assert_eq!(marking.time_unix_nano, 1_700_000_000_000_000_000);
    assert_eq!(marking.observed_time_unix_nano, 1_700_000_001_000_000_000);
    let about = values(&marking.attributes);
    for (key, value) in [
        ("network.peer.address", "10.0.0.1"),
        ("network.peer.port", "8000"),
        ("network.local.port", "40000"),
        ("network.transport", "tcp"),
        ("error.type", "ETIMEDOUT"),
        ("process.pid", "7"),
        ("floodmark.upstream.group", "app"),
    ] {
        assert_eq!(about.get(key).map(String::as_str), Some(value), "{key}");
    }
    assert_eq!(losses.event_name, "floodmark.losses");
    let about = values(&losses.attributes);
    assert_eq!(about["floodmark.losses.syn/accept_queue_full"], "3");
    assert_eq!(
        (about["server.address"].as_str(), about["server.port"].as_str()),
        ("10.0.0.1", "8000")
    );
}

#[tokio::test]
async fn what_a_collector_misses_while_it_is_away_it_gets_later() {
    let (addr, _, serving) = stand_in(None, None).await;
    serving.abort();
    let _ = serving.await;
    let outbox = Arc::new(Records::new(1 << 20));
    let channel = channel(&format!("http://{addr}")).unwrap();
    let exporting = tokio::spawn(export_logs(channel, Arc::clone(&outbox), "web-1".to_owned()));
    (0..3).for_each(|_| put(&outbox, marking()));
    while outbox.stats().errors.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    let (_, mut taken, _serving) = stand_in(Some(addr), None).await;
    let mut records = 0;
    while records < 3 {
        let request = next(&mut taken).await;
        records += request.resource_logs[0].scope_logs[0].log_records.len();
    }
    exporting.abort();
    assert_eq!(records, 3);
    assert_eq!(outbox.stats().dropped.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn what_a_collector_will_not_have_is_counted() {
    let partial =
        ExportLogsPartialSuccess { rejected_log_records: 2, error_message: "too old".to_owned() };
    let answers = [
        Ok(ExportLogsServiceResponse { partial_success: Some(partial) }),
        Err(Status::invalid_argument("no such thing")),
    ];
    for (answer, dropped) in answers.into_iter().zip([2, 3]) {
        let (addr, _taken, _serving) = stand_in(None, Some(answer)).await;
        let outbox = Arc::new(Records::new(1 << 20));
        (0..3).for_each(|_| put(&outbox, marking()));
        let channel = channel(&format!("http://{addr}")).unwrap();
        let exporting = tokio::spawn(export_logs(channel, Arc::clone(&outbox), "a".to_owned()));
        while outbox.stats().waiting.load(Ordering::Relaxed) > 0 {
            tokio::task::yield_now().await;
        }
        exporting.abort();
        assert_eq!(outbox.stats().dropped.load(Ordering::Relaxed), dropped);
    }
}

#[tokio::test]
async fn a_failure_is_said_with_its_root() {
    let (addr, _, serving) = stand_in(None, None).await;
    serving.abort();
    let _ = serving.await;
    let mut client = LogsServiceClient::new(channel(&format!("http://{addr}")).unwrap());
    let status = client.export(request("a", Vec::new())).await.unwrap_err();
    assert_eq!(reason(&status), "tcp connect error: Connection refused (os error 111)");
    assert_eq!(
        reason(&Status::invalid_argument("no such thing")),
        "Client specified an invalid argument: no such thing"
    );
}

#[test]
fn an_address_is_a_url() {
    for url in ["localhost:4317", "ftp://x", "http//x"] {
        assert!(channel(url).is_err(), "{url}");
    }
}
