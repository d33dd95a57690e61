"""The incident in small: a queue of one, and clients that nobody accepts, for as long as is asked for."""

import socket
import sys
import time

PLACE = ("127.0.0.1", 19436)
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(PLACE)
listener.listen(1)
end = time.monotonic() + float(sys.argv[1])
clients = []
while time.monotonic() < end:
    for _ in range(12):
        client = socket.socket()
        client.setblocking(False)
        client.connect_ex(PLACE)
        clients.append(client)
    time.sleep(2)
    clients = clients[-24:]
