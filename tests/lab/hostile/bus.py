# A publisher on the bus, honest or not: bus.py PORT WHAT [ARGUMENTS]
import json, socket, sys, time

port, what, arguments = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
bus = socket.create_connection(("127.0.0.1", port))
bus.settimeout(60)
bus.sendall(b'CONNECT {"verbose":false,"headers":true,"no_responders":true}\r\nSUB ack.* 1\r\nPING\r\n')
received = b""


def line():
    global received
    while b"\r\n" not in received:
        received += bus.recv(65536)
    found, received = received.split(b"\r\n", 1)
    return found


def settle():
    bus.sendall(b"PING\r\n")
    while line() != b"PONG":
        pass


def now():
    return int(time.time() * 1000)


def publish(subject, message, exchange=None, reply=""):
    body = message if isinstance(message, bytes) else json.dumps(message, ensure_ascii=False).encode()
    head = f"NATS/1.0\r\nFloodmark-Exchange: {exchange}\r\n\r\n".encode() if exchange else b""
    verb, sizes = ("HPUB", f"{len(head)} {len(head) + len(body)}") if head else ("PUB", len(body))
    bus.sendall(f"{verb} {subject} {reply} {sizes}\r\n".encode() + head + body + b"\r\n")


def stored(subject, message, exchange):
    """Publishes and gives the message's number in the stream."""
    publish(subject, message, exchange, f"ack.{now()}")
    while True:
        found = line()
        if found.startswith(b"{"):
            return json.loads(found)["seq"]


def message(host, run, number, kind, **content):
    return {"version": 1, "host": host, "run": run, "number": number, "kind": kind, **content}


def tick(host, run, number, at=None, begin=None, end=None, subject=None, **fields):
    at, end = at or now(), end or now()
    sample = {"window": {"from": end - 1000 if begin is None else begin, "to": end},
              "listeners": [], "events_lost": 0}
    content = {"at": at, "sample": sample, "syn_rung": "fentry", "ack_rung": "fentry",
               "namespaces": [1], **fields}
    return subject or "floodmark.v1.host." + host, message(host, run, number, "tick", **content)


def heard(host, run, number, upstream, kind, subject=None):
    event = {"at": now(), "precision_ms": 1, "proxy": "nginx", "source": "/x", "kind": kind,
             "upstream": upstream}
    content = message(host, run, number, "heard", heard=[{"event": event, "netns": 1, "at": now()}])
    return subject or "floodmark.v1.host." + host, content


MARKED = {"event": "peer_marked", "phase": "connect"}
EVIL = "floodmark.v1.host.evil"
begun = now()
settle()
if what == "honest":
    # Each second two proxies mark a peer, and tell of the second.
    for number in range(1, int(arguments[0]) + 1):
        for place, host in enumerate(["web1", "web2"]):
            publish(*heard(host, begun, 2 * number - 1, {"inet": f"10.0.0.{place + 1}:80"}, MARKED))
            publish(*tick(host, begun, 2 * number))
        time.sleep(1)
elif what == "takeover":
    # In the name of another, under its own subject and under the other's.
    for subject in [EVIL, "floodmark.v1.host.web1"]:
        for run in [2**63, 2**64 - 1]:
            publish(*tick("web1", run, 2**64 - 1, subject=subject))
elif what == "stall":
    # Fresh messages of the distant past, the future, and always of half a minute ago.
    for number in range(1, int(arguments[0]) + 1):
        publish(*tick("evil", begun, number, 1, 0, 1))
        publish(*tick("evil-ahead", begun, number, 2**63, 1, 2**64 - 1))
        late = now() - 30_000
        publish(*tick("evil-late", begun, number, late, late - 1000, late))
        time.sleep(1)
elif what == "escape":
    bad = "ev\x1b]0;pwned\x07\x1b[31mil\u202e\n[fake] line"
    group = {"group": "app\x1b[2J\x1b]0;owned\x07\u202e"}
    for number in range(1, int(arguments[0]) + 1):
        for host in [bad, "evil"]:
            publish(*heard(host, begun, 2 * number, group, {"event": "no_live_peers"}, subject=EVIL))
            publish(*tick(host, begun, 2 * number + 1, subject=EVIL, syn_rung="\x1b[31m"))
        # Without characters that are refused, but with a format character.
        publish(*heard("evil2", begun, 2 * number, {"group": "app\u202e"}, {"event": "no_live_peers"}))
        publish(*tick("evil2", begun, 2 * number + 1))
        publish("floodmark.v1.host.ev\x1b[31mil", b'{"kind":"\x1b[31m"}')
        time.sleep(1)
elif what == "exchange":
    # Clocks that differ by more than there is room for.
    sequence = 0
    for number, (sent, back) in enumerate([(0, 0), (2**63, 2**63), (0, 2**64 - 1), (2**64 - 1, 2**64 - 1)]):
        subject, content = tick("evil", begun, number + 1)
        sequence = stored(subject, content, f"{sequence} {sent} {back}")
elif what == "hosts":
    for number in range(int(arguments[0])):
        publish(*tick(f"host-{number}", now(), 1))
elif what == "namespaces":
    namespaces, listeners = int(arguments[0]), int(arguments[1])
    listening = [{"addr": f"10.0.0.1:{port}", "inode": port} for port in range(1, listeners + 1)]
    for number in range(1, namespaces + 1):
        address = f"10.{number // 250 % 250}.{number % 250}.1"
        content = message("evil", begun, number, "namespace", netns=number, name=f"n{number}",
                          addresses=[address], listeners=listening)
        publish(EVIL, content)
elif what == "flood":
    # Valid messages as fast as they go.
    end = time.time() + int(arguments[0])
    number = 0
    upstream = {"inet": "10.0.0.9:80"}
    subject, content = heard("evil", begun, 0, upstream, MARKED)
    content["heard"] *= 500
    while time.time() < end:
        number += 1
        content["number"] = number
        publish(subject, content)
elif what == "nonsense":
    for body in [b"", b"null", b"[" * 500_000, b'{"a":' * 100_000, b"\xff" * 1000, b"x" * (1 << 20)]:
        publish(EVIL, body)
settle()
