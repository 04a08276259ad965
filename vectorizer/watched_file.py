"""A small file that an operator may change while the server runs: keys, a secret.

It is looked at when it is needed, at most every LOOK_SECS; one ``stat`` tells whether it has changed.
Writers replace such a file by a rename, so that nobody reads half of it. It belongs on a local disk, since
the look is taken on the event loop.
"""

from __future__ import annotations

import os

LOOK_SECS = 0.5
BYTES_MAX = 1 << 20


class WatchedFile:
    """The file at ``path``; ``content`` is what it held when it was looked at last, None = it is missing."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.content: bytes | None = None
        self.problem = ""
        """Why the file could not be read at the last look; ``content`` is older then. "" = it could."""
        self._look_at: float | None = None
        self._stamp: tuple[int, ...] | None = None

    def look(self, now: float) -> bool:
        """Whether the file has changed since the last look; ``now`` is monotonic seconds."""
        if self._look_at is not None and now < self._look_at:
            return False
        first, self._look_at = self._look_at is None, now + LOOK_SECS
        before = self.content, self.problem
        try:
            self._read()
        except FileNotFoundError:
            self.content, self._stamp, self.problem = None, None, ""
        except OSError as error:
            self._stamp, self.problem = None, error.strerror or str(error)
        return first or before != (self.content, self.problem)

    def _read(self) -> None:
        status = os.stat(self.path)
        stamp = status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino
        if stamp == self._stamp:
            return
        with open(self.path, "rb") as file:
            content = file.read(BYTES_MAX + 1)
        if len(content) > BYTES_MAX:
            raise OSError(None, f"the file is larger than {BYTES_MAX} bytes")
        self.content, self._stamp, self.problem = content, stamp, ""
