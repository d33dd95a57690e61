"""Listeners of processes with hostile names, TCP and abstract Unix sockets, until it is killed."""

import ctypes
import os
import socket
import time

PR_SET_NAME = 15
NAMES = [
    b"<img src=x o=1>",
    b"\x1b]0;pwned\x07\x1b[31m",
    b"\xc2\x9b31mC1\xc2\x9d",
    b'a\nb="x"} 1\n#',
    b"\xe2\x80\xaeexe.dw",
    b"\xe2\x81\xa6\xe2\x80\x8b\xef\xbb\xbfzw",
    b"\xe2\x80\xa8\xe2\x80\xa9line",
    b'{{x}}\\"\\n\xff\xfe',
]
libc = ctypes.CDLL(None)
for name in NAMES:
    ready, done = os.pipe()
    if os.fork() == 0:
        libc.prctl(PR_SET_NAME, name, 0, 0, 0)
        tcp = socket.socket()
        tcp.bind(("127.0.0.1", 0))
        tcp.listen(1)
        unix = socket.socket(socket.AF_UNIX)
        unix.bind(b"\0fm-hostile-" + name)
        unix.listen(0)
        os.write(done, b"1")
        time.sleep(600)
        os._exit(0)
    os.read(ready, 1)
print("ready", flush=True)
time.sleep(600)
