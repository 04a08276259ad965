"""The manifest: which files make up the data at one offset, with history and settings.

A manifest is one frame on disk (length, CRC32, BSON document), never changed after it is written;
``CURRENT`` names the one that counts and is replaced by rename. Document: ``m`` "manifest", ``version``,
``node_id``, ``offset``, ``checksum`` of the frame at that offset (or null), ``timestamp_ms``, ``history``,
``stored`` (settings made by REST) and ``collections``; see ``CollectionRecord``. Snapshots for full syncs
carry the same document.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from vectorizer import codec, frame
from vectorizer.errors import DamageError, PeerError
from vectorizer.operations import CollectionConfig
from vectorizer.replication.history import History
from vectorizer.storage.segment import FileInfo

VERSION = 1

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SegmentRecord:
    """A chunk on disk: its directory below ``segments/``, its files, and which of its rows are dead."""

    name: str
    directory: str
    rows: int
    sealed: bool
    files: dict[str, FileInfo]
    deleted_rows: npt.NDArray[np.int32]
    deleted_at: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class CollectionRecord:
    """A collection at the manifest's offset; ``merges`` are [offset, [segment, ...]] still to be made."""

    config: CollectionConfig
    identity: int
    created_ms: int
    offset: int
    appended_rows: int
    segments: tuple[SegmentRecord, ...]
    merges: tuple[tuple[int, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """All of a node's data at one offset."""

    node_id: str
    offset: int
    checksum: int | None
    timestamp_ms: int
    history: History
    stored: dict[str, Any] = field(default_factory=dict)
    collections: tuple[CollectionRecord, ...] = ()

    def files(self) -> Iterator[tuple[str, FileInfo]]:
        """(path below ``segments/``, size and checksum) of every file."""
        for collection in self.collections:
            for segment in collection.segments:
                for name, info in segment.files.items():
                    yield f"{segment.directory}/{name}", info

    def directories(self) -> set[str]:
        """Directories below ``segments/`` that belong to it."""
        return {segment.directory for collection in self.collections for segment in collection.segments}

    def with_stored(self, stored: Mapping[str, Any]) -> Manifest:
        """The same data with other settings."""
        return replace(self, stored=dict(stored))

    def to_document(self) -> dict[str, Any]:
        """As BSON carries it."""
        return {
            "m": "manifest",
            "version": VERSION,
            "node_id": self.node_id,
            "offset": self.offset,
            "checksum": self.checksum,
            "timestamp_ms": self.timestamp_ms,
            "history": self.history.to_document(),
            "stored": self.stored,
            "collections": [_collection_document(record) for record in self.collections],
        }

    def encode(self) -> bytes:
        """The bytes of the manifest's file."""
        return frame.encode(codec.encode(self.to_document()))

    @classmethod
    def from_document(cls, document: Any) -> Manifest:
        """The manifest in a document from disk or a peer. ValueError with a sentence if it is none."""
        try:
            if document["m"] != "manifest" or document["version"] != VERSION:
                raise ValueError(f"version {document['version']!r} of the manifest's format is not known")
            checksum = document["checksum"]
            return cls(
                node_id=_typed(document["node_id"], str),
                offset=_whole(document["offset"]),
                checksum=None if checksum is None else _whole(checksum),
                timestamp_ms=_whole(document["timestamp_ms"]),
                history=History.from_document(document["history"]),
                stored=_typed(document["stored"], dict),
                collections=tuple(_collection_record(item) for item in document["collections"]),
            )
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"malformed manifest: {type(error).__name__} {error}") from error

    @classmethod
    def decode(cls, content: bytes, file: str) -> Manifest:
        """The manifest in a file's content. Raises DamageError naming the file."""
        try:
            return cls.from_document(codec.decode(frame.body_of(content)))
        except (PeerError, codec.CodecError, ValueError) as error:
            raise DamageError(
                file, f"the manifest cannot be read ({error}); restore this node from a replica"
            ) from error


def _collection_document(record: CollectionRecord) -> dict[str, Any]:
    return {
        "config": asdict(record.config),
        "identity": record.identity,
        "created_ms": record.created_ms,
        "offset": record.offset,
        "appended_rows": record.appended_rows,
        "merges": [[offset, list(segments)] for offset, segments in record.merges],
        "segments": [
            {
                "name": segment.name,
                "directory": segment.directory,
                "rows": segment.rows,
                "sealed": segment.sealed,
                "files": {name: [info.bytes, info.crc32] for name, info in sorted(segment.files.items())},
                "deleted_rows": segment.deleted_rows.astype("<i4").tobytes(),
                "deleted_at": segment.deleted_at.astype("<i8").tobytes(),
            }
            for segment in record.segments
        ],
    }


def _collection_record(document: Any) -> CollectionRecord:
    return CollectionRecord(
        config=CollectionConfig.from_document(document["config"]),
        identity=_whole(document["identity"]),
        created_ms=_whole(document["created_ms"]),
        offset=_whole(document["offset"]),
        appended_rows=_whole(document["appended_rows"]),
        segments=tuple(_segment_record(item) for item in document["segments"]),
        merges=tuple((_whole(offset), tuple(segments)) for offset, segments in document["merges"]),
    )


def _segment_record(document: Any) -> SegmentRecord:
    directory = _plain_name(document["directory"])
    files = {
        _plain_name(name): FileInfo(_whole(size), _whole(crc32))
        for name, (size, crc32) in document["files"].items()
    }
    rows = _whole(document["rows"])
    deleted_rows = np.frombuffer(document["deleted_rows"], "<i4").astype(np.int32)
    deleted_at = np.frombuffer(document["deleted_at"], "<i8").astype(np.int64)
    inside = not len(deleted_rows) or (deleted_rows.min() >= 0 and deleted_rows.max() < rows)
    if len(deleted_rows) != len(deleted_at) or not inside:
        raise ValueError(f"segment {directory!r} has deletions of rows that it does not have")
    return SegmentRecord(
        _plain_name(document["name"]),
        directory,
        rows,
        bool(document["sealed"]),
        files,
        deleted_rows,
        deleted_at,
    )


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not a whole number")
    return int(value)


def _typed(value: Any, kind: type[T]) -> T:
    if not isinstance(value, kind):
        raise ValueError(f"{value!r} is not a {kind.__name__}")
    return value


def _plain_name(value: Any) -> str:
    """A name of one path element; a peer's manifest must not reach outside the data directory."""
    if type(value) is not str or not value or "/" in value or "\0" in value or value in (".", ".."):
        raise ValueError(f"{value!r} is not a file name")
    return value
