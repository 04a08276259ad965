"""What ends a command: one sentence for a person, and the exit code."""

from __future__ import annotations

from vectorizer.errors import VectorizerError


class CommandError(VectorizerError):
    """It was asked rightly and did not work; exit code 1."""

    exit_code = 1


class MisuseError(CommandError):
    """What was asked cannot be done as it stands; exit code 2."""

    exit_code = 2


class Interrupted(CommandError):
    """Somebody pressed Ctrl-C; the sentence says what the same command will do next time."""

    exit_code = 130
