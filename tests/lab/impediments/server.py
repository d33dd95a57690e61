"""A server that is kept from accepting in one way: server.py MODE PORT BACKLOG. Ends by itself after a minute."""
import os
import resource
import socket
import sys
import time

MODE, PORT, BACKLOG = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
END = time.monotonic() + 60
DEPENDENCY = ("127.0.0.1", 5432)


def listen(port, backlog, reuse=False):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind(("127.0.0.1", port))
    s.listen(backlog)
    return s


def burn(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def serve(listener, handle):
    while time.monotonic() < END:
        connection, _ = listener.accept()
        handle(connection)
        connection.close()


def ask(timeout):
    """Asks another server, which answers late."""
    with socket.create_connection(DEPENDENCY, timeout) as other:
        other.recv(1)


def read(connection):
    """Waits for a client that says nothing."""
    connection.settimeout(0.3)
    try:
        connection.recv(1)
    except TimeoutError:
        pass


def late(listener):
    while True:
        connection, _ = listener.accept()
        time.sleep(0.3)
        connection.close()


def dependent(timeout):
    other = listen(DEPENDENCY[1], 64)
    if os.fork() == 0:
        late(other)
    other.close()
    serve(listen(PORT, BACKLOG), lambda _: ask(timeout))


def exhausted():
    listener = listen(PORT, BACKLOG)
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 2048))
    kept = []
    while time.monotonic() < END:
        try:
            kept.append(listener.accept()[0])
        except OSError:
            time.sleep(0.02)


def bound():
    """Uses a whole processor, whatever else runs here."""
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    serve(listen(PORT, BACKLOG), lambda _: burn(0.1))


def preforked(workers):
    listener = listen(PORT, BACKLOG)
    for _ in range(workers):
        if os.fork() == 0:
            serve(listener, lambda _: time.sleep(0.5))
    os.wait()


def group(stuck):
    for member in range(4):
        if os.fork() == 0:
            listener = listen(PORT, BACKLOG, reuse=True)
            if member == stuck:
                time.sleep(60)
            serve(listener, lambda _: None)
    time.sleep(60)


{
    "fine": lambda: serve(listen(PORT, BACKLOG), lambda _: None),
    "sleep": lambda: serve(listen(PORT, BACKLOG), lambda _: time.sleep(0.1)),
    "burn": bound,
    "work": lambda: serve(listen(PORT, BACKLOG), lambda _: burn(0.004)),
    "receive": lambda: dependent(None),
    "poll": lambda: dependent(5),
    "client": lambda: serve(listen(PORT, BACKLOG), read),
    "exhausted": exhausted,
    "preforked": lambda: preforked(4),
    "group": lambda: group(0),
}[MODE]()
