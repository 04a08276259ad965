"""The server behind the REST interface: listens, bounds, stops gracefully."""

from __future__ import annotations

import errno
import socket as stdlib_socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gevent
from gevent import GreenletExit, socket
from gevent.pool import Pool
from gevent.pywsgi import WSGIServer

from vectorizer import logs
from vectorizer.errors import ConfigurationError
from vectorizer.rest.connection import RestHandler
from vectorizer.settings import Settings

if TYPE_CHECKING:
    from ssl import SSLContext

BACKLOG = 1024
KILL_SECS = 1.0
TLS_SECS = 10.0
"""How long a client may take for the handshake of TLS, if a request may not take less."""

log = logs.get(__name__)


class RestServer:
    """Serves one WSGI application on one address.

    The address is bound at once, so that a wrong one is noticed before anything else happens; connections are
    refused until ``start``. ConfigurationError if it cannot be bound.
    """

    def __init__(self, host: str, port: int) -> None:
        self._listener = _bind(host, port)
        bound = self._listener.getsockname()
        self.host: str = bound[0]
        self.port: int = bound[1]
        self._pool: Pool | None = None
        self._server: _Server | None = None

    def start(
        self, application: Callable[..., Any], settings: Settings, tls: SSLContext | None = None
    ) -> None:
        """Let clients in, with ``tls`` by HTTPS. While ``connections_max`` are open, further ones wait."""
        self._listener.listen(BACKLOG)
        self._pool = Pool(settings.server.connections_max)
        self._server = _Server(
            self._listener,
            application,
            spawn=self._pool,
            log=None,
            error_log=None,
            handler_class=RestHandler,
            **({} if tls is None else {"ssl_context": tls}),
        )
        if tls is not None:
            self._server.tls = tls
        self._server.request_timeout_secs = settings.server.request_timeout_secs
        self._server.start()

    def close(self) -> None:
        """Give the address back, if the server was never started."""
        self._listener.close()

    def stop(self, timeout_secs: float) -> None:
        """Take no new requests; those that run may finish within the time."""
        server, pool = self._server, self._pool
        if server is None or pool is None:
            self.close()
            return
        server.stopping = True
        server.close()
        for handler in list(server.handlers):
            if handler.idle:
                handler.let_go()
        pool.join(timeout=timeout_secs)
        pool.kill(timeout=KILL_SECS)

    @property
    def connections(self) -> int:
        """Connections open now."""
        return 0 if self._pool is None else len(self._pool)


class _Server(WSGIServer):
    """What the handlers of connections share."""

    stopping = False
    request_timeout_secs = 60.0
    tls: SSLContext

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.handlers: set[RestHandler] = set()
        self.strangers = logs.Recurring(log)

    def do_read(self) -> Any:
        """Accept a connection. Without a file left for it gevent waits a moment, and is told not to print."""
        try:
            return super().do_read()
        except OSError as error:
            self.strangers.warning("connection_not_accepted", host="", error=error.strerror or str(error))
            raise GreenletExit from error

    def wrap_socket_and_handle(self, client_socket: Any, address: Any) -> None:
        """With TLS: the handshake has its time, and who cannot do it is dropped with one line in the log."""
        late = TimeoutError("the handshake took too long")
        try:
            with gevent.Timeout(min(TLS_SECS, self.request_timeout_secs), late):
                secured = self.tls.wrap_socket(client_socket, server_side=True)
        except OSError as error:
            host = str(address[0])
            self.strangers.warning("tls_failed", host=host, client=host, error=str(error))
            return
        try:
            self.handle(secured, address)
        finally:
            secured.close()

    def update_environ(self) -> None:
        """The name in the environment is not looked up: nobody asks for it, and a resolver may hang."""
        self.environ.update(SERVER_NAME=str(self.address[0]), SERVER_PORT=str(self.address[1]))


def _bind(host: str, port: int) -> Any:
    """A bound socket of the address's family, not listening yet."""
    try:
        found = socket.getaddrinfo(
            host.strip("[]"), port, type=stdlib_socket.SOCK_STREAM, flags=stdlib_socket.AI_PASSIVE
        )
        family, _, _, _, address = found[0]
        listener = socket.socket(family, stdlib_socket.SOCK_STREAM)
        try:
            listener.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise ConfigurationError(
            f"cannot serve REST on {host}:{port}: {error.strerror or error}",
            key="server.port" if error.errno == errno.EADDRINUSE else "server.host",
            accepted="an address of this machine that is not in use",
        ) from error
    return listener
