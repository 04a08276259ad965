"""The graph files of a segment: derived data, so damage to them is no damage to the segment."""

from __future__ import annotations

import json
from collections.abc import Mapping

from vectorizer.errors import DamageError
from vectorizer.index.calibration import Calibration
from vectorizer.index.hnsw import Graph
from vectorizer.operations import CollectionConfig
from vectorizer.storage.disk import Disk, checksum_of
from vectorizer.storage.segment import FileInfo

GRAPH_FILE = "graph.nmslib"
CALIBRATION_FILE = "graph.json"
GRAPH_FILES = (GRAPH_FILE, CALIBRATION_FILE)


def graph_file_infos(disk: Disk, path: str) -> dict[str, FileInfo]:
    """Sizes and checksums of a finished graph's files, made durable first. Blocking."""
    infos = {}
    for name in GRAPH_FILES:
        file = disk.open(f"{path}/{name}")
        try:
            file.sync()
        finally:
            file.close()
        content = disk.map(f"{path}/{name}")
        infos[name] = FileInfo(len(content), checksum_of(content))
    disk.sync_directory(path)
    return infos


def load_graph(
    disk: Disk, path: str, config: CollectionConfig, files: Mapping[str, FileInfo], *, verify: bool
) -> Graph | None:
    """The graph in a segment's directory, or None if it is missing or damaged: then it is built again.
    Blocking.
    """
    try:
        if verify:
            for name in GRAPH_FILES:
                content = disk.map(f"{path}/{name}")
                if (len(content), checksum_of(content)) != (files[name].bytes, files[name].crc32):
                    return None
        calibration = Calibration.from_document(json.loads(disk.read(f"{path}/{CALIBRATION_FILE}")))
        return Graph.load(f"{path}/{GRAPH_FILE}", calibration, config.metric, config.dimension)
    except (OSError, ValueError, KeyError, DamageError):
        return None
