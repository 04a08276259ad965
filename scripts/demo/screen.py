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


def facts(url: str) -> dict[str, Any]:
    """What one node says of itself; {"error": …} while it does not answer."""
    try:
        return {
            "replication": call(f"{url}/replication/status", timeout_secs=2.0),
            "collections": call(f"{url}/collections", timeout_secs=2.0)["collections"],
        }
    except NodeError as error:
        return {"error": str(error)}


def replica_row(known: dict[str, Any]) -> tuple[str, str, str]:
    """(state, lag in operations, lag in ms) as a replica tells them."""
    stats = known["replication"]["stats"]
    state = "linked" if stats.get("connected") else "not linked"
    return state, str(stats["lag_operations"]), str(stats["lag_ms"])


def row(name: str, url: str, known: dict[str, Any]) -> list[str]:
    """The cells of one node."""
    if "error" in known:
        return [name, url, "-", "does not answer", "-", "-", "-", "-"]
    role = known["replication"]["role"]
    stats = known["replication"].get("stats") or {}
    vectors = sum(collection["vector_count"] for collection in known["collections"])
    if role == "Replica":
        state, operations, milliseconds = replica_row(known)
        offset = stats["replica_offset"]
    else:
        state, operations, milliseconds = f"{stats.get('connected_replicas', 0)} replicas", "-", "-"
        offset = stats.get("master_offset", 0)
    return [name, url, role, state, f"{vectors:,}", f"{offset:,}", operations, milliseconds]


def rows(cluster: Cluster) -> list[list[str]]:
    return [row(name, url, facts(url)) for name, url in cluster.plan.urls.items()]


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
