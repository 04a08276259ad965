"""Where an interrupted command goes on: a small JSON file beside its input or output."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vectorizer.client.failures import CommandError

VERSION = 1


@dataclass(frozen=True, slots=True)
class Mark:
    """The file; ``subject`` is what the rest of its content is about, and must be the same next time."""

    path: Path
    subject: Mapping[str, Any]

    def read(self) -> dict[str, Any] | None:
        """What was written for this very subject, None if there is nothing."""
        try:
            document = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise CommandError(f"{self.path} cannot be read ({error}); remove it to begin anew") from None
        if not isinstance(document, dict) or document.get("version") != VERSION:
            return None
        done = document.get("done")
        return done if document.get("subject") == self.subject and isinstance(done, dict) else None

    def write(self, done: Mapping[str, Any]) -> None:
        """Whole or not at all."""
        content = json.dumps({"version": VERSION, "subject": self.subject, "done": done})
        aside = self.path.with_name(self.path.name + ".new")
        try:
            aside.write_text(content + "\n", encoding="utf-8")
            os.replace(aside, self.path)
        except OSError as error:
            raise CommandError(f"{self.path} cannot be written: {error.strerror or error}") from None

    def remove(self) -> None:
        """Everything is done."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()


def identity(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """What tells these files from changed ones: name, size, and time of the last change."""
    found = []
    for path in paths:
        status = path.stat()
        found.append({"name": path.name, "bytes": status.st_size, "changed_ns": status.st_mtime_ns})
    return found
