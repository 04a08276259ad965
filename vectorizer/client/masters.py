"""``vectorizer promote``, ``follow`` and ``switchover``: one request each, and the node's own words."""

from __future__ import annotations

from typing import Any

from vectorizer.client.node import Node


def promote(node: Node, bind_address: str | None, force: bool) -> str:
    """Make this node the master. RefusedError says why not."""
    wanted: dict[str, Any] = {} if bind_address is None else {"bind_address": bind_address}
    return _asked(node, "promote", wanted, force)


def follow(node: Node, master_address: str, force: bool) -> str:
    """Make this node a replica of that master. RefusedError says why not."""
    return _asked(node, "follow", {"master_address": master_address}, force)


def switchover(node: Node, target: str | None, timeout_ms: int | None) -> str:
    """Hand the mastership of this node over. RefusedError says why not, and what holds now."""
    wanted = {"target": target, "timeout_ms": timeout_ms}
    given = {name: value for name, value in wanted.items() if value is not None}
    answer = node.ask_once("POST", "/replication/switchover", given)
    return f"{node.endpoint}: {answer['message']}"


def abort_switchover(node: Node) -> str:
    """End a switchover whose promotion was not sent yet."""
    return f"{node.endpoint}: {node.ask_once('POST', '/replication/switchover/abort')['message']}"


def _asked(node: Node, verb: str, wanted: dict[str, Any], force: bool) -> str:
    if force:
        wanted = {**wanted, "force": True}
    return f"{node.endpoint}: {node.ask_once('POST', f'/replication/{verb}', wanted)['message']}"
