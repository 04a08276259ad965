"""What ``/replication/...`` takes and answers.

Status has more fields than are promised here, and may get further ones.
"""

from __future__ import annotations

from collections.abc import Iterable

from vectorizer.node import Role
from vectorizer.rest.shapes import (
    BOOLEAN,
    COUNT,
    NUMBER,
    STRING,
    AnyShape,
    Named,
    Shape,
    choice,
    described,
    list_of,
    map_of,
    or_null,
    record,
)
from vectorizer.setting import Setting

_TEXT_OR_NULL = or_null(STRING)
_TITLES = [role.value.capitalize() for role in Role]

SYNC = Named(
    "FullSync",
    record(
        {
            "kind": STRING,
            "reason": STRING,
            "offset": COUNT,
            "bytes_total": COUNT,
            "bytes_sent": COUNT,
            "bytes_received": COUNT,
            "percent": NUMBER,
            "seconds": NUMBER,
            "eta_secs": or_null(NUMBER),
        },
        open=True,
    ),
)
REPLICA = Named(
    "Replica",
    record(
        {
            "id": STRING,
            "host": STRING,
            "port": COUNT,
            "status": choice("Connected", "Syncing", "Lagging", "Disconnected"),
            "lag_ms": COUNT,
            "last_heartbeat": COUNT,
            "operations_synced": COUNT,
            "address": STRING,
            "offset": COUNT,
            "lag_operations": COUNT,
            "durable_offset": COUNT,
            "sent_offset": COUNT,
            "heartbeat_age_ms": COUNT,
            "phase": STRING,
            "rest_address": _TEXT_OR_NULL,
            "replication_address": _TEXT_OR_NULL,
            "connected_secs": or_null(NUMBER),
            "disconnected_reason": _TEXT_OR_NULL,
            "bytes_sent": COUNT,
            "bytes_received": COUNT,
            "full_syncs": COUNT,
            "partial_syncs": COUNT,
            "last_sync_reason": _TEXT_OR_NULL,
            "links": COUNT,
            "flapping": BOOLEAN,
            "sync": or_null(SYNC),
        },
        open=True,
    ),
)
STATS = Named(
    "ReplicationStats",
    record(
        {
            "role": choice(*Role),
            "bytes_sent": COUNT,
            "bytes_received": COUNT,
            "last_sync": COUNT,
            "snapshot_size": COUNT,
            "lag_ms": COUNT,
            "operations_pending": COUNT,
            "connected_replicas": COUNT,
            "master_offset": COUNT,
            "replica_offset": COUNT,
            "lag_operations": COUNT,
            "total_replicated": COUNT,
        },
        open=True,
    ),
)
_MASTERSHIP = record({"replication_id": STRING, "epoch": COUNT, "start_offset": COUNT})
_LINK = record(
    {
        "state": STRING,
        "master_address": STRING,
        "master_offset": COUNT,
        "connected": BOOLEAN,
        "up_secs": or_null(NUMBER),
        "last_error": or_null(record({"reason": STRING, "message": STRING}, open=True)),
    },
    open=True,
)
STATUS = Named(
    "ReplicationStatus",
    record(
        {
            "role": choice(*_TITLES),
            "enabled": BOOLEAN,
            "stats": STATS,
            "replicas": list_of(REPLICA),
            "node_id": STRING,
            "replication_id": STRING,
            "epoch": COUNT,
            "offset": COUNT,
            "durable_offset": COUNT,
            "history": list_of(_MASTERSHIP),
            "window": record({"first_offset": COUNT, "last_offset": COUNT, "operations": COUNT}),
            "serves_data": BOOLEAN,
            "counters": map_of({}),
            "sync": or_null(SYNC),
            "link": or_null(_LINK),
            "metrics": map_of({"type": ["number", "boolean"]}),
            "fsync": STRING,
            "manifest_offset": COUNT,
            "replication_address": _TEXT_OR_NULL,
            "rest_address": STRING,
            "diverged": list_of(
                record({"file": STRING, "operations": COUNT, "complete": BOOLEAN}, open=True)
            ),
            "settings": map_of(record({"value": {}, "source": STRING, "where": STRING})),
        },
        open=True,
    ),
)
REPLICAS = record(
    {"replicas": list_of(REPLICA), "count": COUNT, "connected_replicas": COUNT, "message": STRING}
)
CONFIGURED = Named(
    "Configured",
    record(
        {
            "success": BOOLEAN,
            "role": choice(*_TITLES),
            "message": STRING,
            "restart_required": {"const": False},
        }
    ),
)


def configure_body(settings: Iterable[Setting]) -> Named:
    """Body of ``POST /replication/configure``: any of these settings, in all their spellings."""
    shapes: dict[str, AnyShape] = {
        "force": {**described(BOOLEAN, "Also where data would be lost."), "default": False}
    }
    for row in settings:
        for spelling in row.spellings:
            shapes[spelling] = described(_shape_of(row), row.help)
    return Named("Configure", record(shapes, optional=shapes))


def _shape_of(row: Setting) -> Shape:
    bounds = {"minimum": row.minimum, "maximum": row.maximum}
    match row.kind:
        case "truth":
            return BOOLEAN
        case "whole":
            return {"type": "integer", **bounds}
        case "number":
            return {"type": "number", **bounds}
        case "choice":
            return choice(*row.choices)
        case _:
            return _TEXT_OR_NULL
