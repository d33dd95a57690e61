"""The application of the incident: a Tornado server whose handler blocks for 20 ms.

usage: tornado_app.py PORT BACKLOG
"""

import sys
import time

from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler


class Main(RequestHandler):
    def get(self):
        time.sleep(0.02)
        self.write("hello\n")


def main():
    port, backlog = int(sys.argv[1]), int(sys.argv[2])
    server = HTTPServer(Application([("/", Main)], log_function=lambda handler: None))
    server.add_sockets(bind_sockets(port, backlog=backlog))
    IOLoop.current().start()


if __name__ == "__main__":
    main()
