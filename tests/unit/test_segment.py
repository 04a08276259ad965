"""Segments: what is written comes back, deletions included, and a damaged file is named and never served."""

from __future__ import annotations

import struct
import tracemalloc
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import bson
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.simulation.disk import SimulatedDisk
from vectorizer import codec
from vectorizer.errors import DamageError
from vectorizer.storage import segment as segment_module
from vectorizer.storage.chunk import LIVE, hash_ids, order_of
from vectorizer.storage.disk import Disk, RealDisk
from vectorizer.storage.npy import npy_parts
from vectorizer.storage.row_documents import documents_of
from vectorizer.storage.segment import (
    FILES,
    FileInfo,
    SealedSegment,
    merge_segments,
    open_segment,
    write_segment,
)

PAYLOADS = [b"", codec.encode({}), codec.encode({"tag": "x" * 30, "n": 1, "deep": {"list": [1, None]}})]


def rows(count: int, dimension: int = 4, seed: int = 0) -> dict[str, Any]:
    """The arguments of `write_segment` for some rows."""
    random = np.random.default_rng(seed)
    ids = [f"id-é-{seed}-{number}".encode() for number in range(count)]
    vectors = random.standard_normal((count, dimension)).astype(np.float32)
    return {
        "ids": ids,
        "vectors": vectors,
        "norms": np.linalg.norm(vectors, axis=1).astype(np.float32),
        "payloads": [PAYLOADS[number % 3] for number in range(count)],
        "hashes": hash_ids(ids),
    }


def written(disk: Disk, content: dict[str, Any], path: str = "/s") -> SealedSegment:
    files = write_segment(disk, path, **content)
    return open_segment(disk, path, "s1", files, verify=True)


def assert_rows(
    segment: SealedSegment, content: dict[str, Any], kept: npt.NDArray[np.int32] | None = None
) -> None:
    assert segment.rows == len(content["ids"])
    np.testing.assert_array_equal(segment.vectors, content["vectors"])
    np.testing.assert_array_equal(segment.norms, content["norms"])
    np.testing.assert_array_equal(segment.row_hashes(), content["hashes"])
    assert [segment.id_at(row) for row in range(segment.rows)] == content["ids"]
    assert segment.ids_at(range(segment.rows)) == content["ids"]
    assert segment.payloads_at(range(segment.rows)) == content["payloads"]
    assert [segment.payload_at(row) for row in range(segment.rows)] == content["payloads"]
    assert segment.ids_and_payloads() == (content["ids"], content["payloads"])


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
@pytest.mark.parametrize("dimension", [1, 5])
def test_what_is_written_comes_back(tmp_path: Path, count: int, dimension: int) -> None:
    content = rows(count, dimension)
    segment = written(RealDisk(), content, str(tmp_path / "0001-s1"))
    assert_rows(segment, content)
    assert not segment.vectors.flags.writeable
    assert (segment.name, segment.directory_name, segment.sealed) == ("s1", "0001-s1", True)
    assert segment.disk_bytes == sum(path.stat().st_size for path in (tmp_path / "0001-s1").iterdir())
    assert sorted(segment.files) == sorted(FILES)
    assert (segment.graph, segment.cache, segment.dead_rows) == (None, {}, 0)
    assert segment.deleted_at.tolist() == [LIVE] * count


def test_the_formats_are_open(tmp_path: Path) -> None:
    """Anyone can read a segment with NumPy and a BSON library."""
    content = rows(50)
    written(RealDisk(), content, str(tmp_path))
    offsets = np.load(tmp_path / "offsets.npy")
    documents = (tmp_path / "rows.bson").read_bytes()
    for row in range(50):
        document = codec.decode(documents[offsets[row] : offsets[row + 1]])
        payload = codec.decode_payload(content["payloads"][row])
        assert document == {"id": content["ids"][row].decode(), "payload": payload}
    np.testing.assert_array_equal(np.load(tmp_path / "vectors.npy"), content["vectors"])
    np.testing.assert_array_equal(np.load(tmp_path / "norms.npy"), content["norms"])
    hashes, order = np.load(tmp_path / "hashes.npy"), np.load(tmp_path / "order.npy")
    np.testing.assert_array_equal(hashes, np.sort(content["hashes"]))
    np.testing.assert_array_equal(hashes, content["hashes"][order])


@given(
    st.lists(st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**63, 2**63 + 1, 2**64 - 1]), max_size=40)
)
def test_rows_of_equal_hashes_stay_in_order(values: list[int]) -> None:
    hashes = np.array(values, np.uint64)
    assert order_of(hashes).dtype == np.int32
    assert order_of(hashes).tolist() == np.argsort(hashes, kind="stable").tolist()


def test_equal_rows_give_equal_files() -> None:
    first, second = SimulatedDisk(), SimulatedDisk()
    assert write_segment(first, "/s", **rows(300)) == write_segment(second, "/s", **rows(300))


@pytest.mark.parametrize("lengths", [[7] * 300, [7] * 100 + [8] * 200, [1, 2] * 150, [3]])
@pytest.mark.parametrize("payloads", [0, 1])
def test_documents_are_what_bson_makes_of_them(lengths: list[int], payloads: int) -> None:
    """Without payloads, long runs of ids of one length are put together in another way."""
    ids = [f"{number:0{length}d}"[-length:].encode() for number, length in enumerate(lengths)]
    some = [bson.encode({"n": number}) if payloads and number % 3 else b"" for number in range(len(ids))]
    made = documents_of(ids, some)
    expected = [
        bson.encode({"id": id_.decode(), "payload": bson.decode(payload) if payload else None})
        for id_, payload in zip(ids, some, strict=True)
    ]
    assert made.content == b"".join(expected)
    assert made.lengths.tolist() == list(map(len, expected))


def test_rows_of_a_larger_array_are_written(tmp_path: Path) -> None:
    content = rows(10)
    roomy = np.zeros((100, 4), np.float32)
    roomy[:10] = content["vectors"]
    assert_rows(written(RealDisk(), {**content, "vectors": roomy[:10]}, str(tmp_path)), content)


def test_find_gives_the_live_row_of_each_id() -> None:
    content = rows(100)
    segment = written(SimulatedDisk(), content)
    ids = [content["ids"][7], b"missing", content["ids"][0], content["ids"][99]]
    assert segment.find(hash_ids(ids), ids).tolist() == [7, -1, 0, 99]
    segment.kill(np.array([7, 99], np.int32), 50)
    assert segment.find(hash_ids(ids), ids).tolist() == [-1, -1, 0, -1]
    assert segment.dead_rows == 2
    assert segment.deleted_at[[7, 0]].tolist() == [50, LIVE]
    assert segment.find(hash_ids([]), []).tolist() == []


def test_find_looks_through_many_rows_of_one_id() -> None:
    content = rows(1000)
    content["ids"] = [b"hot" if row % 2 else content["ids"][row] for row in range(1000)]
    content["hashes"] = hash_ids(content["ids"])
    segment = written(SimulatedDisk(), content)
    dead = np.array([row for row in range(1000) if row % 2 and row != 501], np.int32)
    segment.kill(dead, 9)
    ids = [b"hot", content["ids"][500], b"cold"]
    assert segment.find(hash_ids(ids), ids).tolist() == [501, 500, -1]
    segment.kill(np.array([501], np.int32), 10)
    assert segment.find(hash_ids(ids), ids).tolist() == [-1, 500, -1]


def test_find_compares_ids_not_only_hashes() -> None:
    content = rows(4)
    content["hashes"] = np.array([5, 5, 5, 6], np.uint64)
    segment = written(SimulatedDisk(), content)
    ids = [content["ids"][2], b"another", content["ids"][3], content["ids"][0]]
    assert segment.find(np.array([5, 5, 6, 6], np.uint64), ids).tolist() == [2, -1, 3, -1]


def test_merging_keeps_the_chosen_rows_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_module, "SLICE_BYTES", 64)
    disk = SimulatedDisk()
    contents = [rows(40, seed=1), rows(30, seed=2), rows(5, seed=3)]
    kept = [np.arange(0, 40, 3, dtype=np.int32), np.arange(30, dtype=np.int32), np.zeros(0, np.int32)]
    sources = [written(disk, content, f"/s{number}") for number, content in enumerate(contents)]
    files = merge_segments(disk, "/m", list(zip(sources, kept, strict=True)))
    merged = open_segment(disk, "/m", "m9", files, verify=True)
    together: dict[str, Any] = {
        name: [contents[n][name][row] for n in range(3) for row in kept[n].tolist()]
        for name in ("ids", "vectors", "norms", "payloads", "hashes")
    }
    arrays = {name: np.array(together[name]) for name in ("vectors", "norms", "hashes")}
    assert_rows(merged, {**together, **arrays})
    assert files == write_segment(SimulatedDisk(), "/m", **{**together, **arrays})


def test_writing_large_rows_takes_bounded_memory(tmp_path: Path) -> None:
    count = 64
    content = rows(count, 1)
    content["payloads"] = [codec.encode({"x": "y" * 1_000_000})] * count
    tracemalloc.start()
    try:
        write_segment(RealDisk(), str(tmp_path / "s"), **content)
        assert tracemalloc.get_traced_memory()[1] < 12_000_000
    finally:
        tracemalloc.stop()
    assert (tmp_path / "s" / "rows.bson").stat().st_size > 64_000_000


def test_a_full_disk_leaves_nothing_behind() -> None:
    disk = SimulatedDisk()
    disk.full = True
    with pytest.raises(OSError):
        write_segment(disk, "/s", **rows(10))
    assert disk.list("/") == []


def test_a_segment_is_durable_once_the_directory_above_is_synced() -> None:
    for seed in range(10):
        disk = SimulatedDisk()
        content = rows(20)
        files = write_segment(disk, "/s", **content)
        disk.sync_directory("/")
        disk.crash(Random(seed))
        assert_rows(open_segment(disk, "/s", "s1", files, verify=True), content)


# -- damage -----------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_changed_byte_is_noticed_and_its_file_named(data: st.DataObject) -> None:
    disk = SimulatedDisk()
    files = write_segment(disk, "/s", **rows(7))
    name = data.draw(st.sampled_from(FILES))
    position = data.draw(st.integers(0, files[name].bytes - 1))
    flipped = disk.read(f"/s/{name}", position, 1)[0] ^ data.draw(st.integers(1, 255))
    disk.corrupt(f"/s/{name}", position, bytes([flipped]))
    with pytest.raises(DamageError) as caught:
        open_segment(disk, "/s", "s1", files, verify=True)
    assert caught.value.file == f"/s/{name}"


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("name", FILES)
def test_a_missing_shortened_or_unknown_file_is_always_noticed(name: str, verify: bool) -> None:
    for damage in ("missing", "shortened", "unknown"):
        disk = SimulatedDisk()
        files = write_segment(disk, "/s", **rows(7))
        if damage == "missing":
            disk.remove(f"/s/{name}")
        elif damage == "shortened":
            disk.open(f"/s/{name}").truncate(files[name].bytes - 1)
        else:
            del files[name]
        with pytest.raises(DamageError) as caught:
            open_segment(disk, "/s", "s1", files, verify=verify)
        assert caught.value.file == f"/s/{name}"


def forge(disk: Disk, files: dict[str, FileInfo], name: str, content: bytes) -> None:
    """Replace a file and let the manifest agree: only consistency can tell."""
    crc32 = disk.write_file(f"/s/{name}", [content])
    files[name] = FileInfo(len(content), crc32)


def npy(array: npt.NDArray[np.generic]) -> bytes:
    return b"".join(npy_parts([array], array.dtype, array.shape))


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("vectors.npy", np.zeros((6, 4), np.float32)),
        ("vectors.npy", np.zeros((7, 4), np.float64)),
        ("vectors.npy", np.zeros(28, np.float32)),
        ("hashes.npy", np.zeros(6, np.uint64)),
        ("order.npy", np.zeros(8, np.int32)),
        ("offsets.npy", np.zeros(7, np.int64)),
        ("offsets.npy", np.zeros(8, np.int64)),
        ("offsets.npy", np.full(8, 9, np.int64)),
    ],
)
def test_arrays_that_do_not_fit_are_always_noticed(name: str, array: npt.NDArray[np.generic]) -> None:
    disk = SimulatedDisk()
    files = write_segment(disk, "/s", **rows(7))
    forge(disk, files, name, npy(array))
    with pytest.raises(DamageError) as caught:
        open_segment(disk, "/s", "s1", files, verify=False)
    assert caught.value.file == f"/s/{name}"


@pytest.mark.parametrize("name", ["offsets.npy", "hashes.npy", "order.npy"])
def test_arrays_that_lead_astray_are_noticed_when_verified(name: str) -> None:
    disk = SimulatedDisk()
    files = write_segment(disk, "/s", **rows(7))
    array = np.load(BytesIO(disk.read(f"/s/{name}")))
    match name:
        case "offsets.npy":
            array[3], array[4] = array[4], array[3]
        case "hashes.npy":
            array[:] = array[::-1].copy()
        case _:
            array[0] = array[1]
    forge(disk, files, name, npy(array))
    with pytest.raises(DamageError) as caught:
        open_segment(disk, "/s", "s1", files, verify=True)
    assert caught.value.file == f"/s/{name}"


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_rows_that_pass_verification_can_be_followed(data: st.DataObject) -> None:
    """Whatever is in rows.bson: it is refused, or each row's id and payload lie inside the row."""
    disk = SimulatedDisk()
    content = rows(6)
    files = write_segment(disk, "/s", **content)
    whole = bytearray(disk.read("/s/rows.bson"))
    offsets = np.load(BytesIO(disk.read("/s/offsets.npy")))
    start = int(offsets[data.draw(st.integers(0, 5))])
    position = start + data.draw(st.integers(0, 40))
    whole[position : position + 4] = data.draw(
        st.one_of(st.binary(min_size=4, max_size=4), st.integers(-3, 90).map(lambda n: struct.pack("<i", n)))
    )
    forge(disk, files, "rows.bson", bytes(whole[: int(offsets[-1])]))
    try:
        segment = open_segment(disk, "/s", "s1", files, verify=True)
    except DamageError as error:
        assert error.file == "/s/rows.bson"
        return
    for row in range(6):
        size = int(offsets[row + 1] - offsets[row])
        id_, payload = segment.id_at(row), segment.payload_at(row)
        assert 1 <= len(id_) <= size and len(payload) <= size
        if payload:
            assert struct.unpack_from("<i", payload)[0] == len(payload)
