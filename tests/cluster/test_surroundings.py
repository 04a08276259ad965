"""What a process finds around itself: closed streams, no more files."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from contextlib import ExitStack

from tests.cluster.harness import Cluster, wait_until

FREE_FILES = 12
CONNECTIONS = 40


def test_closed_streams_are_no_place_for_data(cluster: Cluster) -> None:
    node = cluster.master_node("silent")
    node.write_config()
    serve = [sys.executable, "-m", "vectorizer", "serve", "--config", str(node.config_file)]
    node.process = subprocess.Popen(
        ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *serve],
        cwd=node.directory,
        env=node.environment,
        start_new_session=True,
    )
    node.wait_ready()
    node.post("/collections", {"name": "c", "dimension": 2})
    streams = [os.readlink(f"/proc/{node.pid}/fd/{number}") for number in range(3)]
    assert streams == [os.devnull] * 3
    assert node.stop() == 0


def test_more_connections_than_files_are_told_in_a_line_and_wait(cluster: Cluster) -> None:
    node = cluster.master_node("few-files")
    node.start()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_files = len(os.listdir(f"/proc/{node.pid}/fd"))
    resource.prlimit(node.pid, resource.RLIMIT_NOFILE, (open_files + FREE_FILES, most))
    with ExitStack() as held:
        for _ in range(CONNECTIONS):
            held.enter_context(socket.create_connection(("127.0.0.1", node.port)))
        wait_until(lambda: "connection_not_accepted" in node.log(), "a line")
    node.post("/collections", {"name": "c", "dimension": 2})
    assert "Traceback" not in node.log()
