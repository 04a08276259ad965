"""A photograph of a simulated disk: what is seen, what is synced and what is between the two, at one step.

Many are taken of one run, so equal contents are kept once (``Album``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from tests.simulation.disk import SimulatedDisk, _Content, _Directory

Name = tuple[int, str, int | None]
"""A change of a name: number of the directory, name, number of what it names (None: nothing any more)."""


@dataclass(frozen=True, slots=True)
class FileShot:
    """A file: what programs see, what is synced, the writes between."""

    seen: bytes
    synced: bytes
    unsynced: tuple[tuple[int, bytes | None], ...]


@dataclass(frozen=True, slots=True)
class FolderShot:
    """A directory: numbers by name, as seen and as synced."""

    seen: dict[str, int]
    synced: dict[str, int]


@dataclass(frozen=True, slots=True)
class Photograph:
    """All of a disk. ``nodes[0]`` is the root."""

    nodes: tuple[FileShot | FolderShot, ...]
    changes: tuple[tuple[Name, ...], ...]
    inherited: tuple[bool, ...]
    """Which of the changes the process found when it started."""

    def unsynced_names(self, *, in_data_directory: bool = False) -> int:
        """Names that were given and not synced; only those directly in a data directory if that is asked."""
        root = self.nodes[0]
        assert isinstance(root, FolderShot)
        folders = set(root.seen.values())
        names = [name for change in self.changes for name in change if name[2] is not None]
        return sum(not in_data_directory or folder in folders for folder, _, _ in names)


class Album:
    """Takes photographs."""

    def __init__(self) -> None:
        self._contents: dict[bytes, bytes] = {}

    def take(self, disk: SimulatedDisk, found_changes: Sequence[object] = ()) -> Photograph:
        """The disk as it is now. ``found_changes``: those that its process found when it started."""
        numbers: dict[int, int] = {}
        found: list[_Content | _Directory] = []

        def number(node: _Content | _Directory) -> int:
            if id(node) not in numbers:
                numbers[id(node)] = len(found)
                found.append(node)
            return numbers[id(node)]

        number(disk._root)
        changes = tuple(
            tuple(
                (number(folder), name, None if node is None else number(node))
                for folder, name, node in change
            )
            for change in disk._changes
        )
        shots: list[FileShot | FolderShot] = []
        while len(shots) < len(found):  # which grows meanwhile
            node = found[len(shots)]
            if isinstance(node, _Directory):
                seen = {name: number(below) for name, below in node.seen.items()}
                shots.append(FolderShot(seen, {name: number(below) for name, below in node.synced.items()}))
            else:
                shots.append(FileShot(self._keep(node.seen), self._keep(node.synced), tuple(node.unsynced)))
        inherited = {id(change) for change in found_changes}
        return Photograph(tuple(shots), changes, tuple(id(change) in inherited for change in disk._changes))

    def _keep(self, content: bytearray) -> bytes:
        data = bytes(content)
        return self._contents.setdefault(data, data)


def develop(photograph: Photograph, disk: SimulatedDisk) -> None:
    """Put what is in the photograph on an empty disk."""
    nodes: list[_Content | _Directory] = [
        _Directory() if isinstance(shot, FolderShot) else _Content() for shot in photograph.nodes
    ]
    for node, shot in zip(nodes, photograph.nodes, strict=True):
        if isinstance(shot, FolderShot):
            assert isinstance(node, _Directory)
            node.seen = {name: nodes[number] for name, number in shot.seen.items()}
            node.synced = {name: nodes[number] for name, number in shot.synced.items()}
        else:
            assert isinstance(node, _Content)
            node.seen, node.synced = bytearray(shot.seen), bytearray(shot.synced)
            node.unsynced = list(shot.unsynced)
    root = nodes[0]
    assert isinstance(root, _Directory)
    disk._root = root
    disk._changes = [
        [
            (_folder(nodes[folder]), name, None if node is None else nodes[node])
            for folder, name, node in change
        ]
        for change in photograph.changes
    ]


def _folder(node: _Content | _Directory) -> _Directory:
    assert isinstance(node, _Directory)
    return node


class _Decided(Random):
    """Instead of chance: one answer for what was written, one for what was named."""

    def __new__(cls, *about: object) -> _Decided:
        return super().__new__(cls)

    def __init__(self, written: bool, named: bool) -> None:
        super().__init__(0)
        self._written, self._named = written, named

    def randrange(self, *about: int) -> int:  # type: ignore[override]
        """As ``SimulatedDisk.crash`` asks: of 4 fates of a write 0 is lost and 1 kept; of 2 of a name too."""
        return int(self._written if about == (4,) else self._named)


FORGOTTEN = "forgotten"
"""For a crash after a start: names that an earlier process left unsynced are lost, all else arrived."""
FATES = ("killed", "kept", "lost", "names kept", "data kept", "torn")
"""What becomes of what was not synced. ``killed``: the process dies and the machine lives on, so that it is
there, but still not synced; the others are losses of power.
"""
_DECIDED = {
    "kept": (True, True),
    "lost": (False, False),
    "names kept": (False, True),
    "data kept": (True, False),
}


def crash(photograph: Photograph, disk: SimulatedDisk, fate: str, seed: int) -> None:
    """Put what is in the photograph on an empty disk, and end what ran there in one of ``FATES``."""
    develop(photograph, disk)
    if fate == "killed":
        disk.stop_process()
    elif fate == FORGOTTEN:
        kept = zip(disk._changes, photograph.inherited, strict=True)
        disk._changes = [change for change, inherited in kept if not inherited]
        disk.crash(_Decided(True, True))
    elif fate.startswith("torn"):  # "torn #2": in another way
        disk.crash(Random(seed))
    else:
        disk.crash(_Decided(*_DECIDED[fate]))
