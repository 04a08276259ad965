"""``vectorizer new-identity``: make the copy of a data directory a node of its own. Offline, one rename.

A node is known by the id in its data directory, so a copy passes for the original: a master refuses its own
copy (``cycle``), and of two replicas with one id each closes the other's link.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TextIO

from vectorizer.errors import DamageError
from vectorizer.storage.data_directory import DataDirectory
from vectorizer.storage.disk import RealDisk

REFUSED = 1


def give_new_identity(path: str, new_id: str, out: TextIO) -> int:
    """Give the data another node id and drop the settings that REST stored; 0 = done, 1 = refused.

    The data keep their history, so the node resumes by partial sync. Started as master, it opens a mastership
    of a higher epoch: what it writes is never taken for what the original writes at the same offsets.
    """
    disk = RealDisk()
    directory = DataDirectory(disk, path)
    try:
        if not disk.exists(path):
            return _refused(path, "there is no such directory", out)
        lock = disk.lock(f"{path}/LOCK")
    except BlockingIOError:
        return _refused(path, "a running server holds it; this is for a copy", out)
    except OSError as error:
        return _refused(path, f"it cannot be locked: {error.strerror}", out)
    try:
        current = directory.current()
        if current is None:
            return _refused(path, "it holds no data; its node gets an id at its first start", out)
        generation, name = current
        manifest = directory.read_manifest(generation, name)
        directory.set_follows(True)
        renamed = replace(manifest, node_id=new_id, stored={})
        directory.set_current(generation, directory.write_manifest(generation, renamed))
    except DamageError as error:
        return _refused(path, f"damaged: {error}", out)
    except OSError as error:
        print(f"{path}: cut half-way ({error}); `vectorizer check` tells which node it is now", file=out)
        return REFUSED
    finally:
        lock.release()
    print(f"{path}: node {new_id} now, it was {manifest.node_id}", file=out)
    return 0


def _refused(path: str, why: str, out: TextIO) -> int:
    print(f"{path}: {why}; nothing was changed", file=out)
    return REFUSED
