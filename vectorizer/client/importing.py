"""``vectorizer import``: a file of rows into a collection, batch by batch.

Rows are upserts by id, so sending some of them twice does no harm. What is done is written down after each
batch, with the place in the history that the node answered. If a later mastership has overruled that place,
the rows counted as done may be lost, and everything is sent again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vectorizer.client.failures import CommandError, Interrupted, MisuseError
from vectorizer.client.marks import Mark, identity
from vectorizer.client.node import Node, RefusedError, SilentError, collection_path
from vectorizer.client.rows import Batch, InputError, batches
from vectorizer.client.sources import RowSource, open_source

BATCH_ROWS = 1000
ROUNDS_MAX = 10
"""So often an import begins anew because masterships changed under it."""

CATCH_UP_MS = 30_000
"""So long a replica that is asked for an acknowledged write may be behind."""

Advanced = Callable[[int], None]


class OverruledError(CommandError):
    """A write that was acknowledged is not in the history any more."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the command line asks for. ``create``: dimension, metric as given, None for those left out."""

    path: Path
    collection: str | None
    create: dict[str, Any] | None
    batch_rows: int = BATCH_ROWS
    wait: int | None = None


@dataclass(slots=True)
class Import:
    """One import. ``advanced`` is told the number of rows that are done whenever it changes."""

    node: Node
    plan: Plan
    advanced: Advanced
    source: RowSource = field(init=False)
    name: str = field(init=False)
    resumed: int = field(init=False, default=0)
    _done: int = field(init=False, default=0)
    _token: tuple[str, int] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.source = open_source(self.plan.path)
        self.name = self.plan.collection or _name_of(self.plan.path)

    @property
    def count(self) -> int:
        """Rows of the file."""
        return self.source.count

    def run(self) -> int:
        """Everything; the number of rows sent by this run. Interrupted on Ctrl-C, CommandError on failure."""
        sent = 0
        try:
            collection = self._collection()
            mark = self._mark(collection)
            self._resume(mark)
            self.resumed = self._done
            for _ in range(ROUNDS_MAX):
                try:
                    self._must_hold()
                    for batch in batches(
                        self.source.rows(self._done), self.plan.batch_rows, collection["dimension"]
                    ):
                        self._send(batch)
                        self._done += len(batch)
                        sent += len(batch)
                        self._write(mark)
                    mark.remove()
                    return sent
                except OverruledError:
                    self._done, self._token = 0, None
                    self._write(mark)
            raise CommandError(f"{self.name}: masterships change faster than this import can follow")
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted after {self._done} of {self.count} rows{self._again}") from None
        except InputError as error:
            rows = f"; {self._done} rows before it are imported" if self._done else "; nothing was imported"
            raise InputError(f"{error}{rows}") from None
        except (RefusedError, SilentError) as error:
            if not self._done:
                raise
            raise CommandError(
                f"{error}; {self._done} of {self.count} rows are imported{self._again}"
            ) from None

    @property
    def _again(self) -> str:
        return "; the same command goes on from there" if self._done else ""

    # -- the collection ---------------------------------------------------------------------------------

    def _collection(self) -> dict[str, Any]:
        try:
            collection = self._shown()
        except RefusedError as error:
            if error.error_type != "collection_not_found":
                raise
            if self.plan.create is None:
                raise CommandError(f"{error}; --create makes it") from None
            collection = self._create(self.plan.create)
        for key, value in (self.plan.create or {}).items():
            if collection[key] != value:
                raise CommandError(f"{self.name} exists already, with {key} {collection[key]}, not {value}")
        return collection

    def _create(self, wanted: dict[str, Any]) -> dict[str, Any]:
        first = next(self.source.rows(0), None)
        if first is None and "dimension" not in wanted:
            raise MisuseError(f"{self.plan.path} has no rows to take the dimension from; give --dimension")
        dimension = wanted.get("dimension") or (0 if first is None else len(first.vector))
        try:
            self.node.ask("POST", "/collections", {"name": self.name, **wanted, "dimension": dimension})
        except RefusedError as error:
            if error.error_type != "collection_exists":  # this very request, answered in vain before
                raise
        return self._shown()

    def _shown(self, **query: Any) -> dict[str, Any]:
        """The collection, as the node shows it that was asked last."""
        shown: dict[str, Any] = self.node.ask("GET", collection_path(self.name, **query))
        return shown

    # -- what is done -----------------------------------------------------------------------------------

    def _mark(self, collection: dict[str, Any]) -> Mark:
        subject = {
            "command": "import",
            "files": identity(self.source.paths),
            "collection": self.name,
            "created_at": collection["created_at"],
        }
        path = self.plan.path.resolve()  # `.` and `..` have no name of their own
        return Mark(path.parent / f"{path.name}.{self.name}.import", subject)

    def _resume(self, mark: Mark) -> None:
        done = mark.read()
        if done is None or not isinstance(done.get("rows"), int):
            return
        self._done = min(max(done["rows"], 0), self.count)
        if isinstance(done.get("offset"), int) and isinstance(done.get("replication_id"), str):
            self._token = done["replication_id"], done["offset"]
        self.advanced(self._done)

    def _write(self, mark: Mark) -> None:
        replication_id, offset = self._token or (None, None)
        mark.write({"rows": self._done, "replication_id": replication_id, "offset": offset})
        self.advanced(self._done)

    def _must_hold(self) -> None:
        """OverruledError if what was acknowledged last is not in the history of the node any more."""
        if self._token is None:
            return
        replication_id, offset = self._token
        try:
            self._shown(min_offset=offset, replication_id=replication_id, timeout_ms=CATCH_UP_MS)
        except RefusedError as error:
            if error.error_type != "lost_branch":
                raise
            raise OverruledError(str(error)) from None

    # -- batches ----------------------------------------------------------------------------------------

    def _send(self, batch: Batch) -> None:
        path = collection_path(self.name, "vectors", wait=self.plan.wait)
        try:
            answer = self.node.ask("POST", path, batch.document(), bson=True)
        except RefusedError as error:
            if error.status == 413 and len(batch) > 1:
                for half in batch.halves():
                    self._send(half)
                return
            raise _blamed(batch, error) from None
        token = str(answer["replication_id"]), int(answer["offset"])
        if self._token is not None and self._token[0] != token[0]:
            self._must_hold()
        self._token = token


def _name_of(path: Path) -> str:
    name = path.resolve().name if path.is_dir() else path.stem
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", name) is None:
        raise MisuseError(f"{name!r} cannot be the name of a collection; give one with --collection")
    return name


def _blamed(batch: Batch, error: RefusedError) -> CommandError:
    """The server's words, with the place in the file if they are about a row."""
    found = re.match(r"(ids|vectors|payloads)\[(\d+)\]", str(error.details.get("field") or error.message))
    if error.status not in (400, 413) or found is None or int(found[2]) >= len(batch):
        if error.status == 413:
            return InputError(f"{batch.places[0]}: {error.message}")
        return error
    words = {"ids": "id", "vectors": "vector", "payloads": "payload"}
    message = error.message.replace(found[0], words[found[1]], 1)
    return InputError(f"{batch.places[int(found[2])]}: {message}")
