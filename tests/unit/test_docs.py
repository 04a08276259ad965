"""The documents are held to the code: links lead somewhere, rooms exist, the journal of STORAGE.md is one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from vectorizer import frame
from vectorizer.errors import DamageError
from vectorizer.index.calibration import Calibration, Point
from vectorizer.operations import CollectionConfig, Rows, Upsert, encode_operation
from vectorizer.replication.history import History, HistoryEntry
from vectorizer.storage.disk import RealDisk
from vectorizer.storage.journal_file import MARK_BYTES, Mark, encode_history, encode_mark
from vectorizer.storage.journal_recovery import inspect, recover
from vectorizer.storage.manifest import CollectionRecord, Manifest, SegmentRecord

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "vectorizer"
DOCUMENTS = [ROOT / "README.md", ROOT / "scripts/README.md", *sorted((ROOT / "docs").glob("*.md"))]
MODULES = {
    str(path.relative_to(PACKAGE).with_suffix("")): path
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py"
}
STORAGE = (ROOT / "docs/STORAGE.md").read_text(encoding="utf-8")
HISTORY = History((HistoryEntry("a1", 1, 0), HistoryEntry("b2", 2, 6)))


# -- links -----------------------------------------------------------------------------------------


def prose(path: Path) -> str:
    """A document without its code."""
    return re.sub(r"^ *```.*?^ *```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """What can be linked to in a document, as GitHub names it."""
    titles = re.findall(r"^#+ +(.+?) *$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(path: Path) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        place = (path.parent / file).resolve() if file else path
        if not place.exists() or (anchor and anchor not in anchors(place)):
            yield target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(path: Path) -> None:
    assert list(broken_links(path)) == []


# -- rooms -----------------------------------------------------------------------------------------


def rooms() -> list[set[str]]:
    """The modules that each line of ARCHITECTURE's table names, from the top down."""
    text = (ROOT / "docs/ARCHITECTURE.md").read_text(encoding="utf-8")
    table = text.partition("\n## Rooms\n")[2].partition("\n## ")[0]
    lines = []
    for cell in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE):
        names = re.findall(r"`([^`]+)`", cell)
        folder = names.pop(0) if names[0].endswith("/") else ""
        lines.append({folder + name for name in names})
    return lines


def imports(module: str) -> set[str]:
    """The modules of the package that one needs when it runs."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "vectorizer":
            place = "/".join((node.module or "").split(".")[1:])
            found |= {place, *(f"{place}/{name.name}".lstrip("/") for name in node.names)}
    return found & MODULES.keys()


def test_every_room_is_named_once_and_every_named_room_exists() -> None:
    named = [module for line in rooms() for module in line]
    assert set(named) ^ set(MODULES) == set()
    assert len(named) == len(set(named))


def test_imports_point_downwards() -> None:
    height = {module: -number for number, line in enumerate(rooms()) for module in line}
    upwards = {
        f"{module} imports {other}"
        for module in height
        for other in imports(module) & height.keys()
        if height[other] > height[module]
    }
    assert upwards == set()


# -- storage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "record", [Manifest, CollectionRecord, CollectionConfig, SegmentRecord, Calibration, Point]
)
def test_every_field_on_disk_is_named(record: type) -> None:
    assert {item.name for item in fields(record) if f"`{item.name}`" not in STORAGE} == set()


def example() -> bytes:
    """The bytes of the journal that STORAGE.md shows, without the zeros at its end."""
    shown = STORAGE.partition("<!-- journal -->")[2].partition("<!-- end of journal -->")[0]
    content = b""
    for place, written in re.findall(r"^ *(\d+)  ((?:[0-9a-f]{2} ?)+)(?: |$)", shown, re.MULTILINE):
        assert int(place) == len(content)
        content += bytes.fromhex(written)
    return content.removesuffix(bytes(4))


def frames(content: bytes) -> list[bytes]:
    decoder = frame.FrameDecoder(1 << 16)
    decoder.feed(content)
    found = []
    while (encoded := decoder.next()) is not None:
        found.append(encoded)
    decoder.finish()
    return found


def operation() -> bytes:
    rows = Rows([b"x"], np.array([[1.0, 0.5]], np.float32), [b""])
    return encode_operation(Upsert("c", rows), 7, 2, 1_700_000_000_000)


def test_the_example_is_what_the_code_writes() -> None:
    header, first, mark, history, written = frames(example())
    file_id = header[68:76]
    assert first == encode_mark(file_id, Mark(0, 6, 6, 0, 0, 0))
    assert mark == encode_mark(file_id, Mark(len(header) + MARK_BYTES, 6, 6, 0, 0, 0))
    assert history == encode_history(HISTORY, 6)
    assert written == operation()


def write(directory: Path, content: bytes) -> str:
    directory.mkdir(exist_ok=True)
    (directory / f"{0:020d}.journal").write_bytes(content.ljust(4096, b"\0"))
    return str(directory)


def test_the_example_is_a_journal(tmp_path: Path) -> None:
    place = write(tmp_path, example())
    journal, records, report = recover(RealDisk(), place, file_bytes=4096, bytes_max=1 << 20, after_offset=6)
    assert list(records) == [HISTORY, operation()]
    assert (report.operations, report.cut_bytes, report.damages) == (1, 0, [])
    journal.close()


def test_the_example_damaged_is_torn_until_a_mark_claims_it(tmp_path: Path) -> None:
    content = example()
    damaged = bytearray(content)
    damaged[500] ^= 255
    report = inspect(RealDisk(), write(tmp_path / "torn", bytes(damaged)), after_offset=6)
    assert (report.operations, report.cut_position) == (0, len(content) - len(operation()))
    damaged += encode_mark(content[68:76], Mark(len(content), 7, 7, 0, 294, 6))
    place = write(tmp_path / "lost", bytes(damaged))
    with pytest.raises(DamageError):
        inspect(RealDisk(), place, after_offset=6)
    assert len(inspect(RealDisk(), place, after_offset=7).damages) == 1, "the manifest has what is lost"
