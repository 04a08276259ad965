"""When a replica tries its master again, and when it no longer does.

At once after a link that worked, then with growing pauses that differ from node to node. What cannot be
applied is tried again by a full sync, but not for ever: after the third failure in a row an operator must
act.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST_PAUSE_SECS = 0.05
APPLY_FAILURES_MAX = 3
UNFIT = ("apply_failed", "operation_unknown")
"""Codes of errors that say: this operation and this node's data do not fit. A full sync may help."""


@dataclass(slots=True)
class Retry:
    """`at` is when to try next (monotonic seconds), None = not before somebody says so or while a link
    stands.
    """

    at: float | None = None
    attempts: int = 0  # since the last success
    attempts_total: int = 0

    def begun(self) -> None:
        """An attempt begins."""
        self.at = None
        self.attempts += 1
        self.attempts_total += 1

    def succeeded(self) -> None:
        """The link works: the next loss is answered at once."""
        self.attempts = 0

    def after(self, now: float, interval_secs: float, chance: float, *, patient: bool, never: bool) -> None:
        """An attempt, or a link, has ended. The pause doubles up to the interval; `chance` in [0, 1) spreads
        it.

        `patient` waits for about the whole interval at once: trying sooner would not help.
        """
        if never:
            self.at = None
            return
        pause = 0.0 if self.attempts == 0 else FIRST_PAUSE_SECS * 2.0 ** min(self.attempts - 1, 30)
        longest = interval_secs if patient else min(pause, interval_secs)
        self.at = now + longest * (0.5 + 0.5 * chance)

    def reset(self, now: float) -> None:
        """Try at once."""
        self.at, self.attempts = now, 0


@dataclass(slots=True)
class ApplyFailures:
    """Operations that failed here although the master had applied them."""

    in_a_row: int = 0  # with nothing applied beyond them in between, at one offset or at several
    total: int = 0
    offset: int = 0  # of the last one
    want_full: str = ""  # why the next hello asks for a full sync, "" = it does not

    @property
    def hopeless(self) -> bool:
        """Whether full syncs have not helped."""
        return self.in_a_row >= APPLY_FAILURES_MAX

    def failed(self, offset: int, code: str) -> None:
        """One more."""
        self.in_a_row += 1
        self.total += 1
        self.offset, self.want_full = offset, code

    def applied(self, offset: int) -> None:
        """An operation was applied."""
        if offset > self.offset:
            self.in_a_row = 0
