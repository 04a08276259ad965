"""Collections: create, list, describe, drop, digest."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from vectorizer.database import Database
from vectorizer.digest import digest_of
from vectorizer.errors import validation
from vectorizer.operations import METRICS, SEGMENT_BYTES_MAX, CollectionConfig, Create, Drop
from vectorizer.rest.exchange import Answer, Request, Route, written, written_shape
from vectorizer.rest.schema import Choice, Field, Integer, Number, Table, Text
from vectorizer.rest.shapes import (
    BOOLEAN,
    COUNT,
    NUMBER,
    STRING,
    TIME,
    Named,
    choice,
    list_of,
    or_null,
    record,
)
from vectorizer.sections import BY_NAME
from vectorizer.settings import Settings
from vectorizer.storage.collection import Collection

NAME_PATTERN = "[A-Za-z0-9][A-Za-z0-9_.-]{0,127}"

COLLECTION_FIELDS = {
    "name": STRING,
    "dimension": COUNT,
    "metric": choice(*METRICS),
    "vector_count": COUNT,
    "created_at": TIME,
    "size": record({"memory_bytes": COUNT, "disk_bytes": COUNT, "vector_bytes": COUNT}),
    "indexing_status": record(
        {
            "indexed_fraction": {"type": "number", "minimum": 0, "maximum": 1},
            "indexed_vectors": COUNT,
            "growing_vectors": COUNT,
            "segments": COUNT,
            "graphs": COUNT,
            "recall": NUMBER,
            "ef": or_null(COUNT),
            "segment_rows": COUNT,
            "segment_rows_max": COUNT,
            "hnsw_m": COUNT,
            "ef_construction": COUNT,
        }
    ),
}
COLLECTION = Named("Collection", record(COLLECTION_FIELDS))
COLLECTIONS = record({"collections": list_of(COLLECTION), "total_collections": COUNT})
DROPPED = written_shape({"name": STRING, "deleted": BOOLEAN})
DIGEST = record(
    {"digest": {"type": "string", "pattern": "^[0-9a-f]{32}$"}, "vector_count": COUNT, "offset": COUNT}
)


def create_table(settings: Settings) -> Table:
    """Body of ``POST /collections``; ranges are those of the settings that give the defaults."""

    def size(key: str, help: str) -> Field:
        setting = BY_NAME[f"index.{key}"]
        kind = Integer(int(setting.minimum or 0), int(setting.maximum or 2**31))
        return Field(kind, help, default=getattr(settings.index, key))

    return Table(
        "CreateCollection",
        {
            "name": Field(Text(128, pattern=NAME_PATTERN), "the collection's name", required=True),
            "dimension": Field(
                Integer(1, settings.limits.dimension_max), "numbers in each vector", required=True
            ),
            "metric": Field(Choice(METRICS), "how vectors are compared", default="cosine"),
            "recall": Field(
                Number(above=0, maximum=1),
                "share of the true neighbours to find",
                default=settings.index.recall,
            ),
            "segment_rows": size("segment_rows", "rows of a sealed segment"),
            "segment_rows_max": size("segment_rows_max", "rows up to which segments are merged"),
            "hnsw_m": size("hnsw_m", "neighbours of a row in a graph"),
            "ef_construction": size("ef_construction", "effort of building a graph"),
        },
        {"similarity_metric": "metric"},
    )


class CollectionRoutes:
    """``/collections`` and ``/collections/{name}``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._create_table = create_table(database.settings)

    def routes(self) -> list[Route]:
        """The rows for the table of routes."""
        one = "/collections/<name>"
        return [
            Route(
                "POST",
                "/collections",
                self.create,
                "Create a collection.",
                bodies=[self._create_table],
                writes=True,
                answers={201: written_shape(COLLECTION_FIELDS)},
                errors=[409],
            ),
            Route(
                "GET",
                "/collections",
                self.list,
                "All collections.",
                reads=True,
                answers={200: COLLECTIONS},
            ),
            Route("GET", one, self.get, "One collection.", reads=True, answers={200: COLLECTION}),
            Route(
                "DELETE",
                one,
                self.drop,
                "Drop a collection with all its vectors.",
                writes=True,
                answers={200: DROPPED},
            ),
            Route(
                "GET",
                one + "/digest",
                self.digest,
                "One number for everything a collection holds.",
                reads=True,
                answers={200: DIGEST},
            ),
        ]

    def create(self, request: Request) -> Answer:
        """201 with the new collection."""
        config = CollectionConfig(**self._create_table.read(request.document()))
        _check_config(config)
        result = self._database.write(Create(config))
        # Somebody may have dropped it again while this write became durable.
        collection = self._database.node.store.collections.get(config.name)
        if collection is None:
            collection = Collection(config, result.offset, time.time_ns() // 1_000_000)
        return written(result, 201, **describe(collection))

    def list(self, request: Request) -> Answer:
        """All collections, by name."""
        self._database.guard_readable()
        documents = []
        for _, collection in sorted(self._database.node.store.collections.items()):
            documents.append(describe(collection))
            request.breathe()
        return Answer({"collections": documents, "total_collections": len(documents)})

    def get(self, request: Request, name: str) -> Answer:
        """One collection."""
        return Answer(describe(self._database.collection(name)))

    def drop(self, request: Request, name: str) -> Answer:
        """Gone, here and on every replica."""
        self._database.collection(name)
        return written(self._database.write(Drop(name)), name=name, deleted=True)

    def digest(self, request: Request, name: str) -> Answer:
        """Equal on nodes that hold the same."""
        view = self._database.view(name)
        digest, count = digest_of(view, request.breathe)
        return Answer({"digest": digest, "vector_count": count, "offset": view.offset})


def _check_config(config: CollectionConfig) -> None:
    if config.segment_rows > config.segment_rows_max:
        raise validation(
            f"segment_rows is {config.segment_rows}, it must be at most segment_rows_max, "
            f"{config.segment_rows_max}"
        )
    size = config.segment_rows * config.dimension * 4
    if size > SEGMENT_BYTES_MAX:
        raise validation(
            f"a segment of {config.segment_rows} rows of {config.dimension} dimensions has {size} bytes, "
            f"the limit is {SEGMENT_BYTES_MAX}; give fewer segment_rows",
            size_bytes=size,
            limit_bytes=SEGMENT_BYTES_MAX,
        )


def describe(collection: Collection) -> dict[str, Any]:
    """A collection as the API shows it."""
    config = collection.config
    created = datetime.fromtimestamp(collection.created_ms / 1000, UTC)
    return {
        "name": config.name,
        "dimension": config.dimension,
        "metric": config.metric,
        "vector_count": collection.vector_count,
        "created_at": created.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "size": {
            "memory_bytes": collection.memory_bytes(),
            "disk_bytes": collection.disk_bytes(),
            "vector_bytes": collection.vector_count * config.dimension * 4,
        },
        "indexing_status": indexing_status(collection),
    }


def indexing_status(collection: Collection) -> dict[str, Any]:
    """How the vectors are held. ``ef`` is the largest in use, null where everything is scanned exactly."""
    config = collection.config
    graphs = [segment.graph for segment in collection.segments if segment.graph is not None]
    indexed = sum(
        segment.rows - segment.dead_rows for segment in collection.segments if segment.graph is not None
    )
    chosen = [graph.calibration.choose(config.recall) for graph in graphs]
    count = collection.vector_count
    return {
        "indexed_fraction": round(indexed / count, 6) if count else 1.0,
        "indexed_vectors": indexed,
        "growing_vectors": sum(chunk.rows - chunk.dead_rows for chunk in collection.growing),
        "segments": len(collection.segments),
        "graphs": len(graphs),
        "recall": config.recall,
        "ef": max((ef for ef in chosen if ef is not None), default=None),
        "segment_rows": config.segment_rows,
        "segment_rows_max": config.segment_rows_max,
        "hnsw_m": config.hnsw_m,
        "ef_construction": config.ef_construction,
    }
