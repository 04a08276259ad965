"""What really happened: every operation that any node ever held, and the simple model of the data
after each.

An operation's *key* is (replication id of the mastership that wrote it, offset). One history means:
a key always has the same bytes and the same operation before it. The model of a state is a dict of
dicts, made by applying operations in the plainest way; it shares nothing with the store but the
meaning of the operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vectorizer.operations import Operation
    from vectorizer.replication.history import History
    from vectorizer.storage.chunk import View
    from vectorizer.storage.store import Store

Key = tuple[str, int]
Contents = dict[bytes, tuple[bytes, bytes]]
"""Vector bytes and payload by id."""
State = dict[str, tuple[int, Contents]]
"""Identity and contents by name of the collection."""

ROOT: Key = ("", 0)


@dataclass(frozen=True, slots=True)
class Fact:
    """An operation as it was first seen, and the key of the one before it."""

    checksum: int
    parent: Key
    operation: Operation


def key_of(history: History, offset: int) -> Key:
    """The key of the operation at an offset of this history."""
    entry = history.entry_at(offset)
    return ROOT if entry is None else (entry.replication_id, offset)


class Truth:
    """All operations, and the states they lead to."""

    def __init__(self) -> None:
        self.facts: dict[Key, Fact] = {}
        self._states: dict[Key, State] = {ROOT: {}}

    def saw(self, history: History, offset: int, checksum: int, operation: Operation) -> str | None:
        """A node has applied this; what is wrong with that, or None."""
        key, parent = key_of(history, offset), key_of(history, offset - 1)
        if key == ROOT:
            return f"operation {offset} belongs to no mastership of its node's history"
        if parent != ROOT and parent not in self.facts:
            return f"operation {key} follows {parent}, which nobody has written"
        fact = self.facts.setdefault(key, Fact(checksum, parent, operation))
        if (fact.checksum, fact.parent) != (checksum, parent):
            return (
                f"two histories: operation {key} has checksum {checksum:08x} after {parent}, "
                f"elsewhere {fact.checksum:08x} after {fact.parent}"
            )
        return None

    def holds(self, chain: Key, key: Key) -> bool:
        """Whether a node whose newest operation is ``chain`` has the operation ``key``."""
        while chain[1] > key[1]:
            chain = self.facts[chain].parent
        return chain == key

    def fork_of(self, one: Key, other: Key) -> int:
        """The last offset up to which both have the same operations."""
        while one != other:
            if one[1] >= other[1]:
                one = self.facts[one].parent
            else:
                other = self.facts[other].parent
        return one[1]

    def state(self, key: Key) -> State:
        """The data after this operation. Not to be changed."""
        missing = []
        at = key
        while at not in self._states:
            missing.append(at)
            at = self.facts[at].parent
        state = self._states[at]
        for at in reversed(missing):
            state = applied(state, self.facts[at].operation, at[1])
            self._states[at] = state
        return state


def applied(state: State, operation: Operation, offset: int) -> State:
    """The state after an operation; what it does not touch is shared."""
    after = dict(state)
    name = operation.collection
    if operation.kind == "create":
        after[name] = (offset, {})
    elif operation.kind == "drop":
        del after[name]
    elif operation.kind in ("upsert", "delete"):
        identity, contents = after[name]
        contents = dict(contents)
        if operation.kind == "delete":
            for id_ in operation.ids:  # type: ignore[union-attr]
                contents.pop(id_, None)
        else:
            rows = operation.rows  # type: ignore[union-attr]
            for number, id_ in enumerate(rows.ids):
                contents[id_] = (rows.vectors[number].tobytes(), rows.payloads[number])
        after[name] = (identity, contents)
    return after


def difference(store: Store, state: State, offset: int) -> str | None:
    """How a store differs from the model, None if it does not."""
    if sorted(store.collections) != sorted(state):
        return f"collections {sorted(store.collections)}, expected {sorted(state)}"
    for name, (identity, contents) in state.items():
        collection = store.collections[name]
        if collection.identity != identity:
            return f"{name} was created by operation {collection.identity}, expected {identity}"
        if collection.vector_count != len(contents):
            return f"{name} counts {collection.vector_count} vectors, expected {len(contents)}"
        found = view_difference(collection.view(offset), contents)
        if found is not None:
            return f"{name}: {found}"
    return None


def view_difference(view: View, contents: Contents) -> str | None:
    """How the rows of a view differ from the model."""
    seen: Contents = {}
    for chunk_view in view.chunks:
        chunk = chunk_view.chunk
        for row in chunk_view.live.nonzero()[0].tolist():
            id_ = chunk.id_at(row)
            if id_ in seen:
                return f"{id_!r} lives twice, the second time in {chunk.name}"
            seen[id_] = (chunk.vectors[row].tobytes(), chunk.payload_at(row))
    if seen == contents:
        return None
    missing, extra = sorted(contents.keys() - seen.keys()), sorted(seen.keys() - contents.keys())
    other = sorted(id_ for id_ in contents.keys() & seen.keys() if contents[id_] != seen[id_])
    return f"missing {missing[:5]}, too many {extra[:5]}, other content {other[:5]}; chunks {describe(view)}"


def describe(view: View) -> str:
    """The chunks of a view, for the trace."""
    return " ".join(
        f"{item.chunk.name}{'' if item.chunk.sealed else '~'}:{item.rows}" for item in view.chunks
    )
