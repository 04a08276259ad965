"""Forgotten syncs and wrong orders, planted to see that the sweep finds each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.crash.sweep import prepare


def _without_sync_of(module: Any, owner: str, method: str) -> None:
    """Directories are not synced while this method runs."""
    cls = getattr(module, owner)
    original = getattr(cls, method)

    def forgetful(self: Any, *args: Any) -> Any:
        disk = self.disk
        sync, disk.sync_directory = disk.sync_directory, lambda path: None
        try:
            return original(self, *args)
        finally:
            disk.sync_directory = sync

    setattr(cls, method, forgetful)


def names_of_manifests_not_synced() -> None:
    """CURRENT leads to a manifest whose name is not durable."""
    from vectorizer.storage import data_directory

    _without_sync_of(data_directory, "DataDirectory", "write_manifest")


def current_not_synced() -> None:
    """The rename of CURRENT is not durable when what it replaced is removed."""
    from vectorizer.storage import data_directory

    _without_sync_of(data_directory, "DataDirectory", "set_current")


def acknowledged_before_sync() -> None:
    """The journal calls durable what was written but not synced."""
    from tests.simulation.planted import PLANTS as OTHERS

    OTHERS["acknowledged_before_fsync"].sow()


def content_not_synced() -> None:
    """Files written aside are renamed into place unsynced."""
    from tests.simulation.disk import SimulatedDisk, _Content

    sync = SimulatedDisk.sync

    def forgetful(self: SimulatedDisk, content: _Content, path: str = "") -> None:
        if path.rpartition("/")[2] in ("CURRENT.new", "vectors.npy"):
            self.step()
        else:
            sync(self, content, path)

    SimulatedDisk.sync = forgetful  # type: ignore[method-assign]


def removed_before_replaced() -> None:
    """Old generations go before CURRENT leads to the new one."""
    from vectorizer.storage.data_directory import DataDirectory

    original = DataDirectory.set_current

    def eager(self: DataDirectory, generation: int, name: str) -> None:
        for number in self.generations():
            if number != generation:
                self.disk.remove_tree(self.generation_path(number))
        self.disk.sync_directory(self.root)
        original(self, generation, name)

    DataDirectory.set_current = eager  # type: ignore[method-assign]


def found_names_trusted() -> None:
    """What a killed process left unsynced is believed to be durable, because it is seen."""
    from vectorizer import server

    original = server.open_data

    def trusting(directory: Any, *about: Any) -> Any:
        disk = directory.disk
        if directory.current() is None:
            return original(directory, *about)
        sync = disk.sync_directory
        disk.sync_directory = lambda path: None if path == directory.root else sync(path)
        try:
            return original(directory, *about)
        finally:
            disk.sync_directory = sync

    server.open_data = trusting  # type: ignore[attr-defined]


def graph_named_unsynced() -> None:
    """The builder syncs nothing, the server neither, and a start trusts what the manifest says of graphs."""
    from tests.crash import builder
    from vectorizer import graphs
    from vectorizer.storage import graph_files, recovery

    original = graph_files.load_graph
    recovery.load_graph = lambda *about, verify: original(*about, verify=False)  # type: ignore[attr-defined]

    def infos(disk: Any, path: str) -> Any:
        found = {name: disk.map(f"{path}/{name}") for name in graph_files.GRAPH_FILES}
        return {
            name: graph_files.FileInfo(len(data), graph_files.checksum_of(data))
            for name, data in found.items()
        }

    graphs.graph_file_infos = infos  # type: ignore[attr-defined]
    builder.SYNCED.clear()


PLANTS: dict[str, tuple[str, Callable[[], None]]] = {
    plant.__name__: (story, plant)
    for story, plant in (
        ("one node", names_of_manifests_not_synced),
        ("one node", current_not_synced),
        ("one node", acknowledged_before_sync),
        ("one node", content_not_synced),
        ("replica", removed_before_replaced),
        ("graphs", graph_named_unsynced),
        ("promotion", found_names_trusted),
    )
}
"""Each with a story that shows it."""


def sow(name: str | None) -> None:
    """Make this process ready, with this bug in it; None = none."""
    prepare()
    if name is not None:
        PLANTS[name][1]()
