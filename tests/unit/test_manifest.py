"""The manifest's document: there and back, and what is refused from disk or from a peer."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from tests.unit.stored import StoredNode
from vectorizer.errors import DamageError
from vectorizer.storage.manifest import Manifest


@pytest.fixture
def document(tmp_path: Path) -> Any:
    node = StoredNode(tmp_path)
    node.create()
    node.upsert(*range(20))
    node.delete(3)
    node.seal()
    return copy.deepcopy(node.checkpoint().to_document())


def test_there_and_back(document: Any) -> None:
    manifest = Manifest.from_document(document)
    assert manifest.to_document() == document
    again = Manifest.decode(manifest.encode(), "manifest-1")
    assert again.to_document() == document
    assert len(manifest.directories()) == 3
    assert manifest.with_stored({"a": 1}).stored == {"a": 1}


def segment(document: Any) -> Any:
    return document["collections"][0]["segments"][0]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda d: d.update(version=9), "version 9"),
        (lambda d: d.update(m="snapshot"), "version 1"),
        (lambda d: d.pop("history"), "history"),
        (lambda d: d.update(offset=-1), "whole number"),
        (lambda d: d.update(offset=True), "whole number"),
        (lambda d: d.update(stored=[]), "is not a dict"),
        (lambda d: d.update(collections=[3]), "malformed"),
        (lambda d: d["collections"][0]["config"].update(metric="manhattan"), "configuration"),
        (lambda d: d["collections"][0]["config"].update(colour="red"), "malformed"),
        (lambda d: segment(d).update(directory="../../etc"), "is not a file name"),
        (lambda d: segment(d).update(name=".."), "is not a file name"),
        (lambda d: segment(d).update(files={"a/b": [1, 2]}), "is not a file name"),
        (lambda d: segment(d).update(deleted_rows=b"\xff\x00\x00\x00"), "does not have"),
        (lambda d: segment(d).update(deleted_at=b""), "does not have"),
        (
            lambda d: segment(d).update(
                deleted_rows=b"\xff\xff\xff\xff\0\0\0\0", deleted_at=2 * segment(d)["deleted_at"]
            ),
            "does not have",
        ),
    ],
)
def test_what_is_refused(document: Any, change: Any, what: str) -> None:
    change(document)
    with pytest.raises(ValueError, match=what):
        Manifest.from_document(document)


def test_damage_names_the_file(document: Any) -> None:
    encoded = Manifest.from_document(document).encode()
    for content in (b"", encoded[:-1], encoded[:-1] + b"\x01"):
        with pytest.raises(DamageError, match=r"manifest-7: the manifest cannot be read"):
            Manifest.decode(content, "manifest-7")
