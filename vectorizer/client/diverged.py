"""``vectorizer diverged``: what a former master wrote and nobody took over, for people and programs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vectorizer import codec, frame
from vectorizer.client.failures import CommandError, MisuseError
from vectorizer.errors import VectorizerError
from vectorizer.operations import Create, Delete, Drop, Entry, Merge, Upsert, decode_entry

READ_BYTES = 1024 * 1024
FRAME_BYTES_MAX = 1 << 30


def documents(path: Path) -> Iterator[dict[str, Any]]:
    """The header, then each operation; vectors are float32 arrays.

    MisuseError if the file is no such file, CommandError at the place from which on it is damaged.
    """
    count = -1
    try:
        for encoded in _frames(path):
            document = codec.decode(frame.body_of(encoded))
            if count < 0:
                if document.get("m") != "diverged":
                    raise MisuseError(f"{path} holds no diverged operations")
                document["kind"] = document.pop("m")
                yield document
            else:
                yield _shown(decode_entry(document))
            count += 1
    except OSError as error:
        raise MisuseError(f"{path} cannot be read: {error.strerror or error}") from None
    except CommandError:
        raise
    except VectorizerError as error:
        if count < 0:
            raise MisuseError(f"{path} holds no diverged operations: {error}") from None
        raise CommandError(f"{path} is damaged after {count} operations: {error}") from None
    if count < 0:
        raise MisuseError(f"{path} is empty")


def _frames(path: Path) -> Iterator[bytes]:
    decoder = frame.FrameDecoder(FRAME_BYTES_MAX)
    with contextlib.closing(path.open("rb")) as file:
        while data := file.read(READ_BYTES):
            decoder.feed(data)
            while (encoded := decoder.next()) is not None:
                yield encoded
    decoder.finish()


def _shown(entry: Entry) -> dict[str, Any]:
    operation = entry.operation
    shown: dict[str, Any] = {
        "kind": operation.kind,
        "collection": operation.collection,
        "offset": entry.offset,
        "epoch": entry.epoch,
        "timestamp_ms": entry.timestamp_ms,
    }
    match operation:
        case Create(config):
            shown["config"] = asdict(config)
        case Upsert(_, rows):
            shown["rows"] = [
                {
                    "id": id_.decode(errors="replace"),
                    "vector": vector,
                    "payload": codec.decode_payload(payload),
                }
                for id_, vector, payload in zip(rows.ids, rows.vectors, rows.payloads, strict=True)
            ]
        case Delete(_, ids):
            shown["ids"] = [id_.decode(errors="replace") for id_ in ids]
        case Merge(_, segments):
            shown["segments"] = list(segments)
        case Drop():
            pass
    return shown
