"""The bare other sides of the references: processes that do nothing but answer.

``python -m benchmarks.bare echo|http|pipe`` prints its port, serves, and ends with its standard input.
"""

from __future__ import annotations

import sys

if sys.argv[1:] == ["http"]:
    # Bottle keeps its request in a thread-local, which gevent must have patched before.
    from gevent import monkey

    monkey.patch_all()

import socket
import threading
import zlib
from typing import Any

from benchmarks.rest_client import HOST

ECHO_BYTES = 600
PIPE_BYTES = 1 << 18
"""As much as a node reads at once."""


def echo(listener: socket.socket) -> None:
    """Send back what comes, ECHO_BYTES at a time."""
    while True:
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while message := sock.recv(ECHO_BYTES, socket.MSG_WAITALL):
            sock.sendall(message)


def pipe(listener: socket.socket) -> None:
    """Receive by gevent with CRC32, answer each connection's end with the checksum."""
    from gevent import socket as green

    waiting = green.socket(fileno=listener.detach())
    while True:
        sock, _ = waiting.accept()
        checksum = 0
        while piece := sock.recv(PIPE_BYTES):
            checksum = zlib.crc32(piece, checksum)
        sock.sendall(checksum.to_bytes(4, "big"))
        sock.close()


def http(listener: socket.socket) -> None:
    """A Bottle app on gevent's server that reads a JSON body and answers three results. No work is done."""
    import bottle  # type: ignore[import-untyped]
    import orjson
    from gevent import pywsgi
    from gevent import socket as green

    class Handler(pywsgi.WSGIHandler):
        def __init__(self, sock: Any, address: Any, server: Any) -> None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            super().__init__(sock, address, server)

    app = bottle.Bottle()

    @app.post("/")  # type: ignore[untyped-decorator]
    def answer() -> bytes:
        orjson.loads(bottle.request.body.read())
        bottle.response.content_type = "application/json"
        return orjson.dumps({"results": [{"id": "v1", "score": 0.5}] * 3})

    waiting = green.socket(fileno=listener.detach())
    pywsgi.WSGIServer(waiting, app, log=None, handler_class=Handler).serve_forever()


def main() -> None:
    """Serve until nobody holds the other end of standard input."""
    if sys.argv[1] == "pipe":
        import gevent.socket  # 40 ms, which whoever sends first would wait for
    listener = socket.create_server((HOST, 0))
    print(listener.getsockname()[1], flush=True)
    serve = {"echo": echo, "http": http, "pipe": pipe}[sys.argv[1]]
    if sys.argv[1] == "http":
        import gevent

        gevent.spawn(serve, listener)
        gevent.get_hub().threadpool.apply(sys.stdin.read)
    else:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        sys.stdin.read()


if __name__ == "__main__":
    main()
