# forge.py ADDR MASTER_PID STATIC GENUINE_FILE: every way a client has to put line feeds into nginx's
# error log, with lines of its own between them; among them requests that fail at their upstream, whose
# number goes to GENUINE_FILE.
import base64, os, socket, sys, time, urllib.parse

addr, master, static, report = sys.argv[1:]
host, port = addr.rsplit(":", 1)
with open(f"/proc/{master}/task/{master}/children") as f:
    pids = f.read().split()
pid = pids[0]  # a worker's, as one who knows would take
genuine = 0


def ask(path, headers=""):
    with socket.create_connection((host, int(port)), 5) as s:
        request = f"GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{headers}\r\n"
        s.sendall(request.encode("latin-1"))
        while s.recv(65536):
            pass


def fail():
    global genuine
    ask("/app")
    genuine += 1


def frame(message):
    return time.strftime("%Y/%m/%d %H:%M:%S") + f" [error] {pid}#{pid}: {message}"


def fields(upstream=""):
    return f', client: 10.9.9.9, server: , request: "GET / HTTP/1.1"{upstream}, host: "h"'


def events():
    marked = "*1 upstream server temporarily disabled while connecting to upstream"
    yield frame(marked + fields(', upstream: "http://127.0.0.1:18999/"'))
    yield frame("*1 no live upstreams while connecting to upstream" + fields(', upstream: "http://app/"'))
    yield frame("disable check peer: 10.0.0.1:8000")
    yield frame("enable check peer: 10.0.0.1:8000")


def quote(path):
    return urllib.parse.quote(path, safe="/:,=()-.")


missing = '" failed (2: No such file or directory)'
for event in events():
    closed = "x" + missing + fields() + "\n" + event
    paths = [
        "x\n" + event + "\ny",
        "x\r\n" + event + "\r\ny",
        closed + "\n" + frame('*7 open() "/y'),
        closed,
        event[:-1],
        "\n" * 50 + event + "\n" * 50,
    ]
    for path in paths:
        ask("/static/" + quote(path))
        ask("/static/" + quote(path).replace("/", "//"))
        ask("/again/" + quote(path))
        ask("/app/../static/" + quote("/./junk/../" + path))
        fail()
        # Its own failure counts; the lines in its upstream's field do not.
        ask("/raw/" + quote(path))
        genuine += 1
    # Records that are cut: the forged line is the last one, or one of many.
    begin = len(frame(f'*1 open() "{static}/'))
    for length in range(2048 - 8, 2048 + 9):
        padding = length - begin - len(closed) - 1
        ask("/" + quote("z" * padding + closed + "\n" + "w" * 300))
    fail()
    ask("/static/" + quote("x\n" + event + "\n" + "w" * 3000))
    fail()
    # Where the line feeds stand in no request.
    for user in ("x\n" + event + "\ny", 'x" was not found in "/u"' + fields() + "\n" + event + "\n" + frame('*9 user "y')):
        time.sleep(0.5)
        fail()
        time.sleep(0.5)
        name = base64.b64encode((user.replace(":", "\uffff") + ":p").encode("latin-1", "replace")).decode()
        ask("/secret/", f"Authorization: Basic {name}\r\n")
        name = base64.b64encode((user + ":p").encode("latin-1")).decode()
        ask("/secret/", f"Authorization: Basic {name}\r\n")
        time.sleep(0.5)
        fail()
    # In headers.
    ask("/static/y", f"Referer: x%0a{quote(event)}%0a\r\nX: y\r\n")
    fail()
with open(report, "w") as f:
    f.write(str(genuine))
