"""The disk: the only room that asks the operating system for files.

Everything blocks, so it is called from native threads (or before the event loop runs). Storage code is
written against the two protocols below; the simulation has a twin that forgets and tears whatever was not
synced.

What a caller may rely on, and must do:
1. Bytes are durable once `File.sync` (or `write_file`) has returned; a name (created, renamed, linked,
   removed) once `sync_directory` of its directory has.
2. An error of a write or sync is never retried here: what the system then holds is unknown.
3. A file that others may have open or linked is never written in place, it is replaced by name.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol
from zlib import crc32

Buffer = bytes | bytearray | memoryview

SLICE_BYTES = 1 << 20  # one step of writing and checksumming: bounds the memory and the hold on the GIL
_VECTORS_MAX = 1024  # buffers the system takes in one call (IOV_MAX)
_BEGIN, _WAIT = 2, 1 | 4  # of sync_file_range: begin to write what is there; wait for what was begun

_sync_file_range = getattr(ctypes.CDLL(None, use_errno=True), "sync_file_range", None)  # of Linux
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


class File(Protocol):
    """An open file of fixed places: whoever writes says where."""

    @property
    def size(self) -> int:
        """Bytes in the file, preallocated ones included."""

    def write_at(self, position: int, buffers: Sequence[Buffer]) -> None:
        """Write the buffers one after the other from `position` on; raises OSError."""

    def sync(self) -> None:
        """Make everything written durable; raises OSError."""

    def write_behind(self, count: int) -> None:
        """So many bytes, the next ones of the file, are written: let the disk have them before the sync."""

    def truncate(self, size: int) -> None:
        """Cut the file, or lengthen it with zeros."""

    def close(self) -> None:
        """Give the file back; a second call does nothing."""


class Lock(Protocol):
    """A file held against every other process."""

    def release(self) -> None:
        """Let others have it; a second call does nothing."""


class Disk(Protocol):
    """Files by path; errors are OSError with errno set (FileNotFoundError, ENOSPC, EIO …)."""

    def create(self, path: str, size: int) -> File:
        """Make a new file with room for `size` zero bytes; on an error (ENOSPC) nothing is left behind."""

    def open(self, path: str) -> File:
        """Open an existing file for writing."""

    def read(self, path: str, position: int = 0, count: int = -1) -> bytes:
        """Return up to `count` bytes (-1 = the rest) from `position` on; fewer at the end of the file."""

    def map(self, path: str) -> memoryview:
        """Return the whole file as read-only memory that is backed by it; it stays valid after removal."""

    def write_file(self, path: str, buffers: Iterable[Buffer]) -> int:
        """Write a new file in place of any old one, sync it, and return the CRC32 of its content.

        On an error nothing is left under that name. The name is durable only after `sync_directory`.
        """

    def replace(self, source: str, target: str) -> None:
        """Rename, atomically, over whatever `target` was."""

    def link(self, source: str, target: str) -> None:
        """Give the file a second name."""

    def remove(self, path: str) -> None:
        """Remove one file."""

    def remove_tree(self, path: str) -> None:
        """Remove a directory and all in it; a missing one is no error."""

    def make_directory(self, path: str) -> None:
        """Make a directory and those above it; an existing one is no error."""

    def list(self, path: str) -> list[str]:
        """Names in a directory, sorted."""

    def exists(self, path: str) -> bool:
        """Whether there is a file or directory of this name."""

    def size(self, path: str) -> int:
        """Bytes of a file."""

    def sync_directory(self, path: str) -> None:
        """Make the names in a directory durable."""

    def free_bytes(self, path: str) -> int:
        """Bytes that may still be written where `path` is."""

    def lock(self, path: str) -> Lock:
        """Hold the file (made if missing) against other processes; BlockingIOError if another one has it."""


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Errors of what is open by its descriptor say which file it is."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), path) from error


class WriteBehind:
    """Has the disk write a file while it grows, a slice at a time, of which at most two are on their way.

    The sync at the end of a large file would give the disk all of it at once, and every sync of the journal
    waits behind that: up to 85 ms beside a merge of 260,000 rows, 19 ms this way. It makes nothing durable.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._waited = self._begun = self._end = 0

    def wrote(self, count: int) -> None:
        """The file has so many bytes more. Blocking; OSError if the disk could not write earlier ones."""
        self._end += count
        if self._end - self._begun < SLICE_BYTES:
            return
        if self._begun > self._waited:
            self._ask(self._waited, self._begun, _WAIT)
        self._ask(self._begun, self._end, _BEGIN)
        self._waited, self._begun = self._begun, self._end

    def _ask(self, start: int, stop: int, what: int) -> None:
        if _sync_file_range is None:
            return
        if _sync_file_range(self._descriptor, start, stop - start, what) != 0:
            number = ctypes.get_errno()
            if number != errno.ENOSYS:  # an error is told once: the sync at the end would know nothing of it
                raise OSError(number, os.strerror(number))


class RealDisk:
    """`Disk` on the operating system."""

    def create(self, path: str, size: int) -> File:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        try:
            if size:
                with _naming(path):
                    os.posix_fallocate(descriptor, 0, size)
        except OSError:
            os.close(descriptor)
            os.remove(path)
            raise
        return RealFile(descriptor, path)

    def open(self, path: str) -> File:
        return RealFile(os.open(path, os.O_RDWR | os.O_CLOEXEC), path)

    def read(self, path: str, position: int = 0, count: int = -1) -> bytes:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with _naming(path):
                if count < 0:
                    count = max(0, os.fstat(descriptor).st_size - position)
                data = os.pread(descriptor, count, position)
                while 0 < len(data) < count:  # one call gives at most 2 GiB
                    more = os.pread(descriptor, count - len(data), position + len(data))
                    if not more:
                        break
                    data += more
                return data
        finally:
            os.close(descriptor)

    def map(self, path: str) -> memoryview:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with _naming(path):
                if os.fstat(descriptor).st_size == 0:  # which mmap refuses
                    return memoryview(b"")
                return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
        finally:
            os.close(descriptor)

    def write_file(self, path: str, buffers: Iterable[Buffer]) -> int:
        if os.path.lexists(path):
            os.remove(path)  # never write through a name that may be linked elsewhere
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        checksum, behind = 0, WriteBehind(descriptor)
        try:
            try:
                for part in slices(buffers):
                    checksum = crc32(part, checksum)
                    with _naming(path):
                        _write_all(descriptor, part)
                        behind.wrote(len(part))
                with _naming(path):
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except BaseException:
            os.remove(path)
            raise
        return checksum

    def replace(self, source: str, target: str) -> None:
        os.replace(source, target)

    def link(self, source: str, target: str) -> None:
        os.link(source, target)

    def remove(self, path: str) -> None:
        os.remove(path)

    def remove_tree(self, path: str) -> None:
        try:
            shutil.rmtree(path)
        except FileNotFoundError:
            if os.path.lexists(path):  # something inside vanished: not ours to hide
                raise

    def make_directory(self, path: str) -> None:
        os.makedirs(path, mode=0o750, exist_ok=True)

    def list(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    def exists(self, path: str) -> bool:
        return os.path.lexists(path)

    def size(self, path: str) -> int:
        return os.stat(path).st_size

    def sync_directory(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def free_bytes(self, path: str) -> int:
        status = os.statvfs(path)
        return status.f_bavail * status.f_frsize

    def lock(self, path: str) -> Lock:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise
        return RealLock(descriptor)


class RealFile:
    """`File` on the operating system."""

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor = descriptor
        self._path = path
        self._behind = WriteBehind(descriptor)

    @property
    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def write_at(self, position: int, buffers: Sequence[Buffer]) -> None:
        with _naming(self._path):
            for start in range(0, len(buffers), _VECTORS_MAX):
                group = buffers[start : start + _VECTORS_MAX]
                written = os.pwritev(self._descriptor, group, position)
                expected = sum(map(len, group))
                if written < expected:
                    _pwrite_all(self._descriptor, memoryview(b"".join(group))[written:], position + written)
                position += expected

    def sync(self) -> None:
        with _naming(self._path):
            os.fdatasync(self._descriptor)

    def write_behind(self, count: int) -> None:
        with _naming(self._path):
            self._behind.wrote(count)

    def truncate(self, size: int) -> None:
        with _naming(self._path):
            os.ftruncate(self._descriptor, size)

    def close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


class RealLock:
    """`Lock` on the operating system: also let go when the process dies, however it dies."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


def slices(buffers: Iterable[Buffer], slice_bytes: int = SLICE_BYTES) -> Iterator[memoryview]:
    """Cut buffers of any size into steps of at most `slice_bytes`, without copies."""
    for buffer in buffers:
        view = memoryview(buffer).cast("B") if len(buffer) else memoryview(b"")
        for start in range(0, len(view), slice_bytes):
            yield view[start : start + slice_bytes]


def checksum_of(buffer: Buffer) -> int:
    """CRC32 of a large (mapped) buffer, in slices: other threads run between and during them."""
    checksum = 0
    for part in slices([buffer]):
        checksum = crc32(part, checksum)
    return checksum


def is_disk_full(error: OSError) -> bool:
    """Whether the disk, or our share of it, is full: a state that passes, unlike every other error."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _pwrite_all(descriptor: int, data: memoryview, position: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, position)
        data = data[written:]
        position += written
