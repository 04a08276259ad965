"""The documents of rows in ``rows.bson``: written in columns from parts that are BSON already.

A document is its length, the id's element with the string's length, the id, the payload's element.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise, repeat
from struct import Struct

import numpy as np
import numpy.typing as npt

from vectorizer.storage.disk import Buffer

_ROW_HEAD = Struct("<i4si")
ID_ELEMENT = b"\x02id\x00"
PAYLOAD_ELEMENT = b"\x00\x03payload\x00"  # behind the zero byte that ends the id
NULL_ELEMENT = b"\x00\x0apayload\x00\x00"
ID_START = _ROW_HEAD.size
ID_LENGTH_PLACE = ID_START - 4
_RUN_ROWS_MIN = 16
_ROW_HEADS = np.dtype([("length", "<i4"), ("element", "S4"), ("id", "<i4")])


@dataclass(frozen=True, slots=True)
class Documents:
    """Documents of rows, one after the other: their bytes, and the length of each."""

    content: Buffer
    lengths: npt.NDArray[np.int64]


def documents_of(ids: Sequence[bytes], payloads: Sequence[bytes]) -> Documents:
    """Rows' documents, put together from parts that are BSON already, in columns.

    0.3 µs a row, a fifth of what it takes row by row; this runs beside the event loop, under the same lock.
    Documents that differ in their ids only, whose lengths change seldom, take a fifth of that again.
    """
    count = len(ids)
    id_bytes = np.fromiter(map(len, ids), np.int64, count)
    bare = not any(payloads)
    if bare:
        changes = np.flatnonzero(np.diff(id_bytes)) + 1
        if len(changes) < count // _RUN_ROWS_MIN:
            content = _bare_documents(ids, [0, *changes.tolist(), count])
            return Documents(content, ID_START + id_bytes + len(NULL_ELEMENT))
    payload_bytes = np.fromiter(map(len, payloads), np.int64, count)
    tails: Iterable[bytes] = repeat(NULL_ELEMENT, count)
    if not bare:
        tails = [
            b"".join((PAYLOAD_ELEMENT, payload, b"\0")) if payload else NULL_ELEMENT for payload in payloads
        ]
    payload_bytes[payload_bytes > 0] += len(PAYLOAD_ELEMENT) + 1
    payload_bytes[payload_bytes == 0] = len(NULL_ELEMENT)
    lengths = ID_START + id_bytes + payload_bytes
    heads = np.empty(count, _ROW_HEADS)
    heads["length"], heads["element"], heads["id"] = lengths, ID_ELEMENT, id_bytes + 1
    parts = zip(heads.view(f"V{ID_START}").tolist(), ids, tails, strict=True)
    return Documents(b"".join(chain.from_iterable(parts)), lengths)


def _bare_documents(ids: Sequence[bytes], edges: Sequence[int]) -> bytes:
    """Documents without payloads; between two edges all ids have one length."""
    pieces: list[bytes] = []
    for start, stop in pairwise(edges):
        size = len(ids[start])
        head = _ROW_HEAD.pack(ID_START + size + len(NULL_ELEMENT), ID_ELEMENT, size + 1)
        pieces += (head, (NULL_ELEMENT + head).join(ids[start:stop]), NULL_ELEMENT)
    return b"".join(pieces)
