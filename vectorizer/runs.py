"""Runs: small operations that follow each other, applied as columns with the outcome of one by one.

A replica that was away for many single writes gets them in runs; so does one that follows under load.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from vectorizer import codec, frame
from vectorizer.errors import PeerError
from vectorizer.operations import Rows, Vectors

RUN_OPERATIONS_MAX = 256
RUN_FRAME_BYTES_MAX = 16 << 10
"""Larger operations are taken one by one: most of what they cost is their bytes."""
_FIRST_NAME = slice(frame.HEADER_BYTES + 5, frame.HEADER_BYTES + 7)


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Upserts of one row each into one collection, of one epoch, at offsets that follow each other.

    As columns: row i was written by the operation at ``offset`` + i.
    """

    collection: str
    offset: int
    epoch: int
    timestamp_ms: int
    """Of the last one."""
    rows: Rows
    frames: Sequence[bytes]

    @property
    def last_offset(self) -> int:
        """Of the last operation."""
        return self.offset + len(self.frames) - 1


def is_operation(line: bytes) -> bool:
    """Whether a whole frame holds an operation: the first element of its body is the offset."""
    return line[_FIRST_NAME] == b"o\0"


def in_runs(frames: Iterator[bytes], may_join: Callable[[], bool]) -> Iterator[list[bytes]]:
    """The frames in order, in lists of one, or of small operations that follow each other.

    What came whole before a broken frame is given before its PeerError is raised.
    """
    run: list[bytes] = []
    broken: PeerError | None = None
    while True:
        try:
            line = next(frames, None)
        except PeerError as error:
            line, broken = None, error
        joins = line is not None and len(line) <= RUN_FRAME_BYTES_MAX and is_operation(line) and may_join()
        if run and (not joins or len(run) == RUN_OPERATIONS_MAX):
            yield run
            run = []
        if line is None:
            break
        if joins:
            run.append(line)
        else:
            yield [line]
    if broken is not None:
        raise broken


def decode_run(frames: Sequence[bytes]) -> Run | None:
    """The operations in verified frames as a run; None if they are not one, or not well-formed.

    To decode and apply a single-row upsert takes 41 µs, nearly all of it for arrays of one element. In a run
    of 256 it takes 3.8 µs.
    """
    try:
        if codec.decode(memoryview(frames[0])[frame.HEADER_BYTES :])["n"] != 1:
            return None  # before the others are decoded in vain
        documents = [codec.decode(memoryview(line)[frame.HEADER_BYTES :]) for line in frames]
        offset, epoch, name, dimension = (documents[0][key] for key in "oecd")
        expected = [(offset + row, epoch, "upsert", name, 1, dimension) for row in range(len(frames))]
        if [tuple(document[key] for key in "oekcnd") for document in documents] != expected:
            return None
        numbers = [document[key] for document in documents for key in "oetnd"]
        if min(numbers) < 0 or not all(_is_whole(kind) for kind in set(map(type, numbers))):
            return None
        ids, payloads, vectors = ([document[key] for document in documents] for key in "ipv")
        sizes = {len(vector) for vector in vectors}
        packed = {key: b"".join([document[key] for document in documents]) for key in ("il", "pl")}
        if (
            type(name) is not str
            or {*map(type, ids), *map(type, payloads)} != {bytes}
            or sizes != {4 * dimension}
            or len(set(ids)) != len(ids)
            or packed["il"] != np.fromiter(map(len, ids), "<u2", len(ids)).tobytes()
            or packed["pl"] != np.fromiter(map(len, payloads), "<u4", len(ids)).tobytes()
        ):
            return None
        matrix = np.frombuffer(b"".join(vectors), "<f4").reshape(len(ids), dimension)
        rows = Rows(ids, cast(Vectors, matrix), payloads)
        return Run(name, int(offset), int(epoch), int(documents[-1]["t"]), rows, frames)
    except (codec.CodecError, KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def _is_whole(kind: type) -> bool:
    return issubclass(kind, int) and kind is not bool
