use std::io::Write;

use tokio::time::timeout;

use super::*;
use crate::proxy::{EventKind, Upstream, source::Format};

fn message() -> String {
    let time = jiff::Timestamp::now().strftime("%b %e %H:%M:%S").to_string();
    format!(
        "<129>{time} haproxy[23166]: Server app/s1 is DOWN, reason: Layer4 timeout, check duration: \
         300ms.\n"
    )
}

fn reader() -> Interpreter {
    Interpreter::new(Format::default(), "syslog".to_owned())
}

async fn expect_marking(events: &mut mpsc::Receiver<ProxyEvent>) {
    let event = timeout(Duration::from_secs(20), events.recv()).await.unwrap().unwrap();
    assert!(matches!(event.kind, EventKind::PeerMarked { .. }));
    let expected = Upstream::Server { group: "app".to_owned(), name: "s1".to_owned() };
    assert_eq!((event.upstream, event.pid), (expected, Some(23166)));
}

/// A free port: bound, and left again.
fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn a_datagram_is_a_message() {
    let (sender, mut events) = mpsc::channel(8);
    let addr = free();
    let stats = udp(addr, reader(), sender, CancellationToken::new()).unwrap();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.send_to(message().as_bytes(), addr).unwrap();
    expect_marking(&mut events).await;
    assert_eq!(stats.lines.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_unix_socket_left_behind_is_taken_over_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    drop(std::os::unix::net::UnixDatagram::bind(&path).unwrap());
    let (sender, mut events) = mpsc::channel(8);
    unix(&path, reader(), sender.clone(), CancellationToken::new()).unwrap();
    let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
    socket.send_to(message().as_bytes(), &path).unwrap();
    expect_marking(&mut events).await;
    assert!(
        unix(&path, reader(), sender.clone(), CancellationToken::new()).is_err(),
        "another process already listens"
    );
    let file = directory.path().join("file");
    fs::write(&file, "precious").unwrap();
    assert!(unix(&file, reader(), sender, CancellationToken::new()).is_err());
    assert_eq!(fs::read_to_string(file).unwrap(), "precious");
}

#[tokio::test]
async fn a_stream_has_messages_in_either_framing() {
    let (sender, mut events) = mpsc::channel(8);
    let addr = free();
    tcp(addr, reader(), sender, CancellationToken::new()).unwrap();
    let mut stream = std::net::TcpStream::connect(addr).unwrap();
    let message = message();
    write!(stream, "{message}{} {message}{message}", message.len()).unwrap();
    drop(stream);
    for _ in 0..3 {
        expect_marking(&mut events).await;
    }
}
