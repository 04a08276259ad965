"""The live status: a table on a terminal, a line now and then where the output goes elsewhere."""

from __future__ import annotations

import sys
import threading
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from scripts.demo.client import NodeError, call
from scripts.demo.processes import Cluster, ClusterError

TABLE_SECS = 1.0
LINE_SECS = 10.0


def ask(url: str) -> dict[str, Any] | None:
    """A node's answer, None while it has none: it is busy, or syncing its first data."""
    try:
        answer: dict[str, Any] = call(url, timeout_secs=2.0)
    except NodeError:
        return None
    return answer


def row(name: str, url: str) -> list[str]:
    """The cells of one node."""
    status = ask(f"{url}/replication/status")
    if status is None:
        return [name, url, "-", "does not answer", "-", "-", "-", "-"]
    stats, link = status["stats"], status["link"]
    held = ask(f"{url}/collections")
    vectors = "-" if held is None else f"{sum(row['vector_count'] for row in held['collections']):,}"
    offset = f"{status['offset']:,}"
    if link is None:
        return [
            name,
            url,
            status["role"],
            f"{stats['connected_replicas']} replicas",
            vectors,
            offset,
            "-",
            "-",
        ]
    lag = [str(stats["lag_operations"]), str(stats["lag_ms"])]
    return [name, url, status["role"], link["state"], vectors, offset, *lag]


def rows(cluster: Cluster) -> list[list[str]]:
    return [row(name, url) for name, url in cluster.plan.urls.items()]


def table(cluster: Cluster) -> Table:
    drawn = Table(title="Vectorizer cluster · Ctrl-C stops it")
    for heading in ("node", "REST", "role", "state"):
        drawn.add_column(heading)
    for heading in ("vectors", "offset", "lag (operations)", "lag (ms)"):
        drawn.add_column(heading, justify="right")
    for cells in rows(cluster):
        drawn.add_row(*cells)
    return drawn


def line(cluster: Cluster) -> str:
    told = (
        f"{name} {role} {state}, {vectors} vectors, offset {offset}"
        for name, _, role, state, vectors, offset, _, _ in rows(cluster)
    )
    return " | ".join(told)


def refuse_dead(cluster: Cluster) -> None:
    for name in cluster.dead():
        raise ClusterError(f"{name} has ended by itself. {cluster.last_words(name)}")


def watch(cluster: Cluster, stopping: threading.Event) -> None:
    """Show the status until `stopping` is set; ClusterError if a node ends by itself meanwhile."""
    console = Console()
    if not console.is_terminal:
        while not stopping.is_set():
            print(line(cluster), flush=True)
            for _ in range(int(LINE_SECS / TABLE_SECS)):
                refuse_dead(cluster)
                if stopping.wait(TABLE_SECS):
                    break
        return
    with Live(table(cluster), console=console, auto_refresh=False) as live:
        while not stopping.wait(TABLE_SECS):
            refuse_dead(cluster)
            live.update(table(cluster), refresh=True)
    sys.stdout.flush()
