"""What became of each write of the set checker: by what is held, the history, and what statuses showed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tests.cluster.harness import Node, payload_of, vector_of
from tests.torture.clients import SET, Outcome, Write, id_of
from tests.torture.faults import Event, Events
from tests.torture.operating import Look
from tests.torture.tally import Kind, Report
from vectorizer.client.diverged import documents

SHOWN_MAX = 5

Held = Mapping[str, tuple[tuple[float, ...], Any]]


@dataclass
class Verdict:
    """Of one run. ``lost`` are writes that were acknowledged and are not there."""

    acknowledged: int = 0
    in_doubt: int = 0
    refused: int = 0
    lost: list[Write] = field(default_factory=list)
    unexplained: list[Write] = field(default_factory=list)
    """Lost, although the mastership that acknowledged them stands."""
    unexpected: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)


def judge(writes: Sequence[Write], held: Held, history: Sequence[Mapping[str, Any]]) -> Verdict:
    """Compare what clients were told with what is held in the end, under that history."""
    verdict = Verdict()
    places: dict[tuple[str, int], tuple[int, ...]] = {}
    known: dict[str, int] = {}
    for write in writes:
        known.update((id_of(serial), serial) for serial in write.serials)
        there = [id_of(serial) in held for serial in write.serials]
        match write.outcome:
            case Outcome.ACKNOWLEDGED:
                verdict.acknowledged += 1
                place = (write.replication_id, write.offset)
                if place in places:
                    verdict.doubled.append(f"{place} was given to {places[place]} and to {write.serials}")
                places[place] = write.serials
                _judge_acknowledged(verdict, write, there, _stands(write, history))
            case Outcome.IN_DOUBT:
                verdict.in_doubt += 1
            case Outcome.REFUSED:
                verdict.refused += 1
                if any(there):
                    verdict.unexpected.append(f"{write.serials} was refused and is there")
        if any(there) and not all(there):
            verdict.unexpected.append(f"{write.serials} is there by half")
    for key, (vector, payload) in held.items():
        if key not in known:
            verdict.unexpected.append(f"{key} was never written")
        elif list(vector) != vector_of(known[key]) or payload != payload_of(known[key]):
            verdict.unexpected.append(f"{key} is {vector} {payload}, which nobody wrote")
    return verdict


def _judge_acknowledged(verdict: Verdict, write: Write, there: Sequence[bool], stands: bool) -> None:
    if not any(there):
        verdict.lost.append(write)
        if stands:
            verdict.unexplained.append(write)
    elif not stands:
        verdict.unexpected.append(f"{write.serials} is there, though its mastership was overruled before it")


def _stands(write: Write, history: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the history contains the write: its mastership does, and it had not ended before."""
    for index, entry in enumerate(history):
        if entry["replication_id"] == write.replication_id:
            following = history[index + 1 : index + 2]
            return not following or write.offset <= following[0]["start_offset"]
    return False


@dataclass
class Announced:
    """Losses of asynchronous writes against what statuses had shown."""

    lag_operations: Counter[str] = field(default_factory=Counter)
    """Sums of the lags that were shown before masterships ended, by the act that ended them."""
    after: Counter[str] = field(default_factory=Counter)
    """Lost, and acknowledged after the status was read, before the node was stopped."""
    lost: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def announced(lost: Sequence[Write], looks: Sequence[Look]) -> Announced:
    """Each loss belongs to a mastership that was looked at, and is within the lag that was shown there."""
    found = Announced()
    latest = {look.replication_id: look for look in looks}
    counted = Counter(write.replication_id for write in lost)
    for replication_id, count in counted.items():
        look = latest.get(replication_id)
        if look is None:
            found.failures.append(f"{count} writes of mastership {replication_id} are lost, nobody ended it")
            continue
        before = [write for write in lost if write.replication_id == replication_id]
        before = [write for write in before if write.offset <= look.offset]
        found.lost[look.act] += count
        found.after[look.act] += count - len(before)
        if len(before) > look.lag_operations:
            found.failures.append(
                f"{len(before)} writes of mastership {replication_id} are lost; the status had shown a lag "
                f"of {look.lag_operations} operations at offset {look.offset}"
            )
    for look in latest.values():
        found.lag_operations[look.act] += look.lag_operations
    return found


def kept_aside(nodes: Iterable[Node]) -> set[str]:
    """The ids in all files of diverged operations."""
    found: set[str] = set()
    for node in nodes:
        for file in sorted((node.data_directory / "diverged").glob("*")):
            for document in documents(file):
                if document["kind"] == "upsert" and document["collection"] == SET:
                    found |= {row["id"] for row in document["rows"]}
    return found


def longest_stalls_ms(acknowledged_at: Sequence[float], events: Iterable[Event]) -> dict[str, float]:
    """For each kind of event the longest time without an acknowledged write that touches such an event."""
    times = sorted(acknowledged_at)
    longest: dict[str, float] = {}
    for event in events:
        for earlier, later in pairwise(times):
            if earlier <= event.ended_at and later >= event.began_at:
                longest[event.kind] = max(longest.get(event.kind, 0.0), (later - earlier) * 1000)
    return longest


def report(
    name: str, verdict: Verdict, events: Events, announcement: Announced | None, times: Sequence[float]
) -> Report:
    """As rows of the table. Without an announcement nothing may be lost."""
    stalls = longest_stalls_ms(times, events.told)
    counts = Counter(event.kind for event in events.told)
    not_started = Counter(kind for kind, _ in events.not_started)
    kinds = [
        Kind(f"{name}: {kind}", count, 0, 0, not_started[kind], stalls.get(kind))
        for kind, count in sorted(counts.items())
    ]
    total = Kind(f"{name}: acknowledged writes", verdict.acknowledged)
    total.longest_stall_ms = max(
        ((later - earlier) * 1000 for earlier, later in pairwise(times)), default=0.0
    )
    # Which of many faults lost or doubled a write cannot be told, except for the end of its mastership.
    total.lost = len(verdict.lost)
    total.doubled = len(verdict.doubled)
    if announcement is not None:
        total.lost -= announcement.lost.total()
        for kind in kinds:
            act = kind.kind.removeprefix(f"{name}: ")
            kind.lost = announcement.lost[act]
            kind.lost_allowed = announcement.lag_operations[act] + announcement.after[act]
    failures = [f"{name}: {why}" for _, why in events.not_started]
    failures += _shown(f"{name}: lost, though its mastership stands: ", map(str, verdict.unexplained))
    failures += _shown(f"{name}: unexpected: ", verdict.unexpected)
    failures += _shown(f"{name}: doubled: ", verdict.doubled)
    if announcement is None:
        failures += _shown(f"{name}: lost: ", map(str, verdict.lost))
    else:
        failures += [f"{name}: {failure}" for failure in announcement.failures]
    return Report([*kinds, total], failures, [_summary(name, verdict, announcement)])


def _summary(name: str, verdict: Verdict, announcement: Announced | None) -> str:
    told = (
        f"{name}: {verdict.acknowledged:,} writes acknowledged, {len(verdict.lost):,} lost, "
        f"{len(verdict.unexpected):,} unexpected, {verdict.in_doubt:,} in doubt, {verdict.refused:,} refused"
    )
    if announcement is None:
        return told
    lag_operations, after = announcement.lag_operations.total(), announcement.after.total()
    return (
        f"{told}; status had shown a lag of {lag_operations:,} operations before masters were taken away, "
        f"and {after:,} of the lost were acknowledged after that"
    )


def _shown(before: str, lines: Iterable[str]) -> list[str]:
    found = [before + line for line in lines]
    more = len(found) - SHOWN_MAX
    return found[:SHOWN_MAX] + ([f"{before}{more:,} more"] if more > 0 else [])
