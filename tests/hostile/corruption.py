"""Damage to files, chosen by chance: what disks, file systems, restores and people do to them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

SECTOR_BYTES = 512


@dataclass(frozen=True, slots=True)
class Damage:
    """What was done, to which files (below the directory), and in what places of the first."""

    kind: str
    files: tuple[str, ...]
    start: int = 0
    end: int = 1 << 62

    def __str__(self) -> str:
        where = f" at {self.start}..{self.end}" if self.end < 1 << 62 else ""
        return f"{self.kind} of {', '.join(self.files)}{where}"


def corrupt(root: Path, random: Random) -> Damage:
    """Do one thing to one file (or two). Every kind of file is as likely as another."""
    kinds: dict[str, list[Path]] = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        kinds.setdefault(_kind_of(path), []).append(path)
    files = kinds[random.choice(sorted(kinds))]
    path = random.choice(files)
    name, act = random.choice(_ACTS)
    return act(root, name, path, files, random)


def _kind_of(path: Path) -> str:
    if path.name.startswith("manifest-"):
        return "manifest"
    if path.parent.name == "diverged":
        return "saved"
    return path.suffix if path.suffix == ".journal" else path.name


def _change(path: Path, content: bytes) -> None:
    """Never in place: the name may be one of several."""
    path.unlink()
    path.write_bytes(content)


def _flip(root: Path, name: str, path: Path, files: list[Path], random: Random) -> Damage:
    content = bytearray(path.read_bytes() or b"\0")
    place = _place(content, random)
    content[place] ^= 1 << random.randrange(8)
    _change(path, bytes(content))
    return Damage(name, (_below(root, path),), place, place + 1)


def _overwrite(root: Path, name: str, path: Path, files: list[Path], random: Random) -> Damage:
    """A sector of zeros, of chance, or of another file."""
    content = bytearray(path.read_bytes())
    start = _place(content or b"\0", random) // SECTOR_BYTES * SECTOR_BYTES
    end = min(len(content), start + SECTOR_BYTES * random.choice((1, 1, 8)))
    other = random.choice(files).read_bytes()
    garbage = {
        "zeroed sector": bytes(end - start),
        "garbage in a sector": random.randbytes(end - start),
        "misdirected sector": other[: end - start].ljust(end - start, b"\0"),
    }
    content[start:end] = garbage[name]
    _change(path, bytes(content))
    return Damage(name, (_below(root, path),), start, end)


def _truncate(root: Path, name: str, path: Path, files: list[Path], random: Random) -> Damage:
    content = path.read_bytes()
    size = random.choice((0, random.randint(0, len(content)), max(0, len(content) - 1)))
    _change(path, content[:size])
    return Damage(name, (_below(root, path),), size)


def _append(root: Path, name: str, path: Path, files: list[Path], random: Random) -> Damage:
    content = path.read_bytes()
    garbage = random.choice((bytes, random.randbytes))(random.choice((1, 7, 700)))
    _change(path, content + garbage)
    return Damage(name, (_below(root, path),), len(content))


def _remove(root: Path, name: str, path: Path, files: list[Path], random: Random) -> Damage:
    path.unlink()
    return Damage(name, (_below(root, path),))


def _swap(root: Path, name: str, path: Path, files: list[Path], random: Random) -> Damage:
    other = random.choice(files)
    one, two = path.read_bytes(), other.read_bytes()
    _change(path, two)
    if other != path:
        _change(other, one)
    return Damage(name, (_below(root, path), _below(root, other)))


def _copy_over(root: Path, name: str, path: Path, files: list[Path], random: Random) -> Damage:
    other = random.choice(files)
    _change(path, other.read_bytes())
    return Damage(name, (_below(root, path), _below(root, other)))


def _copy_beside(root: Path, name: str, path: Path, files: list[Path], random: Random) -> Damage:
    """As editors, backups and people name their copies, or with another number."""
    number = path.name.replace("1", "2") if "1" in path.name else path.name.replace("0", "3", 1)
    target = path.with_name(random.choice((path.name + "~", path.name + ".bak", "copy-" + path.name, number)))
    if not target.exists():
        shutil.copyfile(path, target)
    return Damage(name, (_below(root, target),))


def _directory(root: Path, name: str, path: Path, files: list[Path], random: Random) -> Damage:
    path.unlink()
    path.mkdir()
    return Damage(name, (_below(root, path),))


def _remove_directory(root: Path, name: str, path: Path, files: list[Path], random: Random) -> Damage:
    folder = path.parent
    if folder == root:
        return _remove(root, name, path, files, random)
    shutil.rmtree(folder)
    return Damage(name, (_below(root, folder),))


def _older(root: Path, name: str, path: Path, files: list[Path], random: Random) -> Damage:
    """The last bytes are lost, and the file has its size: what a power loss does to a file that rots."""
    content = path.read_bytes()
    size = random.randint(0, len(content))
    _change(path, content[:size].ljust(len(content), b"\0"))
    return Damage(name, (_below(root, path),), size)


_Act = Callable[[Path, str, Path, list[Path], Random], Damage]
_ACTS: tuple[tuple[str, _Act], ...] = (
    ("flipped bit", _flip),
    ("flipped bit", _flip),
    ("zeroed sector", _overwrite),
    ("garbage in a sector", _overwrite),
    ("misdirected sector", _overwrite),
    ("truncated file", _truncate),
    ("appended garbage", _append),
    ("removed file", _remove),
    ("swapped files", _swap),
    ("file over another", _copy_over),
    ("copy beside", _copy_beside),
    ("directory for a file", _directory),
    ("removed directory", _remove_directory),
    ("zeroed end", _older),
)


def _place(content: bytes | bytearray, random: Random) -> int:
    """Mostly where something is written: files of the journal are allocated ahead."""
    written = len(bytes(content).rstrip(b"\0"))
    return random.randrange(written if written and random.random() < 0.9 else len(content))


def _below(root: Path, path: Path) -> str:
    return os.path.relpath(path, root)
