"""The data directory: generations of data, and the one file that says which counts.

::

    CURRENT                      "<generation>/<manifest> <its CRC32>", replaced by rename
    LOCK                         held by the process that owns the directory
    FOLLOWS                      there if the node was a replica last: its newest mastership is another's
    0000000001/                  a generation: data that grew by operations from one install
        manifest-0000000007      newest manifests (the one before is kept to go back to)
        journal/                 see journal
        segments/<identity>-<segment>/
        KEEP                     label under which it is kept aside once another generation counts
    diverged/                    operations that a newer mastership overruled
    aside/                       generations that an operator's force replaced, until discarded

Whatever ``CURRENT`` does not lead to is an unfinished step and is removed at the next start; so each
procedure of several steps is done or not done by the one rename.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress

from vectorizer import frame
from vectorizer.errors import DamageError
from vectorizer.storage.disk import Disk
from vectorizer.storage.journal_recovery import inspect
from vectorizer.storage.manifest import Manifest

CURRENT = "CURRENT"
FOLLOWS = "FOLLOWS"
KEEP = "KEEP"
ASIDE = "aside"
DIVERGED = "diverged"
MANIFESTS_KEPT = 2
_LINE = re.compile(rb"(\d{10})/(manifest-\d{10})(?: ([0-9a-f]{8}))?\n")
"""Of CURRENT; it had no checksum at first."""


class DataDirectory:
    """Paths and procedures of one data directory. Blocking; called at start or in native threads."""

    def __init__(self, disk: Disk, root: str) -> None:
        self.disk = disk
        self.root = root

    # -- paths ------------------------------------------------------------------------------------------

    def generation_path(self, generation: int) -> str:
        """Directory of a generation."""
        return f"{self.root}/{generation:010d}"

    def journal_path(self, generation: int) -> str:
        """Directory of its journal."""
        return f"{self.generation_path(generation)}/journal"

    def segments_path(self, generation: int) -> str:
        """Directory of its segments."""
        return f"{self.generation_path(generation)}/segments"

    def manifest_path(self, generation: int, name: str) -> str:
        """File of a manifest."""
        return f"{self.generation_path(generation)}/{name}"

    # -- reading ----------------------------------------------------------------------------------------

    def current(self) -> tuple[int, str] | None:
        """Generation and manifest that count; None in a new data directory, also one whose first start was
        cut. DamageError if CURRENT is unreadable.
        """
        path = f"{self.root}/{CURRENT}"
        if not self.disk.exists(path):
            if any(self._holds_data(generation) for generation in self.generations()):
                raise DamageError(
                    path,
                    "the file is missing but there is data beside it; restore it from a backup or move "
                    "the data away",
                )
            return None
        content = self.disk.read(path)
        said = _LINE.fullmatch(content)
        if said is None:
            raise DamageError(path, f"it names no manifest but {content[:80]!r}; restore it from a backup")
        generation, name, checksum = int(said[1]), said[2].decode(), said[3]
        if checksum is not None and self._manifest_checksum(generation, name) not in (None, checksum):
            raise DamageError(
                path,
                f"it names {name} of generation {generation} with checksum {checksum.decode()}, that file is "
                "another one; restore both from a backup, or this node from a replica",
            )
        return generation, name

    def _manifest_checksum(self, generation: int, name: str) -> bytes | None:
        """The CRC32 that a manifest's frame states, as CURRENT writes it; None if there is no such file."""
        path = self.manifest_path(generation, name)
        if not self.disk.exists(path):
            return None
        return (
            self.disk.read(path, frame.LENGTH_BYTES, frame.HEADER_BYTES - frame.LENGTH_BYTES).hex().encode()
        )

    def _holds_data(self, generation: int) -> bool:
        """Whether anything was ever written here: not if the very first start was cut before CURRENT."""
        names = self.manifests(generation)
        if not names:
            return False
        segments, journal = self.segments_path(generation), self.journal_path(generation)
        if len(names) > 1 or (self.disk.exists(segments) and self.disk.list(segments)):
            return True
        with suppress(DamageError):  # the cut may have torn it
            if self.read_manifest(generation, names[0]).offset:
                return True
        if not self.disk.exists(journal) or not self.disk.list(journal):
            return False
        try:
            return inspect(self.disk, journal, after_offset=0).operations > 0
        except DamageError:
            return True

    def read_manifest(self, generation: int, name: str) -> Manifest:
        """A manifest. DamageError if it is missing or damaged."""
        path = self.manifest_path(generation, name)
        if not self.disk.exists(path):
            raise DamageError(
                path, "the manifest is missing; restore the data directory from a backup or a replica"
            )
        return Manifest.decode(self.disk.read(path), path)

    def manifests(self, generation: int) -> list[str]:
        """Names of the generation's manifests, oldest first."""
        names = self.disk.list(self.generation_path(generation))
        return sorted(name for name in names if name.startswith("manifest-"))

    @property
    def follows(self) -> bool:
        """Whether the node was a replica when it was here last, whatever role it starts in now."""
        return self.disk.exists(f"{self.root}/{FOLLOWS}")

    # -- writing ----------------------------------------------------------------------------------------

    def set_follows(self, follows: bool) -> None:
        """Remember whether the node is a replica."""
        if follows == self.follows:
            return
        if follows:
            self.disk.write_file(f"{self.root}/{FOLLOWS}", [])
        else:
            self.disk.remove(f"{self.root}/{FOLLOWS}")
        self.disk.sync_directory(self.root)

    def prepare_generation(self) -> int:
        """A new, empty generation, after all others."""
        generation = max(self.generations(), default=0) + 1
        self.disk.make_directory(self.generation_path(generation))
        self.disk.make_directory(self.segments_path(generation))
        self.disk.make_directory(self.journal_path(generation))
        return generation

    def write_manifest(self, generation: int, manifest: Manifest) -> str:
        """Write a manifest durably beside the others; it does not count yet."""
        names = self.manifests(generation)
        number = int(names[-1].removeprefix("manifest-")) + 1 if names else 1
        name = f"manifest-{number:010d}"
        path = self.manifest_path(generation, name)
        self.disk.write_file(path, [manifest.encode()])
        self.disk.sync_directory(self.generation_path(generation))
        return name

    def set_current(self, generation: int, name: str) -> None:
        """From here on this manifest counts: one rename."""
        aside, path = f"{self.root}/{CURRENT}.new", f"{self.root}/{CURRENT}"
        self.disk.sync_directory(self.root)  # the generation itself must be there before CURRENT leads to it
        checksum = self._manifest_checksum(generation, name)
        assert checksum is not None, "a manifest is written before it counts"
        self.disk.write_file(aside, [b"%010d/%s %s\n" % (generation, name.encode(), checksum)])
        self.disk.replace(aside, path)
        self.disk.sync_directory(self.root)

    def keep_aside(self, generation: int, label: str) -> None:
        """Once another generation counts, this one is to be kept under ``label`` and not removed.

        Said before CURRENT changes, so that a cut after it loses nothing.
        """
        path = self.generation_path(generation)
        self.disk.write_file(f"{path}/{KEEP}", [label.encode()])
        self.disk.sync_directory(path)

    def _set_aside(self, generation: int, label: str) -> None:
        """Keep a replaced generation until the operator discards it."""
        folder = f"{self.root}/{ASIDE}"
        if not self.disk.exists(folder):
            self.disk.make_directory(folder)
        target = f"{folder}/{label}"
        self.disk.replace(self.generation_path(generation), target)
        self.disk.sync_directory(folder)
        self.disk.sync_directory(self.root)

    def drop_old_manifests(self, generation: int) -> list[Manifest]:
        """Keep the newest manifests of different offsets, so that there is one to go back to; those kept.

        One that cannot be read is of no use to anybody and goes too.
        """
        kept: list[Manifest] = []
        for name in reversed(self.manifests(generation)):
            try:
                manifest = self.read_manifest(generation, name)
            except DamageError:
                manifest = None
            if (
                manifest is not None
                and len(kept) < MANIFESTS_KEPT
                and all(manifest.offset < newer.offset for newer in kept)
            ):
                kept.append(manifest)
            else:
                self.disk.remove(self.manifest_path(generation, name))
        return kept

    def collect_garbage(self, generation: int, manifest: Manifest, pinned: Iterable[str] = ()) -> list[str]:
        """Remove what neither the newest manifests nor a running sync needs; removed directories."""
        needed = set(pinned) | manifest.directories()
        for kept in self.drop_old_manifests(generation):
            needed |= kept.directories()
        segments = self.segments_path(generation)
        unneeded = [f"{segments}/{name}" for name in self.disk.list(segments) if name not in needed]
        for path in unneeded:
            self.disk.remove_tree(path)
        return unneeded

    def remove_other_generations(self, generation: int) -> None:
        """Remove unfinished and replaced generations, except those to be kept aside; only while nothing is
        received.
        """
        for number in self.generations():
            keep = f"{self.generation_path(number)}/{KEEP}"
            if number == generation:
                if self.disk.exists(keep):
                    self.disk.remove(keep)  # it was to be replaced and was not
            elif self.disk.exists(keep):
                self._set_aside(number, self.disk.read(keep).decode())
            else:
                self.disk.remove_tree(self.generation_path(number))

    def generations(self) -> list[int]:
        """Numbers of the generations that exist, oldest first."""
        if not self.disk.exists(self.root):
            return []
        return sorted(int(name) for name in self.disk.list(self.root) if name.isdigit() and len(name) == 10)
