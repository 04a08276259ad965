"""``vectorizer status``: how a node is, as titles with rows below; drawn with colours or as plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from rich import box
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from vectorizer.client.node import Node

HISTORY_SHOWN = 5
GOOD = ("streaming", "Connected", "ok", "yes")
BAD = ("failed", "Disconnected", "no", "refused")


@dataclass(frozen=True, slots=True)
class Section:
    """A title, names of columns (none for pairs of name and value), rows of text."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def gather(node: Node) -> list[Section]:
    """Ask the node. CommandError if it does not answer or lets nobody in."""
    status = node.ask_once("GET", "/replication/status")
    health = node.ask_once("GET", "/health")
    collections: Sequence[Mapping[str, Any]] = ()
    if status.get("serves_data", True):
        collections = node.ask_once("GET", "/collections")["collections"]
    return [*sections(str(node.endpoint), status, health), _collections(collections)]


def sections(url: str, status: Mapping[str, Any], health: Mapping[str, Any]) -> list[Section]:
    """What the two documents say, without the collections."""
    found = [Section(f"{url}  {str(status['role']).lower()}", (), _node(status, health))]
    if status.get("link"):
        found.append(Section("link", (), _link(status)))
    if status.get("replicas"):
        columns = ("replica", "state", "offset", "durable", "lag", "heartbeat", "last sync")
        found.append(Section("replicas", columns, [_replica(replica) for replica in status["replicas"]]))
    history = status.get("history") or []
    if history:
        rows = [
            [_text(entry["epoch"]), _text(entry["start_offset"]), _text(entry["replication_id"])]
            for entry in history[-HISTORY_SHOWN:]
        ]
        found.append(Section("history", ("epoch", "from offset", "replication id"), rows))
    if status.get("diverged"):
        rows = [
            [_text(file["file"]), _text(file["operations"]), "yes" if file["complete"] else "no"]
            for file in status["diverged"]
        ]
        found.append(Section("diverged operations", ("file", "operations", "complete"), rows))
    return found


def plain(found: Sequence[Section]) -> str:
    """Text for a pipe or a file."""
    lines: list[str] = []
    for section in found:
        rows = [list(section.columns), *section.rows] if section.columns else list(section.rows)
        widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))] if rows else []
        lines.append(section.title)
        for row in rows:
            cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)]
            lines.append(f"  {'  '.join(cells).rstrip()}")
    return "\n".join(lines) + "\n"


def drawn(found: Sequence[Section]) -> Group:
    """The same for a terminal."""
    parts: list[Panel] = []
    for section in found:
        table = Table(box=box.SIMPLE_HEAD, show_header=bool(section.columns), pad_edge=False, expand=True)
        if section.columns:
            for name in section.columns:
                table.add_column(name, style="", header_style="dim")
        else:
            table.box = None
            table.add_column(style="dim", min_width=12)
            table.add_column(ratio=1)
        for row in section.rows:
            table.add_row(*(Text(cell, style=_style(cell)) for cell in row))
        parts.append(Panel(table, title=Text(section.title, style="bold"), title_align="left"))
    return Group(*parts)


def terminal(stream: TextIO) -> Console:
    """Where it is drawn."""
    return Console(file=stream, highlight=False)


def _node(status: Mapping[str, Any], health: Mapping[str, Any]) -> list[list[str]]:
    window, writes = status["window"], status.get("writes") or {}
    held = f"{window['operations']} operations, {window['first_offset']}"
    rows = [
        ["node", _text(status["node_id"])],
        ["version", f"{_text(health.get('version'))}, up {_duration(health.get('uptime_seconds', 0))}"],
        ["offset", f"{status['offset']} (durable {status['durable_offset']}), epoch {status['epoch']}"],
        ["window", f"{held} to {window['last_offset']}" if window["operations"] else "empty"],
        ["takes writes", "yes" if writes.get("taken") else "no"],
    ]
    if writes.get("held"):
        rows.append(["writes held", _text(writes["held"])])
    if writes.get("deposed_by"):
        rows.append(["deposed by", f"epoch {writes['deposed_by']['epoch']}"])
    if not status.get("serves_data", True):
        rows.append(["serves data", "no"])
    if status.get("replication_address"):
        rows.append(["replicas at", _text(status["replication_address"])])
    return rows


def _link(status: Mapping[str, Any]) -> list[list[str]]:
    link, stats = status["link"], status["stats"]
    rows = [
        ["state", _text(link["state"])],
        ["master", f"{_text(link['master_address'])}, REST {_text(link['master_rest_address'])}"],
        ["master offset", _text(link["master_offset"])],
        ["lag", f"{stats['lag_operations']} operations, {stats['lag_ms']} ms"],
        ["heartbeat", f"{_text(link['heartbeat_age_ms'])} ms ago"],
        ["last sync", _text(link["last_sync_reason"])],
    ]
    if status.get("sync"):
        rows.append(["sync", _sync(status["sync"])])
    if link.get("last_error"):
        rows.append(["last error", _error(link["last_error"])])
    return rows


def _replica(replica: Mapping[str, Any]) -> list[str]:
    sync = replica.get("sync")
    return [
        _text(replica.get("rest_address") or replica["address"]),
        _text(replica["status"]) if sync is None else f"{_text(replica['status'])} {_sync(sync)}",
        _text(replica["offset"]),
        _text(replica["durable_offset"]),
        f"{replica['lag_operations']} operations, {replica['lag_ms']} ms",
        f"{_text(replica['heartbeat_age_ms'])} ms ago",
        _text(replica["last_sync_reason"]),
    ]


def _collections(collections: Sequence[Mapping[str, Any]]) -> Section:
    columns = ("collection", "vectors", "dimension", "metric", "indexed", "memory", "disk")
    rows = [
        [
            _text(item["name"]),
            _text(item["vector_count"]),
            _text(item["dimension"]),
            _text(item["metric"]),
            f"{100 * item['indexing_status']['indexed_fraction']:.0f} %",
            _bytes(item["size"]["memory_bytes"]),
            _bytes(item["size"]["disk_bytes"]),
        ]
        for item in collections
    ]
    return Section("collections", columns, rows)


def _sync(sync: Mapping[str, Any]) -> str:
    eta = "" if sync["eta_secs"] is None else f", {_duration(sync['eta_secs'])} to go"
    return f"{sync['percent']} % of {_bytes(sync['bytes_total'])}{eta}"


def _error(error: Any) -> str:
    if isinstance(error, Mapping):
        return _text(error.get("message") or error.get("reason") or dict(error))
    return _text(error)


def _text(value: Any) -> str:
    """One line without what would steer a terminal: names come from the network."""
    text = "-" if value is None else str(value)
    return "".join(character if character.isprintable() else "?" for character in text)


def _duration(seconds: float) -> str:
    whole = int(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s"


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _style(cell: str) -> str:
    word = cell.partition(" ")[0]
    return "green" if word in GOOD else "red" if word in BAD else ""
