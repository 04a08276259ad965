"""``vectorizer diverged``: every kind of operation is printed, and damage is named where it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.unit.served import cluster_at, wait_until
from tests.unit.served_client import run
from vectorizer import codec, frame
from vectorizer.operations import (
    CollectionConfig,
    Create,
    Delete,
    Drop,
    Merge,
    Operation,
    Rows,
    Upsert,
    encode_operation,
)

pytestmark = pytest.mark.usefixtures("logging_as_before")
Capsys = pytest.CaptureFixture[str]
OPERATIONS: list[Operation] = [
    Create(CollectionConfig("c", 2, "dot", 0.9, 16, 64, 4, 40)),
    Upsert("c", Rows([b"x"], np.array([[0.1, 2]], np.float32), [codec.encode_payload({"ö": [1, None]})])),
    Delete("c", [b"x", "ö".encode()]),
    Merge("c", ("s1", "s2")),
    Drop("c"),
]


def content() -> bytes:
    header = frame.encode(codec.encode({"m": "diverged", "version": 1, "operations": len(OPERATIONS)}))
    return header + b"".join(
        encode_operation(operation, 10 + number, 3, 1_700_000_000_000)
        for number, operation in enumerate(OPERATIONS)
    )


def test_every_kind_of_operation(tmp_path: Path, capsys: Capsys) -> None:
    (tmp_path / "kept").write_bytes(content())
    ran = run(capsys, "diverged", tmp_path / "kept")
    assert (ran.code, ran.err) == (0, "")
    header, create, upsert, delete, merge, drop = map(json.loads, ran.out.splitlines())
    assert header == {"kind": "diverged", "version": 1, "operations": 5}
    place = {"collection": "c", "epoch": 3, "timestamp_ms": 1_700_000_000_000}
    assert create["config"]["dimension"] == 2
    rows = [{"id": "x", "vector": [0.1, 2.0], "payload": {"ö": [1, None]}}]
    assert upsert == {"kind": "upsert", "offset": 11, **place, "rows": rows}
    assert delete["ids"] == ["x", "ö"]
    assert merge["segments"] == ["s1", "s2"]
    assert drop == {"kind": "drop", "offset": 14, **place}


@pytest.mark.parametrize(
    ("damaged", "code", "part"),
    [
        (b"", 2, "is empty"),
        (b"not at all", 2, "holds no diverged operations"),
        (content()[:30], 2, "holds no diverged operations"),
        (frame.encode(codec.encode({"m": "journal"})), 2, "holds no diverged operations"),
        (content()[:-3], 1, "is damaged after 4 operations"),
        (content()[:-3] + b"abc", 1, "is damaged after 4 operations"),
    ],
)
def test_damage(tmp_path: Path, capsys: Capsys, damaged: bytes, code: int, part: str) -> None:
    (tmp_path / "kept").write_bytes(damaged)
    ran = run(capsys, "diverged", tmp_path / "kept")
    assert ran.code == code
    assert part in ran.err


def test_a_file_that_is_not_there(tmp_path: Path, capsys: Capsys) -> None:
    ran = run(capsys, "diverged", tmp_path / "missing")
    assert (ran.code, "cannot be read: No such file" in ran.sentence) == (2, True)


def test_what_an_old_master_kept_aside(tmp_path: Path, capsys: Capsys) -> None:
    with cluster_at(tmp_path) as cluster:
        old = cluster.master("old")
        new = cluster.replica(old, "new", **{"replication.bind_address": "127.0.0.1:0"})
        old.create()
        new.follows(old)
        assert new.configure(role="master")[0] == 200
        old.put(1, 2)
        old.put(3)
        assert old.configure(role="replica", master_address=new.address)[0] == 200
        wait_until(lambda: old.streams and old.status()["diverged"], "the operations kept aside")
        (kept,) = old.status()["diverged"]
        ran = run(capsys, "diverged", kept["file"])
    header, *operations = map(json.loads, ran.out.splitlines())
    assert (header["operations"], header["complete"]) == (2, True)
    assert [[row["id"] for row in operation["rows"]] for operation in operations] == [
        ["id-1", "id-2"],
        ["id-3"],
    ]
