"""The soak in short, and its measure of flatness."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.flatness import MIB, growths, thirds
from tests.torture.soak import soak

SECS = 110.0
RESTART_SECS = 18.0


@pytest.mark.timeout(240)
@pytest.mark.cluster
def test_nothing_grows_while_links_are_cut_and_a_node_is_restarted(tmp_path: Path) -> None:
    found = soak(tmp_path, secs=SECS, restart_secs=RESTART_SECS, seed=1)
    print(*found.notes, *(kind.cells() for kind in found.kinds), sep="\n")
    assert "15 series compared" in found.notes[-1], "five quantities of three nodes"
    assert not found.wrong, "\n".join(found.failures)


def test_thirds_are_compared_by_their_medians() -> None:
    assert thirds([1, 9, 1, 5, 5, 5, 2, 2, 90]) == (1, 2)
    with pytest.raises(ValueError, match="2 samples"):
        thirds([1, 2])


def test_a_leak_is_told_and_noise_is_not() -> None:
    noise = [50.0 * MIB + (number % 5) * MIB for number in range(60)]
    assert growths("n", {"RssAnon bytes": noise}) == []
    leak = [value + number * MIB / 3 for number, value in enumerate(noise)]
    assert len(growths("n", {"RssAnon bytes": leak})) == 1
    assert growths("n", {"greenlets": [12, 14, 13, 12, 15, 12, 13]}) == []
    assert len(growths("n", {"greenlets": [12, 14, 16, 18, 20, 22, 24]})) == 1
