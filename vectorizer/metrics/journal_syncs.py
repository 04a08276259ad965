"""How long the disk takes to make the journal durable: measured where the system is asked."""

from __future__ import annotations

import time
from collections.abc import Sequence

from vectorizer.histogram import Histogram
from vectorizer.storage.disk import Buffer, File, RealDisk
from vectorizer.storage.journal_file import SUFFIX, UNFINISHED_SUFFIX


class MeasuredDisk(RealDisk):
    """The real disk; each sync of a journal's file is entered in a histogram, in seconds."""

    def __init__(self, journal_syncs: Histogram) -> None:
        self._journal_syncs = journal_syncs

    def create(self, path: str, size: int) -> File:
        """See ``Disk``."""
        return self._measured(path, super().create(path, size))

    def open(self, path: str) -> File:
        """See ``Disk``."""
        return self._measured(path, super().open(path))

    def _measured(self, path: str, file: File) -> File:
        is_journal = path.endswith((SUFFIX, UNFINISHED_SUFFIX))
        return _MeasuredFile(file, self._journal_syncs) if is_journal else file


class _MeasuredFile:
    def __init__(self, file: File, syncs: Histogram) -> None:
        self._file = file
        self._syncs = syncs

    @property
    def size(self) -> int:
        return self._file.size

    def write_at(self, position: int, buffers: Sequence[Buffer]) -> None:
        self._file.write_at(position, buffers)

    def sync(self) -> None:
        started = time.perf_counter()
        self._file.sync()
        self._syncs.observe(time.perf_counter() - started)

    def write_behind(self, count: int) -> None:
        self._file.write_behind(count)

    def truncate(self, size: int) -> None:
        self._file.truncate(size)

    def close(self) -> None:
        self._file.close()
