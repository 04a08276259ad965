"""One crash: a disk as it is after it, a start, and a comparison with what was promised."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from zlib import crc32

from tests.crash.photograph import crash
from tests.crash.stage import Claim, Moment, Stage, WatchedDisk
from tests.simulation.machine import Machine
from tests.simulation.truth import ROOT, Truth, difference, key_of

if TYPE_CHECKING:
    from vectorizer.config import Settings

START_SECS = 20.0


@dataclass(slots=True)
class Verdict:
    """What was found after one crash. ``found`` is empty, or one of lost, doubled, not_started."""

    found: str = ""
    sentence: str = ""
    start_ms: float = 0.0
    moments: list[Moment] = field(default_factory=list)
    """Of the start and of what was done after it: places for the next crash."""


def try_crash(
    moment: Moment,
    fate: str,
    settings: Callable[[Machine], Settings],
    truth: Truth,
    *,
    story: str,
    go_on: bool = False,
) -> Verdict:
    """Crash at this moment, start again, compare. ``go_on``: then also write something, noting each step."""
    seed = crc32(f"{story} {moment.machine} {moment.step} {fate} {moment.claim}".encode())
    stage = Stage(seed, settings, moment.machine + 1, truth)
    machine = stage.machines[moment.machine]
    disk = machine.disk
    assert isinstance(disk, WatchedDisk)
    crash(moment.photograph, disk, fate, seed)
    disk.found_changes = list(disk._changes)
    stage.told[machine.number].claim = moment.claim
    stage.watched = go_on
    verdict = Verdict()
    try:
        stage.start(machine)
        verdict.found, verdict.sentence = examine(machine, moment.claim, truth)
        verdict.start_ms = stage.kernel.now * 1000
        if go_on and not verdict.found:
            _go_on(stage, machine)
    except Exception as error:  # noqa: BLE001 - whatever it is, this crash is what it follows
        text = "".join(traceback.format_exception(error)[-3:])
        verdict.found, verdict.sentence = "not_started", "; ".join([text, *stage.log[-12:]])
    verdict.moments = stage.moments
    machine.crash(power=False, quiet=True)
    return verdict


def _go_on(stage: Stage, machine: Machine) -> None:
    """What a node does next: its clients write, its segments are sealed, its journal changes files."""
    from tests.crash.stories import NAME, create, upsert

    assert machine.node is not None
    if machine.node.role == "replica":
        return
    if NAME not in machine.node.store.collections:
        stage.write(machine, create())
    for number in range(4):
        stage.write(machine, upsert(400 + number * 4, 4, "after the crash"))
    stage.stop(machine)


def examine(machine: Machine, claim: Claim, truth: Truth) -> tuple[str, str]:
    """Compare a started node with its claim and with the model: (lost or doubled, sentence), or two empty."""
    node = machine.node
    assert node is not None
    key = key_of(node.history, node.offset)
    if key != ROOT and key not in truth.facts:
        return "lost", f"it stands at {key}, which nobody has written"
    replaced = claim.replaceable and node.generation > claim.generation
    if not replaced and not truth.holds(key, claim.key):
        return "lost", f"it had promised to hold {claim.key} and stands at {key}"
    if not replaced and node.epoch < claim.epoch:
        return "lost", f"it was of epoch {claim.epoch} and is of {node.epoch}"
    if claim.node_id and node.node_id != claim.node_id:
        return "lost", f"node {claim.node_id} calls itself {node.node_id}"
    if claim.roles and str(node.role) not in claim.roles:
        return "lost", f"it was told to be {sorted(claim.roles)} and is {node.role}"
    wrong = difference(node.store, truth.state(key), node.offset)
    if wrong is not None:
        return ("doubled" if "twice" in wrong else "lost"), f"at {key} its data differs: {wrong}"
    return "", ""
