"""Runs moto's server on a free loopback port and ends when standard input ends.

The testbed holds the other end of standard input and never writes to it. However the testbed's process ends, also by
SIGKILL, the kernel closes that end, and with it this server goes.
"""

import logging
import os
import sys
import threading

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

# One line per request would fill the log; what is worth reading there are tracebacks.
logging.getLogger("werkzeug").setLevel(logging.WARNING)


def end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


server = make_server(
    "127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True, request_handler=MotoRequestHandler
)
threading.Thread(target=end_with_parent, daemon=True).start()
print(server.server_port, flush=True)
server.serve_forever()
