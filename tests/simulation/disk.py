"""A disk in memory that forgets and tears what was not synced.

The twin of `RealDisk`: the same methods, the same errors. It keeps the truth twice: what programs see, and
what a power loss would leave.

- A file's bytes are durable as of its last sync. Each later write is, at a crash, kept, dropped or torn
  (only its beginning, or only some of its sectors, arrived).
- A name is durable once its directory was synced. Each later change of names (create, remove, link, rename)
  is, at a crash, made or not made; a rename is one change, also between directories.

Faults are states of the disk, not patches of code: `full`, `fail_syncs`, `stop_after` (the power goes off).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from random import Random
from zlib import crc32

from vectorizer.storage.disk import Buffer, File, Lock

SECTOR_BYTES = 512
FREE_BYTES = 1 << 40


class PowerLossError(BaseException):
    """The step at which the disk was told to stop. Not an Exception: no handler of the program lives to see
    it.
    """


class _Content:
    """A file without a name: what is seen, what is synced, and the writes between the two."""

    def __init__(self) -> None:
        self.seen = bytearray()
        self.synced = bytearray()
        # (position, data), or (size, None): truncated to it
        self.unsynced: list[tuple[int, bytes | None]] = []

    def write(self, position: int, data: bytes) -> None:
        _apply(self.seen, position, data)
        self.unsynced.append((position, data))

    def truncate(self, size: int) -> None:
        _apply(self.seen, size, None)
        self.unsynced.append((size, None))

    def sync(self) -> None:
        for position, data in self.unsynced:
            _apply(self.synced, position, data)
        self.unsynced.clear()

    def crash(self, random: Random) -> None:
        for position, data in self.unsynced:
            fate = random.randrange(4)
            if fate == 0:
                continue
            if data is None or fate == 1:
                _apply(self.synced, position, data)
            elif fate == 2:
                _apply(self.synced, position, data[: random.randint(0, len(data))])
            else:
                for start, end in _sectors(position, len(data)):
                    if random.randrange(2):
                        _apply(self.synced, start, data[start - position : end - position])
        self.unsynced.clear()
        self.seen = bytearray(self.synced)


class _Directory:
    """Names as they are seen, and as they would be after a crash."""

    def __init__(self) -> None:
        self.seen: dict[str, _Node] = {}
        self.synced: dict[str, _Node] = {}


_Node = _Content | _Directory
# Names that change at once; None = no such name any more.
_Change = list[tuple[_Directory, str, _Node | None]]


class SimulatedDisk:
    """`Disk` in memory. Paths begin with "/"; the root exists. One thread."""

    def __init__(self) -> None:
        self.full = False
        """ENOSPC for whatever would take room: create, truncate to a larger size, write_file."""
        self.fail_syncs = 0
        """So many of the next syncs of files fail with EIO; what they should have synced stays uncertain."""
        self.stop_after: int | None = None
        """So many more changing steps, then PowerLossError; None = never."""
        self.steps = 0
        """Changing steps so far: writes, truncations, syncs, changes of names."""
        self.life = 0
        """Handles and locks of an earlier life are dead."""
        self._root = _Directory()
        self._changes: list[_Change] = []  # of names, not yet synced
        self._locked: set[str] = set()

    # -- faults -----------------------------------------------------------------------------

    def crash(self, random: Random) -> None:
        """The power goes off and comes back: what was not synced is kept, dropped or torn."""
        for change in self._changes:
            if random.randrange(2):
                _make(change)
        self._changes.clear()
        self._crash(self._root, random, set())
        self.stop_process()

    def stop_process(self) -> None:
        """The process dies, the machine lives on: nothing is lost, but handles and locks are gone."""
        self.life += 1
        self.stop_after = None
        self._locked.clear()

    def corrupt(self, path: str, position: int, data: bytes) -> None:
        """Change bytes behind everybody's back, durably, without changing the size."""
        content = self._content(path)
        assert position + len(data) <= len(content.seen), "corruption does not lengthen a file"
        _apply(content.seen, position, data)
        if position + len(data) <= len(content.synced):
            _apply(content.synced, position, data)

    def step(self) -> None:
        """Before anything changes."""
        if self.stop_after is not None:
            if self.stop_after == 0:
                raise PowerLossError
            self.stop_after -= 1
        self.steps += 1

    def _crash(self, directory: _Directory, random: Random, done: set[int]) -> None:
        directory.seen = dict(directory.synced)
        for _, node in sorted(directory.seen.items()):
            if id(node) in done:  # a second name of the same file
                continue
            done.add(id(node))
            if isinstance(node, _Directory):
                self._crash(node, random, done)
            else:
                node.crash(random)

    # -- files ------------------------------------------------------------------------------

    def create(self, path: str, size: int) -> File:
        directory, name = self._parent(path)
        if name in directory.seen:
            raise _error(errno.EEXIST, path)
        self._take_room(size, path)
        content = _Content()
        self._change([(directory, name, content)])
        self.step()
        content.truncate(size)
        return SimulatedFile(self, content)

    def open(self, path: str) -> File:
        return SimulatedFile(self, self._content(path))

    def read(self, path: str, position: int = 0, count: int = -1) -> bytes:
        seen = self._content(path).seen
        return bytes(seen[position:] if count < 0 else seen[position : position + count])

    def map(self, path: str) -> memoryview:
        return memoryview(bytes(self._content(path).seen))

    def write_file(self, path: str, buffers: Iterable[Buffer]) -> int:
        directory, name = self._parent(path)
        if name in directory.seen:
            self.remove(path)
        content = _Content()
        self._change([(directory, name, content)])
        try:
            self._take_room(1, path)
            for buffer in buffers:
                data = memoryview(buffer).cast("B").tobytes() if len(buffer) else b""
                self.step()
                content.write(len(content.seen), data)
            self.sync(content, path)
        except OSError:
            self._change([(directory, name, None)])
            raise
        return crc32(content.seen)

    def sync(self, content: _Content, path: str = "") -> None:
        """What `File.sync` does."""
        self.step()
        if self.fail_syncs > 0:
            self.fail_syncs -= 1
            raise _error(errno.EIO, path)
        content.sync()

    def size(self, path: str) -> int:
        return len(self._content(path).seen)

    def free_bytes(self, path: str) -> int:
        self._node(path)
        return 0 if self.full else FREE_BYTES

    def lock(self, path: str) -> Lock:
        if path in self._locked:
            raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK), path)
        if not self.exists(path):
            self.create(path, 0).close()
        self._locked.add(path)
        return SimulatedLock(self, path)

    def unlock(self, path: str) -> None:
        """For `SimulatedLock`."""
        self._locked.discard(path)

    # -- names ------------------------------------------------------------------------------

    def replace(self, source: str, target: str) -> None:
        node = self._node(source)
        old_directory, old_name = self._parent(source)
        new_directory, new_name = self._parent(target)
        replaced = new_directory.seen.get(new_name)
        if isinstance(replaced, _Directory) and replaced.seen:
            raise _error(errno.ENOTEMPTY, target)
        self._change([(old_directory, old_name, None), (new_directory, new_name, node)])

    def link(self, source: str, target: str) -> None:
        content = self._content(source)
        directory, name = self._parent(target)
        if name in directory.seen:
            raise _error(errno.EEXIST, target)
        self._change([(directory, name, content)])

    def remove(self, path: str) -> None:
        self._content(path)
        directory, name = self._parent(path)
        self._change([(directory, name, None)])

    def remove_tree(self, path: str) -> None:
        if not self.exists(path):
            return
        node = self._node(path)
        if isinstance(node, _Directory):
            for name in sorted(node.seen):
                self.remove_tree(f"{path}/{name}")
        directory, name = self._parent(path)
        self._change([(directory, name, None)])

    def make_directory(self, path: str) -> None:
        directory = self._root
        for name in _names(path):
            found = directory.seen.get(name)
            if found is None:
                found = _Directory()
                self._change([(directory, name, found)])
            if not isinstance(found, _Directory):
                raise _error(errno.ENOTDIR, path)
            directory = found

    def list(self, path: str) -> list[str]:
        return sorted(self._directory(path).seen)

    def exists(self, path: str) -> bool:
        try:
            self._node(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def sync_directory(self, path: str) -> None:
        directory = self._directory(path)
        self.step()
        rest = []
        for change in self._changes:
            if change[0][0] is directory or change[-1][0] is directory:  # a change is of one name or two
                _make(change)
            else:
                rest.append(change)
        self._changes = rest

    def _change(self, change: _Change) -> None:
        self.step()
        for directory, name, node in change:
            if node is None:
                directory.seen.pop(name, None)
            else:
                directory.seen[name] = node
        self._changes.append(change)

    def _take_room(self, size: int, path: str) -> None:
        if self.full and size > 0:
            raise _error(errno.ENOSPC, path)

    def _node(self, path: str) -> _Node:
        node: _Node = self._root
        for name in _names(path):
            if not isinstance(node, _Directory):
                raise _error(errno.ENOTDIR, path)
            if name not in node.seen:
                raise _error(errno.ENOENT, path)
            node = node.seen[name]
        return node

    def _directory(self, path: str) -> _Directory:
        node = self._node(path)
        if not isinstance(node, _Directory):
            raise _error(errno.ENOTDIR, path)
        return node

    def _content(self, path: str) -> _Content:
        node = self._node(path)
        if not isinstance(node, _Content):
            raise _error(errno.EISDIR, path)
        return node

    def _parent(self, path: str) -> tuple[_Directory, str]:
        above, _, name = path.rstrip("/").rpartition("/")
        return self._directory(above), name


class SimulatedFile:
    """`File` in memory."""

    def __init__(self, disk: SimulatedDisk, content: _Content) -> None:
        self._disk = disk
        self._content = content
        self._life: int | None = disk.life

    @property
    def size(self) -> int:
        self._check()
        return len(self._content.seen)

    def write_at(self, position: int, buffers: Sequence[Buffer]) -> None:
        self._check()
        self._disk.step()
        self._content.write(position, b"".join(buffers))

    def sync(self) -> None:
        self._check()
        self._disk.sync(self._content)

    def write_behind(self, count: int) -> None:
        self._check()  # it makes nothing durable

    def truncate(self, size: int) -> None:
        self._check()
        if size > len(self._content.seen) and self._disk.full:
            raise _error(errno.ENOSPC, "")
        self._disk.step()
        self._content.truncate(size)

    def close(self) -> None:
        self._life = None

    def _check(self) -> None:
        if self._life != self._disk.life:
            raise _error(errno.EBADF, "")


class SimulatedLock:
    """`Lock` in memory."""

    def __init__(self, disk: SimulatedDisk, path: str) -> None:
        self._disk = disk
        self._path = path
        self._life: int | None = disk.life

    def release(self) -> None:
        if self._life == self._disk.life:
            self._disk.unlock(self._path)
            self._life = None


def _apply(content: bytearray, position: int, data: bytes | None) -> None:
    if data is None:
        del content[position:]
        content.extend(bytes(position - len(content)))
    else:
        if len(content) < position:
            content.extend(bytes(position - len(content)))
        content[position : position + len(data)] = data


def _sectors(position: int, size: int) -> Iterable[tuple[int, int]]:
    """The pieces of a write that lie in one sector each: (start, end) positions in the file."""
    start, stop = position, position + size
    while start < stop:
        end = min(stop, (start // SECTOR_BYTES + 1) * SECTOR_BYTES)
        yield start, end
        start = end


def _make(change: _Change) -> None:
    for directory, name, node in change:
        if node is None:
            directory.synced.pop(name, None)
        else:
            directory.synced[name] = node


@lru_cache(maxsize=4096)
def _names(path: str) -> tuple[str, ...]:
    return tuple(name for name in path.split("/") if name)


def _error(code: int, path: str) -> OSError:
    return OSError(code, os.strerror(code), path)
