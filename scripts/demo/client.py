"""A small REST client: JSON in, JSON out, one connection a call. The demo needs no more."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from typing import Any


class NodeError(Exception):
    """A node did not answer, or answered with an error; str() is a sentence with the URL in it."""


def call(url: str, method: str = "GET", document: Any = None, timeout_secs: float = 10.0) -> Any:
    """Send `document` as JSON and return the decoded answer; NodeError for anything but success."""
    body = None if document is None else json.dumps(document).encode()
    request = urllib.request.Request(url, data=body, method=method)
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=timeout_secs) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise NodeError(
            f"{method} {url} answered {error.code}: {error.read().decode(errors='replace')}"
        ) from error
    except (OSError, ValueError) as error:
        raise NodeError(f"{method} {url}: {error}") from error


def answers(url: str) -> bool:
    """Whether a node is alive there."""
    try:
        call(f"{url}/health", timeout_secs=2.0)
    except NodeError:
        return False
    return True


def digest(url: str, collection: str) -> str | None:
    """The digest of what a node holds, or None while it cannot tell (it has not got the collection yet)."""
    try:
        return str(call(f"{url}/collections/{collection}/digest")["digest"])
    except NodeError:
        return None


def wait_for_equal_digests(urls: list[str], collection: str, timeout_secs: float) -> str:
    """Return the digest once all nodes report it; NodeError tells each one's at the deadline."""
    deadline = time.monotonic() + timeout_secs
    while True:
        digests = {url: digest(url, collection) for url in urls}
        distinct = set(digests.values())
        if len(distinct) == 1 and None not in distinct:
            return str(distinct.pop())
        if time.monotonic() > deadline:
            told = ", ".join(f"{url}: {value or 'nothing yet'}" for url, value in digests.items())
            raise NodeError(f"the nodes do not hold the same after {timeout_secs:g} s: {told}")
        time.sleep(0.1)
