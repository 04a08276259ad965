"""The real disk keeps the promises of the protocol."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

from vectorizer.storage.disk import SLICE_BYTES, Buffer, RealDisk, checksum_of, is_disk_full, slices


@pytest.fixture
def disk() -> RealDisk:
    return RealDisk()


def test_created_files_have_their_room_and_are_zero(disk: RealDisk, tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    file = disk.create(path, 100_000)
    assert file.size == disk.size(path) == 100_000
    assert os.stat(path).st_blocks * 512 >= 100_000
    assert disk.read(path) == bytes(100_000)
    with pytest.raises(FileExistsError):
        disk.create(path, 10)
    file.close()
    file.close()
    disk.create(str(tmp_path / "empty"), 0).close()
    assert disk.size(str(tmp_path / "empty")) == 0


def test_a_file_that_cannot_be_allocated_is_not_left_behind(
    disk: RealDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, position: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space") as caught:
        disk.create(str(tmp_path / "a"), 100)
    assert is_disk_full(caught.value)
    assert disk.list(str(tmp_path)) == []


def test_many_buffers_are_written_in_order(disk: RealDisk, tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    disk.create(path, 100).close()
    file = disk.open(path)
    buffers = [b"%06d" % number for number in range(3000)]
    file.write_at(10, [*buffers, memoryview(b"end")])
    file.sync()
    assert disk.read(path, 10) == b"".join(buffers) + b"end"
    assert disk.read(path, 16, 12) == b"000001000002"
    assert disk.read(path, 18010, 100) == b"end"
    assert disk.read(path, 10**6) == b""
    file.truncate(12)
    assert file.size == 12
    file.close()


def test_short_writes_are_continued(disk: RealDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may take less than it was given, at any call."""
    real_pwritev, real_pwrite, real_write = os.pwritev, os.pwrite, os.write
    monkeypatch.setattr(
        os, "pwritev", lambda d, buffers, position: real_pwritev(d, [b"".join(buffers)[:5]], position)
    )
    monkeypatch.setattr(os, "pwrite", lambda d, data, position: real_pwrite(d, data[:3], position))
    monkeypatch.setattr(os, "write", lambda d, data: real_write(d, data[:4]))
    path = str(tmp_path / "a")
    file = disk.create(path, 0)
    file.write_at(0, [b"0123", b"456789", b"abcdef"])
    file.close()
    assert disk.read(path) == b"0123456789abcdef"
    assert disk.write_file(path, [b"0123456789"]) == crc32(b"0123456789")
    assert disk.read(path) == b"0123456789"


def test_short_reads_are_continued(disk: RealDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "a")
    disk.write_file(path, [b"0123456789"])
    real_pread = os.pread
    monkeypatch.setattr(os, "pread", lambda d, count, position: real_pread(d, min(count, 3), position))
    assert disk.read(path) == b"0123456789"
    assert disk.read(path, 4, 100) == b"456789"


def test_maps_are_read_only_and_outlive_the_name(disk: RealDisk, tmp_path: Path) -> None:
    path, empty = str(tmp_path / "a"), str(tmp_path / "empty")
    numbers = np.arange(1000, dtype=np.float32)
    disk.write_file(path, [numbers.tobytes()])
    disk.write_file(empty, [])
    mapped = np.frombuffer(disk.map(path), dtype=np.float32)
    assert not mapped.flags.writeable
    disk.remove(path)
    assert not disk.exists(path)
    np.testing.assert_array_equal(mapped, numbers)
    assert len(disk.map(empty)) == 0
    with pytest.raises(FileNotFoundError):
        disk.map(path)


def test_written_files_return_their_checksum(disk: RealDisk, tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    parts: list[Buffer] = [os.urandom(3_000_000), b"", bytearray(b"xyz")]
    whole = b"".join(parts)
    assert disk.write_file(path, parts) == crc32(whole) == checksum_of(disk.map(path))
    assert disk.read(path) == whole
    assert checksum_of(b"") == 0


def test_a_large_file_goes_to_the_disk_while_it_is_written(
    disk: RealDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In slices, with never more than two on their way: the sync at its end finds little left."""
    asked: list[tuple[str, int]] = []

    def note(descriptor: int, start: int, count: int, flags: int) -> int:
        assert os.fstat(descriptor).st_size >= start + count
        asked.append(("begin" if flags == 2 else "wait", start))
        return 0

    monkeypatch.setattr("vectorizer.storage.disk._sync_file_range", note)
    disk.write_file(str(tmp_path / "a"), [bytes(3 * SLICE_BYTES), b"and some more"])
    ends = [0, SLICE_BYTES, 2 * SLICE_BYTES]
    assert asked == [("begin", 0), ("wait", 0), ("begin", ends[1]), ("wait", ends[1]), ("begin", ends[2])]


def test_an_error_of_a_slice_is_that_of_the_file(
    disk: RealDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: int) -> int:
        ctypes.set_errno(errno.ENOSPC)
        return -1

    monkeypatch.setattr("vectorizer.storage.disk._sync_file_range", fail)
    path = str(tmp_path / "a")
    with pytest.raises(OSError, match="No space left") as caught:
        disk.write_file(path, [bytes(2 * SLICE_BYTES)])
    assert caught.value.filename == path and is_disk_full(caught.value)
    assert disk.list(str(tmp_path)) == []


def test_writing_a_file_again_leaves_its_other_names_alone(disk: RealDisk, tmp_path: Path) -> None:
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    disk.write_file(first, [b"old"])
    disk.link(first, second)
    disk.write_file(first, [b"new"])
    assert (disk.read(first), disk.read(second)) == (b"new", b"old")


def test_a_file_that_fails_half_way_is_not_left_behind(disk: RealDisk, tmp_path: Path) -> None:
    def buffers() -> Iterator[bytes]:
        yield b"half"
        raise OSError(errno.EIO, "broken source")

    with pytest.raises(OSError, match="broken source") as caught:
        disk.write_file(str(tmp_path / "a"), buffers())
    assert not is_disk_full(caught.value)
    assert disk.list(str(tmp_path)) == []


def test_names(disk: RealDisk, tmp_path: Path) -> None:
    root = str(tmp_path / "deep" / "er")
    disk.make_directory(root)
    disk.make_directory(root)
    disk.write_file(f"{root}/b", [b"b"])
    disk.write_file(f"{root}/a", [b"a"])
    disk.replace(f"{root}/b", f"{root}/c")
    disk.sync_directory(root)
    assert disk.list(root) == ["a", "c"]
    assert disk.exists(root) and disk.exists(f"{root}/c") and not disk.exists(f"{root}/b")
    assert disk.free_bytes(root) > 0
    disk.remove_tree(root)
    disk.remove_tree(root)
    assert not disk.exists(root)


def test_remove_tree_does_not_hide_what_it_could_not_remove(
    disk: RealDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanished(path: str) -> None:
        raise FileNotFoundError(path)

    monkeypatch.setattr(shutil, "rmtree", vanished)
    with pytest.raises(FileNotFoundError):
        disk.remove_tree(str(tmp_path))


def test_a_lock_keeps_others_out_until_released(disk: RealDisk, tmp_path: Path) -> None:
    path = str(tmp_path / "LOCK")
    lock = disk.lock(path)
    with pytest.raises(BlockingIOError):
        disk.lock(path)
    lock.release()
    lock.release()
    disk.lock(path).release()


def test_slices_bound_each_step() -> None:
    parts = list(slices([b"abcdefg", b"", np.arange(2, dtype=np.int16).data], 3))
    assert [bytes(part) for part in parts] == [b"abc", b"def", b"g", b"\x00\x00\x01", b"\x00"]


def test_errors_of_open_files_name_them(tmp_path: Path) -> None:
    """The system's own say no more than "Input/output error"."""
    disk, folder = RealDisk(), str(tmp_path)
    for reach in (disk.map, disk.read):
        with pytest.raises(OSError, match=folder):
            reach(folder)
    file = disk.create(f"{folder}/file", 10)
    with pytest.raises(OSError, match=f"{folder}/file"):
        file.truncate(-1)
    file.close()
