"""``vectorizer export``: a collection into a file, page by page.

Everything is written beside its place, with ``.partial`` at the end of the name, and renamed when it is
whole. After each page the cursor and the sizes of the files are written down; what an interruption left
beyond them is cut.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import orjson

from vectorizer.client.failures import CommandError, Interrupted, MisuseError
from vectorizer.client.marks import Mark
from vectorizer.client.node import Node, RefusedError, SilentError, collection_path
from vectorizer.client.sources import ROWS, VECTORS

PAGE_ROWS = 1000
PARTIAL = ".partial"
OTHER_KINDS = (".npy", ".parquet", ".pq", ".json", ".csv")
"""Names that say something else than what would be written."""


class Form(Protocol):
    """How rows are laid out in files."""

    def start(self, files: Mapping[Path, BinaryIO], dimension: int) -> None:
        """What stands before the first row."""

    def add(self, files: Mapping[Path, BinaryIO], rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows at the end of the files."""

    def finish(self, files: Mapping[Path, BinaryIO], rows: int, dimension: int) -> None:
        """What is only known at the end."""


class JsonForm:
    """One object a line: id, vector, payload."""

    def __init__(self, path: Path) -> None:
        self.paths = [path]

    def start(self, files: Mapping[Path, BinaryIO], dimension: int) -> None:
        """Nothing."""

    def add(self, files: Mapping[Path, BinaryIO], rows: Sequence[Mapping[str, Any]]) -> None:
        """See Form."""
        file = files[self.paths[0]]
        for row in rows:
            vector = np.frombuffer(row["vector"], "<f4")
            document = {"id": row["id"], "vector": vector, "payload": row["payload"]}
            file.write(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE))

    def finish(self, files: Mapping[Path, BinaryIO], rows: int, dimension: int) -> None:
        """Nothing."""


class PairForm:
    """A directory of an array of vectors and a line of id and payload for each of its rows."""

    def __init__(self, directory: Path) -> None:
        self.paths = [directory / VECTORS, directory / ROWS]

    def start(self, files: Mapping[Path, BinaryIO], dimension: int) -> None:
        """A header that speaks of no rows; NumPy leaves room in it for their number."""
        files[self.paths[0]].write(_array_header(0, dimension))

    def add(self, files: Mapping[Path, BinaryIO], rows: Sequence[Mapping[str, Any]]) -> None:
        """See Form."""
        vectors, lines = (files[path] for path in self.paths)
        for row in rows:
            vectors.write(row["vector"])
            document = {"id": row["id"], "payload": row["payload"]}
            lines.write(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE))

    def finish(self, files: Mapping[Path, BinaryIO], rows: int, dimension: int) -> None:
        """The header with the number of rows."""
        files[self.paths[0]].seek(0)
        files[self.paths[0]].write(_array_header(rows, dimension))


class Export:
    """One export. ``advanced`` is told the number of rows that are written whenever it changes."""

    def __init__(self, node: Node, name: str, target: Path, advanced: Callable[[int], None]) -> None:
        self._node = node
        self._name = name
        self._advanced = advanced
        self._target = target
        lines = target.suffix.lower() in (".jsonl", ".ndjson")
        self._form: JsonForm | PairForm = JsonForm(target) if lines else PairForm(target)
        if target.suffix.lower() in OTHER_KINDS:
            raise MisuseError(f"{target}: the target is a directory, or a file with a name in .jsonl")
        for path in self._form.paths:
            if path.exists():
                raise MisuseError(f"{path} exists already; remove it, or export to another place")
        self._done: dict[str, Any] = {"rows": 0, "cursor": None, "sizes": []}

    def run(self, collection: Mapping[str, Any]) -> int:
        """Everything; the number of rows written. Interrupted on Ctrl-C, CommandError on failure."""
        subject = {"command": "export", "collection": self._name, "created_at": collection["created_at"]}
        try:
            self._form.paths[0].parent.mkdir(parents=True, exist_ok=True)
            mark = Mark(_beside(self._form.paths[0], ".export"), subject)
            self._page_through(mark, int(collection["dimension"]))
            for path in self._form.paths:
                os.replace(_beside(path, PARTIAL), path)
            mark.remove()
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted after {self._done['rows']} rows{self._again}") from None
        except (RefusedError, SilentError) as error:
            raise CommandError(f"{error}; {self._done['rows']} rows are written{self._again}") from None
        except OSError as error:
            what = error.strerror or error
            raise CommandError(f"{error.filename or self._target} cannot be written: {what}") from None
        return int(self._done["rows"])

    @property
    def _again(self) -> str:
        return "; the same command goes on from there" if self._done["rows"] else ""

    def _page_through(self, mark: Mark, dimension: int) -> None:
        with contextlib.ExitStack() as stack:
            files = self._open(stack, mark.read())
            if not self._done["rows"]:
                self._form.start(files, dimension)
            self._advanced(self._done["rows"])
            while not self._done.get("complete"):
                path = collection_path(self._name, "vectors", limit=PAGE_ROWS, cursor=self._done["cursor"])
                page = self._node.ask("GET", path, bson=True)
                self._form.add(files, page["vectors"])
                for file in files.values():
                    file.flush()
                    os.fsync(file.fileno())
                done = {
                    "rows": self._done["rows"] + len(page["vectors"]),
                    "cursor": page["next_cursor"],
                    "complete": page["next_cursor"] is None,
                    "sizes": [file.tell() for file in files.values()],
                }
                mark.write(done)
                self._done = done
                self._advanced(done["rows"])
            self._form.finish(files, self._done["rows"], dimension)
            for file in files.values():
                file.flush()
                os.fsync(file.fileno())

    def _open(self, stack: contextlib.ExitStack, done: Mapping[str, Any] | None) -> dict[Path, BinaryIO]:
        """The partial files at their ends: as the mark says, or empty if they do not have what it says."""
        asides = [_beside(path, PARTIAL) for path in self._form.paths]
        sizes = [aside.stat().st_size if aside.exists() else -1 for aside in asides]
        told = list(done["sizes"]) if done is not None else []
        if done is not None and len(told) == len(sizes) and all(map(int.__ge__, sizes, told)):
            self._done = dict(done)
        else:
            told = [0] * len(sizes)
        files: dict[Path, BinaryIO] = {}
        for path, aside, size in zip(self._form.paths, asides, told, strict=True):
            file = stack.enter_context(aside.open("r+b" if aside.exists() else "w+b"))
            file.truncate(size)
            file.seek(size)
            files[path] = file
        return files


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _array_header(rows: int, dimension: int) -> bytes:
    header = BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (rows, dimension)}
    )
    return header.getvalue()
