"""HOW COUNT PORT: holds connections to the agent, or guesses passwords, and probes /healthz meanwhile as a
kubelet does. Prints how many probes there were, how many failed, and the seconds of the slowest."""

import base64
import http.client
import resource
import socket
import sys
import time

how, count, port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
held, probes, failed, slowest = [], 0, 0, 0.0


def probe():
    global probes, failed, slowest
    begun = time.monotonic()
    probes += 1
    try:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        client.request("GET", "/healthz")
        failed += client.getresponse().status != 200
        client.close()
    except OSError:
        failed += 1
    slowest = max(slowest, time.monotonic() - begun)


def connect(number):
    client = socket.socket()
    client.settimeout(5)
    if how == "sources":
        client.bind((f"10.{64 + number // 65536}.{number // 256 % 256}.{number % 256}", 0))
    if how == "unread":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    return client


def attack(number):
    client = connect(number)
    if how == "sources":
        client.sendall(b"GET / HT")
    elif how == "unread":
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    elif how == "guesses":
        guess = base64.b64encode(f"prometheus:{number}".encode()).decode()
        head = f"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {guess}\r\n\r\n"
        client.sendall(head.encode())
        time.sleep(0.002)
        client.close()
        time.sleep(0.015)
    held.append(client)


for number in range(count):
    try:
        attack(number + 1)
    except OSError:
        pass  # closed to make room, as it should be
    if number % 100 == 99:
        probe()
for _ in range(8):
    time.sleep(0.5)
    probe()
print(probes, failed, f"{slowest:.3f}")
