"""The simulated disk behaves as the real one until the power goes off, and then as badly as a disk may."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from random import Random
from zlib import crc32

import pytest

from tests.simulation.disk import PowerLossError, SimulatedDisk
from vectorizer.storage.disk import Disk, RealDisk

SEEDS = range(200)


def outcomes(
    after: Callable[[SimulatedDisk], object], look: Callable[[SimulatedDisk], object]
) -> set[object]:
    """What `look` sees after `after` and a crash, over many seeds."""
    seen = set()
    for seed in SEEDS:
        disk = SimulatedDisk()
        disk.make_directory("/d")
        disk.sync_directory("/")
        after(disk)
        disk.crash(Random(seed))
        seen.add(look(disk))
    return seen


def names(disk: SimulatedDisk) -> object:
    return tuple(disk.list("/d"))


def tell_a_story(disk: Disk, root: str) -> list[object]:
    """The same steps on any disk, and everything there is to see on the way."""
    story: list[object] = []

    def expect(code: int, call: Callable[[], object]) -> None:
        with pytest.raises(OSError) as caught:
            call()
        story.append(errno.errorcode[caught.value.errno or 0])
        assert caught.value.errno == code

    disk.make_directory(f"{root}/deep/er")
    disk.make_directory(f"{root}/deep/er")
    file = disk.create(f"{root}/a", 10)
    expect(errno.EEXIST, lambda: disk.create(f"{root}/a", 10))
    expect(errno.ENOENT, lambda: disk.open(f"{root}/missing"))
    expect(errno.ENOENT, lambda: disk.create(f"{root}/missing/a", 10))
    expect(errno.ENOTDIR, lambda: disk.list(f"{root}/a"))
    expect(errno.ENOTDIR, lambda: disk.read(f"{root}/a/b"))
    expect(errno.EISDIR, lambda: disk.remove(f"{root}/deep"))
    file.write_at(4, [b"xyz", memoryview(b"123456")])
    file.sync()
    story += [file.size, disk.read(f"{root}/a"), disk.read(f"{root}/a", 5, 3), disk.read(f"{root}/a", 99)]
    file.write_at(20, [b"far"])
    file.truncate(21)
    story += [disk.read(f"{root}/a"), bytes(disk.map(f"{root}/a"))]
    file.truncate(30)
    story.append(disk.size(f"{root}/a"))
    file.close()
    file.close()
    story.append(disk.write_file(f"{root}/b", [b"one", b"", bytearray(b"two")]))
    disk.link(f"{root}/b", f"{root}/deep/c")
    expect(errno.EEXIST, lambda: disk.link(f"{root}/b", f"{root}/deep/c"))
    story.append(disk.write_file(f"{root}/b", []))
    story += [disk.read(f"{root}/b"), disk.read(f"{root}/deep/c")]
    disk.replace(f"{root}/deep/c", f"{root}/b")
    expect(errno.ENOTEMPTY, lambda: disk.replace(f"{root}/deep/er", f"{root}"))
    story += [
        disk.list(root),
        disk.list(f"{root}/deep"),
        disk.exists(f"{root}/b"),
        disk.exists(f"{root}/a/x"),
    ]
    lock = disk.lock(f"{root}/LOCK")
    expect(errno.EWOULDBLOCK, lambda: disk.lock(f"{root}/LOCK"))
    lock.release()
    lock.release()
    disk.lock(f"{root}/LOCK").release()
    disk.sync_directory(root)
    disk.remove(f"{root}/b")
    disk.remove_tree(f"{root}/deep")
    disk.remove_tree(f"{root}/deep")
    story += [disk.list(root), disk.free_bytes(root) > 0]
    return story


def test_it_behaves_as_the_real_disk_does(tmp_path: Path) -> None:
    real, simulated = str(tmp_path / "story"), "/story"
    RealDisk().make_directory(real)
    disk = SimulatedDisk()
    disk.make_directory(simulated)
    assert tell_a_story(disk, simulated) == tell_a_story(RealDisk(), real)


def test_what_was_synced_survives() -> None:
    def write(disk: SimulatedDisk) -> None:
        file = disk.create("/d/a", 4)
        file.write_at(0, [b"good"])
        file.sync()
        disk.write_file("/d/b", [b"also"])
        disk.sync_directory("/d")

    assert outcomes(write, lambda disk: (disk.read("/d/a"), disk.read("/d/b"))) == {(b"good", b"also")}


def test_a_write_that_was_not_synced_is_kept_dropped_or_torn() -> None:
    def write(disk: SimulatedDisk) -> None:
        file = disk.create("/d/a", 4)
        file.sync()
        disk.sync_directory("/d")
        file.write_at(0, [b"abcd"])

    found = outcomes(write, lambda disk: disk.read("/d/a"))
    assert found == {b"abcd", bytes(4), b"a\0\0\0", b"ab\0\0", b"abc\0"}


def test_sectors_of_a_large_write_arrive_in_any_order() -> None:
    def write(disk: SimulatedDisk) -> None:
        file = disk.create("/d/a", 1200)
        file.sync()
        disk.sync_directory("/d")
        file.write_at(100, [b"x" * 1000])

    found = outcomes(write, lambda disk: disk.read("/d/a"))
    assert bytes(100) + bytes(412) + b"x" * 512 + bytes(176) in found
    assert bytes(100) + b"x" * 412 + bytes(512) + b"x" * 76 + bytes(100) in found


def test_the_size_of_a_file_that_was_not_synced_is_uncertain() -> None:
    def create(disk: SimulatedDisk) -> None:
        disk.create("/d/a", 4)
        disk.sync_directory("/d")

    assert outcomes(create, lambda disk: disk.read("/d/a")) == {b"", bytes(4)}


def test_names_are_uncertain_until_their_directory_is_synced() -> None:
    def create(disk: SimulatedDisk) -> None:
        disk.write_file("/d/a", [b"a"])
        disk.write_file("/d/b", [b"b"])

    assert outcomes(create, names) == {(), ("a",), ("b",), ("a", "b")}


def test_a_removal_is_uncertain_until_the_directory_is_synced() -> None:
    def remove(disk: SimulatedDisk) -> None:
        disk.write_file("/d/a", [b"a"])
        disk.sync_directory("/d")
        disk.remove("/d/a")

    assert outcomes(remove, names) == {(), ("a",)}


def test_a_rename_is_atomic() -> None:
    def rename(disk: SimulatedDisk) -> None:
        disk.write_file("/d/current", [b"old"])
        disk.write_file("/d/new", [b"new"])
        disk.sync_directory("/d")
        disk.replace("/d/new", "/d/current")

    found = outcomes(rename, lambda disk: (names(disk), disk.read("/d/current")))
    assert found == {(("current", "new"), b"old"), (("current",), b"new")}


def test_a_rename_between_directories_is_atomic_and_synced_by_either() -> None:
    def rename(disk: SimulatedDisk) -> None:
        disk.make_directory("/e")
        disk.sync_directory("/")
        disk.write_file("/d/a", [b"a"])
        disk.sync_directory("/d")
        disk.replace("/d/a", "/e/a")

    def rename_and_sync(disk: SimulatedDisk) -> None:
        rename(disk)
        disk.sync_directory("/e")

    def look(disk: SimulatedDisk) -> object:
        return tuple(disk.list("/d")), tuple(disk.list("/e"))

    assert outcomes(rename, look) == {(("a",), ()), ((), ("a",))}
    assert outcomes(rename_and_sync, look) == {((), ("a",))}


def test_a_file_whose_directory_was_never_synced_is_gone_with_it() -> None:
    def create(disk: SimulatedDisk) -> None:
        disk.make_directory("/d/e")
        disk.write_file("/d/e/a", [b"a"])
        disk.sync_directory("/d/e")

    assert outcomes(create, lambda disk: disk.exists("/d/e/a")) == {True, False}


def test_two_names_of_a_file_have_one_content_after_a_crash() -> None:
    def write(disk: SimulatedDisk) -> None:
        file = disk.create("/d/a", 4)
        file.sync()
        disk.link("/d/a", "/d/b")
        disk.sync_directory("/d")
        file.write_at(0, [b"abcd"])

    assert outcomes(write, lambda disk: disk.read("/d/a") == disk.read("/d/b")) == {True}


def test_handles_and_locks_die_with_the_process_and_nothing_else_does() -> None:
    disk = SimulatedDisk()
    file = disk.create("/a", 4)
    lock = disk.lock("/LOCK")
    file.write_at(0, [b"abcd"])
    disk.stop_process()
    for call in (lambda: file.size, file.sync, lambda: file.write_at(0, [b"x"]), lambda: file.truncate(0)):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EBADF
    second = disk.lock("/LOCK")
    lock.release()
    with pytest.raises(BlockingIOError):
        disk.lock("/LOCK")
    second.release()
    assert disk.read("/a") == b"abcd"


def test_a_full_disk_refuses_whatever_takes_room_and_leaves_nothing_behind() -> None:
    disk = SimulatedDisk()
    file = disk.create("/a", 4)
    disk.full = True
    for call in (
        lambda: disk.create("/b", 4),
        lambda: disk.write_file("/c", [b"c"]),
        lambda: file.truncate(5),
    ):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.ENOSPC
    file.write_at(0, [b"room"])
    file.sync()
    assert disk.list("/") == ["a"]
    assert disk.free_bytes("/") == 0
    disk.full = False
    disk.create("/b", 4)


def test_a_failed_sync_leaves_the_writes_uncertain() -> None:
    def write(disk: SimulatedDisk) -> None:
        file = disk.create("/d/a", 1)
        file.sync()
        disk.sync_directory("/d")
        file.write_at(0, [b"x"])
        disk.fail_syncs = 1
        with pytest.raises(OSError) as caught:
            file.sync()
        assert caught.value.errno == errno.EIO

    assert outcomes(write, lambda disk: disk.read("/d/a")) == {b"x", b"\0"}


def test_a_write_file_that_cannot_be_synced_is_not_left_behind() -> None:
    disk = SimulatedDisk()
    disk.fail_syncs = 1
    with pytest.raises(OSError):
        disk.write_file("/a", [b"x"])
    assert disk.list("/") == []


def test_the_power_goes_off_at_the_chosen_step() -> None:
    steps = 0
    for stop_after in range(100):
        disk = SimulatedDisk()
        disk.stop_after = stop_after
        try:
            file = disk.create("/a", 4)
            file.write_at(0, [b"abcd"])
            file.sync()
            disk.sync_directory("/")
        except PowerLossError:
            steps += 1
            continue
        break
    assert steps == disk.steps == 5
    disk.stop_process()
    disk.remove("/a")


def test_corruption_is_durable() -> None:
    def corrupt(disk: SimulatedDisk) -> None:
        disk.write_file("/d/a", [b"good"])
        disk.sync_directory("/d")
        disk.corrupt("/d/a", 1, b"xx")

    assert outcomes(corrupt, lambda disk: disk.read("/d/a")) == {b"gxxd"}
    disk = SimulatedDisk()
    disk.create("/a", 4)
    disk.corrupt("/a", 0, b"x")
    assert disk.read("/a") == b"x\0\0\0"


def test_the_same_seed_gives_the_same_disk() -> None:
    def run(seed: int) -> list[tuple[str, int]]:
        disk = SimulatedDisk()
        for number in range(20):
            file = disk.create(f"/{number}", 2000)
            file.write_at(number, [b"x" * 1500])
        disk.crash(Random(seed))
        return [(name, crc32(disk.read(f"/{name}"))) for name in disk.list("/")]

    assert run(1) == run(1) != run(2)
