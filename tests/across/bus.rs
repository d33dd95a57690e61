//! A real NATS server lets in whoever shows a certificate and a secret of each kind, whoever is not let
//! in is told why in one line, and a host's user can act for no other host.

#![expect(clippy::unwrap_used, reason = "a test's helpers may fail as the test may")]

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use data_encoding::BASE64URL_NOPAD;
use floodmark::across::{self, BusConfig, Delivery, Joiner, Outbox, Outgoing, Reader, Refusal};
use floodmark_tests::across::bus::{Bus, Door, NATS_SERVER};
use log::{LevelFilter, Log, Metadata, Record};
use nkeys::KeyPair;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(60);

/// What was said, by everybody in this process; one test at a time listens.
static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

struct Listener;

impl Log for Listener {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        if record.target().starts_with("floodmark") {
            said().push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

fn said() -> MutexGuard<'static, Vec<String>> {
    SAID.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A server that runs; `None`, with the reason printed, where there is none.
fn server(door: &Door) -> Option<(Bus, TempDir)> {
    if !Path::new(NATS_SERVER).is_file() {
        println!("skipped: there is no {NATS_SERVER} (package nats-server)");
        return None;
    }
    let directory = TempDir::new().unwrap();
    let mut bus = Bus::new(directory.path(), door).unwrap();
    bus.start().unwrap();
    Some((bus, directory))
}

/// The stream is made and the agent's side knows that it is connected.
async fn gets_in(door: &Door) {
    let _turn = TURN.lock().await;
    let Some((bus, _directory)) = server(door) else { return };
    let client = across::Bus::connect(&bus.access(), "test").await.unwrap();
    let stream = timeout(PATIENCE, async {
        loop {
            match client.evidence().await {
                Ok(stream) => return stream,
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    });
    let stream = stream.await.expect("nobody gets in");
    assert_eq!(stream.cached_info().config.name, across::EVIDENCE_STREAM);
}

/// What is said to someone who tries `change`d access.
async fn complaint(change: impl FnOnce(&mut BusConfig)) -> Option<String> {
    let _turn = TURN.lock().await;
    let _ = log::set_logger(&Listener).map(|()| log::set_max_level(LevelFilter::Info));
    said().clear();
    let (bus, _directory) = server(&Door::default())?;
    let mut access = bus.access();
    change(&mut access);
    let _client = across::Bus::connect(&access, "test").await.unwrap();
    let heard = timeout(PATIENCE, async {
        while said().is_empty() {
            sleep(Duration::from_millis(50)).await;
        }
    });
    heard.await.expect("nothing is said");
    // Several attempts later.
    sleep(Duration::from_secs(4)).await;
    let said = said().clone();
    assert_eq!(said.len(), 1, "once, in one line: {said:?}");
    assert!(!said[0].contains('\n'), "{said:?}");
    Some(said[0].replace(&bus.addr.to_string(), "SERVER"))
}

#[tokio::test]
async fn a_password_lets_in() {
    gets_in(&Door::default()).await;
}

#[tokio::test]
async fn a_token_lets_in() {
    let rules = "authorization { token: \"open sesame\" }".to_owned();
    gets_in(&Door { rules, secret: "open sesame\n".to_owned() }).await;
}

#[tokio::test]
async fn a_seed_lets_in() {
    let user = KeyPair::new_user();
    let rules = format!("authorization {{ users: [ {{ nkey: {} }} ] }}", user.public_key());
    gets_in(&Door { rules, secret: user.seed().unwrap() }).await;
}

#[tokio::test]
async fn a_credentials_file_lets_in() {
    let (operator, system) = (KeyPair::new_operator(), KeyPair::new_account());
    let (account, user) = (KeyPair::new_account(), KeyPair::new_user());
    // What `nsc` would write: without limits, and for JetStream these have to be said.
    let all = json!({"subs": -1, "conn": -1, "leaf": -1, "imports": -1, "exports": -1, "data": -1,
        "payload": -1, "wildcards": true, "mem_storage": -1, "disk_storage": -1, "streams": -1,
        "consumer": -1});
    let no_storage = json!({"subs": -1, "conn": -1, "leaf": -1, "imports": -1, "exports": -1,
        "data": -1, "payload": -1, "wildcards": true});
    let of_operator = jwt(&operator, &operator, json!({"type": "operator"}));
    let of_system = jwt(&operator, &system, json!({"type": "account", "limits": no_storage}));
    let of_account = jwt(&operator, &account, json!({"type": "account", "limits": all}));
    let of_user =
        jwt(&account, &user, json!({"type": "user", "subs": -1, "data": -1, "payload": -1}));
    let (system, account) = (system.public_key(), account.public_key());
    let rules = format!(
        "operator: {of_operator}
system_account: {system}
resolver: MEMORY
resolver_preload: {{ {system}: {of_system}, {account}: {of_account} }}"
    );
    let secret = format!(
        "-----BEGIN NATS USER JWT-----
{of_user}
------END NATS USER JWT------

-----BEGIN USER NKEY SEED-----
{}
------END USER NKEY SEED------
",
        user.seed().unwrap()
    );
    gets_in(&Door { rules, secret }).await;
}

/// A claim about `subject` that `issuer` signs (nats-io/jwt, version 2).
fn jwt(issuer: &KeyPair, subject: &KeyPair, mut claim: Value) -> String {
    claim["version"] = 2.into();
    let encode = |value: Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let header = encode(json!({"typ": "JWT", "alg": "ed25519-nkey"}));
    let (iss, sub) = (issuer.public_key(), subject.public_key());
    let body =
        encode(json!({"jti": sub, "iat": 1, "iss": iss, "sub": sub, "name": "lab", "nats": claim}));
    let signed = format!("{header}.{body}");
    let signature = issuer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
}

#[tokio::test]
async fn a_wrong_password_is_said() {
    let said = complaint(|access| {
        let file = access.credentials.clone().unwrap();
        fs::write(file, "agent:wrong").unwrap();
    });
    let Some(said) = said.await else { return };
    assert_eq!(
        said,
        "cannot connect to NATS, retrying: SERVER: authorization violation: nats: authorization \
         violation; unknown user or wrong secret: see --nats-credentials"
    );
}

#[tokio::test]
async fn an_untrusted_certificate_is_said() {
    let Some(said) = complaint(|access| access.authorities = None).await else { return };
    assert_eq!(
        said,
        "cannot connect to NATS, retrying: SERVER: IO error: invalid peer certificate: \
         UnknownIssuer; trust the CA of its certificate with --nats-ca"
    );
}

#[tokio::test]
async fn a_certificate_asked_for_is_said() {
    let Some(said) = complaint(|access| access.certificate = None).await else { return };
    assert!(said.contains("it requires a client certificate: see --nats-certificate"), "{said}");
}

#[tokio::test]
async fn files_that_are_not_what_they_must_be_are_named_at_once() {
    let directory = TempDir::new().unwrap();
    let empty = directory.path().join("empty");
    fs::write(&empty, "").unwrap();
    let servers = "tls://127.0.0.1:4222".to_owned();
    let access = BusConfig { servers, ..BusConfig::default() };
    let credentials = BusConfig { credentials: Some(empty.clone()), ..access.clone() };
    let authorities = BusConfig { authorities: Some(empty.clone()), ..access.clone() };
    let certificate =
        BusConfig { certificate: Some((empty.clone(), empty.clone())), ..access.clone() };
    let password = BusConfig { servers: "nats://agent:s3cret@bus".to_owned(), ..access };
    for (access, option) in [
        (credentials, "--nats-credentials"),
        (authorities, "--nats-ca"),
        (certificate, "--nats-certificate"),
        (password, "--nats bus: every user of this host can read a command line"),
    ] {
        let error = across::Bus::connect(&access, "test").await.unwrap_err();
        let said = format!("{error:#}");
        assert!(said.starts_with(option), "{option}: {said}");
        assert!(!said.contains("s3cret") && !said.contains('\n'), "{said}");
    }
}

/// The rules that the documentation gives, for the hosts web1 and app1 and a reader.
fn documented_rules() -> String {
    let page = include_str!("../../docs/across-hosts.md");
    let (_, rules) = page.split_once("```nats\n").unwrap();
    rules.split_once("```").unwrap().0.to_owned()
}

/// How `user` gets in.
fn as_user(bus: &Bus, directory: &Path, user: &str) -> BusConfig {
    let file = directory.join(user);
    fs::write(&file, format!("{user}:secret of {user}")).unwrap();
    BusConfig { credentials: Some(file), ..bus.access() }
}

fn message_of(host: &str, number: u64) -> Vec<u8> {
    let (version, run) = (across::VERSION, 1);
    json!({"version": version, "host": host, "run": run, "number": number, "kind": "stopped"})
        .to_string()
        .into_bytes()
}

#[tokio::test]
async fn a_hosts_user_can_neither_publish_as_another_nor_read_what_others_tell() {
    let _turn = TURN.lock().await;
    let door = Door { rules: documented_rules(), ..Door::default() };
    let Some((bus, directory)) = server(&door) else { return };
    let connect = async |user: &str| {
        let access = as_user(&bus, directory.path(), user);
        across::Bus::connect(&access, user).await.unwrap()
    };
    let (reader_bus, web1, app1) =
        (connect("correlate").await, connect("web1").await, connect("app1").await);
    let mut reader = Reader::new(reader_bus.clone(), "correlate".to_owned());
    let stream = timeout(PATIENCE, async {
        loop {
            match reader_bus.evidence().await {
                Ok(stream) => return stream,
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    });
    let mut stream = stream.await.expect("the reader makes the stream");

    // Both publish by the agent's own way.
    let hosts = [("web1", &web1), ("app1", &app1)];
    for (host, bus) in hosts {
        let outbox = Arc::new(Outbox::new(1 << 20));
        let payload = message_of(host, 1).into();
        outbox.put_message(Outgoing { id: format!("{host}-1"), payload });
        let publishing = tokio::spawn(across::publish((*bus).clone(), outbox.clone(), host.into()));
        let stats = outbox.stats();
        let published = timeout(PATIENCE, async {
            while stats.sent.load(Ordering::Relaxed) == 0 {
                sleep(Duration::from_millis(50)).await;
            }
        });
        published.await.unwrap_or_else(|_| panic!("{host} cannot publish"));
        publishing.abort();
    }

    // Under another's subject nothing gets in; under its own, another's name does not count.
    let publish = async |subject: &str, host: &str, number| {
        let sent = web1.jetstream().publish(subject.to_owned(), message_of(host, number).into());
        sent.await.unwrap().await
    };
    publish("floodmark.v1.host.app1", "app1", 2).await.unwrap_err();
    publish("floodmark.v1.verdict.x", "app1", 2).await.unwrap_err();
    publish("floodmark.v1.host.web1", "app1", 2).await.unwrap();
    let mut joiner = Joiner::new(Duration::from_secs(60));
    for _ in 0..3 {
        let Delivery { subject, payload, stored } =
            timeout(PATIENCE, reader.next()).await.expect("three messages");
        joiner.receive(&subject, &payload, stored);
    }
    assert_eq!(stream.info().await.unwrap().state.messages, 3);
    assert_eq!(*joiner.refusals(), [(Refusal::Foreign, 1)].into());
    let known: Vec<String> = joiner.hosts().into_iter().map(|host| host.name).collect();
    assert_eq!(known, ["app1", "web1"]);

    // Nor can it read, or take away what is there.
    let theirs = web1.evidence().await.unwrap();
    theirs.get_raw_message(1).await.unwrap_err();
    theirs.purge().await.unwrap_err();
    let mut spy = Reader::new(web1, "spy".to_owned());
    timeout(Duration::from_secs(8), spy.next()).await.unwrap_err();
    assert_eq!(stream.info().await.unwrap().state.messages, 3);
}
