"""A small file system of its own for one data directory, so that its disk can be full."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def mounted_tmpfs(directory: Path, size_bytes: int) -> Iterator[None]:
    """Mount a tmpfs of `size_bytes` at `directory`; skips the test where this is not allowed."""
    directory.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(directory)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(
            f"a full disk needs a tmpfs, and mounting one is not allowed here: {mounted.stderr.strip()}"
        )
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def room_bytes(directory: Path) -> int:
    """Free bytes on the file system of `directory`."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize
