"""The demo's data: 1,797 scanned handwritten digits of 8 × 8 pixels, their labels as payload."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from tqdm import tqdm

from scripts.demo.client import NodeError, call, wait_for_equal_digests

COLLECTION = "digits"
BATCH_ROWS = 100
QUERY_ROW = 1234
HITS = 5
SAMPLE = 200
SHADES = " ░▒▓█"


def identity(row: int) -> str:
    return f"digit-{row:04d}"


def load(master: str) -> int:
    """Put all images on the master, unless a kept cluster has them already; return how many there are."""
    images, labels = load_digits(return_X_y=True)
    try:
        held = call(f"{master}/collections/{COLLECTION}")["vector_count"]
    except NodeError:
        held = None
    if held == len(images):
        return len(images)
    if held is None:
        call(f"{master}/collections", "POST", {"name": COLLECTION, "dimension": 64, "metric": "cosine"})
    with tqdm(total=len(images), desc="loading digits on the master", unit=" vectors") as progress:
        for first in range(0, len(images), BATCH_ROWS):
            vectors = [
                {"id": identity(row), "vector": images[row].tolist(), "payload": {"label": int(labels[row])}}
                for row in range(first, min(first + BATCH_ROWS, len(images)))
            ]
            call(f"{master}/collections/{COLLECTION}/vectors", "POST", {"vectors": vectors})
            progress.update(len(vectors))
    return len(images)


def pictures(rows: list[int]) -> str:
    """The images side by side, two characters a pixel, half the lines."""
    images = load_digits().images
    lines = []
    for y in range(8):
        cells = ("".join(SHADES[min(4, int(value) // 4)] * 2 for value in images[row][y]) for row in rows)
        lines.append("   ".join(cells).rstrip())
    return "\n".join(lines)


def search(replica: str, row: int) -> list[dict[str, Any]]:
    """The nearest other images, best first."""
    document = {"id": identity(row), "limit": HITS + 1}
    answer = call(f"{replica}/collections/{COLLECTION}/search", "POST", document)
    return [hit for hit in answer["results"] if hit["id"] != identity(row)][:HITS]


def share_recognised(replica: str) -> float:
    """Of a sample of images, the share whose nearest other image shows the same digit."""
    images, labels = load_digits(return_X_y=True)
    rows = np.linspace(0, len(images) - 1, SAMPLE).astype(int)
    searches = [{"vector": images[row].tolist(), "limit": 2} for row in rows]
    answer = call(f"{replica}/collections/{COLLECTION}/search/batch", "POST", {"searches": searches})
    right = 0
    for row, found in zip(rows, answer["results"], strict=True):
        hits = found["results"] if isinstance(found, dict) else found
        nearest = next(hit for hit in hits if hit["id"] != identity(row))
        right += nearest["payload"]["label"] == labels[row]
    return right / len(rows)


def show(master: str, replicas: list[str]) -> None:
    """Load on the master, search on a replica, print what was found."""
    count = load(master)
    equal = wait_for_equal_digests([master, *replicas], COLLECTION, timeout_secs=60.0)
    print(f"\nAll {1 + len(replicas)} nodes hold the same {count:,} vectors (digest {equal}).")
    hits = search(replicas[0], QUERY_ROW)
    label = int(load_digits().target[QUERY_ROW])
    print(f"\nSearched on the replica {replicas[0]}: what is nearest to {identity(QUERY_ROW)}, a {label}?\n")
    rows = [int(hit["id"].rpartition("-")[2]) for hit in hits]
    print(pictures([QUERY_ROW, *rows[:4]]))
    print()
    for hit in hits:
        print(f"  {hit['id']}  shows a {hit['payload']['label']}  cosine similarity {hit['score']:.4f}")
    share = share_recognised(replicas[-1])
    print(f"\nOf {SAMPLE} images, searched on {replicas[-1]},")
    print(f"{share:.1%} have a nearest image that shows the same digit.\n")
