"""Vectors: upsert, read, replace, delete, page through."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from vectorizer import codec
from vectorizer.breathing import Breather
from vectorizer.database import Database, WriteResult
from vectorizer.errors import conflict, not_found, validation
from vectorizer.filters import Filter, parse_filter
from vectorizer.operations import Delete, Rows, Upsert, Vectors
from vectorizer.rest.bodies import encode_json, json_texts
from vectorizer.rest.exchange import Answer, Request, Route, written, written_shape
from vectorizer.rest.filter_shape import FILTER
from vectorizer.rest.rows import (
    PAYLOAD,
    VECTOR,
    RowLimits,
    columns_table,
    items_table,
    read_id,
    read_payload,
    read_vector,
    rows_of_columns,
    rows_of_items,
)
from vectorizer.rest.schema import Field, Integer, Items, Table, Text
from vectorizer.rest.shapes import BOOLEAN, COUNT, ID, STRING, Named, list_of, or_null, record
from vectorizer.rest.shapes import PAYLOAD as PAYLOAD_SHAPE
from vectorizer.rest.shapes import VECTOR as VECTOR_SHAPE
from vectorizer.storage.chunk import LIVE, Chunk, View, hash_ids
from vectorizer.storage.collection import Collection, Cursor, cursor_of, page

PAGE_LIMIT = 100
PAGE_BYTES_MAX = 16 * 1024 * 1024
"""A page ends early, with a cursor, when its answer has become so large."""
PAGE_STEP = 256
"""Rows looked up between two breaths."""
DELETED_IDS_MAX = 20_000
"""Ids in one operation of a deletion by filter: applying it, 1.5 us an id, cannot be interrupted, here and on
each replica.
"""

REPLACEMENT = Table(
    "Replacement",
    {
        "vector": Field(VECTOR, "the new vector; left out, the old one stays"),
        "payload": Field(
            PAYLOAD, "the new payload, null for none; left out, the old one stays", nullable=True
        ),
    },
)

STORED = Named("StoredVector", record({"id": ID, "vector": VECTOR_SHAPE, "payload": PAYLOAD_SHAPE}))
PAGE = record({"vectors": list_of(STORED), "next_cursor": or_null(STRING)})
UPSERTED = written_shape({"ids": list_of(ID), "upserted": COUNT})
REPLACED = written_shape({"id": ID})
DELETED = written_shape({"id": ID, "deleted": BOOLEAN})
DELETED_MANY = written_shape({"deleted": COUNT})


class VectorRoutes:
    """``/collections/{name}/vectors`` and below."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._limits = limits = database.settings.limits
        self._items_table = items_table(limits.batch_rows_max)
        self._columns_table = columns_table(limits.batch_rows_max)
        self._delete_table = Table(
            "DeleteVectors",
            {
                "ids": Field(
                    Items(limits.batch_rows_max, of=ID), "the vectors to delete; missing ones are no error"
                ),
                "filter": Field(FILTER, "delete what it matches"),
            },
        )
        self._page_table = Table(
            "Page",
            {
                "limit": Field(Integer(1, limits.page_limit_max), "vectors in the page", default=PAGE_LIMIT),
                "cursor": Field(Text(1024), "next_cursor of the page before"),
            },
        )

    def routes(self) -> list[Route]:
        """The rows for the table of routes."""
        all_, one = "/collections/<name>/vectors", "/collections/<name>/vectors/<id:re:.*>"
        forms = [self._items_table, self._columns_table]
        return [
            Route(
                "POST",
                all_,
                self.upsert,
                "Insert vectors, or replace those whose ids exist: all or none.",
                bodies=forms,
                list_key="vectors",
                bson=True,
                writes=True,
                answers={200: UPSERTED},
                errors=[409],
            ),
            Route(
                "GET",
                all_,
                self.page,
                "Page through everything.",
                query=self._page_table,
                bson=True,
                reads=True,
                answers={200: PAGE},
            ),
            Route(
                "POST",
                all_ + "/delete",
                self.delete_many,
                "Delete vectors by ids or by a filter.",
                bodies=[self._delete_table],
                list_key="ids",
                writes=True,
                answers={200: DELETED_MANY},
                errors=[409],
            ),
            Route("GET", one, self.get, "One vector with its payload.", reads=True, answers={200: STORED}),
            Route(
                "PUT",
                one,
                self.replace,
                "Replace vector, payload or both.",
                bodies=[REPLACEMENT],
                writes=True,
                answers={200: REPLACED},
                errors=[409],
            ),
            Route("DELETE", one, self.delete, "Delete one vector.", writes=True, answers={200: DELETED}),
        ]

    # -- one -------------------------------------------------------------------------------------------------

    def get(self, request: Request, name: str, id: str) -> Answer:
        """The stored float32 values exactly, and the payload."""
        collection = self._database.collection(name)
        chunk, row = self._locate(collection, self._id(id))
        return Answer(_document(request, chunk, row))

    def replace(self, request: Request, name: str, id: str) -> Answer:
        """Upsert of the full row: what the body leaves out is taken from the row as it is at the commit."""
        id_ = self._id(id)
        collection = self._database.collection(name)
        values = REPLACEMENT.read(request.document())
        if values["vector"] is None and "payload" not in values:
            raise validation("the body has neither vector nor payload; there is nothing to replace")
        config = collection.config
        vector: Vectors | None = None
        if values["vector"] is not None:
            vector = read_vector(values["vector"], "vector", config.dimension, config.metric)
        payload: bytes | None = None
        if "payload" in values:
            payload = read_payload(values["payload"], "payload", self._limits.payload_bytes_max)
        self._last_switch(collection, name)
        chunk, row = self._locate(collection, id_)
        if vector is None:
            vector = chunk.vectors[row]
        if payload is None:
            payload = chunk.payload_at(row)
        rows = Rows([id_], np.ascontiguousarray(vector, np.float32).reshape(1, -1), [payload])
        return written(self._database.write(Upsert(name, rows)), id=id)

    def delete(self, request: Request, name: str, id: str) -> Answer:
        """404 if it is missing."""
        id_ = self._id(id)
        self._locate(self._database.collection(name), id_)
        return written(self._database.write(Delete(name, [id_])), id=id, deleted=True)

    # -- many ------------------------------------------------------------------------------------------------

    def upsert(self, request: Request, name: str) -> Answer:
        """All rows or none, as one operation."""
        collection = self._database.collection(name)
        rows = self._rows(request, collection)
        self._last_switch(collection, name)
        result = self._database.write(Upsert(name, rows))
        ids = [id_.decode() for id_ in rows.ids] if request.answers_bson else json_texts(rows.ids)
        return written(result, ids=ids, upserted=len(rows))

    def _rows(self, request: Request, collection: Collection) -> Rows:
        """The rows in a body. Its document ends here, not with the request, which waits for the disk: so the
        next one finds its memory in the caches.
        """
        config, limits = collection.config, self._limits
        row_limits = RowLimits(config.dimension, config.metric, limits.id_bytes_max, limits.payload_bytes_max)
        document = request.document()
        if isinstance(document, Mapping) and isinstance(document.get("vectors"), bytes):
            columns = self._columns_table.read(document)
            return rows_of_columns(columns, row_limits, limits.batch_rows_max, request.breathe)
        items = self._items_table.read(document)["vectors"]
        return rows_of_items(items, row_limits, request.breathe, booleans=request.has_booleans)

    def delete_many(self, request: Request, name: str) -> Answer:
        """By ids or by filter; what is not there is no error, and changing nothing takes no offset.

        What a filter finds is deleted by operations of at most DELETED_IDS_MAX ids, each of them whole.
        """
        collection = self._database.collection(name)
        values = self._delete_table.read(request.document())
        if (values["ids"] is None) == (values["filter"] is None):
            raise validation("the body must have either ids or filter")
        if values["ids"] is not None:
            ids = self._ids(values["ids"])
            request.breathe()
            result, deleted = self._delete(collection, name, lambda: collection.existing(ids))
            return written(result, deleted=deleted)
        parsed = parse_filter(values["filter"], "filter", self._limits.filter_conditions_max)
        found = _matching(self._database.view(name), parsed, request.breathe)
        total = 0
        for group in _groups(found) or [[]]:
            result, deleted = self._delete(collection, name, partial(_unchanged, collection, parsed, group))
            total += deleted
            request.breathe()
        return written(result, deleted=total)

    def page(self, request: Request, name: str) -> Answer:
        """A part of everything, in an order that neither writes nor merges disturb."""
        query = request.parameters
        cursor = None if query["cursor"] is None else _read_cursor(query["cursor"])
        view = self._database.view(name)
        rows, more = _page_rows(view, cursor, query["limit"], request.breathe)
        documents: list[Any] = []
        size = 0
        last: tuple[Chunk, int] | None = None
        for chunk, row in rows:
            document = _document(request, chunk, row)
            # Items of a JSON page are encoded one by one: a large page at once would hold the event loop.
            documents.append(document if request.answers_bson else encode_json(document))
            size += view.config.dimension * 12 + len(chunk.payload_at(row)) + 300
            last = chunk, row
            request.breathe()
            if size > PAGE_BYTES_MAX:
                break
        more = more or len(documents) < len(rows)
        next_cursor = _write_cursor(cursor_of(*last)) if more and last is not None else None
        if request.answers_bson:
            return Answer({"vectors": documents, "next_cursor": next_cursor})
        tail = b'],"next_cursor":' + encode_json(next_cursor) + b"}"
        return Answer(body=b'{"vectors":[' + b",".join(documents) + tail)

    # -- parts -----------------------------------------------------------------------------------------------

    def _delete(
        self, collection: Collection, name: str, present: Callable[[], list[bytes]]
    ) -> tuple[WriteResult, int]:
        """Delete the ids that are present at this moment: no other greenlet runs between look and commit."""
        self._last_switch(collection, name)
        ids = present()
        if ids:
            return self._database.write(Delete(name, ids)), len(ids)
        node = self._database.node
        return WriteResult(node.offset, node.replication_id), 0

    def _id(self, text: str) -> bytes:
        return read_id(text, "the id", self._limits.id_bytes_max)

    def _ids(self, values: list[Any]) -> list[bytes]:
        """Ids to delete; naming one twice changes nothing."""
        limit = self._limits.id_bytes_max
        return list(
            dict.fromkeys(read_id(value, f"ids[{index}]", limit) for index, value in enumerate(values))
        )

    def _locate(self, collection: Collection, id_: bytes) -> tuple[Chunk, int]:
        found = collection.locate(id_)
        if found is None:
            raise not_found("vector", id_.decode())
        return found

    def _last_switch(self, collection: Collection, name: str) -> None:
        """Wait here, where writes are held: from here to the commit no other greenlet runs.

        RequestError if they are not let in, or if the name no longer means the collection for which the
        request was checked.
        """
        self._database.guard_writable()
        if self._database.collection(name) is not collection:
            raise conflict(f"collection {name!r} was replaced while this request was read; send it again")


def _document(request: Request, chunk: Chunk, row: int) -> dict[str, Any]:
    return {
        "id": chunk.id_at(row).decode(),
        "vector": request.vector(chunk.vectors[row]),
        "payload": codec.decode_payload(chunk.payload_at(row)),
    }


def _page_rows(
    view: View, cursor: Cursor | None, limit: int, breathe: Breather
) -> tuple[list[tuple[Chunk, int]], bool]:
    """(up to ``limit`` rows after the cursor, whether there are more)."""
    rows: list[tuple[Chunk, int]] = []
    while len(rows) <= limit:
        step = min(PAGE_STEP, limit + 1 - len(rows))
        part = page(view, cursor, step)
        rows.extend(part)
        if len(part) < step:
            break
        cursor = cursor_of(*part[-1])
        breathe()
    return rows[:limit], len(rows) > limit


def _write_cursor(cursor: Cursor) -> str:
    return base64.urlsafe_b64encode(cursor[1]).decode().rstrip("=")


def _read_cursor(text: str) -> Cursor:
    try:
        id_ = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise validation(f"cursor {text[:64]!r} was not given out by this API", field="cursor") from error
    return int(hash_ids([id_])[0]), id_


@dataclass(frozen=True)
class Found:
    """Rows of one chunk that a filter matched when it was asked."""

    chunk: Chunk
    rows: npt.NDArray[np.intp]
    ids: list[bytes]


def _matching(view: View, parsed: Filter, breathe: Breather) -> list[Found]:
    found: list[Found] = []
    for chunk_view in view.chunks:
        rows = np.flatnonzero(parsed.matching(chunk_view, breathe) & chunk_view.live)
        ids: list[bytes] = []
        for start in range(0, len(rows), PAGE_STEP):
            ids.extend(map(chunk_view.chunk.id_at, rows[start : start + PAGE_STEP].tolist()))
            breathe()
        found.append(Found(chunk_view.chunk, rows, ids))
    return found


def _groups(found: Sequence[Found]) -> list[list[Found]]:
    """The same rows in the same order, in groups of at most DELETED_IDS_MAX."""
    groups: list[list[Found]] = []
    room = 0
    for part in found:
        start = 0
        while start < len(part.ids):
            if not room:
                groups.append([])
                room = DELETED_IDS_MAX
            rows = slice(start, start + room)
            taken = Found(part.chunk, part.rows[rows], part.ids[rows])
            groups[-1].append(taken)
            room -= len(taken.ids)
            start += len(taken.ids)
    return groups


def _unchanged(collection: Collection, parsed: Filter, found: Sequence[Found]) -> list[bytes]:
    """Ids of the rows that are still as the filter saw them, or match it again; one moment, no breath.

    A row that is alive in a chunk that is still there is unchanged. Where the chunk was merged away, or the
    row has died since, the id's row of now is asked itself.
    """
    current = {id(chunk) for chunk in collection.chunks}
    ids: list[bytes] = []
    for part in found:
        alive = part.chunk.deleted_at[part.rows] == LIVE
        if id(part.chunk) not in current:
            alive[:] = False
        if alive.all():
            ids.extend(part.ids)
            continue
        for id_, lives in zip(part.ids, alive.tolist(), strict=True):
            if lives:
                ids.append(id_)
                continue
            now = collection.locate(id_)
            if now is not None and parsed.matches(now[0].payload_at(now[1])):
                ids.append(id_)
    return ids
