import os
import socket
import sys
import time

server = socket.socket()
server.bind(("127.0.0.1", int(sys.argv[1])))
server.listen(8)
children = int(sys.argv[2])
for _ in range(children):
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
for _ in range(children):
    os.wait()
time.sleep(60)
