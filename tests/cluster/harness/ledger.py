"""What the clients were told, and the comparison of a node with it.

House rules:

1. A write that was answered with success holds exactly; one without an answer may hold or not, as a whole;
   one that was refused, or never sent, does not hold.
2. Each id is written by one writer only, in sequence, so that the set of values it may have is known.
3. A value is a pair of serial numbers (of the write that gave the vector, of the write that gave the
   payload); vector and payload are functions of them, so that every stored byte is checked.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.cluster.harness.node import Node

DIMENSION = 8
NO_PAYLOAD = 0
SHOWN_MAX = 12

Value = tuple[int, int] | None
"""(serial of the vector, serial of the payload), None where the id is absent."""


def vector_of(serial: int) -> list[float]:
    """A vector that float32 holds exactly and that names its serial; never zero."""
    low, high = serial % 4096, serial // 4096
    return [float(low), float(high), 1.0, low / 8, -low / 4, (serial % 7) / 2, float(serial % 3), 0.5]


def payload_of(serial: int) -> dict[str, Any] | None:
    """A payload with the types JSON knows; None for the serial that stands for "no payload"."""
    if serial == NO_PAYLOAD:
        return None
    return {
        "serial": serial,
        "kind": f"k{serial % 5}",
        "even": serial % 2 == 0,
        "nested": {"list": [serial, None, 0.5]},
    }


@dataclass(frozen=True, slots=True)
class _BatchInDoubt:
    collection: str
    before: Mapping[str, Value]
    after: Mapping[str, Value]


class Ledger:
    """The record of every write; shared by all writers of a test."""

    def __init__(self) -> None:
        self.serials = itertools.count(1)
        self.acknowledged = 0
        self.in_doubt = 0
        self.unrecorded: set[str] = set()
        """Collections whose content is compared between nodes only."""
        self.unsettled: set[str] = set()
        """Collections of which a create or drop is in doubt."""
        self.offsets: dict[tuple[str, int], str] = {}
        self._possible: dict[str, dict[str, set[Value]]] = {}
        self._batches: list[_BatchInDoubt] = []
        self._lock = threading.Lock()

    def collections(self) -> list[str]:
        """Collections that exist, as far as the clients were told."""
        return sorted(self._possible)

    def created(self, collection: str, answer: Mapping[str, Any]) -> None:
        """A collection was created, acknowledged by `answer`."""
        with self._lock:
            self._possible[collection] = {}
            self._acknowledge(answer, f"create {collection}")

    def dropped(self, collection: str, answer: Mapping[str, Any]) -> None:
        """A collection was dropped, acknowledged by `answer`."""
        with self._lock:
            del self._possible[collection]
            self._acknowledge(answer, f"drop {collection}")

    def may_have_turned_over(self, collection: str) -> None:
        """A create or drop was not answered: until it is looked up, nothing is known of the collection."""
        with self._lock:
            self.in_doubt += 1
            self.unsettled.add(collection)

    def settled(self, collection: str, exists: bool) -> None:
        """A create or drop without an answer was looked up afterwards."""
        with self._lock:
            self.unsettled.discard(collection)
            if exists:
                self._possible.setdefault(collection, {})
            else:
                self._possible.pop(collection, None)

    def wrote(self, collection: str, values: Mapping[str, Value], answer: Mapping[str, Any]) -> None:
        """These ids have these values now: acknowledged."""
        with self._lock:
            self._possible[collection].update({vector_id: {value} for vector_id, value in values.items()})
            self._acknowledge(answer, f"write {collection} {sorted(values)[:3]}")

    def may_have_written(self, collection: str, values: Mapping[str, Value]) -> None:
        """No answer came: these ids may have these values now, or still the former ones, all or none."""
        with self._lock:
            self.in_doubt += 1
            rows = self._possible[collection]
            before = {vector_id: self._single(rows.get(vector_id)) for vector_id in values}
            for vector_id, value in values.items():
                rows.setdefault(vector_id, {None}).add(value)
            self._batches.append(_BatchInDoubt(collection, before, dict(values)))

    def forget(self, node: Node) -> None:
        """Take what `node` holds as the truth, where a crash may lose what was acknowledged."""
        with self._lock:
            self.unsettled.clear()
            self._batches.clear()
            self._possible = {name: {} for name in node.collections()}
            for name, rows in self._possible.items():
                for vector_id, (vector, payload) in node.vectors(name).items():
                    serial = int(vector[0] + 4096 * vector[1])
                    rows[vector_id] = {(serial, NO_PAYLOAD if payload is None else payload["serial"])}

    def certain(self, collection: str, vector_ids: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Those of the ids that are surely there, with their values."""
        rows = self._possible[collection]
        found = {}
        for vector_id in vector_ids:
            value = self._single(rows.get(vector_id))
            if value is not None:
                found[vector_id] = value
        return found

    def count(self, collection: str) -> int:
        """How many ids are surely in a collection."""
        return len(self.certain(collection, list(self._possible[collection])))

    def differences(self, node: Node) -> list[str]:
        """Everything on `node` that contradicts what the clients were told, one sentence each."""
        held = set(node.collections()) - self.unrecorded - self.unsettled
        told = set(self._possible) - self.unsettled
        found = [f"collection {name} was lost" for name in sorted(told - held)]
        found += [f"collection {name} was never created, or was dropped" for name in sorted(held - told)]
        for name in sorted(held & told):
            found += [f"{name}: {line}" for line in self._rows_differ(name, node.vectors(name))]
        return found

    def assert_holds(self, *nodes: Node) -> None:
        """Nothing acknowledged is lost, nothing else is there, no batch by half, no offset given twice."""
        for node in nodes:
            found = self.differences(node)
            shown = "\n".join(found[:SHOWN_MAX])
            assert not found, f"{node.name} contradicts its clients in {len(found)} places:\n{shown}"

    def assert_none_doubled(self, offset: int) -> None:
        """As many operations as acknowledged writes, plus at most those in doubt (no merges, no failover)."""
        assert self.acknowledged <= offset <= self.acknowledged + self.in_doubt, (
            f"offset {offset} after {self.acknowledged} acknowledged writes and {self.in_doubt} in doubt"
        )
        self.assert_offsets_differ()

    def assert_offsets_differ(self) -> None:
        """No two acknowledged writes have one place in the history (without a failover there is only one)."""
        numbers = [number for _, number in self.offsets]
        assert len(numbers) == len(set(numbers)), "two acknowledged writes share an offset"

    def _acknowledge(self, answer: Mapping[str, Any], what: str) -> None:
        key = (answer["replication_id"], answer["offset"])
        assert key not in self.offsets, f"offset {key} was given to {self.offsets[key]} and to {what}"
        self.offsets[key] = what
        self.acknowledged += 1

    def _rows_differ(self, collection: str, found: Mapping[str, tuple[tuple[float, ...], Any]]) -> list[str]:
        possible = self._possible[collection]
        lines = [f"{vector_id} was never written" for vector_id in sorted(found.keys() - possible.keys())]
        for vector_id, values in possible.items():
            row = found.get(vector_id)
            if not any(_shows(row, value) for value in values):
                lines.append(f"{vector_id} should be one of {values}, is {row}")
        lines += [
            line
            for batch in self._batches
            if batch.collection == collection
            for line in self._halves(batch, found)
        ]
        return lines

    def _halves(self, batch: _BatchInDoubt, found: Mapping[str, tuple[tuple[float, ...], Any]]) -> list[str]:
        """A batch in doubt holds as a whole or not at all, as far as nothing was written over it since."""
        possible = self._possible[batch.collection]
        untouched = [
            vector_id
            for vector_id, value in batch.after.items()
            if possible.get(vector_id) == {batch.before[vector_id], value}
            and batch.before[vector_id] != value
        ]
        held = [vector_id for vector_id in untouched if _shows(found.get(vector_id), batch.after[vector_id])]
        if held and len(held) != len(untouched):
            return [f"half a batch: {len(held)} of {len(untouched)} rows, {sorted(held)[:3]} among them"]
        return []

    @staticmethod
    def _single(values: set[Value] | None) -> Value:
        if values is None or len(values) != 1:
            return None
        return next(iter(values))


def _shows(row: tuple[tuple[float, ...], Any] | None, value: Value) -> bool:
    if row is None or value is None:
        return row is None and value is None
    return list(row[0]) == vector_of(value[0]) and row[1] == payload_of(value[1])
