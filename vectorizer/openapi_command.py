"""``vectorizer openapi``: print the description of the REST interface that a server would give.

The table of routes belongs to a whole server; one is put together in a directory of its own, and not started.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from typing import Any

from vectorizer import config
from vectorizer.settings import Settings, Source

APART = {
    "server.host": "127.0.0.1",
    "server.port": 0,
    "storage.journal_file_bytes": 1 << 20,
    "replication.role": "standalone",
}
"""What such a server must not take from the configuration: addresses, room, a role."""


def add_parser(commands: Any) -> None:
    """Add ``openapi`` to the commands of the parser."""
    openapi = commands.add_parser("openapi", help="print the description of the REST interface (OpenAPI 3.1)")
    openapi.add_argument("--config", metavar="FILE", help="configuration file, whose limits are described")
    openapi.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    print(json.dumps(described(config.load(arguments.config)), indent=2))
    return 0


def described(settings: Settings) -> dict[str, Any]:
    """The document that a server with these settings would answer at ``/openapi.json``."""
    from vectorizer.server import Server

    with tempfile.TemporaryDirectory(prefix="vectorizer-") as directory:
        apart = {**APART, "storage.data_dir": directory}
        server = Server(settings.replaced(apart, source=Source.FLAG))
        try:
            return server.application.documents.described
        finally:
            server.discard()
