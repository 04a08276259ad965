"""Errors by whose fault they are: the client's, the operator's, the peer's, or damage on disk.

``str(error)`` is always one sentence for a person; the codes are for machines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MASTER_HEADER = "X-Vectorizer-Master"


class VectorizerError(Exception):
    """Base of all errors that this package raises on purpose."""


class RequestError(VectorizerError):
    """A request that cannot be carried out; becomes the JSON error of the REST API."""

    def __init__(
        self,
        status_code: int,
        error_type: str,
        message: str,
        details: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.error_type = error_type
        self.message = message
        self.details = dict(details or {})
        self.headers = dict(headers or {})


class ConfigurationError(VectorizerError):
    """A setting that cannot be used: which key, where it was said, what is accepted."""

    def __init__(
        self,
        message: str,
        *,
        key: str | None = None,
        source: str | None = None,
        accepted: str | None = None,
        nearest: str | None = None,
    ) -> None:
        parts = [message]
        if source:
            parts.append(f"(from {source})")
        if accepted:
            parts.append(f"accepted: {accepted}")
        if nearest:
            parts.append(f"did you mean {nearest!r}?")
        super().__init__(
            " ".join(parts[:2]) + "".join(f"; {part}" for part in parts[2:]) if source else "; ".join(parts)
        )
        self.key = key
        self.source = source
        self.accepted = accepted
        self.nearest = nearest


class PeerError(VectorizerError):
    """Something a replication peer said or did; the link is closed and both sides say why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ApplyError(PeerError):
    """An operation of the stream that does not fit this node's data."""


class DamageError(VectorizerError):
    """Damage on disk: the file, the byte position where known, and what to do."""

    def __init__(self, file: str, message: str, *, position: int | None = None) -> None:
        place = file if position is None else f"{file} at byte {position}"
        super().__init__(f"{place}: {message}")
        self.file = file
        self.position = position


def validation(message: str, **details: Any) -> RequestError:
    """400: the request does not make sense as it stands."""
    return RequestError(400, "validation_error", message, details)


def not_found(kind: str, name: str) -> RequestError:
    """404: there is no such collection, vector or route."""
    return RequestError(404, f"{kind}_not_found", f"{kind} {name!r} does not exist", {kind: name})


def conflict(message: str, error_type: str = "conflict", **details: Any) -> RequestError:
    """409: the request contradicts what exists."""
    return RequestError(409, error_type, message, details)


def too_large(what: str, size: int, limit: int) -> RequestError:
    """413: more than a limit allows; names both numbers."""
    return RequestError(
        413,
        "too_large",
        f"{what} has {size} bytes, the limit is {limit}",
        {"size_bytes": size, "limit_bytes": limit},
    )


def unsupported_media_type(given: str, accepted: str) -> RequestError:
    """415: a body in a format this route does not read."""
    return RequestError(
        415, "unsupported_media_type", f"Content-Type {given!r} is not supported here; accepted: {accepted}"
    )


def read_only_replica(master_url: str | None) -> RequestError:
    """403: writes belong to the master."""
    where = (
        f"; write to the master at {master_url}" if master_url else "; its master is not known at the moment"
    )
    return RequestError(
        403,
        "read_only_replica",
        "this node is a read-only replica" + where,
        {"master": master_url},
        {MASTER_HEADER: master_url} if master_url else None,
    )


def not_ready(message: str, error_type: str = "not_ready") -> RequestError:
    """503: the node has no complete data at the moment; come back soon."""
    return RequestError(503, error_type, message, headers={"Retry-After": "1"})


def syncing() -> RequestError:
    """503: a replica without complete data receives a full sync."""
    return not_ready("this replica is receiving its first full sync and has no complete data yet", "syncing")


def unauthorized(*, given: bool) -> RequestError:
    """401: no API key, or (``given``) one that does not count."""
    why = "this API key is not known here" if given else "this needs an API key"
    challenge = 'Bearer realm="vectorizer"' + (', error="invalid_token"' if given else "")
    return RequestError(
        401,
        "unauthorized",
        f"{why}: send one as X-API-Key or Authorization: Bearer",
        headers={"WWW-Authenticate": challenge},
    )


def forbidden(message: str, **details: Any) -> RequestError:
    """403: the API key is known, but its role does not allow this."""
    return RequestError(403, "forbidden", message, details)


def insufficient_storage(message: str, **details: Any) -> RequestError:
    """507: no room on disk; nothing was changed."""
    return RequestError(507, "insufficient_storage", message, details)
