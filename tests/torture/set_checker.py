"""The set checker: unique ids go in while everything breaks; afterwards each must be where it should be.

Two promises of docs/REPLICATION.md are held to their word. *Waited*: with fsync always and ``wait=1``, a
write that a replica holds survives every failover to the most advanced replica. *Asynchronous*: a
failover loses at most what the status of the old master showed as the lag of its successor, and keeps it
aside.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path

from tests.cluster.harness import NotStarted, same_digest
from tests.cluster.harness.node import merged
from tests.torture.clients import SET, SetClients, id_of
from tests.torture.faults import Events, Faults
from tests.torture.operating import Operator
from tests.torture.tally import Report
from tests.torture.trio import Trio
from tests.torture.verdict import announced, judge, kept_aside, report

CLIENTS = 4
WRITES_PER_SEC = 60.0
LINK_SECS = 1.2
PROCESS_SECS = 5.0
ACT_SECS = 4.0
EQUAL_SECS = 60.0
SETTINGS = {"storage": {"journal_file_bytes": 256 << 10, "checkpoint_interval_secs": 2}}
SMALL_WINDOW = {"replication": {"log_size": 100}}
"""So that who was away for seconds syncs fully; what is overruled is then not all kept aside, though."""

Told = Callable[[float], None]
"""Hears how much of the time is over, 0 to 1."""


class Mode(Enum):
    """Which of the two promises is held to its word."""

    WAITED = "set, waited"
    ASYNCHRONOUS = "set, asynchronous"


def check_set(
    mode: Mode, directory: Path, *, secs: float, seed: int, told: Told = lambda share: None
) -> Report:
    """Faults for ``secs``, then peace; what was acknowledged, lost, unexpected, in doubt."""
    trio = Trio(directory, merged(SETTINGS, SMALL_WINDOW if mode is Mode.WAITED else {}))
    try:
        return _check(mode, trio, secs, seed, told)
    finally:
        trio.close()


def _check(mode: Mode, trio: Trio, secs: float, seed: int, told: Told) -> Report:
    trio.start()
    trio.nodes[0].post("/collections", {"name": SET, "dimension": 8, "metric": "dot"})
    events = Events()
    operator = Operator(trio, events, seed=seed, careless=mode is Mode.ASYNCHRONOUS)
    clients = SetClients(
        trio.nodes,
        clients=CLIENTS,
        writes_per_sec=WRITES_PER_SEC,
        wait=int(mode is Mode.WAITED),
        seed=seed,
    )
    try:
        with clients:
            _break_everything(trio, events, operator, secs, seed, told)
            master = operator.settle()
        same_digest(*trio.nodes, deadline_secs=EQUAL_SECS)
    except NotStarted:
        return report(mode.value, judge([], {}, []), events, None, [])
    verdict = judge(clients.writes, master.vectors(SET), master.status()["history"])
    announcement = announced(verdict.lost, operator.looks) if mode is Mode.ASYNCHRONOUS else None
    if announcement is not None:
        lost = {id_of(serial) for write in verdict.lost for serial in write.serials}
        gone = lost - kept_aside(trio.nodes)
        if gone:
            announcement.failures.append(f"{len(gone)} lost ids were not kept aside, as {sorted(gone)[:3]}")
    times = [write.ended_at for write in clients.acknowledged()]
    return report(mode.value, verdict, events, announcement, times)


def _break_everything(
    trio: Trio, events: Events, operator: Operator, secs: float, seed: int, told: Told
) -> None:
    began_at = time.monotonic()
    with Faults(trio, events, seed=seed, link_secs=LINK_SECS, process_secs=PROCESS_SECS) as faults:
        while (passed := time.monotonic() - began_at) < secs:
            told(passed / secs)
            faults.raise_failure()
            time.sleep(min(ACT_SECS, max(0.1, secs - passed)))
            operator.act()
    told(1.0)
