"""The sweep: every step of every story, every fate of what was not synced; then crashes in the recovery.

A worker process plays each story once and keeps its photographs; a share of the steps is one piece of work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from tests.crash import builder
from tests.crash.photograph import FATES, FORGOTTEN
from tests.crash.results import Results
from tests.crash.stage import Moment, Stage
from tests.crash.stories import SEED, STORIES, settings
from tests.crash.trial import Verdict, try_crash
from tests.simulation import runtime
from tests.simulation.machine import Machine

if TYPE_CHECKING:
    from vectorizer.config import Settings

SECOND_FATES = (FORGOTTEN, "torn", "lost", "names kept")
SHARES = 16


@dataclass(frozen=True, slots=True)
class Depth:
    """How much of the sweep is made.

    ``fates``: of each step, so many of the six, taking turns. ``torn``: so many more ways to tear it.
    ``second_stride``: in the start after every so-manieth crash, ``second_steps`` steps are crashed at, too;
    ``uncertain_stride``: the same where the step before gave a name that is not synced yet; always if it is
    one directly in the data directory.
    """

    fates: int = len(FATES)
    torn: int = 4
    second_stride: int = 8
    second_steps: int = 6
    uncertain_stride: int = 1


IN_CI = Depth(fates=1, torn=1, second_stride=48, second_steps=4, uncertain_stride=8)


@dataclass(frozen=True, slots=True)
class Share:
    """A piece of work."""

    story: str
    number: int
    depth: Depth


def prepare() -> None:
    """Once a process: gevent's place is taken, and that of nmslib and its process."""
    runtime.load()
    builder.stand_in()


@lru_cache
def played(story: str) -> Stage:
    """The story from beginning to end, with its photographs. AssertionError if it does not end well."""
    play, machines, more = STORIES[story]
    stage = Stage(SEED, lambda machine: settings(machine, **more), machines)
    play(stage)
    stage.watched = False
    return stage


def settings_of(story: str) -> Callable[[Machine], Settings]:
    """The settings of the nodes of a story."""
    more = STORIES[story][2]
    return lambda machine: settings(machine, **more)


def steps(story: str, number: int) -> range:
    """The numbers of the moments that belong to a share."""
    return range(number, len(played(story).moments), SHARES)


def sweep(share: Share) -> Results:
    """Crash at all steps of a share."""
    results, depth = Results(), share.depth
    for number in steps(share.story, share.number):
        kill = _has_given_a_name(share.story, number, in_data_directory=True)
        kill |= _is_due(number, depth.uncertain_stride) and _has_given_a_name(share.story, number)
        fates = list(_fates(number, depth))
        for fate in [*fates, "killed"] if kill and "killed" not in fates else fates:
            second = _is_due(number, depth.second_stride) and fate in ("killed", "lost", "torn")
            second |= kill and fate == "killed"
            verdict = crash_once(share.story, number, fate, go_on=second)
            _note(results, f"crash: {fate.partition(' #')[0]}", f"{share.story}/{number}/{fate}", verdict)
            if second:
                _crash_again(results, share, number, fate, verdict.moments)
    return results


def _has_given_a_name(story: str, number: int, *, in_data_directory: bool = False) -> bool:
    """Whether the step before this moment left a name unsynced."""
    moments = played(story).moments
    now = moments[number]
    before = next((item for item in moments[number - 1 :: -1] if item.machine == now.machine), None)
    if before is None:
        return False
    count, count_before = (
        item.photograph.unsynced_names(in_data_directory=in_data_directory) for item in (now, before)
    )
    return count > count_before


def _is_due(number: int, stride: int) -> bool:
    """One of so many, scattered evenly."""
    return number * 2_654_435_761 % 2**32 < 2**32 // stride


def _fates(number: int, depth: Depth) -> Iterator[str]:
    for turn in range(depth.fates):
        yield FATES[(number + turn) % len(FATES)]
    for turn in range(depth.torn):
        yield f"torn #{turn + 1}"


def crash_once(story: str, number: int, fate: str, *, go_on: bool = False) -> Verdict:
    """Crash a story at a step."""
    stage = played(story)
    name = f"{story} {number}"
    return try_crash(stage.moments[number], fate, settings_of(story), stage.truth, story=name, go_on=go_on)


def _crash_again(results: Results, share: Share, number: int, fate: str, moments: list[Moment]) -> None:
    """Crash at some steps of a start (and of what was written after it)."""
    stride = max(1, len(moments) // share.depth.second_steps)
    for step in range(number % stride, len(moments), stride):
        for turn in range(2):
            second = SECOND_FATES[(number // SHARES + step + turn) % len(SECOND_FATES)]
            place = f"{share.story}/{number}/{fate}/{step}/{second}"
            verdict = crash_again(place, moments[step])
            _note(results, f"crash in the recovery: {second}", place, verdict)


def crash_again(place: str, moment: Moment) -> Verdict:
    """Crash at a moment of a start after a crash."""
    story, second = place.split("/")[0], place.split("/")[-1]
    return try_crash(moment, second, settings_of(story), played(story).truth, story=place)


def crash_at(place: str) -> Verdict:
    """The crash that a failure named: story/step/fate, or story/step/fate/step/fate for one in a recovery."""
    story, number, fate, *again = place.split("/")
    verdict = crash_once(story, int(number), fate, go_on=bool(again))
    return crash_again(place, verdict.moments[int(again[0])]) if again else verdict


def _note(results: Results, kind: str, place: str, verdict: Verdict) -> None:
    results.add(kind, verdict.found, verdict.start_ms)
    if verdict.found:
        again = f'python -m tests.crash --at "{place}"'
        results.failed(f"{verdict.found}: {again}: {verdict.sentence}")


def shares(depth: Depth, stories: tuple[str, ...]) -> list[Share]:
    """All pieces of work."""
    return [Share(story, number, depth) for story in stories for number in range(SHARES)]
